"""Scores of a speech emotion classifier as an `evaluate` metric.

The folder is whole in itself: `evaluate.load` copies this one file, so the arithmetic lives here and the package
imports it from here.
"""

from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike, NDArray

ECE_BINS = 15  # Guo et al. 2017, section 5
SUM_TOLERANCE = 1e-3  # what float16 probabilities may miss 1 by

_DESCRIPTION = """
Scores of a speech emotion classifier: weighted accuracy (WA), unweighted accuracy (UA), macro and weighted F1, the
recall of every class, the confusion matrix and, given probabilities, the expected calibration error (ECE).
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
Examples:
    >>> scores = evaluate.load("path/to/ser_scores").compute(predictions=[0, 1, 1], references=[0, 1, 0])
    >>> scores["unweighted_accuracy"]
    0.75
"""

_CITATION = """
@inproceedings{guo2017calibration,
  title = {On Calibration of Modern Neural Networks},
  author = {Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle = {Proceedings of the 34th International Conference on Machine Learning},
  year = {2017}
}
"""


def compute_scores(
    predictions: ArrayLike,
    references: ArrayLike,
    *,
    probabilities: ArrayLike | None = None,
    num_classes: int | None = None,
) -> dict[str, Any]:
    """Scores one set of predictions.

    Args:
        predictions: predicted class ids, `(clips,)`.
        references: true class ids, `(clips,)`.
        probabilities: predicted probabilities, `(clips, classes)`, rows summing to 1.
        num_classes: number of classes; without it, the width of `probabilities`, or else the largest id plus one.

    Returns:
        `weighted_accuracy`, `unweighted_accuracy`, `macro_f1`, `weighted_f1`, `ece` (floats, fractions of 1; `ece` is
        None without probabilities), `recall` (a list, None where a class does not occur in `references`) and
        `confusion_matrix` (lists of counts, rows are references): plain Python values that JSON can hold. The
        figures are scikit-learn's, with its defaults, on the same ids.

    Raises:
        ValueError: nothing to score, lengths that differ, ids that are no integers or out of range, or probabilities
            of the wrong shape, not finite, negative, or not summing to 1.
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
    return {
        "weighted_accuracy": float(hits.sum() / len(true)),
        "unweighted_accuracy": float(recall[support > 0].mean()),
        "macro_f1": float(f1[support + answers > 0].mean()),
        "weighted_f1": float(f1 @ support / len(true)),
        # None, since the recall of an absent class is undefined and JSON has no NaN
        "recall": [float(value) if clips else None for value, clips in zip(recall, support, strict=True)],
        "confusion_matrix": confusion.tolist(),
        "ece": None
        if table is None
        else _calibration_error(table[np.arange(len(true)), predicted], predicted == true),
    }


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
    if not np.isfinite(table).all():
        clip = int(np.argmin(np.isfinite(table).all(axis=1)))
        raise ValueError(f"probabilities of clip {clip} are not finite: {table[clip].tolist()}")
    wrong = (np.abs(table.sum(axis=1) - 1) > SUM_TOLERANCE) | (table < 0).any(axis=1)
    if wrong.any():
        clip = int(np.argmax(wrong))
        raise ValueError(
            f"probabilities of clip {clip} must be at least 0 and sum to 1, found the sum {table[clip].sum():.4f} and "
            f"the smallest {table[clip].min():.4f}; logits need a softmax first"
        )


def _calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3), bins open on the left: `((m - 1) / M, m / M]`."""
    edges = np.linspace(0, 1, ECE_BINS + 1)
    bins = np.searchsorted(edges[1:-1], confidence, side="left")
    # |B| / n * |accuracy(B) - confidence(B)| is |sum over B of (right - confidence)| / n
    return float(np.abs(np.bincount(bins, weights=right - confidence)).sum() / len(confidence))


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class SerScores(evaluate.Metric):
    """`compute_scores` behind `evaluate`'s interface."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
            reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html"],
            format="numpy",
        )

    def _compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any]:
        return compute_scores(predictions, references, **kwargs)
