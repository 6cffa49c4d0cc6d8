"""The grid: which layer stands for it, what the reference is, and that a kill changes nothing."""

import dataclasses
import re
import runpy
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import run_script
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression

from whisper_emotion import sweeps
from whisper_emotion.corpora import load_corpus
from whisper_emotion.corpora.splits import hold_out_speakers, make_folds
from whisper_emotion.features import FeatureStore
from whisper_emotion.protocol import Experiment, fit, predict
from whisper_emotion.sweeps import REFERENCE, Cell, Grid, choose_layers, read_cells, run_cells, run_grid
from whisper_emotion.training import EmotionTrainingArguments, build_extractor, build_model, collate_frames


@pytest.fixture(scope="module")
def experiment(tiny_encoder, synthetic_dir, tmp_path_factory):
    args = EmotionTrainingArguments(
        output_dir=str(tmp_path_factory.mktemp("run")), num_train_epochs=3, disable_tqdm=True, use_cpu=True,
        learning_rate=0.01,
    )  # fmt: skip
    overrides = {"encoder_context": "utterance", "classifier_proj_size": 16}
    return Experiment(load_corpus("synthetic", synthetic_dir), str(tiny_encoder), overrides, args, "dev")


@pytest.fixture(scope="module")
def folds(experiment):
    return make_folds(experiment.corpus, "synthetic", "speakers:2")


@pytest.fixture(scope="module")
def frames(experiment, tiny_encoder, tmp_path_factory):
    model = experiment.model([0], seed=0)
    store = tmp_path_factory.mktemp("store")
    return FeatureStore(model, build_extractor(str(tiny_encoder)), experiment.corpus, [1, 3], store).fill()


def grid_of(experiment, folds):
    return Grid({"tiny": experiment}, {"tiny": [1, 3]}, ["mean", "qkv"], folds, [0, 1])


def test_a_grid_has_every_cell_once_and_a_reference(experiment, folds):
    cells = grid_of(experiment, folds).cells()
    assert len(cells) == len(set(cells)) == len({cell.file for cell in cells}) == 2 * 3 * 2 * 2
    assert sum(cell.pooling == REFERENCE for cell in cells) == 8


@pytest.mark.parametrize("select_on", ["dev", "last", "test"])
@pytest.mark.parametrize("refit", [True, False])
def test_a_cell_is_what_training_and_testing_with_the_trainer_gives(
    experiment, folds, frames, tmp_path, select_on, refit
):
    experiment = dataclasses.replace(experiment, select_on=select_on, refit=refit)
    cell = Cell("tiny", 3, "qkv", 2, 1)
    ((_, row, logits),) = run_cells(experiment, frames[3], [cell], [folds[1]])
    twin = dataclasses.replace(experiment, overrides=experiment.overrides | {"encoder_layer": 3, "pooling": "qkv"})
    fitted = fit(twin, frames[3], collate_frames, folds[1].train, folds[1].test, 1, tmp_path)
    expected = predict(fitted, twin, folds[1], 1)
    labels = np.array(experiment.labels)
    assert labels[logits.argmax(axis=1)].tolist() == expected["predicted"].tolist()
    assert row["select_on"] == select_on
    assert row["weighted_accuracy"] == pytest.approx((expected["predicted"] == expected["label"]).mean())
    assert (row["selection_value"] is None) == (select_on == "last")
    assert 1 <= row["epoch"] <= 3 and (select_on != "last" or row["epoch"] == 3)


@pytest.mark.parametrize("refit", [True, False])
def test_the_reference_is_the_regression_whose_strength_held_out_speakers_choose(experiment, folds, frames, refit):
    experiment = dataclasses.replace(experiment, refit=refit, select_on="test")
    ((_, row, logits),) = run_cells(experiment, frames[1], [Cell("tiny", 1, REFERENCE, 1, 0)], [folds[0]])
    assert row["select_on"] == "dev"  # never on the test fold
    fit_rows, dev = hold_out_speakers(experiment.corpus, folds[0].train, 0)
    means, labels = frames[1].own_means(), np.array(experiment.corpus["label"][:])

    def recall(strength, rows, test):
        mean, deviation = means[rows].mean(0), means[rows].std(0)
        model = LogisticRegression(C=strength, max_iter=300).fit((means[rows] - mean) / deviation, labels[rows])
        predicted = model.predict((means[test] - mean) / deviation)
        return np.mean([(predicted == label)[labels[test] == label].mean() for label in range(4)]), predicted

    values = [recall(strength, fit_rows, dev)[0] for strength in sweeps.STRENGTHS]
    assert row["strength"] == sweeps.STRENGTHS[int(np.argmax(values))]
    assert row["selection_value"] == pytest.approx(max(values))
    expected = recall(row["strength"], folds[0].train if refit else fit_rows, folds[0].test)[1]
    assert logits.argmax(axis=1).tolist() == expected.tolist()


def rows(*cells):
    columns = ["encoder", "encoder_layer", "pooling", "fold", "seed", "selection_value", "unweighted_accuracy"]
    return pd.DataFrame([("e", *cell) for cell in cells], columns=columns)


def test_a_reference_of_one_class_says_that_class(experiment, folds, frames):
    labels = np.zeros(len(experiment.corpus), int)
    labels[folds[0].test] = 1  # all speakers that are trained on say one thing
    column = experiment.corpus.features["label"]
    alike = experiment.corpus.remove_columns("label").add_column("label", labels.tolist(), feature=column)
    experiment = dataclasses.replace(experiment, corpus=alike)
    ((_, row, logits),) = run_cells(experiment, frames[1], [Cell("tiny", 1, REFERENCE, 1, 0)], [folds[0]])
    assert set(logits.argmax(axis=1)) == {0} and row["weighted_accuracy"] == 0


def test_layers_are_chosen_by_hand():
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


def test_an_interrupted_sweep_goes_on_to_the_same_results(experiment, folds, frames, tmp_path, monkeypatch):
    grid, stored = grid_of(experiment, folds), {"tiny": frames}
    for name in ("whole", "cut"):
        (tmp_path / name / "cells").mkdir(parents=True)
    run_grid(grid, stored, tmp_path / "whole", workers=1)
    real, calls = sweeps.run_cells, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(sweeps, "run_cells", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_grid(grid, stored, tmp_path / "cut", workers=1)
    assert len(pd.read_csv(tmp_path / "cut" / "results.csv")) == 9  # written at once
    run_grid(grid, stored, tmp_path / "cut", workers=1)
    assert len(calls) == 10 + 24 - 9
    assert (tmp_path / "cut" / "results.csv").read_bytes() == (tmp_path / "whole" / "results.csv").read_bytes()
    (_, one), (_, other) = (read_cells(tmp_path / name) for name in ("cut", "whole"))
    assert all(np.array_equal(logits, other[cell]) for cell, logits in one.items())


@pytest.mark.parametrize(("select_on", "workers"), [("dev", 2), ("test", 1), ("last", 1)])
def test_heads_side_by_side_are_those_of_one_after_the_other(experiment, folds, frames, tmp_path, select_on, workers):
    """Without dropout, whose numbers differ; folds of different sizes, so that heads rest at the end of an epoch."""
    overrides = experiment.overrides | {"pooling_dropout": 0.0, "class_weights": "balanced"}
    experiment = dataclasses.replace(experiment, select_on=select_on, overrides=overrides)
    smaller = dataclasses.replace(folds[0], train=folds[0].train[:-9])
    grid = grid_of(experiment, [smaller, folds[1]])
    for name, together in (("alone", False), ("together", True)):
        (tmp_path / name / "cells").mkdir(parents=True)
        run_grid(grid, {"tiny": frames}, tmp_path / name, workers, together)
    for cell in grid.cells()[1:4]:  # what a kill while they were written has left out
        (tmp_path / "together" / "cells" / cell.file).unlink()
    run_grid(grid, {"tiny": frames}, tmp_path / "together", workers, side_by_side=True)
    (alone, logits), (rows, others) = (read_cells(tmp_path / name) for name in ("alone", "together"))
    pd.testing.assert_frame_equal(rows, alone)
    for cell, own in logits.items():
        np.testing.assert_allclose(others[cell], own, atol=1e-4, err_msg=str(cell))


def test_a_sweep_of_one_worker_has_a_worker_s_one_thread(experiment, folds, frames, tmp_path, monkeypatch):
    threads, real = [], sweeps.run_cells

    def count(*arguments):
        threads.append(torch.get_num_threads())
        return real(*arguments)

    monkeypatch.setattr(sweeps, "run_cells", count)
    (tmp_path / "cells").mkdir()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run_grid(Grid({"tiny": experiment}, {"tiny": [1]}, ["mean"], folds, [0]), {"tiny": frames}, tmp_path, 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(threads) == {1}


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
    done = run_script("sweep.py", *options(tiny_encoder, synthetic_dir, output), "--num_workers", 2)
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


def test_a_killed_sweep_goes_on_to_the_same_results(swept, tiny_encoder, synthetic_dir, tmp_path):
    command = [str(part) for part in options(tiny_encoder, synthetic_dir, tmp_path / "run")]
    script = Path(__file__).resolve().parents[1] / "scripts" / "sweep.py"
    process = subprocess.Popen([sys.executable, script, *command, "--num_workers", "1"], stderr=subprocess.DEVNULL)
    cells = tmp_path / "run" / "cells"
    while process.poll() is None and len(list(cells.glob("*.npz"))) < 5:
        pass
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 5 <= len(list(cells.glob("*.npz"))) < 24
    done = run_script("sweep.py", *command, "--num_workers", 1, "--compare_with", swept)
    assert done.returncode == 0, done.stderr
    for name in ("results.csv", "layers.png"):
        assert (tmp_path / "run" / name).read_bytes() == (swept / name).read_bytes(), name
    text = (tmp_path / "run" / "table.md").read_text()
    assert text.startswith((swept / "table.md").read_text())
    assert "## Less run" in text and "+0.00 (+0.0 to +0.0)" in text.partition("## Less run")[2]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers in /proc")
def test_a_terminated_sweep_does_not_wait_for_its_workers_and_says_how_to_go_on(tiny_encoder, synthetic_dir, tmp_path):
    command = [str(part) for part in options(tiny_encoder, synthetic_dir, tmp_path / "run")]
    script = Path(__file__).resolve().parents[1] / "scripts" / "sweep.py"
    command = [sys.executable, script, *command, "--num_workers", "2", "--num_train_epochs", "1000000"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    workers = []
    try:
        while process.poll() is None and len(workers) < 2:
            with suppress(FileNotFoundError, ProcessLookupError):  # a child that has ended since it was listed
                workers = [child for child in children(process.pid) if "spawn_main" in child.read_text()]
    finally:
        process.terminate()  # hours before the first cells are done
    assert process.wait() == 143
    assert process.stderr.read().splitlines()[-1] == (
        "sweep.py: terminated; what was done so far is kept, and the same command goes on from there"
    )
    assert not any(worker.exists() for worker in workers)


def children(process):
    """The command lines of a process's children, as files that go with them."""
    listed = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [Path(f"/proc/{child}/cmdline") for child in listed]


def test_a_finished_sweep_of_another_encoder_is_trained_anew(tiny_encoder, synthetic_dir, tmp_path):
    encoder = tmp_path / "001"  # no number, but a name
    shutil.copytree(tiny_encoder, encoder)
    command = [*options(encoder, synthetic_dir, tmp_path / "run"), "--num_workers", 1, "--poolings", "mean"]
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
    command = [*options(tiny_encoder, tmp_path / "two", tmp_path / "run"), "--num_workers", 1, "--poolings", "mean"]
    done = run_script("sweep.py", *command, "--select_on", "last")
    assert done.returncode == 0, done.stderr
    assert set(pd.read_csv(tmp_path / "run" / "results.csv")["pooling"]) == {"mean"}


def test_a_checkpoint_s_layer_mix_is_not_taken_over(tiny_encoder, synthetic_dir, tmp_path):
    model = build_model(str(tiny_encoder), ["a", "b"], {"use_weighted_layer_sum": True}, seed=0)
    model.save_pretrained(tmp_path / "ours")
    build_extractor(str(tiny_encoder)).save_pretrained(tmp_path / "ours")
    command = [*options(tmp_path / "ours", synthetic_dir, tmp_path / "run"), "--num_workers", 1, "--layers", 1]
    done = run_script("sweep.py", *command, "--poolings", "mean")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--layers", "4"], "--layers 4: .* has the layers 0 to 3, not 4"),
        (["--layers", "some"], "--layers some: give all"),
        (["--poolings", "mean,max"], "--poolings mean,max: 'max' is none of mean, attentive"),
        (["--pooling", "mean"], "--pooling: a sweep has --poolings in its place"),
        (["--encoder_layer", "1"], "--encoder_layer: a sweep has --layers in its place"),
        (["--freeze_encoder", "false"], "--freeze_encoder false"),
        (["--compare_with", "nowhere"], "--compare_with nowhere: holds no finished sweep"),
        (["--seeds", "0,0"], "--seeds 0,0"),
        (["--gradient_accumulation_steps", "2"], "--gradient_accumulation_steps 2"),
        (["--num_workers", "0"], "--num_workers 0: must be 1 or more"),
        (["--seeds", "5000000000"], "--seeds 5000000000"),
        (["--lr_scheduler_type", "reduce_lr_on_plateau", "--eval_strategy", "epoch"], "reduce_lr_on_plateau"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(tiny_encoder, synthetic_dir, tmp_path, changes, said, monkeypatch, capfd):
    script = Path(__file__).resolve().parents[1] / "scripts" / "sweep.py"
    command = [script, *options(tiny_encoder, synthetic_dir, tmp_path / "o"), "--num_workers", 1, *changes]
    monkeypatch.setattr("sys.argv", [str(part) for part in command])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(script), run_name="__main__")
    lines = [line for line in capfd.readouterr().err.strip().splitlines() if "it/s" not in line and "cell" not in line]
    assert exit_.value.code == 2
    assert re.search(said, lines[-1]), lines
    assert not (tmp_path / "o" / "results.csv").exists()
    assert not (tmp_path / "store").exists()  # said before hours of encoding


@pytest.mark.parametrize("corpus", ["shemo", "iemocap"])
def test_the_paper_s_recipes_run_on_the_corpora_s_own_trees(corpus, request, tiny_encoder, tmp_path):
    """All labels and folds are real, the audio is a moment of silence, and the training is cut short."""
    recipe = Path(__file__).resolve().parents[1] / "scripts" / "recipes" / f"{corpus}_table1.yaml"
    done = run_script(
        "sweep.py", "--config", recipe, "--corpus_dir", request.getfixturevalue(f"{corpus}_dir"), "--encoder",
        tiny_encoder, "--layers", 1, "--poolings", "qkv", "--num_train_epochs", 1, "--encoder_context", "utterance",
        "--context_margin", 0.1, "--use_cpu", "true", "--output_dir", tmp_path / "o", "--store_dir", tmp_path / "s",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "o" / "results.csv")
    assert table["fold"].nunique() == {"shemo": 10, "iemocap": 5}[corpus]
    assert "epoch chosen on the test fold: optimistic" in (tmp_path / "o" / "table.md").read_text()
    clips = pd.read_csv(tmp_path / "o" / "cells" / "clips.csv")
    assert len(clips) == {"shemo": 2767, "iemocap": 5531}[corpus]
