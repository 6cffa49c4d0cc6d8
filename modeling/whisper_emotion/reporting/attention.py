"""Picture of an explanation: waveform, evidence or pooling weights of each frame, and spectrogram."""

from collections.abc import Sequence
from os import PathLike
from typing import IO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from whisper_emotion.audio import SAMPLING_RATE
from whisper_emotion.explanation import FRAME_SECONDS, Explanation
from whisper_emotion.reporting.plots import save_figure
from whisper_emotion.reporting.timeline import WIDTH, draw_waveform, set_time_axis

FOR, AGAINST, PAUSE = "#D55E00", "#0072B2", "0.75"  # Okabe and Ito's vermilion and blue
TICKS_HERTZ = (250, 1000, 4000)
FLAT = 1.25  # times the mean: below, no moment stands out
SMOOTHED_FRAMES = 5  # 100 ms, about a phone
APART_SECONDS = 0.3  # between two moments that a title names


def plot_explanation(
    path: str | PathLike[str] | IO[bytes],
    name: str,
    settings: str,
    explanation: Explanation,
    start: float = 0.0,
    width: float = WIDTH,
    titled: bool = True,
) -> str:
    """Draw which moments speak for a label.

    If the pooling weighs frames, the curve shows its weights. If it weighs all frames alike, the curve shows each
    frame's evidence for the label against the second most probable one.

    Args:
        path: The PNG file to write, or an open file.
        name: The recording, for the title.
        settings: The model, for the small print below the title.
        explanation: Output of `explain`.
        start: Time of the clip's first sample in its recording, in seconds.
        width: Inches; letters keep their size.
        titled: Draw title and settings. False for a picture with a caption.

    Returns:
        The caption: title and settings.
    """
    start, seconds = start + explanation.start, len(explanation.samples) / SAMPLING_RATE
    heads, frames = explanation.weights.shape
    middles = start + FRAME_SECONDS * np.arange(frames)
    edges = np.concatenate([[start], middles[1:] - FRAME_SECONDS / 2, [start + seconds]])
    by_head = explanation.evidence is None and heads > 1

    figure = Figure(figsize=(width, 6.0 if by_head else 4.6), layout="constrained")
    wave, curve, mel, *rest = figure.subplots(
        3 + by_head, 1, sharex=True, height_ratios=[0.8, 1.3, 1.3, *[0.22 * heads + 0.3] * by_head], squeeze=False
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
    (label, probability), (second, _) = list(explanation.probabilities.items())[:2]
    title = f"{name}: {label} ({probability:.0%})"
    if explanation.evidence is None:
        values = relative.mean(axis=0)
        _draw_curve(curve, edges, values, explanation.speech, "weight\n(mean: 1)", 1.0)
        title += f". {_describe_weights(values, middles, explanation.speech)}"
        meaning = "Curve: the pooling's weights, averaged over heads"
    else:
        values = explanation.evidence
        _draw_curve(curve, edges, values, explanation.speech, f"{label} minus\n{second} (logits)", 0.0)
        title += f". {_describe_evidence(values, middles, explanation.speech, label, second)}"
        meaning = f"Orange speaks for {label}, blue for {second}; the mean of the curve decides"
    if explanation.behind > 0.005:
        meaning += f". {explanation.behind:.0%} of the weight lies on silence behind the clip, which is not shown"
    if by_head:
        (axes,) = rest
        norm = LogNorm(0.1, max(10.0, float(relative.max())), clip=True)  # one frame may have most of a head's weight
        image = axes.pcolormesh(edges, np.arange(heads + 1) + 0.5, relative, cmap="Oranges", norm=norm)
        axes.set(ylabel="head", ylim=(heads + 0.5, 0.5))
        axes.yaxis.set_major_locator(MaxNLocator(min(heads, 8), integer=True))
        bar = figure.colorbar(image, ax=axes, pad=0.01, label="weight")
        bar.ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    for axes in (wave, curve):
        axes.spines[["top", "right"]].set_visible(False)
    bottom = rest[0] if by_head else mel
    bottom.set_xlim(start, start + seconds)
    set_time_axis(bottom, seconds)
    settings = f"{meaning}. Grey: pauses. {settings}"
    save_figure(figure, path, *((title, settings) if titled else ("",)))
    return f"{title}. {settings}"


def _draw_curve(
    axes: Axes, edges: np.ndarray, values: np.ndarray, speech: np.ndarray, unit: str, level: float
) -> None:
    """Draw steps of a frame each, filled from zero, one colour above it and another below, grey in pauses."""
    for chosen, colour in ((values > 0, FOR), (values < 0, AGAINST)):
        for moments, shade in ((speech, colour), (~speech, PAUSE)):
            part = np.where(chosen & moments, values, 0)
            axes.fill_between(edges, 0, np.append(part, part[-1]), step="post", color=shade, alpha=0.85, linewidth=0)
    axes.axhline(level, color="0.2", linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_ylabel(unit)
    if level:
        axes.set_ylim(0, max(1.05 * float(values.max()), 2 * level))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _find_peaks(values: np.ndarray, middles: np.ndarray, speech: np.ndarray) -> list[float]:
    """Find the moments, at most two and some time apart, at which the smoothed curve of speech is highest."""
    kernel = np.ones(min(SMOOTHED_FRAMES, len(values)))
    smooth = np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
    order = [frame for frame in np.argsort(-smooth, kind="stable") if speech[frame] and smooth[frame] > 0]
    peaks: list[float] = []
    for frame in order:
        first = smooth[order[0]]
        apart = all(abs(middles[frame] - peak) >= APART_SECONDS for peak in peaks)
        if len(peaks) < 2 and apart and smooth[frame] > first / 2 and _is_local(smooth, frame):
            peaks.append(float(middles[frame]))
    return sorted(peaks)


def _is_local(smooth: np.ndarray, frame: int) -> bool:
    """Whether no neighbouring frame is higher."""
    return smooth[frame] >= smooth[max(0, frame - 1) : frame + 2].max()


def _name_moments(peaks: Sequence[float]) -> str:
    return " and ".join(f"{peak:.1f} s" for peak in peaks)


def _describe_weights(curve: np.ndarray, middles: np.ndarray, speech: np.ndarray) -> str:
    """Name the moments of the largest weights, averaged over heads."""
    if curve.max() < FLAT * curve.mean():
        most = curve.max() / curve.mean()
        return f"No moment stands out: all frames weigh nearly the same, at most {most:.2f} times the mean"
    peaks = _find_peaks(curve, middles, speech)
    if not peaks or curve[~speech].sum() > curve.sum() / 2:
        return "Most of the weight lies on pauses"
    sorted_shares = np.sort(curve)[::-1].cumsum() / curve.sum()
    half = (np.searchsorted(sorted_shares, 0.5) + 1) / len(curve)
    return f"The model looked most at {_name_moments(peaks)}; half of the weight lies on {half:.0%} of the frames"


def _describe_evidence(curve: np.ndarray, middles: np.ndarray, speech: np.ndarray, label: str, second: str) -> str:
    """Name the moments of the strongest evidence."""
    peaks = _find_peaks(curve, middles, speech)
    if not peaks:
        return f"No moment of speech speaks for {label} against {second}"
    return f"Strongest evidence for {label} against {second} at {_name_moments(peaks)}"
