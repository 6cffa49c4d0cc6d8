"""Read any recording as mono float32 at 16 kHz, whole or in blocks, without the ffmpeg program.

Decoders: soundfile reads WAV, FLAC, MP3, Ogg and libsndfile's other formats. PyAV (the extra `media`) reads MP4, M4A,
AAC, WebM, Matroska, 3GP, AMR and WMA. soxr resamples.

Truncated files: WAV, AIFF, AU, W64, RF64, MP3 and Ogg are read up to the cut, with a warning. libsndfile refuses some
truncated files of rarer formats, and shortens others silently. A file whose decoder fails midway (a truncated FLAC, a
damaged packet) is refused.

Channels are averaged. If the channels of a block (about ten seconds) cancel out, the louder channel is used instead,
with a warning.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from whisper_emotion.decoders import Block, Header, open_recording
from whisper_emotion.errors import UserError, one_line, printable

logger = logging.getLogger(__name__)

SAMPLING_RATE = 16_000
"""Sampling rate of Whisper's feature extractor, in Hz."""

SHORTEST = 400  # samples: one window of the spectrogram, 25 ms
LOUDEST = 16.0  # 24 dB above full scale; larger samples are unscaled integers, or damaged
CANCELLED = 0.1  # least power of the channels' mean, relative to uncorrelated channels: a correlation of -0.9

AudioSource = str | os.PathLike[str] | Mapping[str, Any] | tuple[Any, int]
"""Sources of `read_audio`, except torchcodec's `AudioDecoder`, which is not imported."""


def read_audio(source: AudioSource | Any) -> np.ndarray:
    """Decode a recording, average its channels and resample it to 16 kHz (soxr, high quality).

    Args:
        source: A path, an array or a row.

            A path names a sound file.

            An array is `(array, sampling_rate)`: floats within -1 to 1, int16, int32 or uint8. Its shape is
            `(samples,)`, or two axes of which the shorter one is the channels.

            A row comes from a 🤗 `Audio` column: decoded by datasets 3 (`{"array", "sampling_rate", "path"}`), decoded
            by datasets 4 and 5 (torchcodec's `AudioDecoder`), or not decoded (`{"path", "bytes"}`).

            `array` wins over `bytes`, and `bytes` over `path`, which then only names the recording.

    Returns:
        `np.ndarray` of shape `(samples,)`, float32, nominally within -1 to 1.

    Raises:
        UserError: The file is missing, not a sound file, empty, damaged or shorter than 25 ms. Samples are NaN,
            infinite or far beyond full scale. The file needs PyAV, which is not installed.
    """
    return np.concatenate(list(stream_audio(source)))


def stream_audio(source: AudioSource | Any) -> Iterator[np.ndarray]:
    """Read a recording in blocks, in constant memory; the samples equal those of `read_audio` exactly.

    Args:
        source: As in `read_audio`.

    Yields:
        `(samples,)` float32, about ten seconds; the last block is shorter.

    Raises:
        UserError: As in `read_audio`; an error late in the file is raised when reading reaches it.
    """
    total = 0
    with open_recording(*_named(source)) as recording:
        name = recording.name
        for block in _resample(_mix(name, recording.blocks())):
            total += block.size
            if block.size:
                yield block
    if total < SHORTEST:
        raise UserError(
            f"{name}: lasts {1000 * total / SAMPLING_RATE:.1f} ms, expected at least "
            f"{1000 * SHORTEST / SAMPLING_RATE:g} ms, one window of the spectrogram"
        )


def read_stretch(source: AudioSource | Any, start: float, end: float) -> np.ndarray:
    """Read a part of a recording of any length; the samples equal those of `read_audio` exactly.

    Args:
        source: As in `read_audio`.
        start: Start of the part, in seconds.
        end: End of the part, in seconds.

    Returns:
        `(samples,)` float32 at 16 kHz.

    Raises:
        UserError: As in `read_audio`.
    """
    first, last, place, parts = round(start * SAMPLING_RATE), round(end * SAMPLING_RATE), 0, []
    for block in stream_audio(source):
        parts.append(block[max(first - place, 0) : max(last - place, 0)])
        place += block.size
        if place >= last:
            break
    return np.concatenate(parts)


def read_header(source: AudioSource | Any) -> Header:
    """Read a recording's length, rate and channels without decoding samples.

    Args:
        source: As in `read_audio`.

    Raises:
        UserError: The file is missing, not a sound file, or empty, or needs PyAV, which is not installed.
    """
    with open_recording(*_named(source)) as recording:
        return recording.header()


def audio_seconds(source: AudioSource | Any) -> float:
    """Return a recording's length in seconds; arguments and errors as in `read_header`."""
    return read_header(source).seconds


def _named(source: Any) -> tuple[str, tuple | Path | bytes]:
    """Return a name for messages, and the content: an array with its rate, a path, or bytes."""
    if hasattr(source, "get_all_samples"):
        try:
            decoded = source.get_all_samples()
        except Exception as error:  # torchcodec has no common class of errors
            raise UserError(f"audio decoder: cannot be decoded ({one_line(error)}), expected intact audio") from error
        source = decoded.data, decoded.sample_rate
    if isinstance(source, Mapping):
        path, content = source.get("path"), source.get("bytes")
        if source.get("array") is not None:
            return str(path or "audio array"), (source["array"], source.get("sampling_rate"))
        if content is not None and not isinstance(content, (bytes, bytearray)):
            raise UserError(f"{path or 'audio bytes'}: bytes is a {type(content).__name__}, expected bytes")
        if content is not None:
            return str(path or "audio bytes"), bytes(content)
        if path is None:
            raise UserError("audio: has neither an array nor a path nor bytes, expected one of them")
        source = path
    if isinstance(source, tuple):
        if len(source) != 2:
            raise UserError(f"audio array: is a tuple of {len(source)}, expected (array, sampling_rate)")
        return "audio array", source
    if not isinstance(source, (str, os.PathLike)):
        raise UserError(f"audio: is a {type(source).__name__}, expected a path, (array, sampling_rate) or a mapping")
    path, wrong = Path(source), None
    try:
        if path.is_dir():
            wrong = "is a folder (predict.py labels folders)"
        elif not path.exists():
            wrong = "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
        elif not path.is_file():  # reading a pipe could block forever
            wrong = "is a pipe or a device"
    except OSError as error:  # such as a name that is too long for the file system
        wrong = f"cannot be opened ({error.strerror})"
    if wrong:
        raise UserError(f"{path}: {wrong}, expected a sound file")
    return str(path), path


def _mix(name: str, blocks: Iterable[Block]) -> Iterator[tuple[int, np.ndarray]]:
    """Average the channels, or take the louder channel if they cancel out; yield sampling rates and samples.

    Each block decides for itself, so that a stream needs no look-ahead. A block shorter than a second is too short to
    decide and follows the block before it.
    """
    louder, cancels = None, None
    for sampling_rate, samples in blocks:
        _require_plausible(name, samples)
        mono, channels = samples.mean(axis=1), samples.shape[1]
        if cancels is None or len(samples) >= sampling_rate:
            powers = samples.var(axis=0, dtype=np.float64)  # ignores a constant offset, which never cancels
            cancels = channels > 1 and mono.var(dtype=np.float64) < CANCELLED * powers.sum() / channels**2
            if cancels and (louder is None or louder >= channels):
                louder = int(powers.argmax())
                logger.warning(
                    "%s: its channels cancel each other out, so channel %d, the louder one, is used",
                    *(printable(name), louder + 1),
                )
        if cancels and louder < channels:
            mono = np.ascontiguousarray(samples[:, louder])
        yield sampling_rate, mono


def _resample(blocks: Iterable[tuple[int, np.ndarray]]) -> Iterator[np.ndarray]:
    """Resample blocks to 16 kHz; a change of rate starts a new resampler."""
    for sampling_rate, group in groupby(blocks, key=itemgetter(0)):
        if sampling_rate == SAMPLING_RATE:
            yield from (mono for _, mono in group)
            continue
        resampler = soxr.ResampleStream(sampling_rate, SAMPLING_RATE, 1, dtype="float32", quality="HQ")
        yield from (resampler.resample_chunk(mono) for _, mono in group)
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _require_plausible(name: str, samples: np.ndarray) -> None:
    """Raise for samples that are not finite, or far beyond full scale."""
    peak = np.abs(samples).max(initial=0.0)
    if not np.isfinite(peak):
        raise UserError(f"{name}: holds samples that are NaN or infinite, expected finite audio, within -1 to 1")
    if peak > LOUDEST:
        raise UserError(
            f"{name}: holds samples of up to {peak:,.6g}, expected audio within -1 to 1. "
            "Divide integers by their full scale, such as 32768"
        )
