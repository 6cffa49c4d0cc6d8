"""Long recordings in windows: where they lie, which are silent, and how overlapping ones become segments.

- Window `k` starts at `k` times the hop. The first one that reaches the end of the recording is the last, and ends
  there: it is shorter than the others by what the recording lacks. Where less than 25 ms would be left for it, it
  begins earlier and has 25 ms. So every sample is in a window.
- A window is silent if its loudest 25 ms lie below a threshold in dBFS (`SILENCE_DBFS`).
- A moment has the mean of the probabilities of all windows that cover it, and the label with the largest. Where one of
  them is silent, the moment is, too.
- Neighbouring moments of the same label are one segment; it has the mean of their probabilities over time.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby

import numpy as np

from whisper_emotion.audio import SAMPLING_RATE, SHORTEST
from whisper_emotion.errors import UserError

LONGEST_SECONDS = 30  # what the encoder takes at most
SHORTEST_HOP = 0.02  # seconds: an encoder frame
WINDOW_SECONDS = 4.0
"""Where nothing else is asked for: as long as the utterances are that emotion is learned from (EMO-DB's last 2.8 s on
average, RAVDESS's 3.7 s), half of it for the hop."""

SILENCE_DBFS = -60.0
"""RMS of the loudest 25 ms around their mean in decibels of full scale (1.0), below which a window is silent. An
absolute level, since a recording that arrives in a stream has no loudest moment yet, and since a window is then silent
whatever stands around it. The quietest of RAVDESS's clips, which are recorded very low, has -55, and EMO-DB's has -15.
"""

SHORTEST_SURE_SECONDS = 0.5
"""A stretch that is shorter has too little speech for a sure label; the utterances of the corpora are longer."""

UNLIKE, SHORT, IMPROBABLE = "unlike the training speech", "very short", "low probability"
"""Why a label is unsure, the strongest reason first."""

DIGITAL_SILENCE_DBFS = -200.0  # of samples that are all zero


@dataclass(frozen=True)
class Prediction:
    """What a stretch of a recording sounds like: a file, a window, a moment or a segment.

    Args:
        file: The recording's path, as it was given.
        start: Where the stretch begins, in seconds from the recording's start.
        end: Where it ends.
        dbfs: How loud its loudest 25 ms are: their RMS in decibels of full scale, -200 for zeros.
        probabilities: By label, in the model's order; None if it is silent.
        sure_probability: From which a label is sure; 0 where the model does not know it.
        novelty: How far the stretch lies from the training's speech, as a share of the model's limit: above 1 it is
            unlike that speech. 0 where the model has no limit.
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
        """The most probable label; None if it is silent."""
        return None if self.probabilities is None else max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def certainty(self) -> float:
        """The largest probability; 0 if it is silent."""
        return 0.0 if self.probabilities is None else max(self.probabilities.values())

    @property
    def unsure(self) -> str | None:
        """Why the label is unsure; None if it is sure, or if there is silence and no label."""
        if self.probabilities is None:
            return None
        if self.novelty > 1:
            return UNLIKE
        if self.end - self.start < SHORTEST_SURE_SECONDS and self.sure_probability > 0:
            return SHORT
        return IMPROBABLE if self.certainty < self.sure_probability else None


class Emotion(dict[str, float]):
    """What a recording sounds like: probabilities by label, the most probable first.

    Attributes:
        label: The most probable label.
        unsure: Why it is unsure, in a few words; None if it is sure.
    """

    def __init__(self, heard: Prediction):
        named = heard.probabilities or {}
        super().__init__(sorted(named.items(), key=lambda item: -item[1]))
        self.label, self.unsure = next(iter(self)), heard.unsure


def window_samples(window: float | None, hop: float | None) -> tuple[int, int]:
    """A window's length and hop in samples at 16 kHz.

    Args:
        window: Seconds; `WINDOW_SECONDS` where not given.
        hop: Seconds from one window's start to the next one's; half a window where not given.

    Raises:
        UserError: The window is shorter than 25 ms or longer than 30 s, or the hop would leave audio out.
    """
    if window is None:
        if hop is not None:
            raise UserError(f"--hop {hop:g}: is that of windows, so give --window, too")
        window = WINDOW_SECONDS
    shortest = SHORTEST / SAMPLING_RATE
    if not shortest <= window <= LONGEST_SECONDS:
        raise UserError(f"--window {window:g}: must be from {shortest:g} to {LONGEST_SECONDS} seconds")
    if hop is None:
        hop = max(window / 2, SHORTEST_HOP)
    if not SHORTEST_HOP <= hop <= window:
        raise UserError(
            f"--hop {hop:g}: must be from {SHORTEST_HOP:g} to {window:g} seconds, the window's: more leaves audio out"
        )
    return round(window * SAMPLING_RATE), round(hop * SAMPLING_RATE)


def cut_windows(blocks: Iterable[np.ndarray], window: int, hop: int) -> Iterator[tuple[int, np.ndarray]]:
    """Cut a recording that comes in blocks into windows.

    Args:
        blocks: `(samples,)` each, behind one another, of any lengths.
        window: Samples.
        hop: Samples, at most the window.

    Yields:
        The place of a window's first sample, and its samples.
    """
    start, waiting, before = 0, np.zeros(0, np.float32), None
    for block in blocks:
        waiting = np.concatenate([waiting, block])
        while len(waiting) > window:  # so it is not the last: samples are left behind it
            before = waiting[:window].copy()
            yield start, before
            start, waiting = start + hop, waiting[hop:]
    if before is not None and len(waiting) < SHORTEST:
        start += len(waiting) - SHORTEST
        waiting = np.concatenate([before[:hop], waiting])[-SHORTEST:]
    if len(waiting):
        yield start, waiting.copy()


def loudness(samples: np.ndarray) -> float:
    """RMS of the loudest 25 ms of `(samples,)`, 25 ms or more, in decibels of full scale.

    The stretches of 25 ms lie side by side; one more ends with the last sample. Each is measured around its mean: a
    constant offset, which some microphones add, is not loud.
    """
    whole = samples[: len(samples) // SHORTEST * SHORTEST].reshape(-1, SHORTEST)
    powers = np.concatenate([whole, samples[None, -SHORTEST:]]).var(axis=1, dtype=np.float64)
    return max(10 * float(np.log10(max(powers.max(), 1e-30))), DIGITAL_SILENCE_DBFS)


def average_windows(windows: Iterable[Prediction]) -> Iterator[Prediction]:
    """The moments of a recording: the stretches between the borders of its windows, each the average of its windows.

    Args:
        windows: Of one recording, ordered by their starts. They are taken as the moments are asked for, so those of
            hours may come from a generator.

    Yields:
        The moments in order, without gaps where the windows have none.
    """
    covering: list[Prediction] = []
    time = 0.0
    for window in chain(windows, [None]):
        border = math.inf if window is None else window.start  # no later window covers what is before it
        while covering and time < border:
            until = min(border, *(one.end for one in covering))
            yield _average(covering, time, until)
            time, covering = until, [one for one in covering if one.end > until]
        if window is not None:
            time = window.start
            covering.append(window)


def join_moments(moments: Iterable[Prediction]) -> Iterator[Prediction]:
    """The segments of a recording: runs of moments with the same label, or of silence.

    Moments that are unlike the training's speech stand apart from those that are not.

    Args:
        moments: Of one recording, as `average_windows` gives them.

    Yields:
        The segments in order; the loudness is that of the loudest moment.
    """
    for _, group in groupby(moments, key=lambda one: (one.label, one.novelty > 1)):
        yield summarise_moments(list(group))


def summarise_moments(moments: Sequence[Prediction]) -> Prediction:
    """Return one prediction for some moments: probabilities and novelty are means over the time that is not silent.

    Args:
        moments: Of one recording, as `average_windows` gives them. The loudness is that of the loudest.
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
    """The mean over time of a recording's probabilities by label, its silence left out; None if all of it is silent.

    Args:
        moments: Of one recording, as `average_windows` gives them, or its segments.
    """
    seconds, sums = 0.0, {}
    for moment in moments:
        if moment.probabilities is not None:
            length = moment.end - moment.start
            seconds += length
            sums = {label: sums.get(label, 0.0) + length * value for label, value in moment.probabilities.items()}
    return {label: value / seconds for label, value in sums.items()} if sums else None


def _average(covering: Sequence[Prediction], start: float, end: float) -> Prediction:
    """The moment from `start` to `end` of the windows that cover it."""
    # No louder than the quietest window that it is part of. If that one is silent, so is the moment.
    quietest = min(covering, key=lambda one: one.dbfs)
    named = [one.probabilities for one in covering if one.probabilities is not None]
    if len(named) < len(covering):
        return Prediction(quietest.file, start, end, quietest.dbfs, None)
    mean = {label: sum(one[label] for one in named) / len(named) for label in named[0]}
    novelty = sum(one.novelty for one in covering) / len(covering)
    return replace(quietest, start=start, end=end, probabilities=mean, novelty=novelty)
