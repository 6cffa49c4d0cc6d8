"""Label a recording for the demo page: a summary, probabilities and pictures, independent of Gradio."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from whisper_emotion.audio import read_header, read_stretch
from whisper_emotion.errors import UserError, printable
from whisper_emotion.explanation import explain
from whisper_emotion.inference import EmotionClassifier
from whisper_emotion.reporting.attention import plot_explanation
from whisper_emotion.reporting.timeline import plot_timeline
from whisper_emotion.windows import (
    LONGEST_SECONDS,
    SILENCE_DBFS,
    WINDOW_SECONDS,
    average_windows,
    join_moments,
    summarise_moments,
)

HOP_SECONDS = WINDOW_SECONDS / 2
WIDTH = 5.0  # inches of a picture: its letters are still legible on a phone
# Eight channels at 96 kHz. A compressed file of a few bytes may claim more, and would fill the memory when decoded.
MOST_SAMPLES_A_SECOND = 8 * 96_000


class Picture(NamedTuple):
    """A PNG file and the text below it."""

    png: bytes
    caption: str


class Account(NamedTuple):
    """Label, explanation and timeline of a recording.

    Args:
        summary: Length of the recording, windows and silence, in words.
        probabilities: By label, over the whole recording; None if it is silent.
        unsure: Why the label of the whole recording is unsure; None if it is sure.
        attention: Explanation of the most certain window; None if the recording is silent.
        timeline: Emotion over time; None for a recording that is labelled whole.
    """

    summary: str
    probabilities: dict[str, float] | None = None
    unsure: str | None = None
    attention: Picture | None = None
    timeline: Picture | None = None


def listen(
    classifier: EmotionClassifier, file: str, most_seconds: float, progress: Callable[[float], object] = lambda _: None
) -> Account:
    """Label a recording whole, or in windows if it lasts more than 30 s, and draw the explanation.

    Args:
        classifier: The trained model.
        file: The recording's path.
        most_seconds: Longer ones are refused.
        progress: Called with the labelled fraction, from 0 to 1.

    Raises:
        UserError: The recording cannot be read, is too long or too short; the message has its name without its folder.
    """
    name = Path(file).name
    try:
        return _listen(classifier, file, most_seconds, progress)
    except UserError as error:
        raise UserError(printable(str(error).replace(file, name))) from error


def _listen(
    classifier: EmotionClassifier, file: str, most_seconds: float, progress: Callable[[float], object]
) -> Account:
    seconds, sampling_rate, channels = read_header(file)
    if seconds > most_seconds:
        raise UserError(
            f"{file}: lasts {describe_seconds(seconds)}, expected at most {describe_seconds(most_seconds)}"
        )
    if channels * sampling_rate > MOST_SAMPLES_A_SECOND:
        raise UserError(f"{file}: has {channels} channels at {sampling_rate} Hz, expected at most 8 at 96000 Hz")
    whole, windows = seconds <= LONGEST_SECONDS, []
    for window in classifier.predict([file], None if whole else WINDOW_SECONDS, None if whole else HOP_SECONDS):
        windows.append(window)
        progress(min(1.0, window.end / seconds))
    moments = list(average_windows(windows))
    overall = summarise_moments(moments)
    probabilities = overall.probabilities
    if probabilities is None:
        loudest = max(window.dbfs for window in windows)
        return Account(
            f"Silence: the loudest moment of these {describe_seconds(seconds)} has {loudest:.0f} dBFS, speech more "
            f"than {SILENCE_DBFS:g}. There is nothing to label."
        )
    certain = max(windows, key=lambda window: window.certainty)
    place = "Whole recording" if whole else f"Most certain window, {certain.start:.0f} to {certain.end:.0f} s"
    explanation = explain(classifier, read_stretch(file, certain.start, certain.end))
    attention = _draw(plot_explanation, place, "", explanation, certain.start)
    if whole:
        summary = f"{describe_seconds(seconds)}, labelled whole."
        return Account(_add_doubt(summary, overall.unsure), probabilities, overall.unsure, attention)
    spoken = sum(moment.end - moment.start for moment in moments if moment.probabilities is not None)
    silent = moments[-1].end - spoken
    summary = f"The mean over {describe_seconds(seconds)} in windows of {WINDOW_SECONDS:g} s"
    if silent:
        summary += f", without {describe_seconds(silent)} of silence"
    settings = f"Windows of {WINDOW_SECONDS:g} s every {HOP_SECONDS:g} s, overlaps averaged"
    timeline = _draw(plot_timeline, settings, file, classifier.labels, moments, list(join_moments(moments)))
    return Account(_add_doubt(f"{summary}.", overall.unsure), probabilities, overall.unsure, attention, timeline)


def _add_doubt(summary: str, unsure: str | None) -> str:
    return summary if unsure is None else f"Unsure: {unsure}. The label may well be wrong. {summary}"


def describe_seconds(seconds: float) -> str:
    """Write a length of time for readers: `2.5 s`, `90 s`, `10 min`, `12:05 min`."""
    if seconds < 120:
        return f"{round(seconds, 1 if seconds < 60 else None):g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if rest else f"{minutes} min"


def _draw(plot: Callable[..., str], *arguments: object) -> Picture:
    """Draw a plot in the page's width, with its title and settings as the caption."""
    file = io.BytesIO()
    caption = plot(file, *arguments, width=WIDTH, titled=False).strip()
    return Picture(file.getvalue(), caption if caption.endswith(".") else f"{caption}.")
