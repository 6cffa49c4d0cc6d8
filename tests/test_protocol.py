"""Who is trained on, who chooses, who is tested on; and what is made of the predictions."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from whisper_emotion import protocol
from whisper_emotion.corpora import load_corpus
from whisper_emotion.corpora.splits import Fold, hold_out_speakers, make_folds
from whisper_emotion.errors import UserError
from whisper_emotion.protocol import Experiment, cross_validate, fit
from whisper_emotion.scoring import summarise
from whisper_emotion.training import EmotionTrainingArguments


@pytest.fixture(scope="module")
def experiment(tiny_encoder, synthetic_dir, tmp_path_factory):
    args = EmotionTrainingArguments(
        output_dir=str(tmp_path_factory.mktemp("run")), num_train_epochs=3, disable_tqdm=True, use_cpu=True
    )
    overrides = {"encoder_context": "utterance", "encoder_layer": 1, "classifier_proj_size": 16}
    return Experiment(load_corpus("synthetic", synthetic_dir), str(tiny_encoder), overrides, args, "last")


@pytest.fixture(scope="module")
def folds(experiment):
    return make_folds(experiment.corpus, "synthetic", "loso")


# --- scores by hand --------------------------------------------------------------------------------------------------


def predictions(*rows):
    columns = ["name", "fold", "seed", "label", "predicted", "p_angry", "p_happy", "p_neutral", "p_sad"]
    return pd.DataFrame(rows, columns=columns)


def test_scores_by_hand(experiment, folds):
    """Two folds of two clips, two seeds: 1 and 1/2 right with the first, 1/2 and 1/2 with the second."""
    sure, unsure = (1.0, 0.0, 0.0, 0.0), (0.6, 0.4, 0.0, 0.0)
    table = predictions(
        ("a", 1, 0, "angry", "angry", *sure),
        ("b", 1, 0, "happy", "happy", 0.0, 1.0, 0.0, 0.0),
        ("c", 2, 0, "angry", "angry", *sure),
        ("d", 2, 0, "happy", "angry", *unsure),
        ("a", 1, 1, "angry", "angry", *sure),
        ("b", 1, 1, "happy", "angry", *sure),
        ("c", 2, 1, "angry", "angry", *sure),
        ("d", 2, 1, "happy", "angry", *unsure),
    )
    scores = summarise(table, experiment, folds[:2])
    accuracy = scores["unweighted_accuracy"]
    assert accuracy["folds"] == [[1.0, 0.5], [0.5, 0.5]]
    assert accuracy["mean"] == 0.625
    assert accuracy["std"] == pytest.approx((0.25 + 0.0) / 2)  # population deviation of each seed, then their mean
    assert scores["pooled"]["weighted_accuracy"] == pytest.approx((0.75 + 0.5) / 2)
    assert scores["confusion_matrix"] == [[4, 0, 0, 0], [3, 1, 0, 0], [0] * 4, [0] * 4]
    # confidence bins: seed 0 has 3 right at 1.0 and one wrong at 0.6; seed 1 has 2 of 3 right at 1.0
    assert scores["ece"] == pytest.approx((0.6 / 4 + (1 / 4 + 0.6 / 4)) / 2)
    assert scores["speakers_shared"] == [0, 0]
    low, high = scores["interval"]["weighted_accuracy"]
    assert 0 <= low < scores["pooled"]["weighted_accuracy"] < high <= 1


def test_speakers_that_are_in_both_parts_are_counted(experiment):
    rows = list(range(len(experiment.corpus)))
    table = predictions(("a", 1, 0, "angry", "angry", 1.0, 0.0, 0.0, 0.0))
    assert summarise(table, experiment, [Fold(1, rows[::2], rows[1::2])])["speakers_shared"] == [4]


# --- who sees what ---------------------------------------------------------------------------------------------------


@pytest.fixture
def seen(monkeypatch):
    """Records the rows of every training in place of training."""
    calls = []

    def train(model, train_set, selection_set, collator, args, output_dir, epochs=None):
        calls.append((train_set, selection_set, epochs, args.seed))
        return "trainer"

    monkeypatch.setattr(protocol, "train", train)
    monkeypatch.setattr(protocol, "best_epoch", lambda trainer: 2)
    return calls


def run(experiment, fold, seed=5, **changes):
    rows = list(range(len(experiment.corpus)))  # each utterance is its own row number
    changed = dataclasses.replace(experiment, **changes)
    return fit(changed, rows, None, fold.train, fold.test, seed, Path(changed.args.output_dir) / "work")


def test_dev_chooses_on_held_out_training_speakers_and_then_trains_on_all_of_them(experiment, folds, seen):
    run(experiment, folds[0], select_on="dev")
    (chosen, dev, epochs, seed), (everything, nothing, refit_epochs, _) = seen
    speakers = np.array(experiment.corpus["speaker"][:])
    assert sorted(chosen + dev) == folds[0].train
    assert not set(speakers[chosen]) & set(speakers[dev])
    assert not set(speakers[dev]) & set(speakers[folds[0].test])
    assert (epochs, seed) == (None, 5)
    assert (everything, nothing, refit_epochs) == (folds[0].train, None, 2)


def test_dev_without_refit_trains_once(experiment, folds, seen):
    run(experiment, folds[0], select_on="dev", refit=False)
    assert len(seen) == 1


def test_last_looks_at_nothing_else(experiment, folds, seen):
    run(experiment, folds[0], select_on="last")
    assert seen == [(folds[0].train, None, None, 5)]


def test_test_chooses_on_the_test_fold(experiment, folds, seen):
    run(experiment, folds[0], select_on="test")
    assert seen == [(folds[0].train, folds[0].test, None, 5)]


def test_test_needs_a_test_fold(experiment, folds, seen):
    with pytest.raises(UserError, match="--select_on test: there is no test fold"):
        run(experiment, Fold(1, folds[0].train, None), select_on="test")


def test_balanced_class_weights_are_those_of_the_training_rows(experiment):
    balanced = dataclasses.replace(experiment, overrides=experiment.overrides | {"class_weights": "balanced"})
    labels = np.array(experiment.corpus["label"][:])
    rows = [*np.flatnonzero(labels == 0)[:6], *np.flatnonzero(labels == 1)[:2], *np.flatnonzero(labels > 1)[:16]]
    weights = balanced.model(rows, seed=0).config.class_weights
    counts = np.bincount(labels[rows], minlength=4)
    np.testing.assert_allclose(weights, 24 / 4 / counts)


def test_a_random_encoder_cannot_be_frozen(experiment):
    with pytest.raises(UserError, match="--from_scratch: .* add --freeze_encoder false"):
        dataclasses.replace(experiment, from_scratch=True)


# --- who speaks, and how sure ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("helps", [True, False])
def test_dev_decides_whether_test_clips_are_adapted_to_their_speakers(experiment, folds, tmp_path, monkeypatch, helps):
    adapting = dataclasses.replace(
        experiment, select_on="dev", speaker_adaptation="dev", temperature_scaling=True, store_dir=str(tmp_path)
    )
    utterances, collator = adapting.utterances()
    values = iter([0.9, 0.8] if helps else [0.8, 0.8])  # a tie is no help
    monkeypatch.setattr(protocol, "_value", lambda trainer, rows: next(values))
    fold = folds[0]
    fitted = fit(adapting, utterances, collator, fold.train, fold.test, 0, tmp_path / "work")
    assert fitted.adapted == helps
    table = protocol.predict(fitted, adapting, fold, 0)
    model = fitted.trainer.model.eval()
    assert set(table["adapted"]) == {helps}
    assert set(table["temperature"]) == {model.config.adapted_temperature if helps else model.config.temperature}
    for prefix, heard in (("p_", adapting.adapted(utterances) if helps else utterances), ("unadapted_p_", utterances)):
        with torch.no_grad():
            expected = model(**collator([heard[row] for row in fold.test])).logits.softmax(-1)
        np.testing.assert_allclose(table[[c for c in table if c.startswith(prefix)]], expected, atol=1e-5)


def test_the_temperature_of_adapted_clips_is_fitted_to_them(experiment, folds, tmp_path):
    """Each to its own: what the frames lose changes how sure of itself a model is."""
    adapting = dataclasses.replace(
        experiment, select_on="dev", refit=False, speaker_adaptation="always", temperature_scaling=True,
        store_dir=str(tmp_path),
    )  # fmt: skip
    utterances, collator = adapting.utterances()
    fitted = fit(adapting, utterances, collator, folds[0].train, None, 0, tmp_path / "work")
    config, dev = fitted.trainer.model.config, hold_out_speakers(experiment.corpus, folds[0].train, 0)[1]
    fitted_to = {config.temperature: utterances, config.adapted_temperature: adapting.adapted(utterances)}
    assert len(fitted_to) == 2
    for temperature, heard in fitted_to.items():
        config.temperature, config.adapted_temperature = 1.0, None
        again = protocol.fit_temperature(fitted.trainer, fitted.fitting.select(dev, heard is not utterances))
        assert again == pytest.approx(temperature, rel=1e-3)


def test_a_population_is_the_mean_of_the_training_speakers(experiment, folds, tmp_path):
    stored = dataclasses.replace(experiment, store_dir=str(tmp_path)).utterances()[0]
    rows = folds[0].train[:-1]  # speakers of different numbers of clips, which count alike
    speakers = np.array(experiment.corpus["speaker"][:])
    clips = {row: stored[row]["encoder_outputs"].float().mean(0) for row in rows}
    of_speakers = [torch.stack([clips[r] for r in rows if speakers[r] == s]).mean(0) for s in set(speakers[rows])]
    model = experiment.model_for(stored, rows, seed=0)
    torch.testing.assert_close(model.population_mean, torch.stack(of_speakers).mean(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"speaker_adaptation": "dev", "select_on": "last"}, "--speaker_adaptation dev: .* --select_on dev"),
        ({"speaker_adaptation": "always", "overrides": {"freeze_encoder": False}}, "--freeze_encoder true"),
        ({"speaker_adaptation": "always", "overrides": {"use_weighted_layer_sum": True}}, "learned mix of layers"),
        ({"temperature_scaling": True, "select_on": "last"}, "--temperature_scaling true: .* --select_on dev"),
    ],
)
def test_options_that_need_others_say_so(experiment, changes, said):
    with pytest.raises(UserError, match=said):
        dataclasses.replace(experiment, **changes)


def test_a_corpus_that_does_not_say_who_speaks_is_taken_as_it_is(experiment):
    frames = object()
    nameless = experiment.corpus.remove_columns("speaker").add_column(
        "speaker", [f"angry/{row}" for row in range(len(experiment.corpus))]
    )
    assert dataclasses.replace(experiment, corpus=nameless).adapted(frames) is frames
    with pytest.raises(
        UserError, match="--speaker_adaptation always: needs to know who speaks, give --speaker_pattern"
    ):
        dataclasses.replace(experiment, corpus=nameless, speaker_adaptation="always")


def test_the_temperature_by_hand():
    """Logits of 0 and 2 log 3 that are right three times in four, or more or less often."""

    class Trainer:
        def __init__(self, *labels):
            self.labels = np.array(labels)

        def predict(self, utterances):
            logits = np.array([[2 * np.log(3), 0.0]] * len(self.labels))
            return SimpleNamespace(predictions=logits, label_ids=self.labels)

    def fitted(*labels):
        return protocol.fit_temperature(Trainer(*labels), None)

    # 300 of 400: divided by 2 the odds are 3 to 1; Laplace's rule has 301 of 402
    assert fitted(*[0, 0, 0, 1] * 100) == pytest.approx(2 * np.log(3) / np.log(301 / 101), abs=1e-3)
    # All of four: the less the better for the loss, but five of six is what four can tell
    assert fitted(0, 0, 0, 0) == pytest.approx(2 * np.log(3) / np.log(5), abs=1e-3)
    # None of one: one of three, which is less than any probability of the better of two
    assert fitted(1) == pytest.approx(np.exp(protocol.TEMPERATURES[1]))


def test_scores_say_what_the_temperature_changed(experiment, folds):
    """Halved logits: odds of 9 to 1 become 3 to 1."""
    table = predictions(("a", 1, 0, "angry", "angry", 0.75, 0.25, 0.0, 0.0)).assign(temperature=2.0, adapted=True)
    scores = summarise(table, experiment, folds[:1])
    assert scores["ece"] == pytest.approx(0.25)
    assert scores["ece_unscaled"] == pytest.approx(0.1)
    assert (scores["temperature"], scores["adapted"]) == ([[2.0]], [[True]])


# --- interruptions ---------------------------------------------------------------------------------------------------


def test_a_frozen_encoder_s_precision_is_not_the_head_s(experiment, tmp_path):
    half = dataclasses.replace(experiment, encoder_dtype="bfloat16", store_dir=str(tmp_path))
    assert half.feature_store([1]).model.encoder.conv1.weight.dtype == torch.bfloat16
    assert half.model([0], seed=0).encoder.conv1.weight.dtype == torch.float32  # what is trained, and saved
    with pytest.raises(UserError, match="--encoder_dtype bfloat16: .* --freeze_encoder true"):
        dataclasses.replace(half, overrides={"freeze_encoder": False})


def test_an_interrupted_cross_validation_goes_on_to_the_same_predictions(experiment, folds, tmp_path, monkeypatch):
    whole = cross_validate(experiment, folds[:3], [0, 1], tmp_path / "whole")
    assert len(whole) == 2 * 36
    assert set(whole["fold"]) == {1, 2, 3}

    real, calls = protocol.predict, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(protocol, "predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(experiment, folds[:3], [0, 1], tmp_path / "cut")
    resumed = cross_validate(experiment, folds[:3], [0, 1], tmp_path / "cut")
    assert len(calls) == 3 + 4  # two folds were done, the third is predicted again
    pd.testing.assert_frame_equal(resumed, whole)


def test_classes_and_names_that_look_like_numbers_stay_text(experiment, folds, tmp_path, monkeypatch):
    def predict(fitted, experiment, fold, seed):
        return pd.DataFrame({"name": ["001"], "fold": 1, "seed": seed, "label": ["0"], "predicted": ["1"], "p_0": 0.5})

    monkeypatch.setattr(protocol, "fit", lambda *arguments: arguments[-1].mkdir(parents=True))
    monkeypatch.setattr(protocol, "predict", predict)
    table = cross_validate(experiment, folds[:1], [0], tmp_path)
    assert table[["name", "label", "predicted"]].iloc[0].tolist() == ["001", "0", "1"]
