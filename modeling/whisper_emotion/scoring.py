"""Score predictions per fold and pooled, with bootstrap intervals and paired differences between systems."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from whisper_emotion.corpora import utterance_names
from whisper_emotion.corpora.splits import Fold, speakers_shared
from whisper_emotion.errors import UserError, reading
from whisper_emotion.fitting.cross_validation import UNADAPTED, probability_columns, read_predictions
from whisper_emotion.fitting.experiment import Experiment
from whisper_emotion.metrics import compute_scores

FIGURES = ("weighted_accuracy", "unweighted_accuracy", "macro_f1")
CALIBRATION = ("ece", "mean_confidence")
RESAMPLES = 2000
RESAMPLED_VALUES = 2**22  # counts in memory at a time: 32 MiB


def summarise(predictions: pd.DataFrame, experiment: Experiment, folds: list[Fold]) -> dict[str, Any]:
    """Score predictions fold by fold and pooled.

    Args:
        predictions: The table that `cross_validation.predict` returns, of all folds and seeds.
        experiment: The experiment that made them.
        folds: Its test folds.

    Returns:
        The entries of `scores.json` that depend on predictions.

        - `weighted_accuracy`, `unweighted_accuracy`, `macro_f1`: each `{mean, std, folds}`, fractions. `mean` and the
          population deviation `std` are over folds, averaged over seeds. `folds` has one list per seed.
        - `pooled`: the same three scores of all folds' clips together, mean over seeds.
        - `interval`: 95 % percentile bootstrap of the pooled scores, `[low, high]` each (see `bootstrap`).
        - `confusion_matrix`: counts, rows are references, summed over folds and seeds.
        - `ece`, `mean_confidence`: calibration error and mean of the largest probability, pooled, mean over seeds.
        - `speakers_shared`: for each fold, the number of its test speakers that are also in its training clips.
        - `temperature`, `adapted`: the choices on held-out speakers, one list per seed. Only if dev chose.
        - `ece_unscaled`: `ece` without the temperature. Only with temperature scaling.
        - `sure`: `accuracy` of the sure labels (None without any) and `coverage`, their share of all labels, pooled.
          Only if clips were held out.
        - `corpora`: scores of each tested corpus: `unweighted_accuracy`, its 95 % `interval`, `weighted_accuracy`,
          `macro_f1`, `ece`, `mean_confidence`, `sure`, `classes`, `clips`. Only with several corpora.
        - `transfer`: unweighted accuracy by training and test corpus. Only if every fold trains on one corpus and
          tests on another.
        - `unadapted`: scores of the same models without adaptation. Only if both are known.
    """
    labels, numbers = experiment.labels, [fold.number for fold in folds]
    corpus_of = None
    if len(experiment.corpora) > 1:
        corpus_of = pd.Series(experiment.corpus_of, index=utterance_names(experiment.corpus))
    scores = score_table(predictions, labels, numbers, corpus_of)
    if "temperature" in predictions:
        scores["ece_unscaled"] = _mean(_score_seeds(_unscale(predictions, labels), labels), "ece")
    if UNADAPTED + "predicted" in predictions:
        unadapted = predictions.filter(regex=f"^{UNADAPTED}").rename(columns=lambda name: name.removeprefix(UNADAPTED))
        scores["unadapted"] = score_table(predictions.assign(**unadapted), labels, numbers, corpus_of)
    if corpus_of is not None:
        pairs = [(set(experiment.corpus_of[fold.train]), set(experiment.corpus_of[fold.test])) for fold in folds]
        if all(len(train) == len(test) == 1 and train != test for train, test in pairs):
            for one in [scores, *([scores["unadapted"]] if "unadapted" in scores else [])]:
                one |= _transfer(one, pairs)
    for choice in predictions.columns.intersection(["temperature", "adapted"]):
        cells = predictions.drop_duplicates(["seed", "fold"]).pivot(index="seed", columns="fold", values=choice)
        scores[choice] = cells.loc[predictions["seed"].unique(), numbers].to_numpy().tolist()
    scores["speakers_shared"] = [speakers_shared(experiment.corpus, fold) for fold in folds]
    return scores


def bootstrap(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
    """Resample the pooled scores of several systems on the same test clips.

    Clips and seeds are resampled with replacement. All systems get the same resamples, in every call with as many
    clips and seeds, so differences of systems are paired. Speakers are not resampled: intervals cover the choice of
    clips and the randomness of training, not other speakers. Memory does not grow with the number of resamples.

    Args:
        predicted: Class ids `(systems, seeds, clips)`.
        labels: Class ids `(clips,)`.
        num_classes: Number of classes.

    Returns:
        For each of `FIGURES` fractions `(1 + RESAMPLES, systems)`: the mean over seeds, then one row per resample.
    """
    seeds, clips = predicted.shape[1:]
    cells = _confusion_cells(predicted, labels, num_classes)
    shape = (-1, *predicted.shape[:2], num_classes, num_classes)
    rng = np.random.default_rng(0)
    at_a_time = max(1, RESAMPLED_VALUES // max(cells.shape))
    drawn = [_figures((np.ones((1, clips), np.int64) @ cells).reshape(shape))]
    for start in range(0, RESAMPLES, at_a_time):
        counts = rng.multinomial(clips, np.full(clips, 1 / clips), size=min(at_a_time, RESAMPLES - start))
        drawn.append(_figures((counts @ cells).reshape(shape)))
    shares = np.vstack([np.ones(seeds), rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES)]) / seeds
    return {
        name: np.einsum("dys,ds->dy", np.concatenate([figures[name] for figures in drawn]), shares) for name in FIGURES
    }


def _confusion_cells(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> sparse.csr_array:
    """Indicators `(clips, systems * seeds * classes²)` of each clip's cell in each confusion matrix."""
    systems, seeds, clips = predicted.shape
    runs = systems * seeds
    places = labels * num_classes + predicted.reshape(runs, clips) + num_classes**2 * np.arange(runs)[:, None]
    data, starts = np.ones(places.size, np.int64), np.arange(clips + 1) * runs
    return sparse.csr_array((data, places.T.ravel(), starts), shape=(clips, runs * num_classes**2))


def _figures(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """`FIGURES` of confusion matrices `(…, labels, labels)`, equal to `compute_scores`."""
    hits, support, answers = confusion.diagonal(axis1=-2, axis2=-1), confusion.sum(axis=-1), confusion.sum(axis=-2)
    recall = np.where(support > 0, hits / np.maximum(support, 1), np.nan)  # a resample may lack a class
    f1 = np.where(support + answers > 0, 2 * hits / np.maximum(support + answers, 1), np.nan)
    return {
        "weighted_accuracy": hits.sum(axis=-1) / support.sum(axis=-1),
        "unweighted_accuracy": np.nanmean(recall, axis=-1),
        "macro_f1": np.nanmean(f1, axis=-1),
    }


def interval(draws: np.ndarray) -> tuple[float, float, float]:
    """Return `value, low, high`: the first of `(1 + resamples,)` values and the 95 % percentile interval."""
    low, high = np.percentile(draws[1:], [2.5, 97.5])
    return float(draws[0]), float(low), float(high)


def read_compared(folder: Path, clips: pd.DataFrame, seeds: list[int], labels: list[str]) -> pd.DataFrame:
    """Read the predictions of another cross-validation of the same test clips with the same seeds.

    Args:
        folder: The other cross-validation's folder.
        clips: `name, label` of this run's test clips.
        seeds: This run's seeds.
        labels: Names of all classes.

    Raises:
        UserError: The folder holds no predictions, damaged ones, or predictions of other clips, labels or seeds.
    """
    path = folder / "predictions.csv"
    if not path.exists():
        raise UserError(f"--compare_with {folder}: holds no predictions.csv, expected a finished cross-validation")
    with reading(path, "a file of cross_validate.py"):
        predictions = read_predictions(path)
        predictions[["name", "label", "predicted", "seed"]]  # raises a KeyError that names missing columns
    if set(predictions["seed"]) != set(seeds):
        raise UserError(f"--compare_with {folder}: has other seeds than this run")
    mine = clips[["name", "label"]].sort_values("name").to_numpy().tolist()
    for _, table in predictions.groupby("seed"):
        if table[["name", "label"]].sort_values("name").to_numpy().tolist() != mine:
            raise UserError(f"--compare_with {folder}: has other test clips than this run, or other labels")
    if not set(predictions["predicted"]) <= set(labels):
        raise UserError(f"--compare_with {folder}: has classes that this run lacks")
    return predictions


def compare(predictions: pd.DataFrame, other: pd.DataFrame, labels: list[str]) -> dict[str, list[float]]:
    """Subtract the pooled scores of other predictions for the same clips and seeds.

    Returns:
        For each of `FIGURES` the difference and its paired 95 % interval, `[value, low, high]`.
    """
    tables = [table.sort_values(["seed", "name"]) for table in (predictions, other)]
    draws = _bootstrap_tables(tables, labels)
    return {name: list(interval(drawn[:, 0] - drawn[:, 1])) for name, drawn in draws.items()}


def _bootstrap_tables(tables: list[pd.DataFrame], labels: list[str]) -> dict[str, np.ndarray]:
    """Resample the pooled scores of tables whose clips are in the same order for each seed."""
    seeds = tables[0]["seed"].nunique()
    predicted = np.stack([_ids(table["predicted"], labels).reshape(seeds, -1) for table in tables])
    return bootstrap(predicted, _ids(tables[0]["label"], labels)[: predicted.shape[2]], len(labels))


def score_table(
    predictions: pd.DataFrame, labels: list[str], folds: list[int], corpus_of: pd.Series | None = None
) -> dict[str, Any]:
    """Score a table of predictions: per fold, pooled, and per corpus."""
    tables = [table.sort_values(["fold", "name"]) for _, table in predictions.groupby("seed", sort=False)]
    by_fold = [[_score(table[table["fold"] == fold], labels) for fold in folds] for table in tables]
    scores: dict[str, Any] = {}
    for name in FIGURES:
        values = np.array([[cell[name] for cell in row] for row in by_fold])
        deviation = float(values.std(axis=1).mean())
        scores[name] = {"mean": float(values.mean()), "std": deviation, "folds": values.tolist()}
    by_seed = _score_seeds(predictions, labels)
    draws = _bootstrap_tables([pd.concat(tables)], labels)
    if corpus_of is not None:
        tested = predictions["name"].map(corpus_of)
        scores["corpora"] = {
            name: _score_corpus(predictions[tested == name], labels) for name in dict.fromkeys(tested)
        }
    return scores | {
        "pooled": {name: _mean(by_seed, name) for name in FIGURES},
        "interval": {name: list(interval(drawn[:, 0])[1:]) for name, drawn in draws.items()},
        "confusion_matrix": np.sum([score["confusion_matrix"] for score in by_seed], axis=0).tolist(),
        **{name: _mean(by_seed, name) for name in CALIBRATION},
        **_score_sure(predictions),
    }


def _transfer(scores: dict[str, Any], pairs: list[tuple[set[str], set[str]]]) -> dict[str, Any]:
    """Arrange the folds' unweighted accuracies, means over seeds, by training and test corpus."""
    transfer: dict[str, dict[str, float]] = {}
    for (train, test), value in zip(pairs, np.mean(scores["unweighted_accuracy"]["folds"], axis=0), strict=True):
        transfer.setdefault(next(iter(train)), {})[next(iter(test))] = float(value)
    return {"transfer": transfer}


def _score_corpus(predictions: pd.DataFrame, labels: list[str]) -> dict[str, Any]:
    """Score the clips of one corpus together, over the corpus's classes."""
    by_seed = _score_seeds(predictions, labels)
    draws = _bootstrap_tables([predictions.sort_values(["seed", "name"])], labels)
    return {
        **{name: _mean(by_seed, name) for name in (*FIGURES, *CALIBRATION)},
        "interval": list(interval(draws["unweighted_accuracy"][:, 0])[1:]),
        "clips": predictions["name"].nunique(),
        "classes": [label for label in labels if label in set(predictions["label"])],
        **_score_sure(predictions),
    }


def _score_sure(predictions: pd.DataFrame) -> dict[str, Any]:
    """Compute accuracy and coverage of the sure labels."""
    if "sure" not in predictions:
        return {}
    right = (predictions["label"] == predictions["predicted"])[predictions["sure"]]
    accuracy = float(right.mean()) if len(right) else None
    return {"sure": {"accuracy": accuracy, "coverage": len(right) / len(predictions)}}


def _score_seeds(predictions: pd.DataFrame, labels: list[str]) -> list[dict[str, Any]]:
    """Score all folds' clips together, for each seed."""
    return [_score(table, labels) for _, table in predictions.groupby("seed", sort=False)]


def _score(predictions: pd.DataFrame, labels: list[str]) -> dict[str, Any]:
    return compute_scores(
        _ids(predictions["predicted"], labels),
        _ids(predictions["label"], labels),
        probabilities=predictions[probability_columns(labels)],
        num_classes=len(labels),
    )


def _mean(scores: list[dict[str, Any]], name: str) -> float:
    return float(np.mean([score[name] for score in scores]))


def _ids(names: pd.Series, labels: list[str]) -> np.ndarray:
    """Convert class names to ids."""
    return names.map({label: index for index, label in enumerate(labels)}).to_numpy()


def _unscale(predictions: pd.DataFrame, labels: list[str]) -> pd.DataFrame:
    """Compute the probabilities without the temperature."""
    columns = probability_columns(labels)
    powers = predictions[columns].to_numpy() ** predictions[["temperature"]].to_numpy()
    unscaled = predictions.copy()
    unscaled[columns] = powers / powers.sum(axis=1, keepdims=True)
    return unscaled
