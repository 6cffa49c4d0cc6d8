"""Cut long recordings into windows, find silent ones, and merge overlapping windows into segments.

Windows: window `k` starts at `k` times the hop. The last window ends with the recording and may be shorter, but has at
least 25 ms: if less were left, it starts earlier. So every sample is in a window.

Silence: a window is silent if its loudest 25 ms lie below a threshold in dBFS (`SILENCE_DBFS`).

Moments: a moment is a stretch between the borders of windows. Its probabilities are the mean over all windows that
cover it; its label is the most probable one. A moment is silent if one of these windows is silent.

Segments: neighbouring moments with the same label form a segment. Its probabilities are their mean over time.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby

import numpy as np

from whisper_emotion.audio import SAMPLING_RATE, SHORTEST
from whisper_emotion.errors import UserError

LONGEST_SECONDS = 30  # the encoder's window
SHORTEST_HOP = 0.02  # seconds: one encoder frame
WINDOW_SECONDS = 4.0
"""Default window, about as long as the training utterances (mean: EMO-DB 2.8 s, RAVDESS 3.7 s). The default hop is
half of it."""

SILENCE_DBFS = -60.0
"""Threshold of silence: RMS of the loudest 25 ms around their mean, in decibels of full scale (1.0). The level is
absolute, so that a window's silence does not depend on the rest of the recording, which a stream does not know. For
comparison: the quietest clip has -55 in RAVDESS, which is recorded very low, and -15 in EMO-DB.
"""

SHORTEST_SURE_SECONDS = 0.5
"""A shorter stretch has too little speech for a sure label; the corpora's utterances are longer."""

UNLIKE, SHORT, IMPROBABLE = "unlike the training speech", "very short", "low probability"
"""Why a label is unsure, the strongest reason first."""

DIGITAL_SILENCE_DBFS = -200.0  # reported for samples that are all zero


@dataclass(frozen=True)
class Prediction:
    """The prediction for a stretch of a recording: a file, a window, a moment or a segment.

    Args:
        file: The recording's path, as given.
        start: Start of the stretch, in seconds from the recording's start.
        end: End of the stretch, in seconds.
        dbfs: RMS of the loudest 25 ms in decibels of full scale; -200 for zeros.
        probabilities: By label, in the model's order; None for silence.
        sure_probability: Least probability of a sure label; 0 if the model has none.
        novelty: Distance from the training speech, divided by the model's limit; above 1 the stretch is unlike that
            speech. 0 if the model has no limit.
    """

    file: str
    start: float
    end: float
    dbfs: float
    probabilities: dict[str, float] | None
    sure_probability: float = 0.0
    novelty: float = 0.0

    @property
    def label(self) -> str | None:
        """The most probable label; None for silence."""
        return None if self.probabilities is None else max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def certainty(self) -> float:
        """The largest probability; 0 for silence."""
        return 0.0 if self.probabilities is None else max(self.probabilities.values())

    @property
    def unsure(self) -> str | None:
        """Why the label is unsure; None for a sure label and for silence."""
        if self.probabilities is None:
            return None
        if self.novelty > 1:
            return UNLIKE
        if self.end - self.start < SHORTEST_SURE_SECONDS and self.sure_probability > 0:
            return SHORT
        return IMPROBABLE if self.certainty < self.sure_probability else None


class Emotion(dict[str, float]):
    """The prediction for a recording: probabilities by label, the most probable first.

    Attributes:
        label: The most probable label.
        unsure: Why the label is unsure, in a few words; None if it is sure.
    """

    def __init__(self, heard: Prediction):
        named = heard.probabilities or {}
        super().__init__(sorted(named.items(), key=lambda item: -item[1]))
        self.label, self.unsure = next(iter(self)), heard.unsure


def window_samples(window: float | None, hop: float | None) -> tuple[int, int]:
    """Convert a window's length and hop to samples at 16 kHz.

    Args:
        window: Seconds; default: `WINDOW_SECONDS`.
        hop: Seconds from one window's start to the next; default: half a window.

    Raises:
        UserError: The window is shorter than 25 ms or longer than 30 s, or the hop would skip audio.
    """
    if window is None:
        if hop is not None:
            raise UserError(f"--hop {hop:g}: needs --window, give both")
        window = WINDOW_SECONDS
    shortest = SHORTEST / SAMPLING_RATE
    if not shortest <= window <= LONGEST_SECONDS:
        raise UserError(f"--window {window:g}: must be from {shortest:g} to {LONGEST_SECONDS} seconds")
    if hop is None:
        hop = max(window / 2, SHORTEST_HOP)
    if not SHORTEST_HOP <= hop <= window:
        raise UserError(
            f"--hop {hop:g}: must be from {SHORTEST_HOP:g} to {window:g} seconds; more than a window would skip audio"
        )
    return round(window * SAMPLING_RATE), round(hop * SAMPLING_RATE)


def cut_windows(blocks: Iterable[np.ndarray], window: int, hop: int) -> Iterator[tuple[int, np.ndarray]]:
    """Cut a recording, given in blocks, into windows.

    Args:
        blocks: Consecutive blocks `(samples,)` of any lengths.
        window: Samples.
        hop: Samples, at most the window.

    Yields:
        The index of a window's first sample, and its samples.
    """
    start, waiting, before = 0, np.zeros(0, np.float32), None
    for block in blocks:
        waiting = np.concatenate([waiting, block])
        while len(waiting) > window:  # more samples follow, so this window is not the last
            before = waiting[:window].copy()
            yield start, before
            start, waiting = start + hop, waiting[hop:]
    if before is not None and len(waiting) < SHORTEST:
        start += len(waiting) - SHORTEST
        waiting = np.concatenate([before[:hop], waiting])[-SHORTEST:]
    if len(waiting):
        yield start, waiting.copy()


def loudness(samples: np.ndarray) -> float:
    """Return the RMS of the loudest 25 ms of `(samples,)`, at least 25 ms long, in decibels of full scale.

    The stretches of 25 ms do not overlap, except one more that ends with the last sample. Each is measured around its
    mean, because some microphones add a constant offset.
    """
    whole = samples[: len(samples) // SHORTEST * SHORTEST].reshape(-1, SHORTEST)
    powers = np.concatenate([whole, samples[None, -SHORTEST:]]).var(axis=1, dtype=np.float64)
    return max(10 * float(np.log10(max(powers.max(), 1e-30))), DIGITAL_SILENCE_DBFS)


def average_windows(windows: Iterable[Prediction]) -> Iterator[Prediction]:
    """Divide a recording into moments at the borders of its windows, and average the windows that cover each moment.

    Args:
        windows: Windows of one recording, ordered by start. A generator is consumed lazily, as for hours of audio.

    Yields:
        The moments in order, without gaps unless the windows have gaps.
    """
    covering: list[Prediction] = []
    time = 0.0
    for window in chain(windows, [None]):
        border = math.inf if window is None else window.start  # later windows start here or after
        while covering and time < border:
            until = min(border, *(one.end for one in covering))
            yield _average(covering, time, until)
            time, covering = until, [one for one in covering if one.end > until]
        if window is not None:
            time = window.start
            covering.append(window)


def join_moments(moments: Iterable[Prediction]) -> Iterator[Prediction]:
    """Join runs of moments with the same label, or of silence, into segments.

    A segment does not mix moments that resemble the training speech with moments that do not.

    Args:
        moments: Output of `average_windows` for one recording.

    Yields:
        The segments in order, each as loud as its loudest moment.
    """
    for _, group in groupby(moments, key=lambda one: (one.label, one.novelty > 1)):
        yield summarise_moments(list(group))


def summarise_moments(moments: Sequence[Prediction]) -> Prediction:
    """Merge moments into one prediction: mean probabilities and novelty over the speech, maximal loudness.

    Args:
        moments: Output of `average_windows` for one recording.
    """
    labelled = [one for one in moments if one.probabilities is not None]
    loudest = max(one.dbfs for one in moments)
    if not labelled:
        return replace(moments[0], end=moments[-1].end, dbfs=loudest)
    seconds = [one.end - one.start for one in labelled]
    novelty = sum(one.novelty * length for one, length in zip(labelled, seconds, strict=True)) / sum(seconds)
    mean = mean_probabilities(labelled) if len(labelled) > 1 else labelled[0].probabilities
    return replace(
        labelled[0], start=moments[0].start, end=moments[-1].end, dbfs=loudest, probabilities=mean, novelty=novelty
    )


def mean_probabilities(moments: Iterable[Prediction]) -> dict[str, float] | None:
    """Average a recording's probabilities by label over time, without silence; None if all of it is silent.

    Args:
        moments: Moments or segments of one recording.
    """
    seconds, sums = 0.0, {}
    for moment in moments:
        if moment.probabilities is not None:
            length = moment.end - moment.start
            seconds += length
            sums = {label: sums.get(label, 0.0) + length * value for label, value in moment.probabilities.items()}
    return {label: value / seconds for label, value in sums.items()} if sums else None


def _average(covering: Sequence[Prediction], start: float, end: float) -> Prediction:
    """Average the windows that cover the moment from `start` to `end`."""
    # The moment is no louder than its quietest window, and silent if that window is silent
    quietest = min(covering, key=lambda one: one.dbfs)
    named = [one.probabilities for one in covering if one.probabilities is not None]
    if len(named) < len(covering):
        return Prediction(quietest.file, start, end, quietest.dbfs, None)
    mean = {label: sum(one[label] for one in named) / len(named) for label in named[0]}
    novelty = sum(one.novelty for one in covering) / len(covering)
    return replace(quietest, start=start, end=end, probabilities=mean, novelty=novelty)
