"""Resampled figures: paired, by hand where it can be, and the same whatever stands beside them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_emotion.results import bootstrap, interval

LABELS = np.array([0] * 30 + [1] * 10)


def hits(*shares):
    """Right on the first of each class's clips, as many as the shares say."""
    return np.array([[place < share * 30 for place in range(30)] + [place < share * 10 for place in range(10)]
                     for share in shares], float)  # fmt: skip


def test_the_figures_themselves_by_hand():
    correct = np.array([[1.0] * 30 + [0.5] * 10])  # right on all of class 0, with half of the seeds on class 1
    figures = bootstrap(correct, LABELS)
    assert figures.weighted_accuracy[0, 0] == pytest.approx(35 / 40)
    assert figures.unweighted_accuracy[0, 0] == pytest.approx(0.75)
    assert np.ptp(figures.unweighted_accuracy[:, 0]) == pytest.approx(0)  # each class is uniform: nothing varies
    assert np.ptp(figures.weighted_accuracy[:, 0]) > 0.1  # but the share of class 1 among the clips


def test_equal_systems_never_differ_and_better_ones_do():
    draws = bootstrap(hits(0.5, 0.5, 0.9), LABELS).unweighted_accuracy
    assert interval(draws[:, 0] - draws[:, 1]) == (0, 0, 0)
    value, low, high = interval(draws[:, 2] - draws[:, 0])
    assert value == pytest.approx(0.4)
    assert 0.2 < low < 0.4 < high < 0.65


def test_an_interval_is_as_wide_as_the_binomial_law_says():
    labels = np.zeros(400, int)
    correct = (np.arange(400) < 320)[None].astype(float)
    value, low, high = interval(bootstrap(correct, labels).weighted_accuracy[:, 0])
    assert value == 0.8
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(0.8 * 0.2 / 400), rel=0.1)


@given(st.integers(1, 40), st.integers(2, 5), st.integers(0, 10_000))
def test_a_system_s_draws_do_not_depend_on_its_company(clips, systems, seed):
    rng = np.random.default_rng(seed)
    correct, labels = rng.random((systems, clips)), rng.integers(0, 3, clips)
    together = bootstrap(correct, labels, draws=20).unweighted_accuracy
    alone = bootstrap(correct[1:2], labels, draws=20).unweighted_accuracy
    np.testing.assert_allclose(together[:, 1:2], alone)
    assert np.isfinite(together).all()
    assert (together >= -1e-12).all() and (together <= 1 + 1e-12).all()
