"""Resampled figures: paired, by hand where it can be, and the same whatever stands beside them."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_emotion.errors import UserError
from whisper_emotion.metrics import compute_scores
from whisper_emotion.results import FIGURES, bootstrap, compare, interval, read_compared

LABELS = np.array([0] * 30 + [1] * 10)


def answers(*shares):
    """A system with one seed for each share: right on the first of each class's clips, as many as the share says."""
    right = np.array([[place < share * 30 for place in range(30)] + [place < share * 10 for place in range(10)]
                      for share in shares])  # fmt: skip
    return np.where(right, LABELS, 1 - LABELS)[:, None]


def test_the_figures_themselves_are_the_metric_s():
    rng = np.random.default_rng(0)
    predicted, labels = rng.integers(0, 3, (2, 2, 50)), rng.integers(0, 3, 50)
    figures = bootstrap(predicted, labels, num_classes=4)
    for system in range(2):
        scores = [compute_scores(seed, labels, num_classes=4) for seed in predicted[system]]
        for name in FIGURES:
            assert figures[name][0, system] == pytest.approx(np.mean([score[name] for score in scores])), name


def test_equal_answers_never_differ_and_better_ones_do():
    draws = bootstrap(answers(0.5, 0.5, 0.9), LABELS, 2)["unweighted_accuracy"]
    assert interval(draws[:, 0] - draws[:, 1]) == (0, 0, 0)
    value, low, high = interval(draws[:, 2] - draws[:, 0])
    assert value == pytest.approx(0.4)
    assert 0.2 < low < 0.4 < high < 0.65


def test_an_interval_is_as_wide_as_the_binomial_law_says():
    labels, predicted = np.zeros(400, int), (np.arange(400) >= 320).astype(int)
    value, low, high = interval(bootstrap(predicted[None, None], labels, 2)["weighted_accuracy"][:, 0])
    assert value == 0.8
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(0.8 * 0.2 / 400), rel=0.1)


def test_seeds_that_disagree_widen_the_interval():
    alike = np.stack([answers(0.6)[0, 0]] * 3)[None]
    apart = np.stack([answers(share)[0, 0] for share in (0.2, 0.6, 1.0)])[None]
    (_, low, high), (_, lower, higher) = (
        interval(bootstrap(one, LABELS, 2)["unweighted_accuracy"][:, 0]) for one in (alike, apart)
    )
    assert lower < low and higher > high


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(2, 4), st.integers(1, 3), st.integers(0, 10_000))
def test_draws_are_fractions_and_alike_for_all_systems(clips, systems, seeds, number):
    rng = np.random.default_rng(number)
    predicted, labels = rng.integers(0, 3, (systems, seeds, clips)), rng.integers(0, 3, clips)
    predicted[1] = predicted[0]
    figures = bootstrap(predicted, labels, 3)
    for name, draws in figures.items():
        assert np.isfinite(draws).all(), name
        assert (draws >= -1e-12).all() and (draws <= 1 + 1e-12).all(), name
        np.testing.assert_array_equal(draws[:, 0], draws[:, 1])  # the same answers, the same clips and seeds


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


def test_a_difference_is_that_of_the_figures_in_any_order_of_the_clips():
    shuffled = table(12).sample(frac=1, random_state=0)
    value, low, high = compare(table(18), shuffled, ["a", "b"])["unweighted_accuracy"]
    assert value == pytest.approx(0.3)
    assert 0 < low < value < high < 0.6
    assert compare(table(12), shuffled, ["a", "b"])["macro_f1"] == [0, 0, 0]


def test_only_the_same_clips_and_seeds_are_compared(tmp_path):
    clips = table(20)[["name", "label"]].drop_duplicates()
    with pytest.raises(UserError, match="holds no predictions.csv"):
        read_compared(tmp_path, clips, [0, 1], ["a", "b"])
    table(12).to_csv(tmp_path / "predictions.csv", index=False)
    assert len(read_compared(tmp_path, clips, [1, 0], ["a", "b"])) == 40
    with pytest.raises(UserError, match="has other seeds than this run"):
        read_compared(tmp_path, clips, [0], ["a", "b"])
    with pytest.raises(UserError, match="has other test clips than this run, or other labels"):
        read_compared(tmp_path, clips.iloc[1:], [0, 1], ["a", "b"])
    with pytest.raises(UserError, match="has classes that this run has not"):
        read_compared(tmp_path, clips, [0, 1], ["a"])


@pytest.mark.parametrize("content", [b"", b"name,label\na,b\n", b"\xff\xfe\x00", b'name,seed\n"a'])
def test_damaged_predictions_are_named(tmp_path, content):
    (tmp_path / "predictions.csv").write_bytes(content)
    with pytest.raises(UserError, match="predictions.csv: .*; expected what cross_validate.py wrote"):
        read_compared(tmp_path, table(20)[["name", "label"]].drop_duplicates(), [0, 1], ["a", "b"])
