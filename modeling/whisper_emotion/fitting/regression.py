"""Fit the linear classifier, a convex problem, by L-BFGS; select its L2 strength on held-out speakers."""

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

# L2 strengths relative to the mean loss, for standardised inputs; scikit-learn's C is 1 / (clips * strength)
STRENGTHS = tuple(10.0 ** (exponent / 2) for exponent in range(0, -9, -1))
START_STRENGTHS = (*(10.0 ** (exponent / 2) for exponent in range(6, 0, -1)), *STRENGTHS)  # with an initial head
DEFAULT_STRENGTH, DEFAULT_START_STRENGTH = 0.1, 1.0  # without selection
INNER_FOLDS = 5
CONVERGED, ROUGH = 1e-6, 1e-4  # tolerances of the final fit, and of fits that only compare strengths
PATIENCE = 2  # stop after this number of strengths without improvement
ABSENT = -100.0  # bias of a class without training clips
BARRED = -1e4  # added to the logits of classes that a clip's corpus lacks
LARGE, SAMPLE = 30_000, 20_000  # above LARGE clips, strengths are compared on a sample of SAMPLE clips


class Linear(NamedTuple):
    """A fitted classifier: weights `(labels, width)` and biases `(labels,)`, for raw, not standardised inputs."""

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, inputs: np.ndarray) -> torch.Tensor:
        """Return logits `(clips, labels)`, float64, of inputs `(clips, width)`."""
        return torch.from_numpy(inputs @ self.weight.T + self.bias)


class RegularisationPath:
    """Classifiers of one training set for decreasing strengths, each started from the previous one.

    The inputs are standardised and rotated onto their principal axes. The rotation changes neither loss nor penalty,
    keeps at most as many dimensions as clips, and makes the problem well-conditioned.

    Args:
        inputs: `(clips, width)`.
        labels: Class ids `(clips,)`.
        num_labels: Number of classes.
        class_weights: Weight of each class in the loss, `(labels,)`; None: equal weights.
        label_smoothing: As in `classification_loss`.
        clip_weights: Weight of each clip in the loss, multiplied by its class's weight, `(clips,)`; None: equal
            weights. The loss is the weighted mean.
        allowed: Possible classes of each clip, `(clips, labels)`; None: all. Clips carry no information about classes
            that their corpus lacks.
        start: Classifier that the penalty pulls weights and biases towards. None pulls the weights towards zero and
            leaves the biases free.
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
        # An infinite deviation removes constant dimensions
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
        """Minimise `classification_loss` plus `strength / 2` times the squared weights (or differences from `start`).

        Args:
            strength: Strength of the penalty.
            tolerance: Largest gradient component at the end.
        """
        if tolerance <= CONVERGED:
            self.fit(strength, ROUGH)  # most of the way in single precision
        clips, size = len(self._targets), self._weight.size
        scale = 1 / np.sqrt(self._spread**2 / clips / len(self._bias) + strength)  # makes the curvature about 1
        # Products with the inputs dominate the time; single precision is twice as fast, and can compare strengths
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
    """Add the fit to the start; without a start, bar classes that `targets`, `(clips, labels)`, lack."""
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
    """Return the targets `(clips, labels)` of the cross-entropy; arguments as in `RegularisationPath`.

    The loss is minus the sum of targets times log-probabilities.
    """
    weights = np.ones(num_labels) if class_weights is None else np.asarray(class_weights, np.float64)
    shares = np.full(num_labels, 1 / num_labels) if allowed is None else allowed / allowed.sum(axis=1, keepdims=True)
    smoothed = (1 - label_smoothing) * np.eye(num_labels)[labels] + label_smoothing * shares
    own = np.ones(len(labels)) if clip_weights is None else np.asarray(clip_weights, np.float64)
    return smoothed * weights * own[:, None] / (weights[labels] * own).sum()


def bar(allowed: np.ndarray) -> np.ndarray:
    """Return a term for the logits that removes the probability of classes that are not `allowed`."""
    return np.where(allowed, 0.0, BARRED)


class Selection(NamedTuple):
    """The strength that held-out speakers selected.

    Args:
        strength: One of `strengths`.
        value: Its selection value.
        rows: Held-out clips whose class other speakers have, too, `(clips,)`; a classifier cannot know other classes.
        logits: `(clips, labels)` of these clips, by the classifier that was not trained on their speaker.
        adapted_logits: Logits of the same clips adapted to their speakers, or None.
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
    """Select the strength by cross-validation over groups, with `INNER_FOLDS` folds.

    With more than `LARGE` clips, about `SAMPLE` clips are drawn, stratified by group. With `folds`, each fold
    contributes equally many clips if it can. Drawn clips are weighted to represent all clips.

    Args:
        inputs: `(clips, width)`: an array, or another object that is indexed by row numbers.
        labels: Class ids `(clips,)`.
        groups: The speaker of each clip; at least two.
        num_labels: Number of classes.
        metric: Metric on the held-out groups, see `selection_value`.
        class_weights: As in `RegularisationPath`.
        label_smoothing: As in `RegularisationPath`.
        adapt: Function of (inner training rows, held-out rows) that returns the adapted inputs of the held-out rows;
            None: no adaptation.
        as_is: Function of (inner training rows, held-out rows) that returns the unadapted inputs of the held-out rows;
            None: rows of `inputs`.
        clip_weights: As in `RegularisationPath`. In the metric all held-out clips weigh the same.
        folds: Pairs of (inner training rows, held-out rows) that replace the folds by group, such as one corpus held
            out each time. No clip is held out twice. The metric is the mean over the folds.
        judge_adapted: Select by the adapted clips.
        copies: Number of copies of all clips that follow the clips in `inputs`. Copies are trained on with their clip,
            but never held out.
        allowed: As in `RegularisationPath`, for the held-out clips, too.
        start: Function of inner training rows that returns the `start` of `RegularisationPath`. With a start, the
            strongest penalty within one standard error of the least loss is selected, because few clips select badly.
        strengths: Candidates, the strongest first; default: `STRENGTHS`.

    Raises:
        UserError: Every class has a single speaker, so that no held-out clip has a known class.
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
        raise UserError("--select_on dev: needs a class with two or more speakers; use --select_on last")
    found: list[Selection] = []
    all_targets = torch.from_numpy(labels)
    judged = [known] if not given else [rows[known[rows]] for _, rows in folds if known[rows].any()]
    weights = None if class_weights is None else torch.from_numpy(class_weights)
    barred = torch.zeros(len(labels), 1) if allowed is None else torch.from_numpy(bar(allowed))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # matrix products release Python's lock

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
    """Return the first logits whose loss is within one standard error of the best (Breiman et al. 1984, 3.4.3)."""
    losses = torch.stack([torch.nn.functional.cross_entropy(one, targets, reduction="none") for one in logits])
    excess = losses[: best + 1] - losses[best]
    near = excess.mean(dim=1) <= excess.std(dim=1, correction=0) / len(targets) ** 0.5
    return int(near.nonzero()[0])


def sample_clips(strata: np.ndarray, count: int) -> np.ndarray:
    """Draw about `count` clips, always the same, and return their ascending numbers.

    Args:
        strata: The stratum of each clip, `(clips,)`. Each stratum contributes by its share, and at least one clip if
            there are at most `count` strata.
        count: Number of clips to draw; at most all.
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
    """Draw representative clips, and weight each by the number of clips that it represents.

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
