"""`ser_scores` against scikit-learn, against hand-computed values, and through `evaluate` without a network."""

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
from hypothesis.extra import numpy as hypothesis_numpy
from sklearn import metrics as sklearn_metrics

from whisper_emotion.metrics import compute_scores, concordance_correlation
from whisper_emotion.metrics.ser_scores import ser_scores

FOLDER = Path(ser_scores.__file__).parent


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=60))
def test_compute_scores_equals_scikit_learn(pairs):
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


def test_compute_scores_gives_hand_computed_plain_values():
    scores = compute_scores([0, 0, 1, 1, 1], [0, 0, 0, 1, 3])
    assert scores == {
        "weighted_accuracy": 0.6,
        "unweighted_accuracy": pytest.approx((2 / 3 + 1 + 0) / 3),
        "macro_f1": pytest.approx((0.8 + 0.5 + 0) / 3),
        "weighted_f1": pytest.approx((3 * 0.8 + 0.5) / 5),
        "recall": [pytest.approx(2 / 3), 1.0, None, 0.0],
        "confusion_matrix": [[2, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]],
        "ece": None,
        "mean_confidence": None,
    }
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_compute_scores_gives_hand_computed_calibration():
    # Bins are a fifteenth wide: 0.9 and 0.92 share (13/15, 14/15], 0.6 lies on its bin's upper edge, 0.61 above it
    confidence = np.array([0.9, 0.92, 0.6, 0.61])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    scores = compute_scores([0, 0, 0, 0], [0, 1, 0, 1], probabilities=probabilities)
    expected = (abs(1 - 0.9 - 0.92) + abs(1 - 0.6) + abs(0 - 0.61)) / 4
    assert scores["ece"] == pytest.approx(expected)
    assert scores["mean_confidence"] == pytest.approx((0.9 + 0.92 + 0.6 + 0.61) / 4)
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
def test_compute_scores_names_wrong_input_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        compute_scores(**arguments)
    assert "\n" not in str(caught.value)


def test_evaluate_module_loads_from_its_folder_alone_and_gives_the_same_scores(tmp_path):
    generator = np.random.default_rng(0)
    predictions, references = generator.integers(0, 4, 50), generator.integers(0, 4, 50)
    probabilities = generator.dirichlet(np.ones(4), 50)
    folder = tmp_path / "ser_scores"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    expected = compute_scores(predictions, references, probabilities=probabilities)
    metric = evaluate.load(str(folder), cache_dir=str(tmp_path / "cache"))
    for _ in range(2):
        given = {"predictions": predictions, "references": references, "probabilities": probabilities}
        assert metric.compute(**given) == expected


def test_evaluate_module_survives_an_error(tmp_path):
    metric = evaluate.load(str(FOLDER), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(ValueError):
        metric.compute(predictions=[0, 1], references=[0])
    with pytest.raises(ValueError, match="from 0 to 2"):
        metric.compute(predictions=[0, 7], references=[0, 1], num_classes=3)
    assert metric.compute(predictions=[0, 1], references=[0, 1])["weighted_accuracy"] == 1


# --- concordance correlation -----------------------------------------------------------------------------------------


def test_concordance_correlation_gives_hand_computed_values():
    references = [[1.0, 1.0, 2.0], [2.0, 2.0, 4.0], [3.0, 3.0, 6.0]]
    predictions = [[1.0, 2.0, 6.0], [2.0, 3.0, 4.0], [3.0, 4.0, 2.0]]
    # The same; one higher: variances 2/3 and covariance 2/3, 2 * 2/3 / (2/3 + 2/3 + 1); turned round
    assert concordance_correlation(predictions, references) == pytest.approx([1, 4 / 7, -1])
    # Half as wide around the same mean: variances 2/3 and 1/6, covariance 1/3
    assert concordance_correlation([[1.5], [2], [2.5]], [[1], [2], [3]]) == pytest.approx([(2 / 3) / (5 / 6)])


def test_concordance_correlation_of_constants_is_zero_or_undefined():
    constant, varied = np.full((7, 1), 0.1), np.arange(7.0)[:, None]
    assert concordance_correlation(constant, varied) == pytest.approx([0])
    assert concordance_correlation(varied, constant) == pytest.approx([0])
    assert concordance_correlation(constant, constant) == [None]
    assert concordance_correlation(constant, constant + 0.2) == pytest.approx([0])
    assert concordance_correlation([[3.0]], [[3.0]]) == [None]


MATRICES = hypothesis_numpy.arrays(np.float64, (9, 2), elements=st.floats(-5, 5, width=16))


@settings(max_examples=60, deadline=None)
@given(MATRICES, MATRICES)
def test_concordance_correlation_is_symmetric_and_at_most_pearsons(one, other):
    found = concordance_correlation(one, other)
    assert found == pytest.approx(concordance_correlation(other, one), abs=1e-9)
    for value, x, y in zip(found, one.T, other.T, strict=True):
        assert value is None or -1 - 1e-9 <= value <= 1 + 1e-9
        if np.ptp(x) and np.ptp(y):
            assert abs(value) <= abs(np.corrcoef(x, y)[0, 1]) + 1e-6


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([1.0, 2.0], [[1.0], [2.0]], r"predictions must have two dimensions \(clips, dimensions\), .* shape \(2,\)"),
        ([[1.0], [2.0]], [[1.0, 2.0]], r"differ in shape: \(2, 1\) and \(1, 2\)"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "nothing to score"),
        ([[1.0, math.nan]], [[1.0, 2.0]], "predictions of clip 0 are not finite"),
        ([[1.0, 2.0]], [[1.0, math.inf]], "references of clip 0 are not finite"),
    ],
)
def test_concordance_correlation_names_wrong_input(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        concordance_correlation(predictions, references)


def test_evaluate_module_scores_dimensions_in_its_regression_config(tmp_path):
    rng = np.random.default_rng(0)
    references = rng.normal(3, 1, (40, 3))
    predictions = references + rng.normal(0, 0.5, (40, 3))
    references[:, 2] = predictions[:, 2] = 2.5
    expected = concordance_correlation(predictions, references)
    folder = tmp_path / "ser_scores"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    metric = evaluate.load(str(folder), "regression", cache_dir=str(tmp_path / "cache"))
    scores = metric.compute(predictions=predictions, references=references)
    assert scores["concordance_correlation"] == pytest.approx(expected)
    assert scores["mean_concordance_correlation"] == pytest.approx((expected[0] + expected[1]) / 2)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    with pytest.raises(ValueError, match="config_name must be default or regression, found ccc"):
        evaluate.load(str(folder), "ccc", cache_dir=str(tmp_path / "cache"))
