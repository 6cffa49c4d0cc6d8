"""Pieces of recordings on their way to a model: files whole or cut into windows, read ahead within bounds."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from whisper_emotion.audio import SAMPLING_RATE, audio_seconds, read_audio, stream_audio
from whisper_emotion.errors import UserError, printable
from whisper_emotion.windows import LONGEST_SECONDS, Prediction, cut_windows, loudness, window_samples

logger = logging.getLogger(__name__)

# Read ahead, to batch clips of like length: batches or seconds of speech, and pieces, silent ones included.
POOL_BATCHES, POOL_SECONDS, POOL_PIECES = 8, 240, 1024


@dataclass
class Piece:
    """A window of a recording, or all of it, that waits for its probabilities.

    Args:
        file: Path of the recording.
        start: Index of its first sample.
        samples: `(samples,)` at 16 kHz.
        done: Number of files that are finished with this piece, with a fraction for the current one.
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
        """Return the result in seconds."""
        start, end = self.start / SAMPLING_RATE, self.end / SAMPLING_RATE
        return Prediction(self.file, start, end, self.dbfs, self.probabilities)


def read_pieces(
    files: list[str], window: float | None, hop: float | None, on_error: Callable[[str, UserError], None] | None
) -> Iterator[Piece]:
    """Yield all pieces of all files in order."""
    size, step = window_samples(window, hop)
    said = False
    for number, file in enumerate(files):
        try:
            seconds = audio_seconds(file)
            if window is None and seconds <= LONGEST_SECONDS:
                yield Piece(file, 0, read_audio(file), number + 1)
                continue
            if window is None and not said:
                logger.warning(
                    "%s lasts %.1f s: files of more than %d s are labelled in windows of %g s, one every %g s",
                    *(printable(file), seconds, LONGEST_SECONDS, size / SAMPLING_RATE, step / SAMPLING_RATE),
                )
                said = True
            for start, samples in cut_windows(stream_audio(file), size, step):
                done = number + min(1.0, (start + len(samples)) / SAMPLING_RATE / seconds)
                yield Piece(file, start, samples, done)
        except UserError as error:
            if on_error is None:
                raise
            on_error(file, error)


def pool_pieces(pieces: Iterable[Piece], silence_dbfs: float, batch_size: int) -> Iterator[list[Piece]]:
    """Group pieces in order, as many as may be read ahead: all batches of a group are full, but for the last group.

    Full batches are faster, and batches of few sizes do not fragment the memory.
    """
    pool, loud, samples = [], 0, 0
    for piece in pieces:
        pool.append(piece)
        if piece.dbfs < silence_dbfs:
            piece.silent, piece.samples = True, np.zeros(0, np.float32)  # free its memory
        else:
            loud, samples = loud + 1, samples + len(piece.samples)
        enough = loud >= POOL_BATCHES * batch_size or samples >= POOL_SECONDS * SAMPLING_RATE
        if (enough and loud % batch_size == 0) or len(pool) == POOL_PIECES:
            yield pool
            pool, loud, samples = [], 0, 0
    if pool:
        yield pool
