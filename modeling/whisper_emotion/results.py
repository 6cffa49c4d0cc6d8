"""What is made of predictions: scores, their intervals, differences between systems, and `scores.json`."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from whisper_emotion.corpora.splits import Fold, speakers_shared
from whisper_emotion.metrics import compute_scores
from whisper_emotion.protocol import PROBABILITY, Experiment
from whisper_emotion.run_folder import write_whole

FIGURES = ("weighted_accuracy", "unweighted_accuracy", "macro_f1")
RESAMPLES = 2000


def summarise(predictions: pd.DataFrame, experiment: Experiment, folds: list[Fold]) -> dict[str, Any]:
    """Score predictions fold by fold and pooled.

    Returns:
        The part of `scores.json` that follows from the predictions: each of `weighted_accuracy`,
        `unweighted_accuracy` and `macro_f1` as `{mean, std, folds}` (fractions; mean and population deviation over
        folds, then their means over seeds; `folds` has a list a seed), `pooled` (all folds' clips together, mean over
        seeds), `interval` (95 % percentile bootstrap of the pooled figures over test clips), `confusion_matrix`
        (rows are references; summed over folds and seeds), `ece` (pooled, mean over seeds) and `speakers_shared`
        (a fold).
    """
    seeds = list(dict.fromkeys(predictions["seed"]))
    by_fold = [
        [_score(predictions[(predictions["seed"] == seed) & (predictions["fold"] == fold.number)], experiment.labels)
         for fold in folds]
        for seed in seeds
    ]  # fmt: skip
    pooled = [_score(predictions[predictions["seed"] == seed], experiment.labels) for seed in seeds]
    scores: dict[str, Any] = {}
    for figure in FIGURES:
        values = np.array([[cell[figure] for cell in row] for row in by_fold])
        scores[figure] = {
            "mean": float(values.mean()),
            "std": float(values.std(axis=1).mean()),
            "folds": values.tolist(),
        }
    scores["pooled"] = {figure: float(np.mean([score[figure] for score in pooled])) for figure in FIGURES}
    scores["interval"] = _intervals(predictions, experiment.labels)
    scores["confusion_matrix"] = np.sum([score["confusion_matrix"] for score in pooled], axis=0).tolist()
    scores["ece"] = float(np.mean([score["ece"] for score in pooled]))
    scores["speakers_shared"] = [speakers_shared(experiment.corpus, fold) for fold in folds]
    return scores


class Bootstrap(NamedTuple):
    """Pooled figures of several systems on the same test clips, and the same figures on clips drawn anew.

    The draws are the same for all systems, so that the difference of two is a paired one. Clips are drawn, not
    speakers: the intervals say how far the choice of these clips matters, not how far that of these people does.

    Args:
        weighted_accuracy: `(1 + draws, systems)` fractions: the figure itself first, then one a draw.
        unweighted_accuracy: The same.
    """

    weighted_accuracy: np.ndarray
    unweighted_accuracy: np.ndarray


def bootstrap(correct: np.ndarray, labels: np.ndarray, draws: int = RESAMPLES) -> Bootstrap:
    """Draw the test clips anew, with replacement.

    Args:
        correct: `(systems, clips)`: 1 where a system is right on a clip, 0 where it is wrong, the mean over seeds.
        labels: `(clips,)` class ids.
        draws: How often.
    """
    clips = len(labels)
    counts = np.random.default_rng(0).multinomial(clips, np.full(clips, 1 / clips), size=draws)
    counts = np.vstack([np.ones(clips), counts])
    recalls = []
    for label in np.unique(labels):
        drawn = counts[:, labels == label]
        total = drawn.sum(axis=1, keepdims=True)
        # A class that a draw happens to miss has no recall there.
        recalls.append(np.where(total > 0, drawn @ correct[:, labels == label].T / np.maximum(total, 1), np.nan))
    return Bootstrap(counts @ correct.T / clips, np.nanmean(recalls, axis=0))


def interval(draws: np.ndarray) -> tuple[float, float, float]:
    """A figure `(1 + draws,)` and its 95 % percentile interval: `value, low, high`."""
    low, high = np.percentile(draws[1:], [2.5, 97.5])
    return float(draws[0]), float(low), float(high)


def _ids(names: pd.Series, labels: list[str]) -> np.ndarray:
    """Class names as ids."""
    return names.map({label: index for index, label in enumerate(labels)}).to_numpy()


def _score(predictions: pd.DataFrame, labels: list[str]) -> dict[str, Any]:
    return compute_scores(
        _ids(predictions["predicted"], labels),
        _ids(predictions["label"], labels),
        probabilities=predictions[[PROBABILITY + label for label in labels]],
        num_classes=len(labels),
    )


def _intervals(predictions: pd.DataFrame, labels: list[str]) -> dict[str, list[float]]:
    """95 % intervals of the pooled figures: test clips drawn anew, each with its predictions under all seeds."""
    groups = [table.sort_values(["fold", "name"]) for _, table in predictions.groupby("seed", sort=False)]
    references = _ids(groups[0]["label"], labels)
    predicted = [_ids(table["predicted"], labels) for table in groups]
    rng = np.random.default_rng(0)
    draws: dict[str, list[float]] = {figure: [] for figure in FIGURES}
    for _ in range(RESAMPLES):
        clips = rng.integers(len(references), size=len(references))
        drawn = [compute_scores(seed[clips], references[clips], num_classes=len(labels)) for seed in predicted]
        for figure in FIGURES:
            draws[figure].append(float(np.mean([score[figure] for score in drawn])))
    return {figure: np.percentile(values, [2.5, 97.5]).tolist() for figure, values in draws.items()}


def write_scores(path: Path, scores: dict[str, Any], experiment: Experiment, **facts: Any) -> dict[str, Any]:
    """Write `scores.json`: what was run, and what came of it.

    Args:
        path: The file.
        scores: What `summarise` returned.
        experiment: What was run.
        **facts: What else the file says: `corpus`, `folds`, `seeds`, `seconds`, `config` (the model's).

    Returns:
        What was written.
    """
    config = facts.pop("config")
    record = {
        **facts,
        "select_on": experiment.select_on,
        "refit": experiment.select_on == "dev" and experiment.refit,
        "encoder": public_name(experiment.encoder),
        "from_scratch": experiment.from_scratch,
        "freeze_encoder": config.freeze_encoder,
        "encoder_layer": config.encoder_layer,
        "encoder_context": config.encoder_context,
        "mask_padding": config.mask_padding,
        "projector": experiment.projector,
        "pooling": config.pooling,
        "labels": experiment.labels,
        **scores,
    }
    write_whole(path, json.dumps(record, indent=2, allow_nan=False) + "\n")
    return record


def public_name(encoder: str) -> str:
    """An encoder's name without the path that it has on this machine."""
    return Path(encoder).resolve().name if Path(encoder).exists() else encoder
