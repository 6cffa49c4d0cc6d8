"""Which moment decided: a clip's waveform and spectrogram, and over them what the pooling made of each frame."""

from os import PathLike
from typing import IO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from whisper_emotion.audio import SAMPLING_RATE
from whisper_emotion.explanation import FRAME_SECONDS, Explanation
from whisper_emotion.reporting.plots import save_figure
from whisper_emotion.reporting.timeline import WIDTH, draw_waveform, set_time_axis

CURVE, AGAINST = "#D55E00", "#0072B2"  # Okabe and Ito's vermilion and blue
TICKS_HERTZ = (250, 1000, 4000)
FLAT = 1.25  # times the mean: what no eye tells from a line in the picture


def plot_explanation(
    path: str | PathLike[str] | IO[bytes],
    title: str,
    explanation: Explanation,
    start: float = 0.0,
    width: float = WIDTH,
    titled: bool = True,
) -> str:
    """Draw where a pooling looked, head by head, or, where it weighs all frames alike, what each frame spoke for.

    Args:
        path: The PNG file to write, or an open one.
        title: What is shown, of any length; what the curve means is added to it.
        explanation: What `explain` gives.
        start: Time of the clip's first sample in its recording, in seconds.
        width: Of the picture, in inches; letters keep their size.
        titled: Draw the title, too, for a picture that has no caption.

    Returns:
        The title with what the curve means.
    """
    seconds = len(explanation.samples) / SAMPLING_RATE
    heads, frames = explanation.weights.shape
    middles = start + FRAME_SECONDS * np.arange(frames)
    edges = np.concatenate([[start], middles[1:] - FRAME_SECONDS / 2, [start + seconds]])
    by_head = explanation.evidence is None and heads > 1

    figure = Figure(figsize=(width, 5.6 if by_head else 4.2), layout="constrained")
    wave, mel, *rest = figure.subplots(
        2 + by_head, 1, sharex=True, height_ratios=[1.5, 1.5, *[0.22 * heads + 0.3] * by_head], squeeze=False
    ).flat
    draw_waveform(wave, [explanation.samples], start, seconds)
    mel.imshow(
        explanation.log_mel, origin="lower", aspect="auto", cmap="gray_r", interpolation="nearest",
        extent=(start, start + 0.01 * explanation.log_mel.shape[1], -0.5, len(explanation.log_mel) - 0.5),
    )  # fmt: skip
    bands = np.interp(TICKS_HERTZ, explanation.mel_hertz, np.arange(len(explanation.mel_hertz)))
    mel.set_yticks(bands, [f"{hertz / 1000:g}" for hertz in TICKS_HERTZ])
    mel.set_ylabel("mel band (kHz)")

    relative = explanation.weights * frames / max(1 - explanation.behind, 1e-6)
    if explanation.evidence is None:
        curve = relative.mean(axis=0)
        meaning, unit = _describe_weights(curve, middles, explanation.behind), "weight\n(1: all alike)"
    else:
        curve = explanation.evidence
        meaning, unit = _describe_evidence(explanation), "evidence\n(logits)"
    for axes, outline in ((wave, 0.0), (mel, 2.5)):
        _draw_curve(axes.twinx(), edges, curve, unit, outline, level=1.0 if explanation.evidence is None else 0.0)
    if by_head:
        (axes,) = rest
        norm = LogNorm(0.1, max(10.0, float(relative.max())), clip=True)  # one frame may have most of a head's weight
        image = axes.pcolormesh(edges, np.arange(heads + 1) + 0.5, relative, cmap="Oranges", norm=norm)
        axes.set(ylabel="head", ylim=(heads + 0.5, 0.5))
        axes.yaxis.set_major_locator(MaxNLocator(min(heads, 8), integer=True))
        bar = figure.colorbar(image, ax=axes, pad=0.01, label="weight")
        bar.ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    for axes in (wave, mel):
        axes.tick_params(labelbottom=not by_head and axes is mel)
    bottom = rest[0] if by_head else mel
    bottom.set_xlim(start, start + seconds)
    set_time_axis(bottom, seconds)
    title = f"{title}. {meaning}"
    save_figure(figure, path, title if titled else "")
    return title


def _draw_curve(axes: Axes, edges: np.ndarray, curve: np.ndarray, unit: str, outline: float, level: float) -> None:
    """The curve as steps of a frame each, in one colour above zero and another below, filled where not outlined."""
    steps = np.append(curve, curve[-1])
    effects = [withStroke(linewidth=outline + 1.0, foreground="white")] if outline else []
    axes.step(edges, steps, where="post", color=CURVE if level else "0.4", linewidth=1.2, path_effects=effects)
    for part, colour in ((np.maximum(steps, 0), CURVE), (np.minimum(steps, 0), AGAINST)):
        if not outline:
            axes.fill_between(edges, 0, part, step="post", color=colour, alpha=0.35, linewidth=0)
        if not level:
            axes.step(edges, np.ma.masked_equal(part, 0), where="post", color=colour, linewidth=1.2)
    axes.axhline(level, color="0.2", linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_ylabel(unit)
    if level:
        axes.set_ylim(0, max(1.05 * float(curve.max()), 2 * level))
    else:  # zero is where the waveform's is
        furthest = 1.05 * max(1e-3, float(np.abs(curve).max()))
        axes.set_ylim(-furthest, furthest)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _describe_weights(curve: np.ndarray, middles: np.ndarray, behind: float) -> str:
    """What the average over the heads says, in words."""
    sorted_shares = np.sort(curve)[::-1].cumsum() / curve.sum()
    half = (np.searchsorted(sorted_shares, 0.5) + 1) / len(curve)
    silence = f" {behind:.0%} of all weight lies on the silence behind the clip." if behind > 0.005 else ""
    looked = f"Half of the weight lies on {half:.0%} of the frames, the largest at {middles[curve.argmax()]:.2f} s."
    if curve.max() < FLAT * curve.mean():  # the largest of them would be taken for a moment that decided
        most = curve.max() / curve.mean()
        looked = f"All frames weigh nearly the same, at most {most:.2f} times the mean: no moment stands out."
    return f"Orange: the pooling's weights, averaged over heads. {looked}{silence}"


def _describe_evidence(explanation: Explanation) -> str:
    """What the evidence adds up to, in words."""
    best, second = list(explanation.probabilities)[:2]
    silence = ""
    if explanation.behind > 0.005:
        silence = f", {explanation.behind:.0%} of them on silence behind the clip, which is not shown"
    mean = explanation.margin - explanation.bias
    return (
        f"This pooling weighs all frames alike{silence}. Orange: what a frame adds to the logit of {best} less that "
        f"of {second}; blue: what it takes away. Their mean of {mean:+.2f} and a bias of {explanation.bias:+.2f} "
        "decided. A pause speaks, too: the encoder's frames know of what lies around them."
    )
