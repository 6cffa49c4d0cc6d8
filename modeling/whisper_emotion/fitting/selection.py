"""Decisions on held-out speakers: the epoch, adaptation to speakers, and calibration."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import brentq, minimize_scalar

from whisper_emotion.metrics import compute_scores

SURE_RIGHT = 0.8  # accuracy of sure labels on held-out speakers
FEWEST_TO_JUDGE = 20  # held-out clips
LOG_TEMPERATURES = (-3.0, 3.0)  # range of the temperature's natural logarithm


class HeldOut(NamedTuple):
    """Logits of held-out clips.

    Args:
        logits: `(clips, labels)`, without adaptation.
        adapted_logits: The same clips adapted to their speakers; None if not requested or the speakers are unknown.
        labels: Class ids `(clips,)`.
        weights: Weight of each clip in the temperatures, `(clips,)`; None: equal weights.
    """

    logits: torch.Tensor
    adapted_logits: torch.Tensor | None
    labels: torch.Tensor
    weights: torch.Tensor | None = None


class Decision(NamedTuple):
    """The decisions of held-out speakers about a fitted model.

    Args:
        adapted: Whether test clips are adapted to their speakers.
        calibration: Fields of the model's configuration by name: the least probability of a sure label and, with
            temperature scaling, the temperatures. Empty if nothing was held out.
    """

    adapted: bool
    calibration: dict[str, float]


def decide(held_out: HeldOut | None, adaptation: str, scale: bool, metric: str) -> Decision:
    """Decide about adaptation and calibration.

    Args:
        held_out: None if nothing is held out; `adaptation` is then not `dev`, and `scale` is false.
        adaptation: `none`, `speaker`, `domain`, or `dev`: adapt if that improves the metric on held-out speakers.
        scale: Fit one temperature for unadapted clips, and one for adapted clips.
        metric: Name of the metric, see `selection_value`.
    """
    if held_out is None:
        return Decision(adaptation in ("speaker", "domain"), {})
    has_adapted = held_out.adapted_logits is not None
    adapted = adaptation in ("speaker", "domain")
    if adaptation == "dev" and has_adapted:
        values = [selection_value(logits, held_out.labels, metric) for logits in held_out[:2]]
        adapted = values[1] > values[0]
    calibration = {}
    for prefix, logits in (("", held_out.logits), ("adapted_", held_out.adapted_logits)):
        if logits is None:
            continue
        temperature = fit_temperature(logits, held_out.labels, held_out.weights) if scale else 1.0
        if scale:
            calibration[f"{prefix}logit_temperature"] = temperature
        calibration[f"{prefix}sure_probability"] = find_sure_probability(
            logits / temperature, held_out.labels, held_out.weights
        )
    return Decision(adapted, calibration)


def find_sure_probability(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None, right: float = SURE_RIGHT
) -> float:
    """Find the least probability at which labels with at least this probability have the accuracy `right`.

    Args:
        logits: `(clips, labels)`, divided by the temperature.
        labels: Class ids `(clips,)`.
        weights: Weight of each clip, `(clips,)`; None: equal weights.
        right: The accuracy, a fraction.

    Returns:
        At least 0.5, because a label that is probably wrong is not sure. 1 if no probability is high enough, or if
        there are fewer than `FEWEST_TO_JUDGE` clips.
    """
    confidence, chosen = logits.double().softmax(dim=1).max(dim=1)
    order = confidence.argsort(descending=True, stable=True)
    shares = torch.ones(len(labels), dtype=torch.float64) if weights is None else weights.double()
    accuracy = (shares * (chosen == labels))[order].cumsum(0) / shares[order].cumsum(0)
    confidence = confidence[order]
    ends = confidence > torch.cat([confidence[1:], confidence.new_tensor([-1.0])])  # ties count together
    reached = ((accuracy >= right) & ends).nonzero()
    if not len(reached) or len(labels) < FEWEST_TO_JUDGE:
        return 1.0
    return max(0.5, float(confidence[reached[-1]]))


def scores_of(logits: torch.Tensor | np.ndarray, labels: torch.Tensor | np.ndarray) -> dict[str, float]:
    """Return weighted accuracy, unweighted accuracy and macro F1 of logits `(clips, labels)`."""
    logits = np.asarray(logits)
    scores = compute_scores(logits.argmax(axis=-1), np.asarray(labels), num_classes=logits.shape[-1])
    return {name: scores[name] for name in ("weighted_accuracy", "unweighted_accuracy", "macro_f1")}


def selection_value(
    logits: torch.Tensor, labels: torch.Tensor, metric: str, class_weights: torch.Tensor | None = None
) -> float:
    """Return the value of the selection metric, higher is better: the loss is negated.

    Args:
        logits: `(clips, labels)`.
        labels: Class ids `(clips,)`.
        metric: `loss`, `weighted_accuracy`, `unweighted_accuracy` or `macro_f1`.
        class_weights: Class weights `(labels,)` in the loss.
    """
    if metric != "loss":
        return scores_of(logits, labels)[metric]
    weights = None if class_weights is None else class_weights.double()
    return -float(torch.nn.functional.cross_entropy(logits.double(), labels, weights))


def choose_best(values: Sequence[float]) -> int:
    """Return the index of the first largest value; NaN is never chosen."""
    return int(np.argmax(np.nan_to_num(values, nan=-np.inf)))


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None) -> float:
    """Find the temperature with the least cross-entropy (Guo et al. 2017, arXiv 1706.04599, section 4.2).

    Small held-out sets cannot support high confidence: the mean confidence is at most `(right + 1) / (clips + 2)`,
    Laplace's rule of succession.

    Args:
        logits: `(clips, labels)`, not yet divided by a temperature.
        labels: Class ids `(clips,)`. Class weights of the training loss are not used.
        weights: Weight of each clip, `(clips,)`; None: equal weights.
    """
    logits = logits.double()
    shares = torch.ones(len(labels), dtype=torch.float64) if weights is None else weights.double()
    shares = shares / shares.sum()
    clips = 1 / float(shares @ shares)  # effective sample size
    right = clips * float(shares @ (logits.argmax(dim=1) == labels).double())
    highest_confidence = (right + 1) / (clips + 2)

    def loss(log_temperature: float) -> float:
        losses = torch.nn.functional.cross_entropy(logits / math.exp(log_temperature), labels, reduction="none")
        return float(shares @ losses)

    def excess(log_temperature: float) -> float:
        confidence = (logits / math.exp(log_temperature)).softmax(dim=1).amax(dim=1)
        return float(shares @ confidence) - highest_confidence

    best, highest = minimize_scalar(loss, bounds=LOG_TEMPERATURES, method="bounded").x, LOG_TEMPERATURES[1]
    if excess(best) > 0:
        best = brentq(excess, best, highest) if excess(highest) < 0 else highest
    return math.exp(best)
