"""The grid: its cells, the layer that is chosen, the regression beside it, and results that a kill does not change."""

import dataclasses
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from conftest import (
    REPOSITORY,
    iemocap_files,
    run_python,
    run_script,
    save_model,
    silent_wav,
    write_files,
)
from safetensors.torch import load_file, save_file

from whisper_emotion.corpora import load_corpus
from whisper_emotion.corpora.splits import make_folds, read_emobox
from whisper_emotion.fitting import grid as grid_module
from whisper_emotion.fitting.cross_validation import cross_validate
from whisper_emotion.fitting.experiment import Experiment
from whisper_emotion.fitting.grid import REFERENCE, Cell, Grid, choose_layers, read_cells, run_cells, run_grid
from whisper_emotion.fitting.regression import STRENGTHS
from whisper_emotion.fitting.training_arguments import EmotionTrainingArguments

SCRIPT = REPOSITORY / "scripts" / "sweep.py"


@pytest.fixture(scope="module")
def experiment(tiny_encoder, synthetic_dir, tmp_path_factory):
    args = EmotionTrainingArguments(
        output_dir=str(tmp_path_factory.mktemp("run")), num_train_epochs=3, disable_tqdm=True, use_cpu=True,
        learning_rate=0.01,
    )  # fmt: skip
    overrides = {"encoder_context": "utterance", "classifier_proj_size": 16}
    store = str(tmp_path_factory.mktemp("store"))
    return Experiment(load_corpus("synthetic", synthetic_dir), str(tiny_encoder), overrides, args, store_dir=store)


@pytest.fixture(scope="module")
def folds(experiment):
    return make_folds(experiment.corpus, "synthetic", "speakers:2")


@pytest.fixture(scope="module")
def frames(experiment):
    store = experiment.feature_store([1, 3])
    store.fill()
    return {layer: store.open([layer]) for layer in (1, 3)}


def grid_of(experiment, folds):
    return Grid({"tiny": experiment}, {"tiny": [1, 3]}, ["mean", "qkv"], folds, [0, 1])


def test_grid_has_every_cell_once_and_a_reference(experiment, folds):
    cells = grid_of(experiment, folds).cells()
    assert len(cells) == len(set(cells)) == len({cell.file for cell in cells}) == 2 * 3 * 2 * 2
    assert sum(cell.pooling == REFERENCE for cell in cells) == 8


@pytest.mark.parametrize("select_on", ["dev", "last", "test"])
@pytest.mark.parametrize("pooling", ["qkv", REFERENCE])
def test_cells_predict_what_cross_validation_predicts(experiment, folds, frames, tmp_path, select_on, pooling):
    experiment = dataclasses.replace(experiment, select_on=select_on)
    own = {"pooling": "qkv"}
    if pooling == REFERENCE:
        own, select_on = {"pooling": "mean", "classifier_proj_size": 0}, "dev"  # never on the test fold
    overrides = experiment.overrides | {"encoder_layer": 3} | own
    twin = dataclasses.replace(experiment, overrides=overrides, select_on=select_on)
    expected = cross_validate(twin, folds, [1], tmp_path)
    cells = [Cell("tiny", 3, pooling, fold.number, 1) for fold in folds]
    names = np.array(experiment.labels)
    for cell, row, logits in run_cells(experiment, frames[3], cells, folds):
        table = expected[expected["fold"] == cell.fold]
        assert names[logits.argmax(axis=1)].tolist() == table["predicted"].tolist()
        assert row["select_on"] == select_on
        assert row["weighted_accuracy"] == pytest.approx((table["predicted"] == table["label"]).mean())
        assert (row["selection_value"] is None) == (select_on == "last")
        if pooling == REFERENCE:
            assert row["strength"] in STRENGTHS and row["epoch"] is None
        else:
            assert 1 <= row["epoch"] <= 3 and row["strength"] is None


def rows(*cells):
    columns = ["encoder", "encoder_layer", "pooling", "fold", "seed", "selection_value", "unweighted_accuracy"]
    return pd.DataFrame([("e", *cell) for cell in cells], columns=columns)


def test_reference_of_one_class_predicts_that_class(experiment, folds, frames):
    labels = np.zeros(len(experiment.corpus), int)
    labels[folds[0].test] = 1  # all speakers that are trained on say one thing
    column = experiment.corpus.features["label"]
    alike = experiment.corpus.remove_columns("label").add_column("label", labels.tolist(), feature=column)
    experiment = dataclasses.replace(experiment, corpus=alike)
    ((_, row, logits),) = run_cells(experiment, frames[1], [Cell("tiny", 1, REFERENCE, 1, 0)], folds[:1])
    assert set(logits.argmax(axis=1)) == {0} and row["weighted_accuracy"] == 0


def test_choose_layers_takes_the_best_on_what_selects():
    table = rows(
        # layer, pooling, fold, seed, on dev, on test
        (1, "mean", 1, 0, 0.9, 0.1), (1, "mean", 1, 1, 0.5, 0.1),
        (1, "mean", 2, 0, 0.6, 0.6), (1, "mean", 2, 1, 0.6, 0.6),
        (2, "mean", 1, 0, 0.6, 0.9), (2, "mean", 1, 1, 0.6, 0.9),
        (2, "mean", 2, 0, 0.6, 0.5), (2, "mean", 2, 1, 0.6, 0.5),
        (1, REFERENCE, 1, 0, 0.2, 0.9), (1, REFERENCE, 2, 0, 0.2, 0.9),
        (2, REFERENCE, 1, 0, 0.3, 0.1), (2, REFERENCE, 2, 0, 0.1, 0.1),
    )  # fmt: skip

    def chosen(select_on, pooling):
        layers = choose_layers(table, select_on)
        return layers[layers["pooling"] == pooling]["encoder_layer"].tolist()

    assert chosen("dev", "mean") == [1, 1]  # 0.7 against 0.6; then the lower of equals
    assert chosen("test", "mean") == [2, 2]  # 0.35 against 0.7
    assert chosen("last", "mean") == [2, 2]
    for select_on in ("dev", "test", "last"):
        assert chosen(select_on, REFERENCE) == [2, 1]


def test_interrupted_grid_resumes_to_the_same_results(experiment, folds, frames, tmp_path, monkeypatch):
    grid, stored = grid_of(experiment, folds), {"tiny": frames}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        (folder / "cells").mkdir(parents=True)
    run_grid(grid, stored, whole)
    real, calls = grid_module.run_cells, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(grid_module, "run_cells", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_grid(grid, stored, cut)
    assert len(pd.read_csv(cut / "results.csv")) == 2 * 4  # both folds of four stacks
    (cut / "cells" / grid.cells()[5].file).unlink()  # a kill between the files of one stack
    run_grid(grid, stored, cut)
    assert len(calls) == 5 + 12 - 3
    assert (cut / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()
    (_, one), (_, other) = (read_cells(folder) for folder in (cut, whole))
    assert len(one) == 24 and all(np.array_equal(logits, other[cell]) for cell, logits in one.items())


def test_grid_of_the_reference_alone_has_no_epochs(experiment, folds, frames, tmp_path):
    (tmp_path / "cells").mkdir()
    run_grid(Grid({"tiny": experiment}, {"tiny": [1]}, [], folds, [0]), {"tiny": frames}, tmp_path)
    table, _ = read_cells(tmp_path)
    assert table["epoch"].isna().all() and table["strength"].isin(STRENGTHS).all()


# --- the script ------------------------------------------------------------------------------------------------------


def options(tiny_encoder, synthetic_dir, output):
    return [
        "--corpus", "synthetic", "--corpus_dir", synthetic_dir, "--encoder", tiny_encoder, "--folds", "speakers:2",
        "--encoder_context", "utterance", "--num_train_epochs", 2, "--layers", "1,-1", "--poolings", "mean,qkv",
        "--seeds", "0,1", "--use_cpu", "true", "--output_dir", output, "--store_dir", output.parent / "store",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def swept(tiny_encoder, synthetic_dir, tmp_path_factory):
    output = tmp_path_factory.mktemp("sweep") / "run"
    done = run_script("sweep.py", *options(tiny_encoder, synthetic_dir, output))
    assert done.returncode == 0, done.stderr
    return output


def test_a_sweep_leaves_results_tables_and_pictures(swept):
    assert {path.name for path in swept.iterdir()} == {
        "results.csv", "table.md", "layers.png", "sweep.json", "cells", "confusion_encoder_mean.png",
        "confusion_encoder_qkv.png", "confusion_encoder_logistic_regression.png",
    }  # fmt: skip
    table = pd.read_csv(swept / "results.csv")
    assert len(table) == 2 * 3 * 2 * 2
    assert set(table["encoder_layer"]) == {1, 3}
    assert "epoch chosen on speakers held out of the training folds" in (swept / "table.md").read_text()


KILLED = """
import os, pathlib, runpy, signal, sys, threading, time
cells, sys.argv = pathlib.Path(sys.argv[1]), sys.argv[2:]

def die_after_five_cells():
    while len(list(cells.glob("*.npz"))) < 5:
        time.sleep(0.002)
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=die_after_five_cells, daemon=True).start()
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_killed_sweep_goes_on_to_the_same_results(swept, tiny_encoder, synthetic_dir, tmp_path):
    command = [str(part) for part in options(tiny_encoder, synthetic_dir, tmp_path / "run")]
    cells = tmp_path / "run" / "cells"
    killed = run_python("-c", KILLED, cells, SCRIPT, *command)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert 5 <= len(list(cells.glob("*.npz"))) < 24
    done = run_script("sweep.py", *command, "--compare_with", swept)
    assert done.returncode == 0, done.stderr
    for name in ("results.csv", "layers.png"):
        assert (tmp_path / "run" / name).read_bytes() == (swept / name).read_bytes(), name
    text = (tmp_path / "run" / "table.md").read_text()
    assert text.startswith((swept / "table.md").read_text())
    assert "## Less run" in text and "+0.00 (+0.0 to +0.0)" in text.partition("## Less run")[2]


@pytest.mark.slow
def test_terminated_sweep_ends_at_once_and_says_how_to_resume(tiny_encoder, synthetic_dir, tmp_path):
    command = [str(part) for part in options(tiny_encoder, synthetic_dir, tmp_path / "run")]
    command = [sys.executable, SCRIPT, *command, "--num_train_epochs", "50000"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while process.poll() is None and not (tmp_path / "run" / "cells" / "clips.csv").exists():
            time.sleep(0.05)
    finally:
        process.terminate()  # long before the first cells are done
    assert process.wait(60) == 143
    assert process.stderr.read().splitlines()[-1] == (
        "sweep.py: terminated; finished work is kept; rerun the same command to resume"
    )


@pytest.mark.slow
def test_a_finished_sweep_of_another_encoder_is_trained_anew(tiny_encoder, synthetic_dir, tmp_path):
    encoder = tmp_path / "001"  # no number, but a name
    shutil.copytree(tiny_encoder, encoder)
    command = [*options(encoder, synthetic_dir, tmp_path / "run"), "--poolings", "mean"]
    assert run_script("sweep.py", *command).returncode == 0
    before = pd.read_csv(tmp_path / "run" / "results.csv", dtype={"encoder": str})
    assert set(before["encoder"]) == {"001"}
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "run" / "cells").glob("*.npz"))]

    assert run_script("sweep.py", *command).returncode == 0  # all of it is there
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "run" / "cells").glob("*.npz"))] == times

    weights = load_file(encoder / "model.safetensors")
    weights["model.encoder.layers.0.fc1.weight"].mul_(-1)  # in files of the same size
    save_file(weights, encoder / "model.safetensors", metadata={"format": "pt"})
    done = run_script("sweep.py", *command)
    assert done.returncode == 0, done.stderr
    after = pd.read_csv(tmp_path / "run" / "results.csv", dtype={"encoder": str})
    assert not after["unweighted_accuracy"].equals(before["unweighted_accuracy"])


def test_without_a_speaker_to_hold_out_there_is_no_reference(tiny_encoder, tmp_path):
    load_corpus("synthetic", tmp_path / "two", speakers=2, utterances=3)
    command = [*options(tiny_encoder, tmp_path / "two", tmp_path / "run"), "--poolings", "mean"]
    done = run_script("sweep.py", *command, "--select_on", "last")
    assert done.returncode == 0, done.stderr
    assert set(pd.read_csv(tmp_path / "run" / "results.csv")["pooling"]) == {"mean"}


def test_a_checkpoint_s_layer_mix_is_not_taken_over(tiny_encoder, synthetic_dir, tmp_path):
    save_model(tiny_encoder, tmp_path / "ours", use_weighted_layer_sum=True)
    command = [*options(tmp_path / "ours", synthetic_dir, tmp_path / "run"), "--layers", 1]
    done = run_script("sweep.py", *command, "--poolings", "mean")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--layers", "4"], "--layers 4: .* has the layers 0 to 3, not 4"),
        (["--layers", "some"], "--layers some: give all"),
        (["--poolings", "mean,max"], "--poolings mean,max: 'max' is not one of mean, attentive"),
        (["--pooling", "mean"], "--pooling: not supported by a sweep, which uses --poolings"),
        (["--encoder_layer", "1"], "--encoder_layer: not supported by a sweep, which uses --layers"),
        (["--freeze_encoder", "false"], "--freeze_encoder false"),
        (["--compare_with", "nowhere"], "--compare_with nowhere: holds no finished sweep"),
        (["--seeds", "0,0"], "--seeds 0,0"),
        (["--gradient_accumulation_steps", "2"], "--gradient_accumulation_steps 2"),
        (["--num_workers", "2"], "--num_workers: no such option"),
        (["--adaptation", "speaker"], "not supported by a sweep"),
        (["--init", "general"], "--init, --clips_per_class: not supported by a sweep"),
        (["--classifier_proj_size", "0"], "--classifier_proj_size 0: not supported by a sweep"),
        (["--seeds", "5000000000"], "--seeds 5000000000"),
        (["--lr_scheduler_type", "reduce_lr_on_plateau", "--eval_strategy", "epoch"], "reduce_lr_on_plateau"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(tiny_encoder, synthetic_dir, tmp_path, changes, said, monkeypatch, capfd):
    command = [SCRIPT, *options(tiny_encoder, synthetic_dir, tmp_path / "o"), *changes]
    monkeypatch.setattr("sys.argv", [str(part) for part in command])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    lines = [line for line in capfd.readouterr().err.strip().splitlines() if "it/s" not in line and "cell" not in line]
    assert exit_.value.code == 2
    assert re.search(said, lines[-1]), lines
    assert not (tmp_path / "o" / "results.csv").exists()
    assert not (tmp_path / "store").exists()  # said before hours of encoding


def some_utterances(corpus, folder):
    """A tree with a few real names and labels of every speaker, and a moment of silence for each."""
    emotions = {"angry": "ang", "happy": "hap", "neutral": "neu", "sad": "sad"}
    entries = [row for row in read_emobox(corpus) if row["label"] in emotions]
    few = {(row["name"][:3] if corpus == "shemo" else row["name"][-4] + row["name"][:6], row["label"]): row
           for row in entries}.values()  # fmt: skip
    if corpus == "shemo":
        genders = {"F": "female", "M": "male"}
        return write_files(folder, {f"{genders[row['name'][0]]}/{row['name']}.wav": silent_wav() for row in few})
    ratings = {"start": "0", "end": "1", "valence": "3", "activation": "3", "dominance": "3"}
    rows = [{"name": row["name"], "emotion": emotions[row["label"]], **ratings} for row in few]
    return write_files(folder, iemocap_files(rows, silent_wav()))


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("corpus", ["shemo", "iemocap"])
def test_paper_recipes_run_on_the_corpora_s_own_trees(corpus, whole, request, tiny_encoder, tmp_path):
    """Labels and folds are real, the audio is a moment of silence, and the training is cut short."""
    folder = request.getfixturevalue(f"{corpus}_dir") if whole else some_utterances(corpus, tmp_path / corpus)
    recipe = REPOSITORY / "scripts" / "recipes" / f"{corpus}_table1.yaml"
    done = run_script(
        "sweep.py", "--config", recipe, "--corpus_dir", folder, "--encoder", tiny_encoder, "--layers", 1,
        "--poolings", "qkv", "--num_train_epochs", 1, "--encoder_context", "utterance", "--context_margin", 0.1,
        "--use_cpu", "true", "--output_dir", tmp_path / "o", "--store_dir", tmp_path / "s",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "o" / "results.csv")
    assert table["fold"].nunique() == {"shemo": 10, "iemocap": 5}[corpus]
    assert "epoch chosen on the test fold: optimistic" in (tmp_path / "o" / "table.md").read_text()
    clips = pd.read_csv(tmp_path / "o" / "cells" / "clips.csv")
    if whole:
        assert len(clips) == {"shemo": 2767, "iemocap": 5531}[corpus]
