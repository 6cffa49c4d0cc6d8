"""Pieces of recordings on their way to a model: files whole or cut into windows, read ahead within bounds."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from whisper_emotion.audio import SAMPLING_RATE, audio_seconds, stream_audio
from whisper_emotion.errors import UserError, printable
from whisper_emotion.windows import LONGEST_SECONDS, Prediction, cut_windows, loudness, window_samples

logger = logging.getLogger(__name__)

# Read ahead, to batch clips of like length: batches or seconds of speech, and pieces, silent ones included.
POOL_BATCHES, POOL_SECONDS, POOL_PIECES = 8, 240, 1024


@dataclass
class Piece:
    """A window of a recording, or all of it, on its way to its probabilities.

    Args:
        window: Where it lies; has no probabilities until it is labelled.
        samples: `(samples,)` at 16 kHz; none of a silent window.
        done: Number of files that are finished with this piece, with a fraction for the current one.
    """

    window: Prediction
    samples: np.ndarray
    done: float


def read_pieces(
    files: list[str], window: float | None, hop: float | None, on_error: Callable[[str, UserError], None] | None
) -> Iterator[Piece]:
    """Yield all pieces of all files in order."""
    said = False
    for number, file in enumerate(files):
        try:
            seconds = audio_seconds(file)
            size, step = window_samples(window, hop)
            if window is None and seconds <= LONGEST_SECONDS:
                size = step = sys.maxsize
            elif window is None and not said:
                logger.warning(
                    "%s lasts %.1f s: files of more than %d s are labelled in windows of %g s, one every %g s",
                    *(printable(file), seconds, LONGEST_SECONDS, size / SAMPLING_RATE, step / SAMPLING_RATE),
                )
                said = True
            for first, samples in cut_windows(stream_audio(file), size, step):
                start, end = first / SAMPLING_RATE, (first + len(samples)) / SAMPLING_RATE
                stretch = Prediction(file, start, end, loudness(samples), None)
                yield Piece(stretch, samples, number + min(1.0, end / seconds))
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
        if piece.window.dbfs < silence_dbfs:
            piece.samples = np.zeros(0, np.float32)  # free its memory
        else:
            loud, samples = loud + 1, samples + len(piece.samples)
        enough = loud >= POOL_BATCHES * batch_size or samples >= POOL_SECONDS * SAMPLING_RATE
        if (enough and loud % batch_size == 0) or len(pool) == POOL_PIECES:
            yield pool
            pool, loud, samples = [], 0, 0
    if pool:
        yield pool
