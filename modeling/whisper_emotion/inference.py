"""Audio files to emotions, with soundfile and soxr in place of the ffmpeg program that `pipeline` needs for files.

Files are labelled whole, or, as long recordings have to be, in windows (`windows.py` has the rules).
"""

import logging
import math
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from tqdm.auto import tqdm

from whisper_emotion.audio import SAMPLING_RATE, audio_seconds, read_audio, stream_audio
from whisper_emotion.encoder_whisper_emotion import PACKED_ROWS, encoder_frames
from whisper_emotion.errors import UserError, not_loaded, printable, without_loading_report
from whisper_emotion.feature_extraction_whisper_emotion import WhisperEmotionFeatureExtractor
from whisper_emotion.modeling_whisper_emotion import WhisperForEmotionClassification
from whisper_emotion.windows import LONGEST_SECONDS, SILENCE_DBFS, Prediction, cut_windows, loudness, window_samples

logger = logging.getLogger(__name__)

BATCH_SIZE = 16
# What is read ahead, to put clips of like length together: batches or seconds, and, silent ones among them, pieces
POOL_BATCHES, POOL_SECONDS, POOL_PIECES = 8, 240, 1024
TIMED_CLIPS = 16
WHOLE = "; `predict` labels all of it, in windows"


@dataclass
class _Piece:
    """A stretch of a recording that waits for its probabilities.

    Args:
        file: The recording's path.
        start: Place of its first sample.
        samples: `(samples,)` at 16 kHz.
        done: Files that are labelled when this piece is, with a fraction for those in the middle of one.
    """

    file: str
    start: int
    samples: np.ndarray
    done: float

    def __post_init__(self):
        self.end = self.start + len(self.samples)
        self.dbfs = loudness(self.samples)
        self.silent = False
        self.probabilities: dict[str, float] | None = None

    def prediction(self) -> Prediction:
        """What the caller gets."""
        start, end = self.start / SAMPLING_RATE, self.end / SAMPLING_RATE
        return Prediction(self.file, start, end, self.dbfs, self.probabilities)


class EmotionClassifier:
    """A trained model that labels audio files.

    Args:
        model: A trained folder or a Hub name.
        encoder_dtype: The encoder's precision; `torch.bfloat16` is faster where the processor or accelerator has it.

    Raises:
        UserError: The model cannot be loaded.
    """

    def __init__(self, model: str | os.PathLike[str], encoder_dtype: torch.dtype = torch.float32):
        try:
            with without_loading_report():
                loaded, report = WhisperForEmotionClassification.from_pretrained(model, output_loading_info=True)
                self.extractor = WhisperEmotionFeatureExtractor.from_pretrained(model)
        except UserError:
            raise
        except Exception as error:  # of whatever class a model makes that others have written
            raise UserError(
                f"{model}: {not_loaded(model, error)}; expected a folder that train.py finished, or a Hub name"
            ) from error
        if report["missing_keys"]:
            lacking = min(report["missing_keys"])
            raise UserError(f"{model}: is no trained emotion classifier, it has no weights for {lacking}")
        self.model = loaded.eval()
        self.model.encoder.to(encoder_dtype)
        self.speaker_mean: torch.Tensor | None = None

    @property
    def labels(self) -> list[str]:
        """The model's labels, in the order of its outputs."""
        return [self.model.config.id2label[index] for index in range(self.model.config.num_labels)]

    def __call__(
        self, files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], batch_size: int = 8
    ) -> list[dict[str, float]]:
        """Label files of any format, rate and number of channels that soundfile reads.

        Args:
            files: A path, or several. Of a file, audio beyond 30 s is not used: `predict` takes longer ones.
            batch_size: Files in a batch; has no influence on the probabilities.

        Returns:
            For each file the probability of each label, the most probable first.

        Raises:
            UserError: A file cannot be read, or lasts less than 25 ms.
        """
        if isinstance(files, (str, os.PathLike)):
            files = [files]
        results: list[dict[str, float]] = []
        for start in range(0, len(files), batch_size):
            batch = self._classify([_beginning(file, WHOLE) for file in files[start : start + batch_size]])
            results += [dict(sorted(named.items(), key=lambda item: -item[1])) for named in batch]
        return results

    @torch.inference_mode()
    def adapt(self, files: Sequence[str | os.PathLike[str]]) -> None:
        """Adapt to one speaker: what is labelled from now on is taken to be spoken by that person.

        Args:
            files: Recordings of the speaker, without labels, in many moods: what they have in common is taken for the
                voice, and a mood that all of them share would be lost. None at all: forget the speaker.

        Raises:
            UserError: A file cannot be read, or the model was not trained on frames of a frozen encoder.
        """
        if not files:
            self.speaker_mean = None
            return
        if not self.model.population_mean.any():
            raise UserError("adapt: this model does not know its training speakers' mean, so it cannot adapt")
        means = [self.model.mean_frames(**self._extract([_beginning(file)])) for file in files]
        self.speaker_mean = torch.cat(means).mean(dim=0, keepdim=True)

    def predict(
        self,
        files: Iterable[str | os.PathLike[str]],
        window: float | None = None,
        hop: float | None = None,
        silence_dbfs: float = SILENCE_DBFS,
        batch_size: int = BATCH_SIZE,
        on_error: Callable[[str, UserError], None] | None = None,
        progress: bool = False,
    ) -> Iterator[Prediction]:
        """Label files of any length, as results come: hours of audio, or any number of files, in constant memory.

        A piece's probabilities are those of the piece alone; neither its batch nor what lies around it matters.

        Args:
            files: Paths.
            window: Seconds of a window; where not given, a file is labelled whole up to 30 s, and in windows of 4 s
                if it is longer.
            hop: Seconds from one window to the next; half a window where not given.
            silence_dbfs: A piece whose loudest 25 ms are below is silence, and not labelled.
            batch_size: Pieces in a batch.
            on_error: Called with a file that cannot be read, to its end or at all, and what is wrong with it; the
                other files are labelled all the same. Where not given, the first such file raises.
            progress: Show a bar, in a terminal.

        Yields:
            The files' predictions in order, or their windows'.

        Raises:
            UserError: A wrong window, hop or batch size, or a file that cannot be read.
        """
        window_samples(window, hop)
        if math.isnan(silence_dbfs):
            raise UserError("--silence_dbfs nan: must be a number of decibels, 0 or less")
        if batch_size < 1:
            raise UserError(f"--batch_size {batch_size}: must be 1 or more")
        return self._predict(
            [os.fspath(file) for file in files], window, hop, silence_dbfs, batch_size, on_error, progress
        )

    def time_clips(self, clips: Sequence[np.ndarray]) -> tuple[float, float]:
        """Seconds that clips take one by one, from samples to probabilities, after one that does not count.

        Args:
            clips: `(samples,)` each, mono at 16 kHz.

        Returns:
            The medians of their durations and of their times.
        """
        self._classify([clips[0]])
        times = []
        for clip in clips:
            started = time.perf_counter()
            self._classify([clip])
            times.append(time.perf_counter() - started)
        return statistics.median(len(clip) / SAMPLING_RATE for clip in clips), statistics.median(times)

    @torch.inference_mode()
    def _classify(self, clips: list[np.ndarray]) -> list[dict[str, float]]:
        """Probabilities of clips at 16 kHz by label, in the model's order."""
        speaker = None if self.speaker_mean is None else self.speaker_mean.expand(len(clips), -1)
        probabilities = self.model(**self._extract(clips), speaker_mean=speaker).logits.softmax(dim=-1)
        labels = self.labels
        return [dict(zip(labels, row, strict=True)) for row in probabilities.tolist()]

    def _extract(self, clips: list[np.ndarray]) -> dict[str, torch.Tensor]:
        inputs = self.extractor(clips, sampling_rate=SAMPLING_RATE, padding="longest", return_tensors="pt")
        return dict(inputs.to(self.model.device))

    def _predict(self, files, window, hop, silence_dbfs, batch_size, on_error, progress) -> Iterator[Prediction]:
        counts = "{percentage:3.0f}%|{bar}| {n:.1f} of {total} files [{elapsed}<{remaining}]"
        with tqdm(total=len(files), bar_format=counts, disable=None if progress else True) as bar:
            for pool in _pools(_read(files, window, hop, on_error), silence_dbfs, batch_size):
                waiting = deque(pool)
                for batch in chain(self._batches([piece for piece in pool if not piece.silent], batch_size), [[]]):
                    if batch:
                        for piece, named in zip(batch, self._classify([one.samples for one in batch]), strict=True):
                            piece.probabilities = named
                    while waiting and (waiting[0].silent or waiting[0].probabilities):
                        piece = waiting.popleft()
                        bar.update(piece.done - bar.n)
                        yield piece.prediction()
            bar.update(bar.total - bar.n)

    def _batches(self, pieces: list[_Piece], batch_size: int) -> Iterator[list[_Piece]]:
        """Pieces of like length together, as many as are asked for, or as go through the encoder together."""
        pieces = sorted(pieces, key=lambda piece: len(piece.samples))
        mel_frames = torch.tensor([-(-len(piece.samples) // self.extractor.hop_length) for piece in pieces])
        frames = encoder_frames(self.model.encoder.encoded_frames(mel_frames)).tolist()
        packed = self.model.device.type == "cpu"  # where more would only take memory
        batch, rows = [], 0
        for piece, own in zip(pieces, frames, strict=True):
            if len(batch) == batch_size or (packed and batch and rows + own > PACKED_ROWS):
                yield batch
                batch, rows = [], 0
            batch.append(piece)
            rows += own
        if batch:
            yield batch


def _beginning(file: str | os.PathLike[str], instead: str = "") -> np.ndarray:
    """A file's samples, as many as the encoder takes at once; what is dropped is said, and what would hear it."""
    samples = read_audio(file)
    if len(samples) > LONGEST_SECONDS * SAMPLING_RATE:
        logger.warning(
            "%s lasts %.1f s: only its first %d s are used%s",
            *(printable(os.fspath(file)), len(samples) / SAMPLING_RATE, LONGEST_SECONDS, instead),
        )
    return samples[: LONGEST_SECONDS * SAMPLING_RATE]


def _read(
    files: list[str], window: float | None, hop: float | None, on_error: Callable[[str, UserError], None] | None
) -> Iterator[_Piece]:
    """All pieces of all files in order."""
    size, step = window_samples(window, hop)
    said = False
    for number, file in enumerate(files):
        try:
            seconds = audio_seconds(file)
            if window is None and seconds <= LONGEST_SECONDS:
                yield _Piece(file, 0, read_audio(file), number + 1)
                continue
            if window is None and not said:
                logger.warning(
                    "%s lasts %.1f s: files of more than %d s are labelled in windows of %g s, one every %g s",
                    *(printable(file), seconds, LONGEST_SECONDS, size / SAMPLING_RATE, step / SAMPLING_RATE),
                )
                said = True
            for start, samples in cut_windows(stream_audio(file), size, step):
                done = number + min(1.0, (start + len(samples)) / SAMPLING_RATE / seconds)
                yield _Piece(file, start, samples, done)
        except UserError as error:
            if on_error is None:
                raise
            on_error(file, error)


def _pools(pieces: Iterable[_Piece], silence_dbfs: float, batch_size: int) -> Iterator[list[_Piece]]:
    """Pieces in order, as many together as may be read ahead, so that all batches but the last one are full.

    Full batches are faster, and batches of many sizes leave holes of many sizes in the memory.
    """
    pool, loud, samples = [], 0, 0
    for piece in pieces:
        pool.append(piece)
        if piece.dbfs < silence_dbfs:
            piece.silent, piece.samples = True, np.zeros(0, np.float32)  # those it had are no longer needed
        else:
            loud, samples = loud + 1, samples + len(piece.samples)
        enough = loud >= POOL_BATCHES * batch_size or samples >= POOL_SECONDS * SAMPLING_RATE
        if (enough and loud % batch_size == 0) or len(pool) == POOL_PIECES:
            yield pool
            pool, loud, samples = [], 0, 0
    if pool:
        yield pool
