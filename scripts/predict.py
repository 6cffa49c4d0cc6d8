"""Label recordings of any number and length with a trained model."""

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from whisper_emotion.audio import SAMPLING_RATE, AudioSource, read_stretch
from whisper_emotion.cli import parse_arguments, run_script
from whisper_emotion.errors import UserError, printable
from whisper_emotion.options import DEVICE_HELP, ENCODER_DTYPES, ENCODER_HELP, MODEL_HELP, option
from whisper_emotion.recordings import find_domain, find_recordings
from whisper_emotion.windows import (
    SILENCE_DBFS,
    WINDOW_SECONDS,
    Prediction,
    average_windows,
    join_moments,
    window_samples,
)

if TYPE_CHECKING:
    from whisper_emotion.inference import EmotionClassifier
    from whisper_emotion.reporting.rows import RowFile

REMARK = (
    "{} model: on new speech about half of its labels are right; --adapt helps if you have 20 or more recordings of "
    "one speaker, call or microphone"
)
LONGEST_STEM = 80  # of a picture's name


@dataclass
class PredictOptions:
    """Recordings to label, windows, and files for the results."""

    model: str | None = option(None, help=MODEL_HELP)
    encoder: str | None = option(None, help=ENCODER_HELP)
    files: list[str] = option([], help="sound files, folders of them, or patterns", positional=True)
    adapt: str | None = option(
        None,
        help="folder, or pattern in quotes, of recordings of the same speaker, microphone or call as all files, in "
        "many moods: adapts the model to them, without labels; self: to FILES themselves, long ones in windows",
    )
    priors: str | None = option(
        None, help="how often labels are expected, such as neutral=0.6,sad=0.2; the others share the rest"
    )
    window: float | None = option(
        None,
        help="seconds of a window; default: the whole file, or, if it lasts more than 30 s or --plot is given, "
        f"{WINDOW_SECONDS:g} s",
    )
    hop: float | None = option(None, help="seconds from one window to the next; default: half a window")
    silence_dbfs: float = option(
        SILENCE_DBFS, help="a window without 25 ms louder than this is silent, and not labelled; =-inf labels all"
    )
    output: str | None = option(
        None, help=".json, .jsonl or .csv file of the files or windows; default: print a table"
    )
    segments: str | None = option(
        None, help="the same for segments: overlapping windows averaged, neighbours of the same label joined"
    )
    plot: bool = option(False, help="draw each recording's emotion over time (FILE_timeline.png)")
    explain: bool = option(
        False, help="draw which moments speak for the label, in the most certain window (FILE_explanation.png)"
    )
    explain_at: float | None = option(None, help="second whose window --explain draws; implies --explain")
    picture_dir: str | None = option(
        None, help="folder of the pictures; default: that of --output, or the current one"
    )
    device: str = option("auto", help=DEVICE_HELP)
    encoder_dtype: str = option("float32", help="the encoder's precision", choices=ENCODER_DTYPES)
    batch_size: int = option(16, help="windows in a batch; has no influence on the results")


def main() -> int:
    """Label all files; at the end name the unreadable ones."""
    (arguments,) = parse_arguments(PredictOptions)
    if arguments.output is not None and arguments.output == arguments.segments:
        raise UserError(f"--segments {arguments.segments}: is --output, too; name another file")
    if arguments.explain_at is not None:
        if arguments.explain_at < 0:
            raise UserError(f"--explain_at {arguments.explain_at:g}: must be 0 or more seconds")
        arguments.explain = True
    if arguments.plot and arguments.window is None:
        arguments.window = WINDOW_SECONDS
    window_samples(arguments.window, arguments.hop)
    files, failed = find_recordings(arguments.files)
    pictures = Pictures(arguments, files)

    import torch  # takes seconds to load, as the rest does

    from whisper_emotion.head_files import SHIPPED
    from whisper_emotion.inference import EmotionClassifier
    from whisper_emotion.reporting.rows import RowFile, table_heading, table_line

    classifier = EmotionClassifier(
        arguments.model,
        arguments.encoder,
        device=arguments.device,
        priors=_read_priors(arguments.priors),
        encoder_dtype=getattr(torch, arguments.encoder_dtype),
    )
    if arguments.adapt is not None:
        itself = arguments.adapt == "self"
        count = classifier.adapt(_loud_pieces(arguments, files, failed) if itself else find_domain(arguments.adapt))
        what = f"recordings of {arguments.adapt}"
        if itself:
            what = "of these recordings" if count <= len(files) else f"windows of {len(files)} recordings"
        print(f"adapted to {count} {what}", file=sys.stderr)
    elif (model := arguments.model or "general") in SHIPPED:
        print(REMARK.format(model), file=sys.stderr)
    predictions = classifier.predict(
        files,
        arguments.window,
        arguments.hop,
        arguments.silence_dbfs,
        arguments.batch_size,
        on_error=failed.__setitem__,
        progress=True,
    )
    printed, counts = False, Counter[str | None]()
    with ExitStack() as stack:
        rows, segments = (
            None if path is None else stack.enter_context(RowFile(path, classifier.labels, option))
            for path, option in ((arguments.output, "--output"), (arguments.segments, "--segments"))
        )
        for file, windows in groupby(predictions, key=attrgetter("file")):
            for segment in join_moments(average_windows(pictures.watch(_written(windows, rows, counts)))):
                if segments is not None:
                    segments.write(segment)
                elif rows is None:
                    if not printed:
                        _say(table_heading(classifier.labels))
                    printed = True
                    _say(table_line(segment, classifier.labels))
            if file not in failed:
                pictures.draw(file, classifier)
    for table in (rows, segments):
        if table is not None:
            _say(f"{printable(str(table.path))}: {table.rows} row{'' if table.rows == 1 else 's'}")
    if counts.total() > counts[None]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common() if reason is not None)
        print(f"unsure (?): {counts.total() - counts[None]} of {counts.total()} labels ({reasons})", file=sys.stderr)
    for error in failed.values():
        print(f"{Path(sys.argv[0]).name}: {printable(str(error))}", file=sys.stderr)
    return 1 if failed else 0


def _read_priors(text: str | None) -> dict[str, float] | None:
    """Read `neutral=0.6,sad=0.2`."""
    if text is None:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    try:
        return {name.strip(): float(share) for name, _, share in pairs}
    except ValueError:
        raise UserError(f"--priors {text}: must be labels and shares, such as neutral=0.6,sad=0.2") from None


def _loud_pieces(arguments: PredictOptions, files: list[str], failed: dict[str, UserError]) -> Iterator[AudioSource]:
    """Yield the files or windows to label, without silent ones."""
    from whisper_emotion.pieces import read_pieces

    for piece in read_pieces(files, arguments.window, arguments.hop, failed.__setitem__):
        if piece.window.dbfs >= arguments.silence_dbfs:
            yield piece.samples, SAMPLING_RATE


def _say(line: str) -> None:
    """Print above the progress bar and flush, so that a pipe gets each result at once."""
    tqdm.write(line)
    sys.stdout.flush()


def _written(
    windows: Iterable[Prediction], rows: "RowFile | None", counts: Counter[str | None]
) -> Iterator[Prediction]:
    """Write and count each window as it passes, so that results of a long recording appear early."""
    for window in windows:
        if window.label is not None:
            counts[window.unsure] += 1
        if rows is not None:
            rows.write(window)
        yield window


class Pictures:
    """Draw the pictures of each file; keep the windows that they need."""

    def __init__(self, arguments: PredictOptions, files: Sequence[str]):
        self.arguments, self.taken = arguments, set()
        self.stems = Counter(Path(file).stem for file in files)
        self.folder = Path(arguments.picture_dir or Path(arguments.output or ".").parent)
        if arguments.plot or arguments.explain:
            import matplotlib  # noqa: F401  # where it is not installed, say so before the work

            there = next(folder for folder in (self.folder, *self.folder.absolute().parents) if folder.exists())
            if not (there.is_dir() and os.access(there, os.W_OK)):
                raise UserError(f"--picture_dir {self.folder}: cannot be made ({there} is no writable folder)")

    def watch(self, windows: Iterable[Prediction]) -> Iterator[Prediction]:
        """Pass on the windows of a recording. Keep the window to explain and, for the timeline, all windows."""
        self.windows: list[Prediction] = []
        self.explained: Prediction | None = None
        for window in windows:
            if self.explained is None or self._rank(window) > self._rank(self.explained):
                self.explained = window
            if self.arguments.plot:
                self.windows.append(window)
            yield window

    def _rank(self, window: Prediction) -> float:
        """Rank windows for the explanation: by certainty, or by how near their middle is to `--explain_at`."""
        moment = self.arguments.explain_at
        return window.certainty if moment is None else -abs((window.start + window.end) / 2 - moment)

    def draw(self, file: str, classifier: "EmotionClassifier") -> None:
        """Draw the timeline, the explanation, or both."""
        if not (self.arguments.plot or self.arguments.explain):
            return
        from whisper_emotion.explanation import explain
        from whisper_emotion.reporting.attention import plot_explanation
        from whisper_emotion.reporting.timeline import plot_timeline

        self.folder.mkdir(parents=True, exist_ok=True)  # not before: a command that is refused makes nothing
        name, model = printable(Path(file).name), f"Model: {Path(self.arguments.model or 'general').name}"
        stem = self._stem(file)
        if self.arguments.plot:
            path = self.folder / f"{stem}_timeline.png"
            size, step = (
                samples / SAMPLING_RATE for samples in window_samples(self.arguments.window, self.arguments.hop)
            )
            settings = f"{model}. Windows of {size:g} s every {step:g} s, overlaps averaged"
            moments = list(average_windows(self.windows))
            plot_timeline(path, settings, file, classifier.labels, moments, list(join_moments(moments)))
            _say(f"{printable(str(path))}: emotion over time")
        if self.arguments.explain:
            window = self.explained
            if window is None or window.probabilities is None:
                silent = "recording" if window is None else "window"
                _say(f"{printable(file)}: nothing to explain: the {silent} is silent")
                return
            path = self.folder / f"{stem}_explanation.png"
            explanation = explain(classifier, read_stretch(file, window.start, window.end))
            settings = f"{model}. Window: {window.start:.2f} to {window.end:.2f} s"
            plot_explanation(path, name, settings, explanation, window.start)
            _say(f"{printable(str(path))}: the moments that speak for {window.label}")

    def _stem(self, file: str) -> str:
        """Return a unique, portable file name for a recording's pictures."""
        name = Path(file).stem
        if self.stems[name] > 1:
            folder = Path(file).absolute().parent.name.lstrip(".")
            name = f"{folder[: max(0, LONGEST_STEM - 1 - len(name))]}_{name}"
        kept = "".join(sign if sign.isalnum() or sign in "-_. " else "_" for sign in name)[:LONGEST_STEM]
        stem, number = kept, 1
        while stem in self.taken:
            number += 1
            stem = f"{kept}_{number}"
        self.taken.add(stem)
        return stem


if __name__ == "__main__":
    run_script(
        main, "files that end in .jsonl or .csv hold the results so far; the same command labels all files again"
    )
