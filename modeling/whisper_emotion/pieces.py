"""Read recordings as pieces for a model: whole files or windows, read ahead within limits."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from whisper_emotion.audio import SAMPLING_RATE, audio_seconds, stream_audio
from whisper_emotion.errors import UserError, printable
from whisper_emotion.windows import LONGEST_SECONDS, Prediction, cut_windows, loudness, window_samples

logger = logging.getLogger(__name__)

# Limits of the read-ahead, which batches clips of similar length: batches or seconds of speech, and all pieces
POOL_BATCHES, POOL_SECONDS, POOL_PIECES = 8, 240, 1024


@dataclass
class Piece:
    """A window of a recording, or all of it, before classification.

    Args:
        window: File, start, end and loudness; the probabilities are None.
        samples: `(samples,)` at 16 kHz; empty for a silent window.
        done: Number of files finished after this piece, with a fraction of the current file.
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
    """Group pieces in order, up to the limits of the read-ahead; only the last group may have a partial batch.

    Full batches are faster, and few different sizes do not fragment the memory.
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
