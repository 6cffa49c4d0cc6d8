"""What is made of predictions: scores, their intervals, differences between systems, and `scores.json`."""

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from whisper_emotion.configuration_whisper_emotion import WhisperEmotionConfig
from whisper_emotion.corpora.splits import Fold, speakers_shared
from whisper_emotion.errors import UserError, reading
from whisper_emotion.metrics import compute_scores
from whisper_emotion.protocol import UNADAPTED, Experiment, probability_columns, read_predictions
from whisper_emotion.run_folder import write_whole

FIGURES = ("weighted_accuracy", "unweighted_accuracy", "macro_f1")
SUMMARY = (*FIGURES, "pooled", "interval", "confusion_matrix", "ece", "speakers_shared")  # what a card needs
RESAMPLES = 2000


def summarise(predictions: pd.DataFrame, experiment: Experiment, folds: list[Fold]) -> dict[str, Any]:
    """Score predictions fold by fold and pooled.

    Returns:
        The part of `scores.json` that follows from the predictions: each of `weighted_accuracy`,
        `unweighted_accuracy` and `macro_f1` as `{mean, std, folds}` (fractions; mean and population deviation over
        folds, then their means over seeds; `folds` has a list a seed), `pooled` (all folds' clips together, mean over
        seeds), `interval` (95 % percentile bootstrap of the pooled figures, see `bootstrap`), `confusion_matrix`
        (rows are references; summed over folds and seeds), `ece` (pooled, mean over seeds) and `speakers_shared`
        (a fold). Where dev chose them, `temperature` and `adapted` (whether to the speaker) as a list a seed, and
        `ece_unscaled`, which the probabilities would have without the temperature. Where speakers could be adapted to,
        `unadapted`: `pooled`, `interval` and `ece` of the same models without it.
    """
    seeds = list(dict.fromkeys(predictions["seed"]))
    by_fold = [
        [_score(predictions[(predictions["seed"] == seed) & (predictions["fold"] == fold.number)], experiment.labels)
         for fold in folds]
        for seed in seeds
    ]  # fmt: skip
    scores: dict[str, Any] = {}
    for figure in FIGURES:
        values = np.array([[cell[figure] for cell in row] for row in by_fold])
        scores[figure] = {
            "mean": float(values.mean()),
            "std": float(values.std(axis=1).mean()),
            "folds": values.tolist(),
        }
    scores |= _pool(predictions, experiment.labels)
    if "temperature" in predictions:
        unscaled = _unscale(predictions, experiment.labels)
        scores["ece_unscaled"] = float(np.mean([score["ece"] for score in _score_seeds(unscaled, experiment.labels)]))
    if UNADAPTED + "predicted" in predictions:
        alone = predictions[[column for column in predictions if column.startswith(UNADAPTED)]]
        pooled = _pool(
            predictions.assign(**alone.rename(columns=lambda name: name.removeprefix(UNADAPTED))), experiment.labels
        )
        scores["unadapted"] = {name: pooled[name] for name in ("pooled", "interval", "ece")}
    for choice in ("temperature", "adapted"):  # what dev chose, a seed and fold
        if choice in predictions:
            cells = predictions.drop_duplicates(["seed", "fold"]).pivot(index="seed", columns="fold", values=choice)
            scores[choice] = cells.loc[seeds, [fold.number for fold in folds]].to_numpy().tolist()
    scores["speakers_shared"] = [speakers_shared(experiment.corpus, fold) for fold in folds]
    return scores


def _pool(predictions: pd.DataFrame, labels: list[str]) -> dict[str, Any]:
    """What `summarise` says of all folds' clips together."""
    by_seed = _score_seeds(predictions, labels)
    return {
        "pooled": {figure: float(np.mean([score[figure] for score in by_seed])) for figure in FIGURES},
        "interval": _intervals(predictions, labels),
        "confusion_matrix": np.sum([score["confusion_matrix"] for score in by_seed], axis=0).tolist(),
        "ece": float(np.mean([score["ece"] for score in by_seed])),
    }


def bootstrap(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
    """Pooled figures of several systems on the same test clips, and on clips and seeds drawn anew.

    Clips are drawn with replacement, and so are the seeds where there are several, the same ones for all systems:
    the difference of two is a paired one. Speakers are not drawn: the intervals say how far these clips and these
    trainings matter, not how far these people do.

    Args:
        predicted: Class ids `(systems, seeds, clips)`.
        labels: Class ids `(clips,)`.
        num_classes: Number of classes.

    Returns:
        For each of `FIGURES` fractions `(1 + RESAMPLES, systems)`: the mean over the seeds first, then one a draw.
    """
    systems, seeds, clips = predicted.shape
    rng = np.random.default_rng(0)
    counts = np.vstack([np.ones(clips), rng.multinomial(clips, np.full(clips, 1 / clips), size=RESAMPLES)])
    shares = np.vstack([np.ones(seeds), rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES)]) / seeds
    figures = {name: np.zeros((1 + RESAMPLES, systems)) for name in FIGURES}
    for system, seed in np.ndindex(systems, seeds):
        # Which cell of the confusion matrix each clip is in; a draw's matrix is the sum of its clips' cells.
        cells = np.eye(num_classes**2)[labels * num_classes + predicted[system, seed]]
        confusion = (counts @ cells).reshape(-1, num_classes, num_classes)
        for name, values in _figures(confusion).items():
            figures[name][:, system] += shares[:, seed] * values
    return figures


def _figures(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """`FIGURES` of confusion matrices `(draws, labels, labels)`, as `compute_scores` has them."""
    hits, support, answers = confusion.diagonal(axis1=1, axis2=2), confusion.sum(axis=2), confusion.sum(axis=1)
    recall = np.where(support > 0, hits / np.maximum(support, 1), np.nan)  # a draw may miss a class
    f1 = np.where(support + answers > 0, 2 * hits / np.maximum(support + answers, 1), np.nan)
    return {
        "weighted_accuracy": hits.sum(axis=1) / support.sum(axis=1),
        "unweighted_accuracy": np.nanmean(recall, axis=1),
        "macro_f1": np.nanmean(f1, axis=1),
    }


def interval(draws: np.ndarray) -> tuple[float, float, float]:
    """A figure `(1 + draws,)` and its 95 % percentile interval: `value, low, high`."""
    low, high = np.percentile(draws[1:], [2.5, 97.5])
    return float(draws[0]), float(low), float(high)


def read_compared(folder: Path, clips: pd.DataFrame, seeds: list[int], labels: list[str]) -> pd.DataFrame:
    """The predictions of another cross-validation, if it is one of these test clips with these seeds.

    Args:
        folder: The other one's.
        clips: `name, label` of the test clips.
        seeds: The seeds.
        labels: Names of all classes.

    Raises:
        UserError: The folder has no predictions, damaged ones, or those of other clips, labels or seeds.
    """
    path = folder / "predictions.csv"
    if not path.exists():
        raise UserError(f"--compare_with {folder}: holds no predictions.csv, expected a finished cross-validation")
    with reading(path, "what cross_validate.py wrote"):
        predictions = read_predictions(path)
        predictions[["name", "label", "predicted", "seed"]]  # a KeyError names those that are not there
    if set(predictions["seed"]) != set(seeds):
        raise UserError(f"--compare_with {folder}: has other seeds than this run")
    mine = clips[["name", "label"]].sort_values("name").to_numpy().tolist()
    for _, table in predictions.groupby("seed"):
        if table[["name", "label"]].sort_values("name").to_numpy().tolist() != mine:
            raise UserError(f"--compare_with {folder}: has other test clips than this run, or other labels")
    if not set(predictions["predicted"]) <= set(labels):
        raise UserError(f"--compare_with {folder}: has classes that this run has not")
    return predictions


def compare(predictions: pd.DataFrame, other: pd.DataFrame, labels: list[str]) -> dict[str, list[float]]:
    """How much better predictions are than others of the same clips with the same seeds.

    Returns:
        For each of `FIGURES` the difference of the pooled figures and its paired 95 % interval, `[value, low, high]`.
    """
    both = [table.sort_values(["seed", "name"]) for table in (predictions, other)]
    seeds = predictions["seed"].nunique()
    predicted = np.stack([_ids(table["predicted"], labels).reshape(seeds, -1) for table in both])
    figures = bootstrap(predicted, _ids(both[0]["label"], labels)[: predicted.shape[2]], len(labels))
    return {name: list(interval(draws[:, 0] - draws[:, 1])) for name, draws in figures.items()}


def _ids(names: pd.Series, labels: list[str]) -> np.ndarray:
    """Class names as ids."""
    return names.map({label: index for index, label in enumerate(labels)}).to_numpy()


def _score(predictions: pd.DataFrame, labels: list[str]) -> dict[str, Any]:
    return compute_scores(
        _ids(predictions["predicted"], labels),
        _ids(predictions["label"], labels),
        probabilities=predictions[probability_columns(labels)],
        num_classes=len(labels),
    )


def _score_seeds(predictions: pd.DataFrame, labels: list[str]) -> list[dict[str, Any]]:
    """Scores of all folds' clips together, a seed."""
    return [_score(table, labels) for _, table in predictions.groupby("seed", sort=False)]


def _unscale(predictions: pd.DataFrame, labels: list[str]) -> pd.DataFrame:
    """Predictions with the probabilities that logits have before they are divided by the temperature."""
    columns = probability_columns(labels)
    powers = predictions[columns].to_numpy() ** predictions[["temperature"]].to_numpy()
    unscaled = predictions.copy()
    unscaled[columns] = powers / powers.sum(axis=1, keepdims=True)
    return unscaled


def _intervals(predictions: pd.DataFrame, labels: list[str]) -> dict[str, list[float]]:
    """95 % intervals of the pooled figures."""
    groups = [table.sort_values(["fold", "name"]) for _, table in predictions.groupby("seed", sort=False)]
    predicted = np.stack([_ids(table["predicted"], labels) for table in groups])
    figures = bootstrap(predicted[None], _ids(groups[0]["label"], labels), len(labels))
    return {name: list(interval(draws[:, 0])[1:]) for name, draws in figures.items()}


def write_scores(path: Path, scores: dict[str, Any], experiment: Experiment, **facts: Any) -> dict[str, Any]:
    """Write `scores.json`: what was run, and what came of it.

    Args:
        path: The file.
        scores: What `summarise` returned.
        experiment: What was run.
        **facts: What else the file says: `corpus`, `folds`, `seeds`, `seconds`; and `config`, the model's.

    Returns:
        What was written.
    """
    config = facts.pop("config")
    record = {**facts, **describe_recipe(experiment, config), **scores}
    write_whole(path, json.dumps(record, indent=2, allow_nan=False) + "\n")
    return record


def describe_recipe(experiment: Experiment, config: WhisperEmotionConfig) -> dict[str, Any]:
    """What `scores.json` says of how models were made, but for the corpus and the hyper-parameters."""
    return {
        "select_on": experiment.select_on,
        "refit": experiment.select_on == "dev" and experiment.refit,
        "encoder": public_name(experiment.encoder),
        "from_scratch": experiment.from_scratch,
        "freeze_encoder": config.freeze_encoder,
        "encoder_layer": config.encoder_layer,
        "concatenated_layers": config.concatenated_layers,
        "encoder_dtype": experiment.encoder_dtype,
        "speaker_adaptation": experiment.speaker_adaptation,
        "temperature_scaling": experiment.temperature_scaling,
        **config.context,
        "mask_padding": config.mask_padding,
        "projector": experiment.projector,
        "pooling": config.pooling,
        "labels": experiment.labels,
    }


def read_cross_validation(folder: Path, corpus: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What `cross_validate.py` found of a recipe.

    Args:
        folder: Its output.
        corpus: The corpus's name.
        recipe: What `describe_recipe` says of the models that it should be about.

    Raises:
        UserError: The folder has no scores, damaged ones, or those of another recipe; the message names what differs.
    """
    option, path = f"--cross_validation {folder}", folder / "scores.json"
    for needed in (path, folder / "confusion_matrix.png"):  # the card shows both, hours from now
        if not needed.exists():
            raise UserError(f"{option}: holds no {needed.name}, expected a finished cross-validation")
    with reading(path, "what cross_validate.py wrote"):
        scores = dict(json.loads(path.read_text(encoding="utf-8")))
        found = {name: (scores[name], value) for name, value in {"corpus": corpus, **recipe}.items()}
        adapted = any(map(any, scores.get("adapted", [])))
        for name in ("folds", "seeds", *SUMMARY, *(["unadapted"] if adapted else [])):
            scores[name]  # a KeyError names what another version did not write
    if "test_fold" in scores:
        raise UserError(f"{option}: is the folder of a model, expected a finished cross-validation")
    for name, (theirs, ours) in found.items():
        if theirs != ours:
            raise UserError(f"{option}: was made with {name}={theirs}, not {ours}: its figures are of other models")
    return scores


def describe_machine(device: str = "cpu") -> str:
    """The machine that figures were measured on, with its accelerator where one of that type did the work."""
    parts = [platform.processor() or platform.machine(), f"{os.cpu_count()} cores"]
    if device != "cpu":
        name = getattr(torch.get_device_module(device), "get_device_name", None)  # Apple's has none
        parts.append(device if name is None else name())
    return ", ".join([*parts, f"torch {torch.__version__}"])


def public_name(encoder: str) -> str:
    """An encoder's name without the path that it has on this machine."""
    return Path(encoder).resolve().name if Path(encoder).exists() else encoder
