"""Two processes against one: the same scores, from sizes that two do not divide."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY, run_python, run_ranks
from safetensors.torch import load_file

from whisper_emotion.corpora import load_corpus

# `accelerate launch` starts this on accelerators; with --cpu it starts one process, whatever --num_processes says.
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2]


@pytest.fixture(scope="module")
def run(tiny_encoder, tmp_path_factory):
    """Run a script in one process or in two, in a folder of its own."""
    corpus_dir = tmp_path_factory.mktemp("processes") / "corpus"
    load_corpus("synthetic", corpus_dir, speakers=5, utterances=3)  # 60 utterances, 24 of them in fold 2

    def run(processes, script, *options, launcher=()):
        folder = tmp_path_factory.mktemp("run")
        command = [
            REPOSITORY / "scripts" / script, "--corpus", "synthetic", "--corpus_dir", corpus_dir, "--folds",
            "speakers:2", "--encoder", tiny_encoder, "--encoder_layer", "1", "--encoder_context", "utterance",
            "--disable_tqdm", "true", "--use_cpu", "true", "--output_dir", "model", "--store_dir", "store", *options,
        ]  # fmt: skip
        if launcher:
            ended = [run_python(*launcher, *command, cwd=folder, imported="nothing")]
        else:
            ended = run_ranks(processes, *command, cwd=folder)
        for done in ended:
            assert done.returncode == 0, done.stderr
        assert sum(done.stdout.count("pooled UA") for done in ended) == 1  # one of them speaks
        return folder

    return run


def scores(folder):
    return {
        name: value
        for name, value in json.loads((folder / "model" / "scores.json").read_text()).items()
        if name != "seconds"
    }


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_heads_on_stored_frames_are_the_same_bit_for_bit(run):
    options = ["--num_train_epochs", "3", "--seeds", "0,1"]
    one = run(1, "cross_validate.py", *options)
    two = run(2, "cross_validate.py", *options, launcher=LAUNCHER)
    assert scores(one) == scores(two)
    left = [{path: content for path, content in contents(folder).items() if path.name != "scores.json"}
            for folder in (one, two)]  # fmt: skip
    assert left[0] == left[1]  # predictions, pictures and the store


def test_a_test_fold_is_classified_by_two_as_by_one(run):
    """36 training utterances and 24 of the test fold, seven at a time and process; nothing is learned on the way."""
    options = ["--freeze_encoder", "false", "--test_fold", "2", "--num_train_epochs", "1", "--learning_rate", "1e-300",
               "--per_device_eval_batch_size", "7", "--per_device_train_batch_size", "5"]  # fmt: skip
    one, two = (run(processes, "train.py", *options) for processes in (1, 2))
    assert scores(one) == scores(two)
    assert contents(one).keys() == contents(two).keys()
    assert len({(folder / "model" / "predictions.csv").read_bytes() for folder in (one, two)}) == 1


def test_two_processes_with_half_a_batch_each_train_what_one_trains(run):
    options = ["--freeze_encoder", "false", "--test_fold", "2", "--select_on", "last", "--num_train_epochs", "2",
               "--pooling", "mean"]  # fmt: skip  # without dropout, which no two processes draw alike
    one = run(1, "train.py", *options, "--per_device_train_batch_size", "12")
    two = run(2, "train.py", *options, "--per_device_train_batch_size", "6")
    weights, others = (load_file(folder / "model" / "model.safetensors") for folder in (one, two))
    for name, tensor in weights.items():
        np.testing.assert_allclose(tensor.float(), others[name].float(), atol=1e-4, err_msg=name)
    assert not np.allclose(weights["encoder.conv1.weight"].float(), 0)
    table, other = (pd.read_csv(folder / "model" / "predictions.csv") for folder in (one, two))
    assert table["predicted"].tolist() == other["predicted"].tolist()
