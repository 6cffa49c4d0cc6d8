"""Coverage and accuracy of sure labels, counted by hand."""

import numpy as np
import pandas as pd
import pytest

from whisper_emotion.reporting import coverage
from whisper_emotion.reporting.coverage import coverage_curve, describe_sure, plot_coverage


@pytest.fixture
def predictions():
    """Four clips of each of two corpora: the sure ones of `one` are right, and one of two of `two`."""
    return pd.DataFrame(
        {
            "label": ["sad"] * 8,
            "predicted": ["sad", "sad", "angry", "angry", "sad", "angry", "sad", "angry"],
            "p_sad": [0.9, 0.8, 0.4, 0.3, 0.9, 0.1, 0.6, 0.4],
            "p_angry": [0.1, 0.2, 0.6, 0.7, 0.1, 0.9, 0.4, 0.6],
        }
    )


def test_curve_averages_the_corpora_and_ends_where_one_has_too_few(predictions, monkeypatch):
    monkeypatch.setattr(coverage, "THRESHOLDS", np.array([0.0, 0.75, 0.85]))
    monkeypatch.setattr(coverage, "FEWEST", 2)
    shares, right = coverage_curve(predictions, ["one"] * 4 + ["two"] * 4)
    assert shares.tolist() == [1.0, 0.5]  # above 0.85 `one` has a single label
    assert right.tolist() == [0.5, 0.75]


def test_sure_labels_are_described_as_means_over_the_corpora():
    corpora = {
        "one": {"sure": {"accuracy": 0.9, "coverage": 0.5}},
        "two": {"sure": {"accuracy": None, "coverage": 0.0}},
    }
    assert describe_sure({"corpora": corpora}) == (
        "Labels called sure, mean over 2 corpora: each clip as it is: 90 % right, 25 % of all labels."
    )
    alone = {"sure": {"accuracy": None, "coverage": 0.0}, "unadapted": {"sure": {"accuracy": 1.0, "coverage": 0.125}}}
    assert describe_sure(alone) == (
        "Labels called sure: adapted: none; each clip as it is: 100 % right, 12 % of all labels."
    )
    declined = {"sure": {"accuracy": 1.0, "coverage": 0.5}, "unadapted": {}, "adapted": [[False, False]]}
    assert describe_sure(declined) == "Labels called sure: each clip as it is: 100 % right, 50 % of all labels."


def test_picture_of_few_clips_without_sure_labels_is_drawn(predictions, tmp_path):
    scores = {"sure": {"accuracy": None, "coverage": 0.0}}
    plot_coverage(predictions, ["one"] * 8, scores, tmp_path / "coverage.png")
    assert (tmp_path / "coverage.png").read_bytes().startswith(b"\x89PNG")
