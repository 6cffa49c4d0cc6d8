"""Means that adaptation moves clips by, by hand."""

import numpy as np
import pytest

from whisper_emotion.fitting.adaptation import CentredRows, group_means, population_deviation, population_mean

MEAN = np.array([[0.0], [2.0], [10.0], [20.0], [22.0], [99.0]], np.float32)
SPEAKERS = np.array(["a", "a", "b", "c", "c", "d"])
CORPORA = np.array(["one"] * 3 + ["two"] * 3)


def test_group_means_average_the_clips_that_are_asked_for():
    assert group_means(MEAN, SPEAKERS, np.array([0, 1, 3])).ravel().tolist() == [1, 1, 20]
    assert group_means(MEAN, CORPORA, np.array([4, 1, 2])).ravel().tolist() == [22, 6, 6]


def test_population_mean_counts_corpora_alike_and_speakers_alike_within():
    # Corpus one: speakers of mean 1 and 10; corpus two: one speaker of mean 21
    assert population_mean(MEAN, SPEAKERS, CORPORA, range(5)) == [(5.5 + 21) / 2]
    assert population_mean(MEAN, SPEAKERS, np.array(["one"] * 6), range(5)) == pytest.approx(32 / 3)


def test_centred_rows_move_each_clip_from_its_speaker_to_the_population():
    pooled = np.concatenate([MEAN, MEAN * 0 + 7], axis=1)  # a deviation stays
    rows = np.array([1, 0, 3, 4])
    centred = CentredRows(pooled, MEAN, SPEAKERS, rows, np.array([100.0]))
    assert centred.shape == (4, 2)
    assert centred[:].tolist() == [[101, 7], [99, 7], [99, 7], [101, 7]]
    assert centred[np.array([3, 0])].tolist() == [[101, 7], [101, 7]]
    assert pooled[1, 0] == 2  # the store's vectors are left alone


def test_population_deviation_weighs_clips_as_the_mean_does_and_copies_alike():
    population = population_mean(MEAN, SPEAKERS, CORPORA, range(5))
    # Clips of a and of b, then those of c: (13.25² + 11.25²) / 8 + 3.25² / 4 + (6.75² + 8.75²) / 4
    assert population_deviation([MEAN], population, SPEAKERS, CORPORA, range(5)) == pytest.approx(70.9375**0.5)
    copy = np.full_like(MEAN, population[0])
    found = population_deviation([MEAN, copy], population, SPEAKERS, CORPORA, range(5))
    assert found == pytest.approx((70.9375 / 2) ** 0.5)
