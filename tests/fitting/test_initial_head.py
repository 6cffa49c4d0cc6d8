"""Training from a trained head: the pull towards it, its classes and moves, and the mistakes that are refused."""

import dataclasses
import json
import runpy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, save_model, write_files
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

from whisper_emotion import EmotionClassifier, WhisperEmotionConfig
from whisper_emotion.errors import UserError
from whisper_emotion.fitting import large_regression, regression
from whisper_emotion.fitting.fit import Job, fit, load_frames
from whisper_emotion.fitting.initial_head import InitialHead, encoder_of, load_initial_head
from whisper_emotion.fitting.regression import START_STRENGTHS, Linear, RegularisationPath, select_strength
from whisper_emotion.head_files import save_head
from whisper_emotion.options import ProtocolOptions


def clips(count=60, width=5, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    return (rng.standard_normal((count, width)) + np.eye(3, width)[labels] + 2).astype(np.float32), labels


START = Linear(np.random.default_rng(1).standard_normal((3, 5)), np.array([0.3, -0.2, 0.1]))


def test_an_endless_penalty_gives_the_start():
    inputs, labels = clips()
    found = RegularisationPath(inputs, labels, 3, start=START).fit(1e9)
    np.testing.assert_allclose(found.weight, START.weight, atol=1e-6)
    np.testing.assert_allclose(found.bias, START.bias, atol=1e-6)


def test_the_fit_is_that_of_scipy_with_a_penalty_on_the_difference_from_the_start():
    inputs, labels = clips()
    mean, deviation = inputs.mean(axis=0, dtype=np.float64), inputs.std(axis=0, dtype=np.float64)

    def objective(parameters):
        weight, bias = parameters[:15].reshape(3, 5), parameters[15:]
        standard = (weight - START.weight) * deviation
        centred = bias - START.bias + (weight - START.weight) @ mean
        logits = inputs @ weight.T + bias
        loss = (logsumexp(logits, axis=1) - logits[np.arange(60), labels]).mean()
        return loss + 0.05 / 2 * ((standard**2).sum() + (centred**2).sum())

    expected = minimize(objective, np.concatenate([START.weight.ravel(), START.bias]), tol=1e-9).x
    found = RegularisationPath(inputs, labels, 3, start=START).fit(0.05)
    np.testing.assert_allclose(found.weight.ravel(), expected[:15], atol=1e-4)
    np.testing.assert_allclose(found.bias, expected[15:], atol=1e-4)


def test_the_streamed_fit_has_the_same_start(monkeypatch):
    inputs, labels = clips(90)
    labels = labels % 2  # nobody speaks the third class, which the start knows
    expected = RegularisationPath(inputs, labels, 3, start=START).fit(0.05)
    monkeypatch.setattr(regression, "LARGE", 50)
    monkeypatch.setattr(regression, "SAMPLE", 40)
    monkeypatch.setattr(large_regression, "CHUNK", 32)
    path = large_regression.regularisation_path(inputs, labels, 3, None, 0.0, None, None, START)
    assert isinstance(path, large_regression.StreamedPath)
    found = path.fit(0.05)
    np.testing.assert_allclose(found.weight, expected.weight, atol=1e-3)
    np.testing.assert_allclose(found.bias, expected.bias, atol=1e-3)
    assert found.bias[2] > -10


def test_the_strongest_penalty_within_a_standard_error_is_chosen():
    inputs, labels = clips()
    groups = np.repeat(["a", "b", "c"], 20)
    perfect = RegularisationPath(inputs, labels, 3).fit(0.01)
    chosen = select_strength(
        inputs, labels, groups, 3, "loss", start=lambda rows: perfect, strengths=START_STRENGTHS
    )  # fmt: skip
    assert chosen.strength == START_STRENGTHS[0] and len(chosen.rows) == 60
    log_probabilities = log_softmax(chosen.logits.numpy(), axis=1)
    assert chosen.value == pytest.approx(log_probabilities[np.arange(60), labels].mean())
    wrong = Linear(-perfect.weight, -perfect.bias)
    assert select_strength(
        inputs, labels, groups, 3, "loss", start=lambda rows: wrong, strengths=START_STRENGTHS
    ).strength < 1  # fmt: skip


def test_a_head_starts_with_its_classes_moved_and_calibrated():
    config = WhisperEmotionConfig(
        id2label={0: "angry", 1: "sad", 2: "happy"}, logit_temperature=5.0, adapted_logit_temperature=2.0
    )
    linear = Linear(np.array([[2.0, 0.0], [0.0, 4.0], [6.0, 6.0]]), np.array([1.0, 2.0, 3.0]))
    head = InitialHead("general", None, config, False, linear, np.array([10.0, 20.0]))
    start = head.start(["sad", "bored", "angry"], np.array([9.0, 22.0]))  # clips move by 1 and -2
    np.testing.assert_allclose(start.weight, [[0, 2], [0.5, 1], [1, 0]])  # the mean of sad and angry is bored
    np.testing.assert_allclose(start.bias, [(2 - 8) / 2, (3 - 6) / 4, (1 + 2) / 2])


@pytest.fixture
def head_dir(tiny_encoder, tmp_path):
    """A linear head of three classes, and the whole model beside it."""
    whole = EmotionClassifier(save_model(tiny_encoder, tmp_path / "whole", pooling="mean", classifier_proj_size=0))
    (tmp_path / "head").mkdir()
    save_head(tmp_path / "head", whole.model, whole.extractor, "me/tiny", "0" * 40)
    (tmp_path / "head" / "scores.json").write_text(json.dumps({"corpus": "emodb,ravdess"}))
    return tmp_path / "head"


@pytest.fixture
def started(linear, head_dir, tiny_encoder):
    """The linear experiment, started from that head."""
    initial = load_initial_head(str(head_dir), str(tiny_encoder), linear.labels)
    args = dataclasses.replace(linear.args, metric_for_best_model="loss")
    return dataclasses.replace(
        linear, initial=initial, overrides=initial.overrides({}), select_on="dev", clips_per_class=4, args=args
    )


def test_a_constant_of_the_microphone_changes_nothing(started, folds, tmp_path):
    """The training clips' own mean is taken off, and off later clips, too."""
    frames, job = load_frames(started), Job(folds[0].train, folds[0].test, 0)
    (fitted,) = fit(started, frames, [job], tmp_path)

    class Moved:
        means = np.asarray(frames.means) + np.float32(3.0)
        pooled = staticmethod(lambda pooling: Moved.means)
        layers, lengths, copies = frames.layers, frames.lengths, []

    (moved,) = fit(started, Moved, [job], tmp_path)
    assert moved.choice["strength"] == pytest.approx(fitted.choice["strength"])
    np.testing.assert_allclose(moved.classify(folds[0].test, False), fitted.classify(folds[0].test, False), atol=2e-3)
    drawn = started.draw_clips(folds[0].train, 0)
    mean = torch.from_numpy(np.mean([np.asarray(frames.means)[[r for r in drawn if started.speakers[r] == s]].mean(0)
                                     for s in set(started.speakers[drawn])], axis=0))  # fmt: skip
    torch.testing.assert_close(fitted.head.adaptation.population_mean, mean.float(), atol=1e-4, rtol=1e-4)


def test_drawn_clips_are_of_as_many_speakers_as_there_are(started, folds):
    drawn = started.draw_clips(folds[0].train, 0)
    assert set(Counter(started.label_ids[drawn]).values()) == {4} and drawn == sorted(set(drawn) & set(folds[0].train))
    for label in range(4):
        own = [row for row in drawn if started.label_ids[row] == label]
        assert len(set(started.speakers[own])) == 3  # the fourth is the test
    assert drawn != started.draw_clips(folds[0].train, 1)
    everything = dataclasses.replace(started, clips_per_class=99)
    assert everything.draw_clips(folds[0].train, 0) == folds[0].train
    with pytest.raises(UserError, match="--clips_per_class 0: must be 1 or more"):
        dataclasses.replace(started, clips_per_class=0)


def test_what_cannot_start_is_refused(started, head_dir, tiny_encoder, tmp_path):
    def load(folder, encoder=tiny_encoder, labels=("angry", "sad")):
        return load_initial_head(str(folder), str(encoder), labels)

    own = load(head_dir.parent / "whole")
    np.testing.assert_array_equal(own.linear.weight, started.initial.linear.weight)
    assert (own.record, own.overrides({"encoder_layer": -2, "pooling": "mean"})["encoder_layer"]) == (
        {"head": "whole", "corpora": None}, 2,
    )  # fmt: skip
    with pytest.raises(UserError, match="--init whole: has pooling=mean, not qkv; leave --pooling out"):
        own.overrides({"pooling": "qkv"})
    with pytest.raises(UserError, match="--init nowhere: must be general, permissive, or the folder of a head"):
        load("nowhere")
    with pytest.raises(UserError, match="has none of the classes bored"):
        load(head_dir, labels=["bored"])
    learned = save_model(tiny_encoder, tmp_path / "learned", pooling="qkv")
    with pytest.raises(UserError, match="--init .*learned: must be linear: mean or statistics pooling, no projector"):
        load(learned)
    with pytest.raises(UserError, match="has other weights than me/tiny"):
        load(head_dir, save_other(head_dir))
    with pytest.raises(UserError, match="--init .*whole: has another encoder than --encoder .*other; leave"):
        load(head_dir.parent / "whole", save_other(head_dir))
    with pytest.raises(UserError, match="--init: needs a linear head on a frozen encoder"):
        dataclasses.replace(started, freeze_encoder=False)
    with pytest.raises(UserError, match="--encoder: missing: give a Whisper checkpoint"):
        ProtocolOptions()
    assert encoder_of(str(head_dir)) == "me/tiny"
    assert encoder_of("general") == "openai/whisper-base"


def save_other(head_dir: Path) -> Path:
    """Save the model with an encoder that differs."""
    other = EmotionClassifier(head_dir.parent / "whole")
    torch.nn.init.ones_(other.model.encoder.layers[0].fc1.bias[:1])
    other.model.save_pretrained(head_dir.parent / "other")
    other.extractor.save_pretrained(head_dir.parent / "other")
    return head_dir.parent / "other"


def run(script, monkeypatch, *options):
    monkeypatch.setattr("sys.argv", [script, *map(str, options)])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(REPOSITORY / "scripts" / script), run_name="__main__")
    return exit_.value.code


def test_one_speaker_s_folder_trains_from_a_head(head_dir, tiny_encoder, synthetic_dir, tmp_path, monkeypatch, capfd):
    sounds = {label: sorted(synthetic_dir.rglob(f"*_{label}_*.wav"))[:3] for label in ("angry", "sad", "happy")}
    write_files(
        tmp_path / "mine",
        {f"{label}/anna_{n}.wav": file.read_bytes() for label, own in sounds.items() for n, file in enumerate(own)},
    )
    command = ["--corpus", "folder", "--corpus_dir", tmp_path / "mine", "--speaker_pattern", "^([a-z]+)_"]
    command += ["--encoder", tiny_encoder, "--init", head_dir, "--disable_tqdm", "--output_dir", tmp_path / "model"]
    assert run("train.py", monkeypatch, *command, "--pooling", "qkv") == 2
    assert "--init head: has pooling=mean, not qkv" in capfd.readouterr().err
    code = run("train.py", monkeypatch, *command)
    said = capfd.readouterr()
    assert code == 0, said.err
    assert "clips are held out, so training stays close to the --init model" in said.out + said.err
    scores = json.loads((tmp_path / "model" / "scores.json").read_text())
    assert scores["init"] == {"head": "head", "corpora": "emodb,ravdess"} and scores["clips_per_class"] is None
    card = " ".join((tmp_path / "model" / "README.md").read_text().split())
    assert (
        "Training started from the head `head`, which was trained on EMO-DB and RAVDESS: their licences bind" in card
    )
    assert "**Not for commercial use**: the owners of RAVDESS forbid it." in card
    assert "| `init` | head |" in card and "license: other" in card
    assert EmotionClassifier(tmp_path / "model").labels == ["angry", "happy", "sad"]
    again = load_initial_head(str(tmp_path / "model"), str(tmp_path / "model"), ["sad"])
    assert again.corpora == "folder,emodb,ravdess"
