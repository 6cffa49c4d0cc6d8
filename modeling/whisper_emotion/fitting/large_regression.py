"""Fit the linear classifier on more clips than fit into memory: the same problem, with clips read in chunks."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from whisper_emotion.fitting import regression
from whisper_emotion.fitting.regression import Linear, RegularisationPath

CHUNK = 1024  # clips per chunk, so that a chunk fits in a CPU's cache
STREAMED = 1e-5  # tolerance of the fit, far below the sampling noise of a large corpus
ROUNDING = 1e-8  # smaller changes of the loss are rounding errors of single precision


def regularisation_path(inputs: Any, labels: np.ndarray, *options: Any) -> "RegularisationPath | StreamedPath":
    """Build the path for the number of clips: in memory up to `LARGE` clips, streamed above.

    Args:
        inputs: `(clips, width)`: an array, `Rows`, or another object that is indexed by row numbers.
        labels: Class ids `(clips,)`.
        options: Further arguments of `RegularisationPath`.
    """
    if len(labels) > regression.LARGE:
        return StreamedPath(inputs, labels, *options)
    return RegularisationPath(inputs[:], labels, *options)


class StreamedPath:
    """`RegularisationPath` that reads the inputs in chunks, once per step of L-BFGS; the arguments are the same.

    A sample of the clips yields the starting point and its curvature for each class. The curvature makes the problem
    well-conditioned. Besides the sample, memory holds `labels * width ** 2` numbers.
    """

    def __init__(
        self,
        inputs: Any,
        labels: np.ndarray,
        num_labels: int,
        class_weights: np.ndarray | None = None,
        label_smoothing: float = 0.0,
        clip_weights: np.ndarray | None = None,
        allowed: np.ndarray | None = None,
        start: Linear | None = None,
    ):
        self._inputs = inputs
        self._targets = regression.weigh_targets(
            labels, num_labels, class_weights, label_smoothing, clip_weights, allowed
        )
        self._fixed = np.zeros((len(labels), 1)) if allowed is None else regression.bar(allowed)
        self._start = start
        if start is not None:
            parts = self._over_chunks(lambda part: start.logits(inputs[part]).numpy())
            self._fixed = self._fixed + np.concatenate(list(parts))
        mean, deviation = self._moments()
        self._mean, self._deviation = mean, np.where(deviation > 1e-7 * np.abs(mean), deviation, np.inf)
        rows = regression.sample_clips(labels, regression.SAMPLE)
        own, own_allowed = (None if one is None else one[rows] for one in (clip_weights, allowed))
        sample, self._sample_fixed = inputs[rows], self._fixed[rows]
        self._sample = RegularisationPath(
            sample, labels[rows], num_labels, class_weights, label_smoothing, own, own_allowed, start
        )
        self._shares = self._targets[rows].sum(axis=1) / self._targets[rows].sum()
        self._standard = np.pad((sample - mean) / self._deviation, ((0, 0), (0, 1)), constant_values=1.0)

    def fit(self, strength: float, tolerance: float = STREAMED) -> Linear:
        """Minimise the objective of `RegularisationPath.fit`.

        Args:
            strength: Strength of the penalty.
            tolerance: Largest gradient component at the end.
        """
        weight, bias = self._sample.fit(strength, regression.ROUGH)
        if self._start is not None:
            weight, bias = weight - self._start.weight, bias - self._start.bias
        spread = np.where(np.isfinite(self._deviation), self._deviation, 0)
        start = np.column_stack([weight * spread, bias + weight @ self._mean])  # the bias is the last column
        whitening = self._whitening(start, strength)
        penalised = slice(None, -1 if self._start is None else None)

        def at(parameters: np.ndarray) -> np.ndarray:
            return start + (parameters.reshape(len(start), 1, -1) @ whitening)[:, 0]

        def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            weight = at(parameters)
            loss, slope = self._evaluate(weight[:, :-1] / self._deviation, weight[:, -1])
            slope[:, :-1] /= self._deviation
            slope[:, penalised] += strength * weight[:, penalised]
            steps.update()
            return loss + strength / 2 * (weight[:, penalised] ** 2).sum(), (whitening @ slope[..., None]).ravel()

        options = {"maxiter": 500, "gtol": tolerance, "ftol": ROUNDING, "maxls": 5}
        with tqdm(desc="fitting", unit="pass", leave=False, delay=5) as steps:
            found = minimize(objective, np.zeros(start.size), method="L-BFGS-B", jac=True, options=options).x
        weight, bias = at(found)[:, :-1] / self._deviation, at(found)[:, -1]
        return regression.finish(weight, bias - weight @ self._mean, self._start, self._targets)

    def _whitening(self, weight: np.ndarray, strength: float) -> np.ndarray:
        """Invert the Cholesky factor of the sample's curvature along each class's weights and bias.

        Returns:
            `(labels, width + 1, width + 1)`. The curvature is about 1 in the coordinates before these matrices.
        """
        probabilities = softmax(self._standard @ weight.T + self._sample_fixed, axis=1)

        def whiten(own: np.ndarray) -> np.ndarray:
            weighted, identity = (
                self._standard * np.sqrt(self._shares * own * (1 - own))[:, None],
                np.eye(weight.shape[1]),
            )
            factor = np.linalg.cholesky(weighted.T @ weighted + strength * identity)
            return solve_triangular(factor, identity, lower=True)

        return np.stack(list(_map(whiten, probabilities.T)))

    def _evaluate(self, weight: np.ndarray, bias: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the loss and its gradient for weights and biases, for centred inputs."""
        mean, weight = self._mean.astype(np.float32), weight.astype(np.float32)

        def evaluate(part: slice) -> tuple[float, np.ndarray]:
            centred, targets = np.asarray(self._inputs[part], np.float32) - mean, self._targets[part]
            log_probabilities = log_softmax((centred @ weight.T).astype(np.float64) + bias + self._fixed[part], axis=1)
            slope = targets.sum(axis=1, keepdims=True) * np.exp(log_probabilities) - targets
            weight_slope = (slope.T.astype(np.float32) @ centred).astype(np.float64)
            return -(targets * log_probabilities).sum(), np.column_stack([weight_slope, slope.sum(axis=0)])

        loss, slope = 0.0, np.zeros((len(bias), len(mean) + 1))
        for own_loss, own_slope in self._over_chunks(evaluate):
            loss, slope = loss + own_loss, slope + own_slope
        return loss, slope

    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the inputs' mean and standard deviation, `(width,)`."""

        def measure(part: slice) -> tuple[int, np.ndarray, np.ndarray]:
            chunk = self._inputs[part]
            return len(chunk), chunk.mean(axis=0, dtype=np.float64), chunk.var(axis=0, dtype=np.float64)

        counts, means, variances = map(np.array, zip(*self._over_chunks(measure), strict=True))
        mean = np.average(means, axis=0, weights=counts)
        mean = mean.astype(np.float32).astype(np.float64)  # the value that single precision subtracts
        return mean, np.sqrt(np.average(variances + (means - mean) ** 2, axis=0, weights=counts))

    def _over_chunks(self, function: Callable[[slice], Any]) -> Iterator[Any]:
        starts = range(0, len(self._targets), CHUNK)
        return _map(function, (slice(start, start + CHUNK) for start in starts))


def _map(function: Callable[[Any], Any], parts: Iterable[Any]) -> Iterator[Any]:
    """Yield a function's results in the order of the parts, so that bits do not depend on the number of threads."""
    # One thread per part gains more than threads within a product
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(function, parts)
