"""Accuracy against coverage, when only the most probable labels are accepted: as a sentence and as a picture."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from whisper_emotion.fitting.cross_validation import PROBABILITY, UNADAPTED
from whisper_emotion.fitting.selection import SURE_RIGHT
from whisper_emotion.reporting.corpora import sure_figures, ways
from whisper_emotion.reporting.plots import STYLES, save_figure

THRESHOLDS = np.linspace(0, 0.98, 50)
FEWEST = 20  # the curve ends at fewer clips of a corpus


def describe_sure(scores: Mapping[str, Any]) -> str:
    """Return a sentence on the sure labels: their accuracy, and their share of all labels.

    Args:
        scores: The content of `scores.json`. With several corpora, the values are means over them.
    """
    words = []
    for way, parts in _ways(scores).items():
        right, coverage = sure_figures(list(parts.values()))
        found = "none" if right is None else f"{100 * right:.0f} % right, {100 * coverage:.0f} % of all labels"
        words.append(f"{way}: {found}")
    several = f", mean over {len(scores['corpora'])} corpora" if "corpora" in scores else ""
    return f"Labels called sure{several}: {'; '.join(words)}."


def coverage_curve(
    predictions: pd.DataFrame, groups: Sequence[Any], prefix: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Compute coverage and accuracy of the labels above increasing probabilities.

    Args:
        predictions: The table of `cross_validation.predict`.
        groups: Corpus of each row; the values are means over the corpora.
        prefix: `UNADAPTED` for predictions without adaptation, if the table has both.

    Returns:
        For each threshold the share of labels with at least this probability, and their accuracy. The curve ends when
        a corpus has fewer than `FEWEST` such labels.
    """
    columns = [name for name in predictions if str(name).startswith(prefix + PROBABILITY)]
    confidence = predictions[columns].max(axis=1).to_numpy()
    right = (predictions["label"] == predictions[f"{prefix}predicted"]).to_numpy()
    found = []
    for threshold in THRESHOLDS:
        counted = pd.DataFrame({"taken": confidence >= threshold, "right": right}).groupby(np.asarray(groups))
        shares = [(own["taken"].mean(), own["right"][own["taken"]].mean()) for _, own in counted]
        if any(own["taken"].sum() < FEWEST for _, own in counted):
            break
        found.append(np.mean(shares, axis=0))
    coverage, accuracy = np.array(found).reshape(-1, 2).T
    return coverage, accuracy


def plot_coverage(
    predictions: pd.DataFrame, groups: Sequence[Any], scores: Mapping[str, Any], path: str | PathLike[str]
) -> None:
    """Draw the accuracy against the share of accepted labels, the most probable ones first.

    Args:
        predictions: As in `coverage_curve`.
        groups: As in `coverage_curve`.
        scores: As in `describe_sure`. A marker shows the sure labels.
        path: The PNG file to write.
    """
    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for place, (way, parts) in enumerate(_ways(scores).items()):
        colour, marker, stroke = STYLES[place]
        prefix = UNADAPTED if place else ""
        axes.plot(*coverage_curve(predictions, groups, prefix), color=colour, linestyle=stroke, label=way)
        right, coverage = sure_figures(list(parts.values()))
        if right is not None:
            axes.plot(coverage, right, marker, color=colour, markersize=8, label=f"called sure, {way}")
    axes.axhline(SURE_RIGHT, color="0.6", linewidth=0.8)
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("share of the labels that are taken")
    axes.set_ylabel("share of these that is right")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(linewidth=0.4, color="0.85")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    save_figure(figure, path, describe_sure(scores))


def _ways(scores: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the scores of each corpus, or of all clips, with and without adaptation."""
    if "corpora" in scores:
        return dict(ways(scores))
    if "unadapted" in scores and any(map(any, scores.get("adapted", [[True]]))):  # held-out speakers may decline
        return {"adapted": {"": scores}, "each clip as it is": {"": scores["unadapted"]}}
    return {"each clip as it is": {"": scores}}
