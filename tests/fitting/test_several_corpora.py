"""Several corpora at once: weights, corpora left out, adaptation to a corpus, scores of each."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from whisper_emotion.corpora import load_corpus
from whisper_emotion.corpora.splits import make_folds
from whisper_emotion.errors import UserError
from whisper_emotion.fitting.adaptation import group_means, population_mean
from whisper_emotion.fitting.cross_validation import cross_validate, prediction_table
from whisper_emotion.fitting.fit import Job, fit, load_frames
from whisper_emotion.fitting.regression import DEFAULT_STRENGTH, RegularisationPath
from whisper_emotion.reporting.corpora import corpus_table, plot_corpora, plot_transfer, transfer_table
from whisper_emotion.scoring import summarise


@pytest.fixture(scope="module")
def several(linear, synthetic_dir, tmp_path_factory):
    """Three corpora: 4, 3 and 2 speakers, the last without sad clips."""
    root = tmp_path_factory.mktemp("corpora")
    folders = [synthetic_dir]
    for seed, speakers in ((1, 3), (2, 2)):
        folders.append(root / str(seed))
        load_corpus("synthetic", folders[-1], speakers=speakers, utterances=3, seed=seed)
    for path in folders[2].rglob("*_sad_*"):
        path.unlink()
    corpora = "synthetic,synthetic,folder"
    flat = root / "flat"
    for path in folders[2].rglob("*.wav"):
        target = flat / path.stem.split("_")[1] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    corpus = load_corpus(corpora, [*folders[:2], flat], speaker_pattern="^(S[0-9]+.)_")
    return dataclasses.replace(
        linear, corpus=corpus, select_on="dev", held_out="corpora", train_adaptation="speaker", adaptation="domain",
        temperature_scaling=True,
    )  # fmt: skip


def test_clip_weights_give_corpora_the_root_of_their_size_and_classes_equal_parts(several):
    rows = list(range(len(several.corpus)))
    table = pd.DataFrame({"corpus": several.corpus_of, "label": several.label_ids})
    for exponent, weigh in ((0.5, "sqrt"), (0.0, "equal"), (1.0, "size")):
        weights = dataclasses.replace(several, corpus_weights=weigh).clip_weights_of(rows)
        assert weights.mean() == pytest.approx(1)
        sums = table.assign(weight=weights).groupby("corpus", sort=False)["weight"].sum()
        expected = np.array([48, 36, 18]) ** exponent
        np.testing.assert_allclose(sums / sums.sum(), expected / expected.sum())
    by_class = table.assign(weight=weights).groupby(["corpus", "label"])["weight"].sum()
    assert by_class["synthetic"].std() == pytest.approx(0) and len(by_class["flat"]) == 3
    unbalanced = dataclasses.replace(several, class_weights="none").clip_weights_of(rows[:-3])
    assert len(set(np.round(unbalanced[84:], 9))) == 1


def test_one_corpus_has_no_clip_weights(linear):
    assert linear.clip_weights_of([0, 1]) is None


def test_corpora_held_out_count_alike_in_the_temperatures(several):
    weights = several.held_out_weights(range(len(several.corpus))).numpy()
    assert pd.Series(weights).groupby(several.corpus_of).sum().tolist() == pytest.approx([1.0] * 3)
    assert dataclasses.replace(several, held_out="speakers").held_out_weights([0]) is None


def test_clips_of_several_corpora_are_told_apart_from_their_corpus_s_classes(several, linear):
    allowed = several.allowed_classes(range(len(several.corpus)))
    assert allowed[several.corpus_of == "synthetic"].all()
    flat, sad = several.corpus_of == "flat", several.labels.index("sad")
    assert not allowed[flat, sad].any() and allowed[flat].sum(axis=1).tolist() == [3] * flat.sum()
    assert linear.allowed_classes([0]) is None


def test_inner_folds_leave_each_training_corpus_out(several):
    rows = np.arange(48, 102)  # without the first
    (first, left), (second, right) = several.inner_folds(rows)
    assert first.tolist() == right.tolist() == list(range(36, 54))
    assert left.tolist() == second.tolist() == list(range(36))
    assert dataclasses.replace(several, held_out="speakers").inner_folds(rows) is None


def test_loco_scores_each_corpus_over_its_classes(several, tmp_path):
    folds = make_folds(several.corpus, "synthetic,synthetic,folder", "loco")
    predictions = cross_validate(several, folds, [0], tmp_path / "work")
    flat = predictions[predictions["fold"] == 3]
    assert (flat["p_sad"] == 0).all() and set(flat["predicted"]) <= {"angry", "happy", "neutral"}
    assert flat.filter(regex="^p_").sum(axis=1).to_numpy() == pytest.approx(1)
    assert predictions["adapted"].all()
    scores = summarise(predictions, several, folds)
    assert list(scores["corpora"]) == ["synthetic", "synthetic_2", "flat"]
    right = flat["label"] == flat["predicted"]
    own = scores["corpora"]["flat"]
    assert own["weighted_accuracy"] == pytest.approx(right.mean())
    assert own["unweighted_accuracy"] == pytest.approx(right.groupby(flat["label"]).mean().mean())
    assert (own["clips"], own["classes"]) == (18, ["angry", "happy", "neutral"])
    assert own["interval"][0] <= own["unweighted_accuracy"] <= own["interval"][1]
    assert scores["unweighted_accuracy"]["folds"][0][2] == pytest.approx(own["unweighted_accuracy"])
    assert set(scores["unadapted"]["corpora"]) == set(scores["corpora"])
    table = corpus_table(scores)
    assert "| flat | 3 | 18 |" in table and table.splitlines()[-1].startswith("| **mean** |")
    plot_corpora(scores, tmp_path / "corpora.png", "title")
    assert (tmp_path / "corpora.png").stat().st_size > 10_000


def test_cross_folds_give_the_transfer_matrix(several, tmp_path):
    own = dataclasses.replace(several, held_out="speakers")
    folds = make_folds(own.corpus, "synthetic,synthetic,folder", "cross")
    predictions = cross_validate(own, folds, [0], tmp_path / "work")
    scores = summarise(predictions, own, folds)
    transfer = scores["transfer"]
    assert {train: list(tested) for train, tested in transfer.items()} == {
        "synthetic": ["synthetic_2", "flat"],
        "synthetic_2": ["synthetic", "flat"],
        "flat": ["synthetic", "synthetic_2"],
    }
    third = predictions[predictions["fold"] == 3]  # trained on the second, tested on the first
    right = third["label"] == third["predicted"]
    assert transfer["synthetic_2"]["synthetic"] == pytest.approx(right.groupby(third["label"]).mean().mean())
    assert "transfer" in scores["unadapted"]
    lines = transfer_table(scores).splitlines()
    assert lines[0] == "| trained on, tested on | synthetic speech | synthetic_2 | flat | mean |"
    assert lines[2].startswith("| synthetic speech | – | ") and lines[-1].startswith("| **mean** | ")
    plot_transfer(scores, tmp_path / "transfer.png", "title")
    assert (tmp_path / "transfer.png").stat().st_size > 10_000


def test_adapted_clips_do_not_depend_on_a_constant_of_their_corpus(several, tmp_path):
    """What a microphone adds to every frame goes away where the domain's mean is taken off."""
    fold = make_folds(several.corpus, "synthetic,synthetic,folder", "loco")[0]
    frames = load_frames(several)
    (fitted,) = fit(several, frames, [Job(fold.train, fold.test, 0)], tmp_path)
    adapted, plain = fitted.classify(fold.test, True), fitted.classify(fold.test, False)

    class Moved:
        means = np.asarray(frames.means) + np.where(several.corpus_of == "synthetic", 3.0, 0.0)[:, None].astype("f")
        pooled = staticmethod(lambda pooling: Moved.means)
        layers, lengths, copies = frames.layers, frames.lengths, []

    (moved,) = fit(several, Moved, [Job(fold.train, fold.test, 0)], tmp_path)
    np.testing.assert_allclose(moved.classify(fold.test, True), adapted, atol=2e-3)
    assert np.abs(moved.classify(fold.test, False) - plain).max() > 0.1


def test_distorted_copies_train_with_their_clips(several, tmp_path):
    """The head is the regression on the clips and their copies, each moved by what its clip is moved by."""
    own = dataclasses.replace(
        several, augmented_copies=1, select_on="last", held_out="speakers", temperature_scaling=False
    )
    fold = make_folds(own.corpus, "synthetic,synthetic,folder", "loco")[0]
    frames = load_frames(own)
    (fitted,) = fit(own, frames, [Job(fold.train, fold.test, 0)], tmp_path)
    train, mean, (copy,) = np.asarray(fold.train), np.asarray(frames.means), frames.copies
    distorted = np.asarray(copy.means)
    assert not np.allclose(distorted, mean)
    moves = population_mean(mean, own.speakers, own.corpus_of, train) - group_means(mean, own.speakers, train)
    expected = RegularisationPath(
        np.concatenate([mean[train] + moves, distorted[train] + moves]),
        np.tile(own.label_ids[train], 2), len(own.labels), None, 0.0, np.tile(own.clip_weights_of(train), 2),
        np.tile(own.classes_of(train), (2, 1)),
    ).fit(DEFAULT_STRENGTH)  # fmt: skip
    np.testing.assert_allclose(fitted.head.classifier.weight.detach(), expected.weight, atol=1e-4)
    plain = dataclasses.replace(own, augmented_copies=0)
    (without,) = fit(plain, load_frames(plain), [Job(fold.train, fold.test, 0)], tmp_path)
    assert not np.allclose(without.head.classifier.weight.detach(), expected.weight, atol=1e-4)


@pytest.mark.parametrize("held_out", ["speakers", "corpora"])
def test_copies_of_clips_that_are_left_out_do_not_train(several, tmp_path, held_out, monkeypatch):
    own = dataclasses.replace(several, augmented_copies=2, held_out=held_out, train_adaptation="none")
    fold = make_folds(own.corpus, "synthetic,synthetic,folder", "loco")[0]
    frames, clips = load_frames(own), len(own.corpus)
    mean, seen = np.asarray(frames.means), []

    class Watched(RegularisationPath):
        def __init__(self, inputs, labels, *rest):
            seen.append((np.asarray(inputs), labels))
            super().__init__(inputs, labels, *rest)

    every = np.concatenate([mean, *(np.asarray(copy.means) for copy in frames.copies)])
    monkeypatch.setattr("whisper_emotion.fitting.regression.RegularisationPath", Watched)
    fit(own, frames, [Job(fold.train, fold.test, 0)], tmp_path)
    groups = own.speakers if held_out == "speakers" else own.corpus_of
    for inputs, labels in seen:
        numbers = [int(np.flatnonzero((every == row).all(axis=1))[0]) for row in inputs]
        originals, copies = np.split(np.array(numbers), [len(numbers) // 3])
        np.testing.assert_array_equal(copies, np.concatenate([originals + clips, originals + 2 * clips]))
        np.testing.assert_array_equal(labels, np.tile(own.label_ids[originals], 3))
        assert len(set(groups[originals])) < len(set(groups[fold.train])) and not set(originals) & set(fold.test)
    assert len(seen) == (2 if held_out == "corpora" else 5)


def test_options_for_several_corpora_are_checked(several, linear, experiment):
    with pytest.raises(UserError, match="--class_weights: must be balanced or none with several corpora"):
        dataclasses.replace(several, class_weights=[1.0] * 4)
    learned = {
        "held_out": "speakers",
        "train_adaptation": "none",
        "overrides": several.overrides | {"classifier_proj_size": 8},
    }
    for wrong in (experiment, dataclasses.replace(several, **learned)):
        with pytest.raises(UserError, match="--corpus_weights: needs several corpora and a linear head"):
            dataclasses.replace(wrong, corpus_weights="equal")
    with pytest.raises(UserError, match="--held_out corpora: needs a linear head"):
        dataclasses.replace(experiment, select_on="dev", held_out="corpora")
    with pytest.raises(UserError, match="--train_adaptation speaker: needs known speakers and a linear head"):
        dataclasses.replace(experiment, train_adaptation="speaker")
    with pytest.raises(UserError, match="--augmented_copies 1: must be 0, or 1 or more with a linear head"):
        dataclasses.replace(experiment, augmented_copies=1)
    alone = dataclasses.replace(linear, select_on="dev", held_out="corpora")
    fold = make_folds(alone.corpus, "synthetic", "loso")[0]
    with pytest.raises(UserError, match="--held_out corpora: needs two or more training corpora, found one"):
        alone.check_speakers(fold)


def test_one_corpus_keeps_all_classes_of_its_predictions(linear, folds):
    logits = np.zeros((len(folds[0].test), 4))
    table = prediction_table(linear, logits, folds[0], 0)
    assert (table.filter(regex="^p_") == 0.25).all(axis=None)


def test_a_dev_part_of_the_corpus_selects(linear, tmp_path):
    """The dev clips choose the strength, and are trained on once it is chosen."""
    own = dataclasses.replace(linear, select_on="dev")
    train, dev, test = list(range(24)), list(range(24, 36)), list(range(36, 48))
    frames = load_frames(own)
    (fitted,) = fit(own, frames, [Job(train, test, 0, dev)], tmp_path)
    (whole,) = fit(dataclasses.replace(own, select_on="last"), frames, [Job(train + dev, test, 0)], tmp_path)
    if fitted.choice["strength"] == whole.choice["strength"]:
        np.testing.assert_allclose(fitted.classify(test, False), whole.classify(test, False), atol=1e-6)
    (alone,) = fit(dataclasses.replace(own, refit=False), frames, [Job(train, test, 0, dev)], tmp_path)
    assert alone.choice == fitted.choice
    assert not np.allclose(alone.classify(test, False), fitted.classify(test, False))
