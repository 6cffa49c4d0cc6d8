"""Scores and their bootstrap: hand-computed, paired across systems and calls, and in constant memory."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_emotion import scoring
from whisper_emotion.errors import UserError
from whisper_emotion.metrics import compute_scores
from whisper_emotion.scoring import FIGURES, bootstrap, compare, interval, read_compared, summarise

LABELS = np.array([0] * 30 + [1] * 10)


def answers(*shares):
    """One system a share, with one seed: right on the first clips of each class, on that share of them."""
    right = np.array([[place < share * 30 for place in range(30)] + [place < share * 10 for place in range(10)]
                      for share in shares])  # fmt: skip
    return np.where(right, LABELS, 1 - LABELS)[:, None]


def test_bootstrap_starts_with_the_metrics_own_figures():
    rng = np.random.default_rng(0)
    predicted, labels = rng.integers(0, 3, (2, 2, 50)), rng.integers(0, 3, 50)
    figures = bootstrap(predicted, labels, num_classes=4)
    for system in range(2):
        scores = [compute_scores(seed, labels, num_classes=4) for seed in predicted[system]]
        for name in FIGURES:
            assert figures[name][0, system] == pytest.approx(np.mean([score[name] for score in scores])), name


def test_bootstrap_separates_better_systems_and_never_equal_ones():
    draws = bootstrap(answers(0.5, 0.5, 0.9), LABELS, 2)["unweighted_accuracy"]
    assert interval(draws[:, 0] - draws[:, 1]) == (0, 0, 0)
    value, low, high = interval(draws[:, 2] - draws[:, 0])
    assert value == pytest.approx(0.4)
    assert 0.2 < low < 0.4 < high < 0.65


def test_interval_is_as_wide_as_the_binomial_distribution():
    labels, predicted = np.zeros(400, int), (np.arange(400) >= 320).astype(int)
    value, low, high = interval(bootstrap(predicted[None, None], labels, 2)["weighted_accuracy"][:, 0])
    assert value == 0.8
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(0.8 * 0.2 / 400), rel=0.1)


def test_interval_grows_when_seeds_disagree():
    alike = np.stack([answers(0.6)[0, 0]] * 3)[None]
    apart = np.stack([answers(share)[0, 0] for share in (0.2, 0.6, 1.0)])[None]
    (_, low, high), (_, lower, higher) = (
        interval(bootstrap(one, LABELS, 2)["unweighted_accuracy"][:, 0]) for one in (alike, apart)
    )
    assert lower < low and higher > high


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(2, 4), st.integers(1, 3), st.integers(0, 10_000))
def test_bootstrap_draws_are_fractions_and_equal_for_equal_systems(clips, systems, seeds, number):
    rng = np.random.default_rng(number)
    predicted, labels = rng.integers(0, 3, (systems, seeds, clips)), rng.integers(0, 3, clips)
    predicted[1] = predicted[0]
    figures = bootstrap(predicted, labels, 3)
    for name, draws in figures.items():
        assert np.isfinite(draws).all(), name
        assert (draws >= -1e-12).all() and (draws <= 1 + 1e-12).all(), name
        np.testing.assert_array_equal(draws[:, 0], draws[:, 1])


def test_bootstrap_agrees_with_drawing_clips_and_seeds_by_hand():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 80)
    predicted = np.where(rng.random((2, 3, 80)) < [[[0.8]], [[0.6]]], labels, rng.integers(0, 3, (2, 3, 80)))
    by_hand = []
    for _ in range(1000):
        clips, seeds = rng.integers(0, 80, 80), rng.integers(0, 3, 3)
        pooled = [
            np.mean([
                compute_scores(system[seed][clips], labels[clips], num_classes=3)["unweighted_accuracy"]
                for seed in seeds
            ])
            for system in predicted
        ]  # fmt: skip
        by_hand.append([*pooled, pooled[0] - pooled[1]])
    drawn = bootstrap(predicted, labels, 3)["unweighted_accuracy"][1:]
    drawn = np.column_stack([drawn, drawn[:, 0] - drawn[:, 1]])
    np.testing.assert_allclose(drawn.mean(axis=0), np.mean(by_hand, axis=0), atol=0.006)
    np.testing.assert_allclose(drawn.std(axis=0), np.std(by_hand, axis=0), rtol=0.1)
    np.testing.assert_allclose(
        np.percentile(drawn, [2.5, 97.5], axis=0), np.percentile(by_hand, [2.5, 97.5], axis=0), atol=0.02
    )


def test_bootstrap_draws_do_not_depend_on_other_systems_or_on_memory(monkeypatch):
    rng = np.random.default_rng(0)
    predicted, labels = rng.integers(0, 3, (3, 2, 50)), rng.integers(0, 3, 50)
    together = bootstrap(predicted, labels, 3)["macro_f1"]
    monkeypatch.setattr(scoring, "RESAMPLED_VALUES", 700)  # 14 draws at a time
    alone = bootstrap(predicted[1:2], labels, 3)["macro_f1"]
    np.testing.assert_array_equal(together[:, [1]], alone)


def test_bootstrap_of_many_clips_needs_little_memory(monkeypatch):
    monkeypatch.setattr(scoring, "RESAMPLES", 100)  # all at once would take 160 MB
    labels = np.arange(200_000) % 4
    predicted = np.where(np.arange(200_000) % 5, labels, 0)[None, None]
    tracemalloc.start()
    drawn = bootstrap(predicted, labels, 4)["weighted_accuracy"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    assert drawn[0, 0] == 0.85  # of the fifth that is called 0 a quarter is right
    assert drawn[1:, 0].std() == pytest.approx(np.sqrt(0.85 * 0.15 / 200_000), rel=0.3)


# --- the scores of a cross-validation --------------------------------------------------------------------------------


def predictions_of_two_folds():
    """Two seeds and two folds of two clips of the classes a and b; adapted to the speaker, seed 0 errs once."""
    rows = [
        # name, fold, seed, label, predicted, p_a, p_b, unadapted predicted, p_a, p_b
        ("1a", 1, 0, "a", "a", 0.9, 0.1, "b", 0.4, 0.6),
        ("1b", 1, 0, "b", "b", 0.2, 0.8, "b", 0.3, 0.7),
        ("2a", 2, 0, "a", "b", 0.3, 0.7, "b", 0.3, 0.7),
        ("2b", 2, 0, "b", "b", 0.4, 0.6, "b", 0.4, 0.6),
        ("1a", 1, 1, "a", "a", 1.0, 0.0, "a", 1.0, 0.0),
        ("1b", 1, 1, "b", "b", 0.0, 1.0, "b", 0.0, 1.0),
        ("2a", 2, 1, "a", "a", 1.0, 0.0, "a", 1.0, 0.0),
        ("2b", 2, 1, "b", "b", 0.0, 1.0, "b", 0.0, 1.0),
    ]
    columns = ["name", "fold", "seed", "label", "predicted", "p_a", "p_b"]
    table = pd.DataFrame(rows, columns=[*columns, "unadapted_predicted", "unadapted_p_a", "unadapted_p_b"])
    return table.assign(adapted=True)


def test_summarise_gives_hand_computed_scores(monkeypatch):
    monkeypatch.setattr(scoring, "speakers_shared", lambda corpus, fold: 0)
    experiment, folds = (
        SimpleNamespace(labels=["a", "b"], corpus=None, corpora=["one"]),
        [SimpleNamespace(number=n) for n in (1, 2)],
    )
    scores = summarise(predictions_of_two_folds(), experiment, folds)
    assert scores["weighted_accuracy"] == {"mean": 0.875, "std": 0.125, "folds": [[1.0, 0.5], [1.0, 1.0]]}
    assert scores["pooled"]["weighted_accuracy"] == 0.875
    assert scores["confusion_matrix"] == [[3, 1], [0, 4]]
    assert scores["mean_confidence"] == pytest.approx(((0.9 + 0.8 + 0.7 + 0.6) / 4 + 1) / 2)
    # Each clip of seed 0 has a bin of its own
    assert scores["ece"] == pytest.approx((0.1 + 0.2 + 0.7 + 0.4) / 4 / 2)
    assert (scores["adapted"], scores["speakers_shared"]) == ([[True, True], [True, True]], [0, 0])
    unadapted = scores["unadapted"]
    assert unadapted["weighted_accuracy"]["folds"] == [[0.5, 0.5], [1.0, 1.0]]
    assert unadapted["pooled"]["weighted_accuracy"] == 0.75
    assert unadapted["confusion_matrix"] == [[2, 2], [0, 4]]
    assert unadapted["mean_confidence"] == pytest.approx(((0.6 + 0.7 + 0.7 + 0.6) / 4 + 1) / 2)
    low, high = scores["interval"]["unweighted_accuracy"]
    assert 0 <= low < 0.875 < high <= 1


# --- two cross-validations -------------------------------------------------------------------------------------------


def table(right, seeds=(0, 1)):
    """Predictions of 20 clips of two classes, of which the first `right` of each seed are right."""
    names = [f"{clip:02d}" for clip in range(20)]
    labels = ["a", "b"] * 10
    rows = [
        (name, 1, seed, label, label if clip < right else "ab".replace(label, ""))
        for seed in seeds
        for clip, (name, label) in enumerate(zip(names, labels, strict=True))
    ]
    return pd.DataFrame(rows, columns=["name", "fold", "seed", "label", "predicted"])


def test_compare_does_not_depend_on_the_order_of_clips():
    shuffled = table(12).sample(frac=1, random_state=0)
    value, low, high = compare(table(18), shuffled, ["a", "b"])["unweighted_accuracy"]
    assert value == pytest.approx(0.3)
    assert 0 < low < value < high < 0.6
    assert compare(table(12), shuffled, ["a", "b"])["macro_f1"] == [0, 0, 0]


def test_read_compared_refuses_other_clips_seeds_and_classes(tmp_path):
    clips = table(20)[["name", "label"]].drop_duplicates()
    with pytest.raises(UserError, match="holds no predictions.csv"):
        read_compared(tmp_path, clips, [0, 1], ["a", "b"])
    table(12).to_csv(tmp_path / "predictions.csv", index=False)
    assert len(read_compared(tmp_path, clips, [1, 0], ["a", "b"])) == 40
    with pytest.raises(UserError, match="has other seeds than this run"):
        read_compared(tmp_path, clips, [0], ["a", "b"])
    with pytest.raises(UserError, match="has other test clips than this run, or other labels"):
        read_compared(tmp_path, clips.iloc[1:], [0, 1], ["a", "b"])
    with pytest.raises(UserError, match="has classes that this run lacks"):
        read_compared(tmp_path, clips, [0, 1], ["a"])


@pytest.mark.parametrize("content", [b"", b"name,label\na,b\n", b"\xff\xfe\x00", b'name,seed\n"a'])
def test_read_compared_names_damaged_predictions(tmp_path, content):
    (tmp_path / "predictions.csv").write_bytes(content)
    with pytest.raises(UserError, match="predictions.csv: .*; expected a file of cross_validate.py"):
        read_compared(tmp_path, table(20)[["name", "label"]].drop_duplicates(), [0, 1], ["a", "b"])
