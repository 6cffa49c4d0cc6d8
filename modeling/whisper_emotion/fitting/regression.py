"""The linear classifier as a convex problem: L-BFGS to convergence, its L2 strength chosen on held-out speakers."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.model_selection import GroupKFold

from whisper_emotion.errors import UserError
from whisper_emotion.fitting.adaptation import with_copies
from whisper_emotion.fitting.selection import choose_best, selection_value

# L2 penalties beside the mean loss, on standardised inputs, the strongest first; scikit-learn's C is 1 / (clips * it)
STRENGTHS = tuple(10.0 ** (exponent / 2) for exponent in range(0, -9, -1))
START_STRENGTHS = (*(10.0 ** (exponent / 2) for exponent in range(6, 0, -1)), *STRENGTHS)  # towards a trained start
DEFAULT_STRENGTH, DEFAULT_START_STRENGTH = 0.1, 1.0  # where nothing chooses
INNER_FOLDS = 5
CONVERGED, ROUGH = 1e-6, 1e-4  # tolerances of the final fit, and of the fits that only compare strengths
PATIENCE = 2  # strengths without improvement after which no weaker one is tried
ABSENT = -100.0  # bias of a class that no training clip has
BARRED = -1e4  # added to the logits of classes that a clip's corpus does not have
LARGE, SAMPLE = 30_000, 20_000  # clips above which strengths are compared on a sample, and the sample's size


class Linear(NamedTuple):
    """A fitted classifier: weights `(labels, width)` and biases `(labels,)`, for inputs that are not standardised."""

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, inputs: np.ndarray) -> torch.Tensor:
        """Return logits `(clips, labels)`, float64, of inputs `(clips, width)`."""
        return torch.from_numpy(inputs @ self.weight.T + self.bias)


class RegularisationPath:
    """The classifiers of one training set for ever weaker penalties, each started from the one before.

    The inputs are standardised and rotated onto their principal axes. The rotation changes neither the loss nor the
    penalty, leaves at most as many dimensions as clips, and gives L-BFGS a well-conditioned problem.

    Args:
        inputs: `(clips, width)`.
        labels: Class ids `(clips,)`.
        num_labels: Number of classes.
        class_weights: Weight of each class in the loss, `(labels,)`; None weighs all alike.
        label_smoothing: As of `classification_loss`.
        clip_weights: Weight of each clip in the loss beside its class's, `(clips,)`; None weighs all alike. The
            loss is the weighted mean.
        allowed: Classes that the probabilities of each clip are shared among, `(clips, labels)`; None: all. If a
            corpus lacks a class, its clips say nothing about that class.
        start: The classifier that the penalty pulls towards, biases too; None: towards weights of zero, biases free.
    """

    def __init__(
        self,
        inputs: np.ndarray,
        labels: np.ndarray,
        num_labels: int,
        class_weights: np.ndarray | None = None,
        label_smoothing: float = 0.0,
        clip_weights: np.ndarray | None = None,
        allowed: np.ndarray | None = None,
        start: Linear | None = None,
    ):
        self._mean, deviation = inputs.mean(axis=0, dtype=np.float64), inputs.std(axis=0, dtype=np.float64)
        # A constant dimension has no influence, whatever its rounding errors.
        self._deviation = np.where(deviation > 1e-7 * np.abs(self._mean), deviation, np.inf)
        standard = (inputs - self._mean) / self._deviation
        wide = len(standard) < standard.shape[1]
        values, vectors = np.linalg.eigh(standard @ standard.T if wide else standard.T @ standard)
        kept = values > max(values[-1], 0) * 1e-10
        self._spread = np.sqrt(values[kept])
        self._axes = standard.T @ (vectors[:, kept] / self._spread) if wide else vectors[:, kept]
        self._rotated = vectors[:, kept] * self._spread if wide else standard @ self._axes
        self._targets = weigh_targets(labels, num_labels, class_weights, label_smoothing, clip_weights, allowed)
        self._fixed = 0.0 if allowed is None else bar(allowed)
        self._start, self._bias_penalty = start, 0.0 if start is None else 1.0
        if start is not None:
            self._fixed = self._fixed + start.logits(inputs).numpy()
        self._weight, self._bias = np.zeros((num_labels, self._rotated.shape[1])), np.zeros(num_labels)

    def fit(self, strength: float, tolerance: float = CONVERGED) -> Linear:
        """Minimise `classification_loss` plus `strength / 2` times the squared weights, or differences from the start.

        Args:
            strength: Of the penalty.
            tolerance: Largest slope along any axis at the end.
        """
        if tolerance <= CONVERGED:
            self.fit(strength, ROUGH)  # the way there in single precision
        clips, size = len(self._targets), self._weight.size
        scale = 1 / np.sqrt(self._spread**2 / clips / len(self._bias) + strength)  # the curvature along each axis
        # The products with the inputs take most of the time. Single precision is twice as fast, and enough to compare.
        precision = np.float64 if tolerance <= CONVERGED else np.float32
        scaled, targets = (self._rotated * scale).astype(precision), self._targets
        clip_weights, bias_strength = targets.sum(axis=1, keepdims=True), strength * self._bias_penalty

        def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            weight, bias = parameters[:size].reshape(self._weight.shape), parameters[size:]
            log_probabilities = log_softmax(scaled @ weight.T.astype(precision) + bias + self._fixed, axis=1)
            penalised = weight * scale**2
            loss = -(targets * log_probabilities).sum() + strength / 2 * (weight * penalised).sum()
            loss += bias_strength / 2 * (bias**2).sum()
            slope = clip_weights * np.exp(log_probabilities) - targets
            weight_slope = slope.T.astype(precision) @ scaled + strength * penalised
            return loss, np.concatenate([weight_slope.ravel(), slope.sum(axis=0) + bias_strength * bias])

        start = np.concatenate([(self._weight / scale).ravel(), self._bias])
        options = {"maxiter": 5000, "gtol": tolerance, "ftol": 0}
        found = minimize(objective, start, method="L-BFGS-B", jac=True, options=options).x
        self._weight, self._bias = found[:size].reshape(self._weight.shape) * scale, found[size:]
        weight = self._weight @ self._axes.T / self._deviation
        return finish(weight, self._bias - weight @ self._mean, self._start, self._targets)


def finish(weight: np.ndarray, bias: np.ndarray, start: Linear | None, targets: np.ndarray) -> Linear:
    """Add the fitted differences to the start. Without a start, bar classes without `targets`, `(clips, labels)`."""
    if start is not None:
        return Linear(start.weight + weight, start.bias + bias)
    return Linear(weight, np.where(targets.any(axis=0), bias, ABSENT))


def weigh_targets(
    labels: np.ndarray,
    num_labels: int,
    class_weights: np.ndarray | None,
    label_smoothing: float,
    clip_weights: np.ndarray | None,
    allowed: np.ndarray | None = None,
) -> np.ndarray:
    """Return the targets `(clips, labels)` of the cross-entropy; arguments as of `RegularisationPath`.

    The loss is minus the sum of targets times log-probabilities.
    """
    weights = np.ones(num_labels) if class_weights is None else np.asarray(class_weights, np.float64)
    shares = np.full(num_labels, 1 / num_labels) if allowed is None else allowed / allowed.sum(axis=1, keepdims=True)
    smoothed = (1 - label_smoothing) * np.eye(num_labels)[labels] + label_smoothing * shares
    own = np.ones(len(labels)) if clip_weights is None else np.asarray(clip_weights, np.float64)
    return smoothed * weights * own[:, None] / (weights[labels] * own).sum()


def bar(allowed: np.ndarray) -> np.ndarray:
    """Return the summand of the logits that leaves no probability to classes that are not `allowed`."""
    return np.where(allowed, 0.0, BARRED)


class Selection(NamedTuple):
    """What held-out speakers chose.

    Args:
        strength: One of `strengths`.
        value: Its selection value.
        rows: The clips left out whose class other speakers have, too, `(clips,)`: no classifier can know the others.
        logits: `(clips, labels)` of these clips, by the classifier that did not train on their speaker.
        adapted_logits: The same clips adapted to their speakers, or None.
    """

    strength: float
    value: float
    rows: np.ndarray
    logits: torch.Tensor
    adapted_logits: torch.Tensor | None


def select_strength(
    inputs: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str],
    num_labels: int,
    metric: str,
    class_weights: np.ndarray | None = None,
    label_smoothing: float = 0.0,
    adapt: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    as_is: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    clip_weights: np.ndarray | None = None,
    folds: Sequence[tuple[np.ndarray, np.ndarray]] | None = None,
    judge_adapted: bool = False,
    copies: int = 0,
    allowed: np.ndarray | None = None,
    start: Callable[[np.ndarray], Linear] | None = None,
    strengths: Sequence[float] | None = None,
) -> Selection:
    """Choose the strength by leaving groups out in turn, `INNER_FOLDS` times.

    With more than `LARGE` clips, only about `SAMPLE` are used, drawn from each group by its share. Given `folds`
    contribute equally many clips, as far as they have them. A drawn clip is weighted by the clips it stands for.

    Args:
        inputs: `(clips, width)`: an array, or what takes row numbers as one does.
        labels: Class ids `(clips,)`.
        groups: The speaker of each clip; two or more.
        num_labels: Number of classes.
        metric: What is best on the groups left out, see `selection_value`.
        class_weights: As of `RegularisationPath`.
        label_smoothing: As of `RegularisationPath`.
        adapt: Function of (inner training rows, rows left out) that returns the latter's adapted inputs; None: no
            adaptation.
        as_is: Function of the same that returns the inputs of rows left out as they are; None: those of `inputs`.
        clip_weights: As of `RegularisationPath`. The metric counts the clips left out alike.
        folds: Pairs of (inner training rows, rows left out) that replace those by groups, such as a corpus left out
            each time. No clip is left out twice. The metric is their mean.
        judge_adapted: Choose by the adapted clips.
        copies: Copies of the clips in `inputs`, behind all of them. They train with their clips, and are not left out.
        allowed: As of `RegularisationPath`, and for the clips left out, too.
        start: Function of inner training rows that returns the `start` of `RegularisationPath`. Few clips choose
            badly, so the strongest penalty is chosen whose loss is at most one standard error above the least.
        strengths: To choose from, the strongest first; default: `STRENGTHS`.

    Raises:
        UserError: No clip's class is left when its speaker is left out.
    """
    speakers, drawn, given = np.asarray(groups), np.arange(len(labels)), folds is not None
    if len(labels) > LARGE:
        drawn, clip_weights = _draw(speakers, folds, clip_weights)
    if folds is None:
        splits = GroupKFold(min(INNER_FOLDS, len(set(speakers[drawn])))).split(drawn, groups=speakers[drawn])
        folds = [(drawn[train], drawn[rows]) for train, rows in splits]
    else:
        folds = [(train[np.isin(train, drawn)], rows[np.isin(rows, drawn)]) for train, rows in folds]
    known = np.zeros(len(labels), bool)
    for train, rows in folds:
        known[rows] = start is not None or np.isin(labels[rows], labels[train])
    if not known.any():
        raise UserError("--select_on dev: every class has one speaker, so none can be held out; use --select_on last")
    found: list[Selection] = []
    all_targets = torch.from_numpy(labels)
    judged = [known] if not given else [rows[known[rows]] for _, rows in folds if known[rows].any()]
    weights = None if class_weights is None else torch.from_numpy(class_weights)
    barred = torch.zeros(len(labels), 1) if allowed is None else torch.from_numpy(bar(allowed))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # products of matrices, which leave Python's lock alone

        def build(fold: tuple[np.ndarray, np.ndarray]) -> RegularisationPath:
            clips = np.tile(fold[0], 1 + copies)
            own, own_allowed = (None if one is None else one[clips] for one in (clip_weights, allowed))
            return RegularisationPath(
                inputs[with_copies(fold[0], len(labels), copies)], labels[clips],
                num_labels, class_weights, label_smoothing, own, own_allowed,
                None if start is None else start(fold[0]),
            )  # fmt: skip

        paths = list(pool.map(build, folds))
        plain = [None if as_is is None else as_is(*fold) for fold in folds]
        adapted = [None if adapt is None else adapt(*fold) for fold in folds]
        for strength in strengths or STRENGTHS:
            logits = torch.empty(len(labels), num_labels, dtype=torch.float64)
            moved = None if adapt is None else torch.empty_like(logits)
            fitted = pool.map(partial(RegularisationPath.fit, strength=strength, tolerance=ROUGH), paths)
            for linear, (_, rows), own, adapted_inputs in zip(fitted, folds, plain, adapted, strict=True):
                logits[rows] = linear.logits(inputs[rows] if own is None else own) + barred[rows]
                if moved is not None:
                    moved[rows] = linear.logits(adapted_inputs) + barred[rows]
            seen = moved if judge_adapted and moved is not None else logits
            values = [selection_value(seen[rows], all_targets[rows], metric, weights) for rows in judged]
            logits, moved, value = logits[known], None if moved is None else moved[known], float(np.mean(values))
            found.append(Selection(strength, value, np.flatnonzero(known), logits, moved))
            if choose_best([one.value for one in found]) < len(found) - PATIENCE:
                break
    best = choose_best([one.value for one in found])
    if start is None:
        return found[best]
    judged_logits = [one.adapted_logits if judge_adapted and adapt else one.logits for one in found]
    return found[_strongest(judged_logits, best, all_targets[known])]


def _strongest(logits: Sequence[torch.Tensor], best: int, targets: torch.Tensor) -> int:
    """The first logits whose loss is at most a standard error above the best's (Breiman et al. 1984, 3.4.3)."""
    losses = torch.stack([torch.nn.functional.cross_entropy(one, targets, reduction="none") for one in logits])
    excess = losses[: best + 1] - losses[best]
    near = excess.mean(dim=1) <= excess.std(dim=1, correction=0) / len(targets) ** 0.5
    return int(near.nonzero()[0])


def sample_clips(strata: np.ndarray, count: int) -> np.ndarray:
    """Draw about `count` clips, the same ones every time, and return their ascending numbers.

    Args:
        strata: The stratum of each clip, `(clips,)`. Each is drawn from by its share, and at least once if there are
            no more strata than `count`.
        count: Clips to draw; all, if there are no more.
    """
    if len(strata) <= count:
        return np.arange(len(strata))
    _, firsts, places = np.unique(strata, return_index=True, return_inverse=True)
    order = np.lexsort((np.random.default_rng(0).random(len(places)), places))
    drawn = order[((np.arange(count) + 0.5) * (len(order) / count)).astype(int)]
    lacking = np.setdiff1d(places, places[drawn]) if len(firsts) <= count else []
    return np.sort(np.concatenate([drawn, firsts[lacking]]))


def _draw(
    groups: np.ndarray, folds: Sequence[tuple[np.ndarray, np.ndarray]] | None, clip_weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the clips that represent all, and weigh each of them by the clips that it stands for.

    Returns:
        The numbers of the drawn clips, ascending, and weights of all clips, `(clips,)`.
    """
    parts = [np.arange(len(groups))] if folds is None else [rows for _, rows in folds]
    weights = np.ones(len(groups)) if clip_weights is None else np.array(clip_weights, np.float64)
    drawn = []
    for part in parts:
        own = part[sample_clips(groups[part], SAMPLE // len(parts))]
        weights[own] *= len(part) / len(own)
        drawn.append(own)
    return np.sort(np.concatenate(drawn)), weights
