"""Scores per corpus, as tables and pictures."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from whisper_emotion.corpora.records import CORPORA, corpus_record
from whisper_emotion.reporting.markdown import markdown_table
from whisper_emotion.reporting.plots import STYLES, save_figure, text_colour


def records_table() -> str:
    """Return the Markdown table of the corpora with records, for the guide on corpora."""
    rows = [
        [
            f"`{name}`",
            record.title if record.address is None else f"[{record.title}]({record.address})",
            record.language or "–",
            "–" if record.published is None else f"{record.published:,}",
            f"`{record.layout}`",
            ", ".join(f"`{folds}`" for folds in record.folds) or "–",
            record.license if record.license != "other" else "ask its owners",
        ]
        for name, record in CORPORA.items()
        if record.about and record.address
    ]
    return markdown_table(["`--corpus`", "corpus", "language", "clips", "layout", "published folds", "licence"], rows)


def ways(scores: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the scores per corpus with and without adaptation, by name.

    Args:
        scores: The content of `scores.json`, with `corpora`.
    """
    if "unadapted" not in scores:
        adapted = scores.get("adaptation", "none") != "none"
        return {"adapted" if adapted else "each clip as it is": scores["corpora"]}
    return {"adapted": scores["corpora"], "each clip as it is": scores["unadapted"]["corpora"]}


def corpus_table(scores: Mapping[str, Any]) -> str:
    """Return the scores of each corpus as a Markdown table in percent, with the means over the corpora last.

    Args:
        scores: As in `ways`.
    """
    header = ["corpus", "classes", "clips"]
    names, rows = list(scores["corpora"]), []
    has_sure = all("sure" in figures for way in ways(scores).values() for figures in way.values())
    for way in ways(scores):
        header += [f"UA, {way} (95 % interval)", "WA", "confidence", "ECE"] + ["right where sure (share)"] * has_sure
    for name in names:
        row = [
            _title(name),
            str(len(scores["corpora"][name]["classes"])),
            f"{scores['corpora'][name]['clips']:,}",
        ]
        for figures in (way[name] for way in ways(scores).values()):
            low, high = figures["interval"]
            row += [f"{_percent(figures['unweighted_accuracy'])} ({_percent(low)} to {_percent(high)})"]
            row += [_percent(figures[key]) for key in ("weighted_accuracy", "mean_confidence", "ece")]
            row += [_describe_sure([figures])] * has_sure
        rows.append(row)
    mean = ["**mean**", "", ""]
    for way in ways(scores).values():
        for key in ("unweighted_accuracy", "weighted_accuracy", "mean_confidence", "ece"):
            mean.append(f"**{_percent(float(np.mean([way[name][key] for name in names])))}**")
        mean += [f"**{_describe_sure(list(way.values()))}**"] * has_sure
    return markdown_table(header, [*rows, mean])


def sure_figures(corpora: Sequence[Mapping[str, Any]]) -> tuple[float | None, float]:
    """Return the sure labels' accuracy and share of all labels, as means over corpora.

    Args:
        corpora: Scores with `sure`. The accuracy ignores corpora without sure labels, and may be None.
    """
    found = [figures["sure"] for figures in corpora]
    right = [one["accuracy"] for one in found if one["accuracy"] is not None]
    return float(np.mean(right)) if right else None, float(np.mean([one["coverage"] for one in found]))


def _describe_sure(corpora: Sequence[Mapping[str, Any]]) -> str:
    right, coverage = sure_figures(corpora)
    return f"{'–' if right is None else _percent(right)} ({_percent(coverage)})"


def plot_corpora(scores: Mapping[str, Any], path: str | PathLike[str], title: str) -> None:
    """Draw the unweighted accuracy of each corpus with its interval, and the mean confidence.

    Args:
        scores: As in `ways`.
        path: The PNG file to write.
        title: Title of any length.
    """
    names = list(scores["corpora"])
    figure = Figure(figsize=(6.6, 0.55 * len(names) + 1.7), layout="constrained")
    axes = figure.add_subplot()
    for place, (way, corpora) in enumerate(ways(scores).items()):
        colour, marker, _ = STYLES[place]
        heights = np.arange(len(names)) + 0.22 * (place - (len(ways(scores)) - 1) / 2)
        values, bounds, confidence = (
            np.array([corpora[name][key] for name in names])
            for key in ("unweighted_accuracy", "interval", "mean_confidence")
        )
        errors = np.abs(bounds.T - values)
        axes.errorbar(
            values, heights, xerr=errors, fmt=marker, color=colour, capsize=2, markersize=5, label=f"UA, {way}"
        )
        axes.plot(confidence, heights, "|", color=colour, markersize=11, label=f"mean confidence, {way}")
    chance = [1 / len(scores["corpora"][name]["classes"]) for name in names]
    axes.plot(chance, np.arange(len(names)), "x", color="0.6", markersize=5, label="chance")
    axes.set_yticks(np.arange(len(names)), [_title(name) for name in names])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="x", linewidth=0.4, color="0.85")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    save_figure(figure, path, title)


def transfer_table(scores: Mapping[str, Any]) -> str:
    """Return the unweighted accuracy by training corpus (rows) and test corpus, in percent, with means.

    Args:
        scores: The content of `scores.json`, or its `unadapted`, with `transfer`.
    """
    values, trained, tested = _transfer(scores)
    rows = [
        [
            f"{trained[row]}",
            *("–" if np.isnan(one) else _percent(one) for one in own),
            f"**{_percent(np.nanmean(own))}**",
        ]
        for row, own in enumerate(values)
    ]
    means = ["**mean**", *(f"**{_percent(one)}**" for one in np.nanmean(values, axis=0)), _percent(np.nanmean(values))]
    return markdown_table(["trained on, tested on", *tested, "mean"], [*rows, means])


def plot_transfer(scores: Mapping[str, Any], path: str | PathLike[str], title: str) -> None:
    """Draw the transfer matrix as a heat map.

    Args:
        scores: As in `transfer_table`.
        path: The PNG file to write.
        title: Title of any length.
    """
    values, trained, tested = _transfer(scores)
    figure = Figure(figsize=(0.85 * len(tested) + 2.2, 0.6 * len(trained) + 1.8), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(np.ma.masked_invalid(values), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(~np.isnan(values)):
        shade = text_colour(image.to_rgba(values[row, column]))
        axes.text(column, row, f"{values[row, column]:.0%}", ha="center", va="center", fontsize=9, color=shade)
    axes.set_xticks(range(len(tested)), tested, rotation=30, ha="right")
    axes.set_yticks(range(len(trained)), trained)
    axes.set_xlabel("tested on")
    axes.set_ylabel("trained on")
    figure.colorbar(image, format=PercentFormatter(1, decimals=0), label="unweighted accuracy")
    save_figure(figure, path, title)


def _transfer(scores: Mapping[str, Any]) -> tuple[np.ndarray, list[str], list[str]]:
    """Return the transfer matrix, NaN for untested pairs, and the titles of its rows and columns."""
    transfer = scores["transfer"]
    tested = list(dict.fromkeys([*transfer, *(test for own in transfer.values() for test in own)]))
    values = np.array([[own.get(test, np.nan) for test in tested] for own in transfer.values()])
    return values, [_title(name) for name in transfer], [_title(name) for name in tested]


def _title(name: str) -> str:
    """Return the display name of a corpus in `scores.json`."""
    record = corpus_record(name)
    return name if record.reader in ("folder", "table", "hub") else record.title


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"
