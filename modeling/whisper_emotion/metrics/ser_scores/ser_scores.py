"""Scores of speech emotion recognition as an `evaluate` metric, for classes and for dimensions such as arousal.

`evaluate.load` copies this file alone, so the computations are here and the package imports them from here.
"""

from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike, NDArray

ECE_BINS = 15  # Guo et al. 2017, section 5
SUM_TOLERANCE = 1e-3  # rounding error of a sum of float16 probabilities

_DESCRIPTION = """
Scores of a speech emotion classifier: weighted accuracy (WA), unweighted accuracy (UA), macro and weighted F1, the
recall of every class, the confusion matrix and, given probabilities, the expected calibration error (ECE).
With the configuration `regression`: the concordance correlation coefficient (CCC) of arousal, valence, dominance.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: predicted class ids, `(clips,)`.
    references: true class ids, `(clips,)`.
    probabilities: predicted probabilities, `(clips, classes)`; without them `ece` is None.
    num_classes: number of classes; without it, the width of `probabilities`, or else the largest id plus one.
Returns:
    weighted_accuracy: share of clips that are right (= accuracy), 0 to 1.
    unweighted_accuracy: mean recall of the classes that occur in `references` (= balanced accuracy).
    macro_f1: mean F1 of the classes that occur in `references` or `predictions`.
    weighted_f1: mean F1, each class weighted by its clips in `references`.
    recall: recall of each class, None where the class does not occur in `references`.
    confusion_matrix: counts, `(classes, classes)`; rows are references, columns predictions.
    ece: expected calibration error over 15 equal bins of confidence, or None.
    mean_confidence: mean of the largest probability, or None.
Examples:
    >>> scores = evaluate.load("path/to/ser_scores").compute(predictions=[0, 1, 1], references=[0, 1, 0])
    >>> scores["unweighted_accuracy"]
    0.75
"""

_REGRESSION_DESCRIPTION = """
Args:
    predictions: predicted values, `(clips, dimensions)`.
    references: true values, `(clips, dimensions)`.
Returns:
    concordance_correlation: coefficient of each dimension, -1 to 1; None where both sides are the same constant.
    mean_concordance_correlation: mean of the coefficients that are defined, or None.
Examples:
    >>> metric = evaluate.load("path/to/ser_scores", "regression")
    >>> metric.compute(predictions=[[1.0], [2.0], [3.0]], references=[[2.0], [3.0], [4.0]])
    {'concordance_correlation': [0.5714285714285714], 'mean_concordance_correlation': 0.5714285714285714}
"""

_CITATION = """
@inproceedings{guo2017calibration,
  title = {On Calibration of Modern Neural Networks},
  author = {Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle = {Proceedings of the 34th International Conference on Machine Learning},
  year = {2017}
}
@article{lin1989concordance,
  title = {A Concordance Correlation Coefficient to Evaluate Reproducibility},
  author = {Lin, Lawrence I-Kuei},
  journal = {Biometrics},
  volume = {45},
  number = {1},
  pages = {255--268},
  year = {1989}
}
"""


def compute_scores(
    predictions: ArrayLike,
    references: ArrayLike,
    *,
    probabilities: ArrayLike | None = None,
    num_classes: int | None = None,
) -> dict[str, Any]:
    """Score one set of predicted classes.

    Args:
        predictions: predicted class ids, `(clips,)`.
        references: true class ids, `(clips,)`.
        probabilities: predicted probabilities, `(clips, classes)`, rows summing to 1.
        num_classes: number of classes; default: the width of `probabilities`, otherwise the largest id plus one.

    Returns:
        Plain Python values that JSON can hold. The scores equal scikit-learn's with its defaults.

        - `weighted_accuracy`, `unweighted_accuracy`, `macro_f1`, `weighted_f1`: fractions.
        - `ece`, `mean_confidence`: fractions, None without probabilities.
        - `recall`: a list, None for a class that does not occur in `references`.
        - `confusion_matrix`: lists of counts, rows are references.

    Raises:
        ValueError: There are no clips, or the lengths differ. Class ids are not integers or out of range.
            Probabilities have the wrong shape, are not finite or negative, or do not sum to 1.
    """
    predicted, true = _class_ids("predictions", predictions), _class_ids("references", references)
    if len(predicted) != len(true):
        raise ValueError(f"predictions and references differ in length: {len(predicted)} and {len(true)}")
    if not len(true):
        raise ValueError("nothing to score: predictions and references are empty")
    table = None if probabilities is None else np.asarray(probabilities, dtype=np.float64)
    if table is not None and table.ndim != 2:
        raise ValueError(f"probabilities must have two dimensions (clips, classes), found the shape {table.shape}")
    if num_classes is None:
        num_classes = int(max(predicted.max(), true.max()) + 1 if table is None else table.shape[1])
    for name, ids in (("predictions", predicted), ("references", true)):
        if ids.min() < 0 or ids.max() >= num_classes:
            raise ValueError(f"{name} must be class ids from 0 to {num_classes - 1}, found {ids.min()} to {ids.max()}")
    if table is not None:
        _check_probabilities(table, (len(true), num_classes))

    confusion = np.bincount(true * num_classes + predicted, minlength=num_classes**2)
    confusion = confusion.reshape(num_classes, num_classes)
    hits, support, answers = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(support + answers, 1)
    ece = mean_confidence = None
    if table is not None:
        ece = _calibration_error(table[np.arange(len(true)), predicted], predicted == true)
        mean_confidence = float(table.max(axis=1).mean())
    return {
        "weighted_accuracy": float(hits.sum() / len(true)),
        "unweighted_accuracy": float(recall[support > 0].mean()),
        "macro_f1": float(f1[support + answers > 0].mean()),
        "weighted_f1": float(f1 @ support / len(true)),
        # None, because the recall of an absent class is undefined and JSON has no NaN
        "recall": [float(value) if clips else None for value, clips in zip(recall, support, strict=True)],
        "confusion_matrix": confusion.tolist(),
        "ece": ece,
        "mean_confidence": mean_confidence,
    }


def concordance_correlation(predictions: ArrayLike, references: ArrayLike) -> list[float | None]:
    """Compute the concordance correlation coefficient of each dimension.

    `2 covariance / (variance + variance + (difference of means)²)` with population moments, as in Lin 1989
    (Biometrics 45), "A Concordance Correlation Coefficient to Evaluate Reproducibility".

    Args:
        predictions: predicted values, `(clips, dimensions)`.
        references: true values, `(clips, dimensions)`.

    Returns:
        A coefficient from -1 to 1 for each dimension: 0 if one side is constant, None (undefined) if both are constant
        and equal.

    Raises:
        ValueError: The arrays have wrong or different shapes, no clips, or values that are not finite.
    """
    predicted, true = np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.float64)
    for name, values in (("predictions", predicted), ("references", true)):
        if values.ndim != 2:
            raise ValueError(f"{name} must have two dimensions (clips, dimensions), found the shape {values.shape}")
        _check_finite(name, values)
    if predicted.shape != true.shape:
        raise ValueError(f"predictions and references differ in shape: {predicted.shape} and {true.shape}")
    if not true.size:
        raise ValueError("nothing to score: predictions and references are empty")
    predicted, true = predicted - true[0], true - true[0]  # constants become exact zeros
    means, true_means = predicted.mean(axis=0), true.mean(axis=0)
    covariance = ((predicted - means) * (true - true_means)).mean(axis=0)
    spread = predicted.var(axis=0) + true.var(axis=0) + (means - true_means) ** 2
    return [None if total == 0 else float(2 * one / total) for one, total in zip(covariance, spread, strict=True)]


def _class_ids(name: str, ids: ArrayLike) -> NDArray[np.int64]:
    values = np.asarray(ids)
    if values.ndim != 1:
        raise ValueError(f"{name} must be one class id a clip, found an array of shape {values.shape}")
    if values.size and values.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integer class ids, found values of type {values.dtype}")
    return values.astype(np.int64)


def _check_probabilities(table: NDArray[np.float64], shape: tuple[int, int]) -> None:
    if table.shape != shape:
        raise ValueError(f"probabilities must have the shape {shape} (clips, classes), found {table.shape}")
    _check_finite("probabilities", table)
    wrong = (np.abs(table.sum(axis=1) - 1) > SUM_TOLERANCE) | (table < 0).any(axis=1)
    if wrong.any():
        clip = int(np.argmax(wrong))
        raise ValueError(
            f"probabilities of clip {clip} must be at least 0 and sum to 1, found the sum {table[clip].sum():.4f} and "
            f"the smallest {table[clip].min():.4f}; logits need a softmax first"
        )


def _check_finite(name: str, table: NDArray[np.float64]) -> None:
    finite = np.isfinite(table).all(axis=1)
    if not finite.all():
        clip = int(np.argmin(finite))
        raise ValueError(f"{name} of clip {clip} are not finite: {table[clip].tolist()}")


def _calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3), bins open on the left: `((m - 1) / M, m / M]`."""
    edges = np.linspace(0, 1, ECE_BINS + 1)
    bins = np.searchsorted(edges[1:-1], confidence, side="left")
    # |B| / n * |accuracy(B) - confidence(B)| is |sum over B of (right - confidence)| / n
    return float(np.abs(np.bincount(bins, weights=right - confidence)).sum() / len(confidence))


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class SerScores(evaluate.Metric):
    """`compute_scores` behind `evaluate`'s interface, and `concordance_correlation` in its config `regression`."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in ("default", "regression"):
            raise ValueError(f"config_name must be default or regression, found {self.config_name}")
        regression = self.config_name == "regression"
        value = datasets.Sequence(datasets.Value("float64")) if regression else datasets.Value("int64")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_REGRESSION_DESCRIPTION if regression else _KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": value, "references": value}),
            reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html"],
            format=None if regression else "numpy",  # evaluate allows "numpy" for single values only
        )

    def _compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any]:
        if self.config_name == "default":
            return compute_scores(predictions, references, **kwargs)
        coefficients = concordance_correlation(predictions, references, **kwargs)
        defined = [value for value in coefficients if value is not None]
        return {
            "concordance_correlation": coefficients,
            "mean_concordance_correlation": float(np.mean(defined)) if defined else None,
        }
