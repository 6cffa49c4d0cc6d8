"""Emotion over time: a recording's waveform, its probabilities, and its segments, one above the other."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator, PercentFormatter

from whisper_emotion.audio import SAMPLING_RATE, stream_audio
from whisper_emotion.errors import printable
from whisper_emotion.reporting.plots import save_figure, text_colour
from whisper_emotion.windows import Prediction

# Okabe and Ito's colours, told apart by all kinds of colour vision; white borders and names tell them apart in grey
COLOURS = ("#0072B2", "#F0E442", "#D55E00", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#000000")
HATCHES = ("", "...", "xx", "++")  # of a ninth label, and so on
SILENCE_STYLE = ("#FFFFFF", "////")
COLUMNS = 240  # stretches of time that a picture shows apart at most: each some pixels wide
WAVE_COLUMNS = 1600  # of a waveform: a pixel each
WIDTH = 9.0  # inches
LEGEND_INCHES = 1.7  # of a label's key below the picture
CHARACTER_INCHES, LINE_INCHES = 0.078, 0.15  # of a segment's name


def plot_timeline(
    path: str | PathLike[str] | IO[bytes],
    settings: str,
    file: str,
    labels: Sequence[str],
    moments: Sequence[Prediction],
    segments: Sequence[Prediction],
    width: float = WIDTH,
    titled: bool = True,
) -> str:
    """Draw emotion over time. The title names the commonest labels.

    Args:
        path: The PNG file to write, or an open file.
        settings: Model and windows, drawn small below the title.
        file: The recording, whose waveform is drawn.
        labels: The model's labels.
        moments: Output of `average_windows`.
        segments: Output of `join_moments` on `moments`.
        width: Inches; letters keep their size.
        titled: Draw title and settings. False for a picture with a caption.

    Returns:
        The caption: title and settings.

    Raises:
        UserError: The recording cannot be read.
    """
    seconds = moments[-1].end
    figure = Figure(figsize=(width, 4.9), layout="constrained")
    wave, areas, strip = figure.subplots(3, 1, sharex=True, height_ratios=(1.1, 2.5, 0.85))
    draw_waveform(wave, stream_audio(file), 0, seconds)
    styles = _styles(labels)

    edges, shares = _columns(labels, moments)
    tops = np.cumsum(shares, axis=1)
    for share, top, style in zip(shares.T, tops.T, styles.values(), strict=True):
        below = top - share
        areas.fill_between(edges, np.append(below, below[-1]), np.append(top, top[-1]), step="post", **_fill(*style))
    for line in tops[:, :-1].T:  # white borders, which grey print needs
        areas.hlines(line, edges[:-1], edges[1:], color="white", linewidth=0.6)
    areas.set(ylim=(0, 1), ylabel="probability")
    areas.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))

    blocks: list[tuple[float, float, str | None]] = [(one.start, one.end, one.label) for one in segments]
    if len(moments) > COLUMNS:
        settings = f"{settings}. Drawn: means over {seconds / COLUMNS:.0f} s, and their labels"
        named = [None if row[-1] > 0.5 else labels[row[:-1].argmax()] for row in shares]
        blocks = _join_columns(edges, named)
    _draw_blocks(strip, blocks, styles, width * 0.85 / seconds)
    strip.set(ylim=(0, 1), yticks=[], ylabel="label")
    strip.set_xlim(0, seconds)
    set_time_axis(strip, seconds)
    for axes in (wave, areas, strip):
        axes.spines[["top", "right"]].set_visible(False)

    if all(moment.label is not None for moment in moments):
        del styles[None]
    names = [textwrap.shorten(label or "silence, not labelled", 24, placeholder="…") for label in styles]
    keys = [Patch(facecolor=colour, hatch=hatch, edgecolor="0.6") for colour, hatch in styles.values()]
    columns = min(len(keys), int(width / LEGEND_INCHES))
    figure.legend(keys, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    title = f"{printable(Path(file).name)}: {_name_commonest(segments)}"
    save_figure(figure, path, *((title, settings) if titled else ("",)))
    return f"{title}. {settings}"


def _name_commonest(segments: Sequence[Prediction]) -> str:
    """Name the commonest labels, with their shares of the time that is not silent."""
    seconds = Counter[str]()
    for segment in segments:
        if segment.label is not None:
            seconds[segment.label] += segment.end - segment.start
    if not seconds:
        return "silence"
    silent = any(segment.label is None for segment in segments)
    if len(seconds) == 1:
        return f"{next(iter(seconds))} throughout{', without the silence' if silent else ''}"
    first, *others = [f"{label} ({length / seconds.total():.0%})" for label, length in seconds.most_common(3)]
    return f"mostly {first}, then {', '.join(others)} of the time{' without silence' if silent else ''}"


def draw_waveform(axes: Axes, blocks: Iterable[np.ndarray], start: float, seconds: float) -> None:
    """Draw the lowest and the highest sample of each column of a picture, of audio of any length at 16 kHz.

    Args:
        axes: Where.
        blocks: `(samples,)` each, behind one another.
        start: The time of the first sample.
        seconds: How long the audio is.
    """
    width = max(1, -(-round(seconds * SAMPLING_RATE) // WAVE_COLUMNS))  # samples of a column
    low, high, waiting = [], [], np.zeros(0, np.float32)
    for block in blocks:
        waiting = np.concatenate([waiting, block])
        whole, waiting = np.split(waiting, [len(waiting) // width * width])
        low += whole.reshape(-1, width).min(axis=1).tolist()
        high += whole.reshape(-1, width).max(axis=1).tolist()
    if len(waiting):
        low, high = [*low, waiting.min()], [*high, waiting.max()]
    times = start + (np.arange(len(low)) + 0.5) * width / SAMPLING_RATE
    axes.fill_between(times, low, high, color="0.35", linewidth=0.3)
    loudest = max(1e-3, *np.abs(low), *np.abs(high))
    axes.set(ylim=(-1.05 * loudest, 1.05 * loudest), ylabel="amplitude")
    axes.yaxis.set_major_locator(MaxNLocator(3, symmetric=True))


def set_time_axis(axes: Axes, seconds: float) -> None:
    """Label a horizontal axis in seconds, minutes or hours, whichever suits the length."""
    if seconds < 120:
        axes.set_xlabel("time (s)")
        return
    steps = (15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 28_800)
    axes.xaxis.set_major_locator(MultipleLocator(next((step for step in steps if seconds / step <= 12), 86_400)))
    if seconds < 7200:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda time, _: f"{time // 60:.0f}:{time % 60:02.0f}"))
        axes.set_xlabel("time (min:s)")
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda time, _: f"{time // 3600:.0f}:{time % 3600 // 60:02.0f}"))
        axes.set_xlabel("time (h:min)")


def _styles(labels: Sequence[str]) -> dict[str | None, tuple[str, str]]:
    """Colour and hatching of each label, and of silence (None)."""
    styles: dict[str | None, tuple[str, str]] = {
        label: (COLOURS[place % len(COLOURS)], HATCHES[place // len(COLOURS) % len(HATCHES)])
        for place, label in enumerate(labels)
    }
    return {**styles, None: SILENCE_STYLE}


def _fill(colour: str, hatch: str) -> dict[str, Any]:
    return {"facecolor": colour, "hatch": hatch, "edgecolor": "0.6" if hatch else "none", "linewidth": 0}


def _columns(labels: Sequence[str], moments: Sequence[Prediction]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities as they are drawn: `(columns + 1,)` edges and `(columns, labels + silence)` shares of 1.

    Of a recording with more moments than columns, a column has their mean over its time.
    """
    edges = np.array([moments[0].start, *(moment.end for moment in moments)])
    shares = np.zeros((len(moments), len(labels) + 1))
    for row, one in zip(shares, moments, strict=True):
        row[:] = [*[0] * len(labels), 1] if one.probabilities is None else [*map(one.probabilities.get, labels), 0]
    if len(moments) <= COLUMNS:
        return edges, shares
    integral = np.concatenate([np.zeros((1, shares.shape[1])), np.cumsum(shares * np.diff(edges)[:, None], axis=0)])
    columns = np.linspace(edges[0], edges[-1], COLUMNS + 1)
    at_columns = np.stack([np.interp(columns, edges, line) for line in integral.T], axis=1)
    return columns, np.diff(at_columns, axis=0) / np.diff(columns)[:, None]


def _join_columns(edges: np.ndarray, names: Sequence[str | None]) -> list[tuple[float, float, str | None]]:
    """Neighbouring columns of the same label as one block: its start, its end, and the label."""
    runs = [list(run) for _, run in groupby(range(len(names)), key=names.__getitem__)]
    return [(float(edges[run[0]]), float(edges[run[-1] + 1]), names[run[0]]) for run in runs]


def _draw_blocks(
    axes: Axes,
    blocks: Sequence[tuple[float, float, str | None]],
    styles: Mapping[str | None, tuple[str, str]],
    inches: float,
) -> None:
    """Blocks of the labels' colours, with their names in them where there is room; `inches` a second."""
    for label, style in styles.items():
        spans = [(start, end - start) for start, end, own in blocks if own == label]
        axes.broken_barh(spans, (0, 1), **_fill(*style))
    for start, end, label in blocks:
        room = (end - start) * inches
        if room < LINE_INCHES:
            continue
        axes.vlines([start, end], 0, 1, color="white", linewidth=0.6)
        name = "silence" if label is None else textwrap.shorten(label, 12, placeholder="…")
        colour, _ = styles[label]
        axes.text(
            (start + end) / 2, 0.5, name, ha="center", va="center", fontsize=8, clip_on=True,
            rotation=0 if len(name) * CHARACTER_INCHES < room else 90, color=text_colour(to_rgb(colour)),
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.5},  # no hatching behind a name
        )  # fmt: skip
