"""Which clips train, select and test; the fitted heads; adaptation and temperatures."""

import dataclasses

import numpy as np
import pytest
import torch

from whisper_emotion.collator import AudioCollator
from whisper_emotion.corpora.held_out import hold_out_speakers
from whisper_emotion.errors import UserError
from whisper_emotion.fitting import fit as fitting
from whisper_emotion.fitting import regression
from whisper_emotion.fitting.fit import Job, fit, load_frames
from whisper_emotion.fitting.new_models import build_extractor, build_model
from whisper_emotion.fitting.regression import STRENGTHS, RegularisationPath
from whisper_emotion.fitting.selection import fit_temperature


@pytest.fixture
def trained(monkeypatch):
    """Record the clips of every training of heads in place of training."""
    calls = []

    def train_heads(heads, frames, labels, rows, args, seeds, weights, watched=None, epochs=None, progress=None):
        calls.append((rows, watched, epochs, seeds))
        return [[0.1, 0.9, 0.5]] * len(heads)

    monkeypatch.setattr(fitting, "train_heads", train_heads)
    return calls


def jobs_of(folds, *seeds):
    return [Job(fold.train, fold.test, seed) for fold, seed in zip(folds, seeds, strict=False)]


def test_dev_selects_on_held_out_training_speakers_and_then_trains_on_all(experiment, folds, trained, tmp_path):
    dev_experiment = dataclasses.replace(experiment, select_on="dev")
    jobs = jobs_of(folds, 5, 5)
    fitted = fit(dev_experiment, load_frames(experiment), jobs, tmp_path)
    (rows, watched, epochs, seeds), (everything, nothing, refit_epochs, _) = trained
    speakers = experiment.speakers
    for own, dev, job in zip(rows, watched, jobs, strict=True):
        assert sorted(own + dev) == job.train
        assert not set(speakers[own]) & set(speakers[dev])
        assert not set(speakers[dev]) & set(speakers[job.test])
    assert (epochs, seeds) == (None, [5, 5])
    assert (everything, nothing, refit_epochs) == ([job.train for job in jobs], None, [2, 2])
    assert [one.choice for one in fitted] == [{"epoch": 2, "strength": None, "selection_value": 0.9}] * 2
    fit(dataclasses.replace(dev_experiment, refit=False), load_frames(experiment), jobs, tmp_path)
    assert len(trained) == 3


def test_last_trains_on_all_and_selects_nothing(experiment, folds, trained, tmp_path):
    (fitted,) = fit(experiment, load_frames(experiment), jobs_of(folds, 5), tmp_path)
    assert trained == [([folds[0].train], None, None, [5])]
    assert fitted.choice == {"epoch": 3, "strength": None, "selection_value": None}


def test_test_selects_on_the_test_fold_and_needs_one(experiment, folds, trained, tmp_path):
    on_test, frames = dataclasses.replace(experiment, select_on="test"), load_frames(experiment)
    fit(on_test, frames, jobs_of(folds, 5), tmp_path)
    assert trained == [([folds[0].train], [folds[0].test], None, [5])]
    with pytest.raises(UserError, match="--select_on test: needs a test fold"):
        fit(on_test, frames, [Job(folds[0].train, [], 5)], tmp_path)


def test_linear_head_gives_the_regression_s_logits(linear, folds, tmp_path):
    for pooling in ("mean", "statistics"):
        own = dataclasses.replace(linear, overrides=linear.overrides | {"pooling": pooling}, select_on="dev")
        frames = load_frames(own)
        (fitted,) = fit(own, frames, jobs_of(folds, 0), tmp_path)
        pooled = frames.pooled(pooling)
        train, test = folds[0].train, folds[0].test
        path = RegularisationPath(pooled[train], own.label_ids[train], 4)
        expected = path.fit(fitted.choice["strength"]).logits(pooled[test])
        with torch.no_grad():
            found = fitted.head(*frames.batch(test)).logits
        # Statistics pooling adds a small constant under the root.
        torch.testing.assert_close(found.double(), expected, atol=1e-2, rtol=1e-2)
        np.testing.assert_allclose(fitted.classify(test, False), found, atol=1e-5)


def test_linear_head_of_many_clips_is_that_of_few(linear, folds, tmp_path, monkeypatch):
    own = dataclasses.replace(linear, select_on="test", adaptation="speaker")
    (expected,) = fit(own, load_frames(own), jobs_of(folds, 0), tmp_path)
    monkeypatch.setattr(regression, "LARGE", 20)
    (found,) = fit(own, load_frames(own), jobs_of(folds, 0), tmp_path)
    assert found.choice["strength"] == expected.choice["strength"]
    for adapted in (False, True):
        logits = (one.classify(folds[0].test, adapted) for one in (found, expected))
        np.testing.assert_allclose(*logits, atol=1e-2)


def test_adapted_linear_head_gives_the_regression_s_logits_of_moved_clips(linear, folds, tmp_path):
    own = dataclasses.replace(linear, select_on="dev", adaptation="speaker", temperature_scaling=True)
    frames = load_frames(own)
    train, test = folds[0].train[:-1], folds[0].test  # speakers of different numbers of clips count alike
    (fitted,) = fit(own, frames, [Job(train, test, 0)], tmp_path)
    mean, speakers = frames.means, own.speakers
    population = np.mean([mean[[r for r in train if speakers[r] == s]].mean(0) for s in set(speakers[train])], axis=0)
    torch.testing.assert_close(fitted.head.adaptation.population_mean, torch.from_numpy(population))
    domain_mean = mean[test].mean(axis=0)  # the test fold is one speaker
    linear_fit = RegularisationPath(mean[train], own.label_ids[train], 4).fit(fitted.choice["strength"])
    expected = linear_fit.logits(mean[test] + population - domain_mean)
    temperature = fitted.head.config.adapted_logit_temperature
    with torch.no_grad():
        repeated = torch.from_numpy(domain_mean).expand(len(test), -1)
        found = fitted.head(*frames.batch(test), repeated).logits
    torch.testing.assert_close(found.double(), expected / temperature, atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(fitted.classify(test, True), found, atol=1e-4)
    assert temperature != fitted.head.config.logit_temperature


@pytest.mark.parametrize("adaptation", ["none", "speaker", "dev"])
def test_linear_selection_never_sees_the_test_clips(linear, folds, tmp_path, adaptation):
    own = dataclasses.replace(linear, select_on="dev", adaptation=adaptation, temperature_scaling=True)
    train, frames = folds[0].train, load_frames(own)
    (fitted,) = fit(own, frames, jobs_of(folds, 0), tmp_path)
    other = dataclasses.replace(own)
    other.__dict__["label_ids"] = own.label_ids.copy()
    other.label_ids[folds[0].test] = 0
    mean = np.array(frames.means)
    mean[folds[0].test] += 100.0
    moved = load_frames(own)
    moved.__dict__["means"] = mean
    (again,) = fit(other, moved, [Job(train, folds[0].test[:3], 7)], tmp_path)
    assert again.choice == fitted.choice and again.decision == fitted.decision
    for name, tensor in fitted.head.state_dict().items():
        assert torch.equal(again.head.state_dict()[name], tensor), name
    assert fitted.choice["strength"] in STRENGTHS and fitted.choice["epoch"] is None


@pytest.mark.parametrize("values", [(0.8, 0.9), (0.8, 0.8)])
def test_dev_decides_whether_test_clips_are_adapted(experiment, folds, tmp_path, monkeypatch, values):
    own = dataclasses.replace(experiment, select_on="dev", refit=False, adaptation="dev", temperature_scaling=True)
    scores = iter(values)
    monkeypatch.setattr("whisper_emotion.fitting.selection.selection_value", lambda *_: next(scores))
    frames = load_frames(own)
    (fitted,) = fit(own, frames, jobs_of(folds, 0), tmp_path)
    assert fitted.decision.adapted == (values[1] > values[0])
    config, dev = fitted.head.config, hold_out_speakers(own.corpus, folds[0].train, 0)[1]
    targets = torch.from_numpy(own.label_ids[dev])
    for adapted in (False, True):
        temperature = config.temperature_of(adapted)
        unscaled = torch.from_numpy(fitted.classify(dev, adapted)) * temperature
        # The population mean was the inner training speakers' then.
        assert fit_temperature(unscaled, targets) == pytest.approx(temperature, rel=0.2 if adapted else 1e-3)
    assert config.logit_temperature != config.adapted_logit_temperature


def test_whole_model_classifies_recordings_as_the_head_does_stored_frames(linear, folds, tmp_path):
    (fitted,) = fit(linear, load_frames(linear), jobs_of(folds, 0), tmp_path)
    model, rows = fitted.whole_model(linear).eval(), folds[0].test[:4]
    batch = AudioCollator(build_extractor(linear.encoder))([linear.corpus[row] for row in rows])
    with torch.no_grad():
        logits = model(**batch).logits
    np.testing.assert_allclose(logits, fitted.classify(rows, False), atol=0.02, rtol=0.02)


def test_new_model_on_an_adapted_checkpoint_is_not_adapted(linear, folds, tmp_path):
    """And a model that the scripts build can be adapted: model and head share the configuration."""
    (fitted,) = fit(linear, load_frames(linear), jobs_of(folds, 0), tmp_path)
    model = fitted.whole_model(linear)
    model.adapt(torch.ones(model.config.frame_size))
    for one in (model, build_extractor(linear.encoder)):
        one.save_pretrained(tmp_path / "adapted")
    again = dataclasses.replace(linear, encoder=str(tmp_path / "adapted"))
    assert not again.config().adapted
    built = build_model(again.encoder, again.config(), seed=0)
    assert not built.config.adapted and built.head.config is built.config
    built.adapt(torch.ones(built.config.frame_size))
    assert built.head.config.adapted


def test_balanced_class_weights_are_those_of_the_training_clips(experiment):
    balanced = dataclasses.replace(experiment, class_weights="balanced")
    labels = experiment.label_ids
    rows = [*np.flatnonzero(labels == 0)[:6], *np.flatnonzero(labels == 1)[:2], *np.flatnonzero(labels > 1)[:16]]
    np.testing.assert_allclose(balanced.class_weights_of(rows), 24 / 4 / np.bincount(labels[rows], minlength=4))


def test_linear_head_follows_class_weights_and_label_smoothing(linear, folds, tmp_path):
    """Options of the loss change the fitted weights; none is dropped in silence."""
    frames, heads = load_frames(linear), []
    smoothed = dataclasses.replace(linear.args, label_smoothing_factor=0.3)
    for changes in ({}, {"class_weights": [1.0, 5.0, 1.0, 1.0]}, {"args": smoothed}):
        (fitted,) = fit(dataclasses.replace(linear, **changes), frames, jobs_of(folds, 0), tmp_path)
        heads.append(fitted.head.classifier.weight)
    assert not torch.allclose(heads[0], heads[1]) and not torch.allclose(heads[0], heads[2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"from_scratch": True}, "--from_scratch: needs --freeze_encoder false"),
        ({"adaptation": "dev", "select_on": "last"}, "--adaptation dev: .* --select_on dev"),
        ({"adaptation": "speaker", "freeze_encoder": False}, "--freeze_encoder true"),
        (
            {"adaptation": "speaker", "overrides": {"use_weighted_layer_sum": True}},
            "excludes --use_weighted_layer_sum",
        ),
        ({"temperature_scaling": True, "select_on": "last"}, "--temperature_scaling true: .* --select_on dev"),
        ({"encoder_dtype": "bfloat16", "freeze_encoder": False}, "--encoder_dtype bfloat16: .* --freeze_encoder true"),
        ({"class_weights": [1.0, 2.0]}, "--class_weights .*: must be balanced, none, or 4 numbers from 1e-6 to 1e6"),
    ],
)
def test_options_that_exclude_one_another_are_refused(experiment, changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(experiment, **changes)


def test_unknown_speakers_cannot_be_adapted_to(experiment):
    speakers = [f"angry/{row}" for row in range(len(experiment.corpus))]
    nameless = experiment.corpus.remove_columns("speaker").add_column("speaker", speakers)
    assert not dataclasses.replace(experiment, corpus=nameless, adaptation="dev", select_on="dev").adapts
    with pytest.raises(UserError, match="--adaptation speaker: needs known speakers, give --speaker_pattern"):
        dataclasses.replace(experiment, corpus=nameless, adaptation="speaker")


def test_precision_of_a_frozen_encoder_is_not_the_model_s(experiment):
    half = dataclasses.replace(experiment, encoder_dtype="bfloat16")
    assert half.feature_store([1]).model.encoder.conv1.weight.dtype == torch.bfloat16
    assert half.model(seed=0).encoder.conv1.weight.dtype == torch.float32
