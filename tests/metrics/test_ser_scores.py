"""`ser_scores` against scikit-learn, against hand-computed figures, and through `evaluate` without a network."""

import json
import math
import shutil
import warnings
from pathlib import Path

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from whisper_emotion.metrics import compute_scores, load_ser_scores
from whisper_emotion.metrics.ser_scores import ser_scores

FOLDER = Path(ser_scores.__file__).parent


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=60))
def test_equals_scikit_learn(pairs):
    predictions, references = map(list, zip(*pairs, strict=True))
    scores = compute_scores(predictions, references, num_classes=6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes that are predicted but absent, which the metric allows
        assert scores["weighted_accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(references, predictions))
        assert scores["unweighted_accuracy"] == pytest.approx(
            sklearn_metrics.balanced_accuracy_score(references, predictions)
        )
        for average in ("macro", "weighted"):
            expected = sklearn_metrics.f1_score(references, predictions, average=average, zero_division=0)
            assert scores[f"{average}_f1"] == pytest.approx(expected)
        recalls = sklearn_metrics.recall_score(
            references, predictions, labels=range(6), average=None, zero_division=np.nan
        )
    assert [math.nan if recall is None else recall for recall in scores["recall"]] == pytest.approx(
        list(recalls), nan_ok=True
    )
    expected = sklearn_metrics.confusion_matrix(references, predictions, labels=range(6))
    assert scores["confusion_matrix"] == expected.tolist()


def test_hand_computed_figures_are_plain_python():
    scores = compute_scores([0, 0, 1, 1, 1], [0, 0, 0, 1, 3])
    assert scores == {
        "weighted_accuracy": 0.6,
        "unweighted_accuracy": pytest.approx((2 / 3 + 1 + 0) / 3),
        "macro_f1": pytest.approx((0.8 + 0.5 + 0) / 3),
        "weighted_f1": pytest.approx((3 * 0.8 + 0.5) / 5),
        "recall": [pytest.approx(2 / 3), 1.0, None, 0.0],
        "confusion_matrix": [[2, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]],
        "ece": None,
    }
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_calibration_error_by_hand():
    # Bins are a fifteenth wide: 0.9 and 0.92 share (13/15, 14/15], 0.6 lies on its bin's upper edge, 0.61 above it
    confidence = np.array([0.9, 0.92, 0.6, 0.61])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    scores = compute_scores([0, 0, 0, 0], [0, 1, 0, 1], probabilities=probabilities)
    expected = (abs(1 - 0.9 - 0.92) + abs(1 - 0.6) + abs(0 - 0.61)) / 4
    assert scores["ece"] == pytest.approx(expected)
    certain = compute_scores([0, 1], [0, 1], probabilities=np.eye(2, dtype=np.float32))
    assert certain["ece"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"predictions": [0, 1], "references": [0]}, "differ in length: 2 and 1"),
        ({"predictions": [], "references": []}, "nothing to score"),
        ({"predictions": [0, -1], "references": [0, 1]}, "predictions must be class ids from 0 to 1, found -1 to 0"),
        ({"predictions": [0], "references": [4], "num_classes": 4}, "references must be class ids from 0 to 3"),
        ({"predictions": [0.5], "references": [0]}, "integer class ids, found values of type float64"),
        ({"predictions": [[0]], "references": [0]}, r"one class id a clip, found an array of shape \(1, 1\)"),
        ({"predictions": [0], "references": [0], "probabilities": [0.5]}, "two dimensions"),
        ({"predictions": [0, 0], "references": [0, 0], "probabilities": [[0.5, 0.5]]}, r"shape \(2, 2\)"),
        ({"predictions": [0], "references": [0], "probabilities": [[2.0, 1.0]]}, "clip 0 .* sum 3.0000 .* softmax"),
        ({"predictions": [0], "references": [0], "probabilities": [[1.5, -0.5]]}, "smallest -0.5000"),
        ({"predictions": [0], "references": [0], "probabilities": [[math.nan, 1]]}, "clip 0 are not finite"),
    ],
)
def test_wrong_input_is_named_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        compute_scores(**arguments)
    assert "\n" not in str(caught.value)


def test_evaluate_loads_the_folder_alone_and_gives_the_same(tmp_path):
    generator = np.random.default_rng(0)
    predictions, references = generator.integers(0, 4, 50), generator.integers(0, 4, 50)
    probabilities = generator.dirichlet(np.ones(4), 50)
    folder = tmp_path / "ser_scores"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    expected = compute_scores(predictions, references, probabilities=probabilities)
    for metric in (evaluate.load(str(folder), cache_dir=str(tmp_path / "cache")), load_ser_scores()):
        for _ in range(2):
            given = {"predictions": predictions, "references": references, "probabilities": probabilities}
            assert metric.compute(**given) == expected


def test_the_loaded_module_is_one_and_survives_an_error():
    metric = load_ser_scores()
    assert metric is load_ser_scores()
    with pytest.raises(ValueError):
        metric.compute(predictions=[0, 1], references=[0])
    with pytest.raises(ValueError, match="from 0 to 2"):
        metric.compute(predictions=[0, 7], references=[0, 1], num_classes=3)
    assert metric.compute(predictions=[0, 1], references=[0, 1])["weighted_accuracy"] == 1
