"""Pictures of results, drawn without pyplot, so that no display is needed and threads are safe."""

import textwrap
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import NullFormatter, PercentFormatter, ScalarFormatter
from numpy.typing import ArrayLike

from whisper_emotion.run_folder import whole

CELL_INCHES = 0.62  # room for a five-digit count in bold
DOTS_PER_INCH = 160
TITLE_CHARACTERS_PER_INCH = 12.5  # at 10 points


def plot_confusion_matrix(matrix: ArrayLike, labels: Sequence[str], path: str | PathLike[str], title: str) -> None:
    """Draw a confusion matrix: shade and percent show the share of the row, with the count below.

    Args:
        matrix: Counts, `(classes, classes)`; rows are true classes, columns predicted classes.
        labels: Name of each class, in the matrix's order.
        path: The PNG file to write.
        title: Title of any length, wrapped to the picture's width.

    Raises:
        ValueError: The matrix is not square, does not fit the labels, or holds a negative or non-finite count.
    """
    counts = np.asarray(matrix, dtype=np.float64)
    classes = len(labels)
    if counts.shape != (classes, classes):
        raise ValueError(f"a confusion matrix of {classes} labels must be square, found the shape {counts.shape}")
    if not (np.isfinite(counts) & (counts >= 0)).all():
        raise ValueError("a confusion matrix holds counts: finite and not negative")
    clips = counts.sum(axis=1)
    shares = counts / np.maximum(clips, 1)[:, None]

    side = max(classes * CELL_INCHES, 2.6)
    figure = Figure(figsize=(side + 2.3, side + 1.6), layout="constrained")
    axes = figure.add_subplot()
    # One hue from light to dark is readable in greyscale and with any colour blindness
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    colours = image.to_rgba(shares)
    for row, column in np.ndindex(counts.shape):
        axes.text(
            column,
            row,
            _cell_text(float(counts[row, column]), float(shares[row, column])),
            ha="center",
            va="center",
            fontsize=9,
            fontweight="bold" if row == column else "normal",
            color=text_colour(colours[row, column]),
        )

    names = [textwrap.shorten(str(label), 24, placeholder="…") for label in labels]
    crowded = max(len(name) for name in names) * 0.085 > CELL_INCHES
    slant = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axes.set_xticks(range(classes), names, **slant)
    axes.set_yticks(range(classes), [f"{name}\n({total:,.0f})" for name, total in zip(names, clips, strict=True)])
    axes.set_xticks(np.arange(classes - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(classes - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("predicted emotion")
    axes.set_ylabel("true emotion (clips)")
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, format=PercentFormatter(1))
    bar.set_label("share of the true emotion's clips")
    save_figure(figure, path, title)


class Curve(NamedTuple):
    """One line of `plot_curves`.

    Args:
        name: Name in the legend.
        places: Horizontal positions of the points.
        values: One fraction per point.
        low: Lower ends of the intervals.
        high: Upper ends of the intervals.
        notes: Annotations at the ends of the intervals, if any.
        style: Index in `STYLES`, to be the same in several pictures; default: place in the panel.
    """

    name: str
    places: Sequence[float]
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    notes: Sequence[str] = ()
    style: int | None = None


# Okabe and Ito's colours are distinct with any colour vision; markers and strokes are distinct in greyscale
STYLES = (
    ("#0072B2", "o", "-"),
    ("#D55E00", "s", "--"),
    ("#009E73", "^", "-."),
    ("#000000", "D", ":"),
    ("#CC79A7", "v", (0, (5, 1, 1, 1, 1, 1))),
    ("#E69F00", "P", (0, (1, 1))),
)


def plot_curves(
    panels: Mapping[str, Sequence[Curve]], path: str | PathLike[str], title: str, axis: str = "encoder layer"
) -> None:
    """Draw panels of curves against encoder layers or another quantity, with intervals as error bars.

    Args:
        panels: Curves by the panel's heading, with the same names in all panels. Styles repeat after six curves.
        path: The PNG file to write.
        title: Title of any length, wrapped to the picture's width.
        axis: Label of the horizontal axis, which is logarithmic except for layers.
    """
    layers = axis == "encoder layer"
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns + 0.4, 3.5 * rows + 0.9), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    names: dict[str, Any] = {}
    for axes, (heading, curves) in zip(grid, panels.items(), strict=True):
        for place, curve in enumerate(curves):
            colour, marker, stroke = STYLES[(place if curve.style is None else curve.style) % len(STYLES)]
            # Shift curves at the same layer, so that error bars do not overlap
            across = np.asarray(curve.places, dtype=float)
            if layers:
                across += 0.07 * (place - (len(curves) - 1) / 2)
            values = np.asarray(curve.values)
            names[curve.name] = axes.errorbar(
                across,
                values,
                yerr=[values - np.asarray(curve.low), np.asarray(curve.high) - values],
                color=colour,
                marker=marker,
                linestyle=stroke,
                markersize=5,
                linewidth=1.4,
                elinewidth=0.9,
                capsize=2,
                label=curve.name,
            )
            # Vertical notes, alternately above and below the intervals, do not overlap
            ends, offset, side = (curve.high, 4, "bottom") if place % 2 else (curve.low, -4, "top")
            for x, y, note in zip(across, ends, curve.notes, strict=False):
                axes.annotate(
                    note, (x, y), xytext=(0, offset), textcoords="offset points", fontsize=6, color=colour,
                    rotation=90, ha="center", va=side,
                )  # fmt: skip
        if any(curve.notes for curve in curves):
            axes.margins(y=0.25)
        axes.set_title(heading, fontsize=10)
        axes.set_xlabel(axis)
        if layers:
            there = sorted({place for curve in curves for place in curve.places})
            axes.set_xticks(there)
            axes.set_xlim(there[0] - 0.5, there[-1] + 0.5)
        else:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.set_tick_params(labelleft=True)
        axes.grid(axis="y", linewidth=0.4, color="0.85")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        names.values(), names.keys(), loc="outside lower center", ncols=len(names), frameon=False, fontsize=9
    )
    save_figure(figure, path, title)


def save_figure(figure: Figure, path: str | PathLike[str] | IO[bytes], title: str, settings: str = "") -> None:
    """Write a figure as a PNG: its title, and small below it its settings, both wrapped to the picture's width.

    Raises:
        UserError: The file cannot be written.
    """
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(_wrap(title, figure, 10), fontsize=10, x=0.02, ha="left")
    if settings:
        figure.axes[0].set_title(_wrap(settings, figure, 7.5), fontsize=7.5, color="0.4", loc="left")
    # Names may contain dollar signs, which matplotlib would parse as formulas
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with whole(Path(path)) if isinstance(path, str | PathLike) else nullcontext(path) as part:
        canvas.print_figure(part, dpi=DOTS_PER_INCH, format="png", bbox_inches="tight", facecolor="white")


def _wrap(text: str, figure: Figure, points: float) -> str:
    """Break a text of this font size at the picture's width."""
    columns = int(figure.get_figwidth() * TITLE_CHARACTERS_PER_INCH * 10 / points)
    return "\n".join(textwrap.wrap(text.replace(" %", "\N{NO-BREAK SPACE}%"), columns))


def text_colour(background: ArrayLike) -> str:
    """Return black or white, whichever has more contrast by WCAG 2.1 (relative luminance)."""
    channels = np.asarray(background)[:3]
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


def _cell_text(count: float, share: float) -> str:
    if count == 0:
        return "0"
    # Rounding must not hide a few errors
    percent = "<1%" if share < 0.01 else ">99%" if 0.99 < share < 1 else f"{share:.0%}"
    return f"{percent}\n{count:,.0f}"
