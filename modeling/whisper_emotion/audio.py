"""Any sound file as mono float32 at 16 kHz, whole or in blocks, without ffmpeg: soundfile decodes, soxr resamples."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr

from whisper_emotion.errors import UserError

SAMPLING_RATE = 16_000
"""Samples a second that Whisper's feature extractor expects, in Hz."""

SHORTEST = 400  # samples: one window of the spectrogram, 25 ms
BLOCK_SECONDS = 10  # of a recording that are in memory at a time
BLOCK_VALUES = 2**23  # of all its channels together, at most
RATES = (1_000, 1_000_000)  # Hz; beyond, a header is damaged, and believing it would take all memory
LOUDEST = 1e9  # more than any scale of samples has; far beyond, a spectrogram is no longer finite

# A FLAC that was written to a pipe has no length in its header; libsndfile then reports its largest count, and can
# neither seek in the file nor read it in parts.
_UNKNOWN_LENGTH = 2**63 - 1


class _ForwardFile(soundfile.SoundFile):
    """A file that is read from its start to its end.

    After each block soundfile seeks to where it is already; MP3 decoders then start anew, which is heard.
    """

    def seekable(self) -> bool:
        return False


def read_audio(source: str | os.PathLike[str] | Mapping[str, Any]) -> np.ndarray:
    """Decode a recording, mix its channels down by their mean and resample it to 16 kHz (soxr, high quality).

    Args:
        source: A path, or what a `datasets.Audio(decode=False)` column holds: `{"path": …, "bytes": …}`, of which
            `bytes`, where present, is decoded and `path` only names the recording.

    Returns:
        `np.ndarray` of shape `(samples,)`, float32, nominally within -1 to 1.

    Raises:
        UserError: The file is missing, no file, not a sound file, empty, shorter than 25 ms, or holds NaN, infinity
            or numbers that are no samples.
    """
    name, stream = _open(source)
    try:
        with _ForwardFile(stream) as file:
            _check_header(name, file)
            sampling_rate, mono = file.samplerate, np.concatenate([np.zeros(0, np.float32), *_blocks(name, file)])
    except (soundfile.SoundFileError, OSError) as error:
        raise _unreadable(name, error) from error
    if sampling_rate != SAMPLING_RATE:
        mono = soxr.resample(mono, sampling_rate, SAMPLING_RATE, quality="HQ")
    _require_length(name, mono.size)
    return np.ascontiguousarray(mono, dtype=np.float32)


def stream_audio(source: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    """The samples of `read_audio`, the very same ones, in blocks: a recording of any length in constant memory.

    Args:
        source: A path.

    Yields:
        `(samples,)` float32, of some ten seconds, fewer at the end.

    Raises:
        UserError: As `read_audio`; what is wrong further behind is found when it is reached.
    """
    name, stream = _open(source)
    total = 0
    try:
        with _ForwardFile(stream) as file:
            _check_header(name, file)
            resampler = None
            if file.samplerate != SAMPLING_RATE:
                resampler = soxr.ResampleStream(file.samplerate, SAMPLING_RATE, 1, dtype="float32", quality="HQ")
            for mono in _blocks(name, file):
                last = mono.size == 0
                block = mono if resampler is None else resampler.resample_chunk(mono, last=last)
                total += block.size
                if block.size:
                    yield block
    except (soundfile.SoundFileError, OSError) as error:
        raise _unreadable(name, error) from error
    _require_length(name, total)


def read_stretch(path: str | os.PathLike[str], start: float, end: float) -> np.ndarray:
    """The samples of a part of a recording of any length, the very same ones that `read_audio` gives of it.

    Args:
        path: The sound file.
        start: Seconds from its start.
        end: The same.

    Returns:
        `(samples,)` float32 at 16 kHz.

    Raises:
        UserError: As `read_audio`.
    """
    first, last, place, parts = round(start * SAMPLING_RATE), round(end * SAMPLING_RATE), 0, []
    for block in stream_audio(path):
        parts.append(block[max(first - place, 0) : max(last - place, 0)])
        place += block.size
        if place >= last:
            break
    return np.concatenate(parts)


class Header(NamedTuple):
    """What a sound file says of itself.

    Args:
        seconds: Its length, above 0.
        sampling_rate: In Hz.
        channels: How many there are.
    """

    seconds: float
    sampling_rate: int
    channels: int


def read_header(source: str | os.PathLike[str] | Mapping[str, Any]) -> Header:
    """What a recording's header says; no sample is decoded.

    Args:
        source: A path, or a mapping, as `read_audio` takes them.

    Raises:
        UserError: The file is missing, no file, not a sound file, or empty.
    """
    name, stream = _open(source)
    try:
        with soundfile.SoundFile(stream) as file:
            _check_header(name, file)
            return Header(file.frames / file.samplerate, file.samplerate, file.channels)
    except (soundfile.SoundFileError, OSError) as error:
        raise _unreadable(name, error) from error


def audio_seconds(source: str | os.PathLike[str] | Mapping[str, Any]) -> float:
    """Length of a recording in seconds, from its header alone; for the rest see `read_header`."""
    return read_header(source).seconds


class _Bytes(io.BytesIO):
    """A recording in memory, of which a damaged header may send the decoder before the start: it stops there."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(max(offset, 0) if whence == io.SEEK_SET else offset, whence)


def _open(source: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[str, bytes | io.BytesIO]:
    """Name of a recording for messages, and what soundfile can read it from."""
    if isinstance(source, Mapping):
        data, path = source.get("bytes"), source.get("path")
        if data is not None:
            return str(path or "audio bytes"), _Bytes(data)
        if path is None:
            raise UserError("audio: has neither a path nor bytes, expected one of them")
    else:
        path = source
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder, expected a sound file")
    if not path.exists():
        kind = "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
        raise UserError(f"{path}: {kind}, expected a sound file")
    if not path.is_file():  # a pipe would be waited for without an end
        raise UserError(f"{path}: is a pipe or a device, expected a sound file")
    return str(path), os.fsencode(path)  # soundfile refuses a name that is no valid text, but not its bytes


def _blocks(name: str, file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """A file's samples, its channels mixed, in blocks, the last of which is empty.

    A header may claim any number of samples: only those that are there take memory.
    """
    size = max(1, min(BLOCK_SECONDS * file.samplerate, BLOCK_VALUES // file.channels))
    while True:
        samples = file.read(size, dtype="float32", always_2d=True)
        if not (np.abs(samples) <= LOUDEST).all():
            wrong = "beyond all measure" if np.isfinite(samples).all() else "that are NaN or infinite"
            raise UserError(f"{name}: holds samples {wrong}, expected finite audio, within -1 to 1")
        yield samples.mean(axis=1)
        if not len(samples):
            return


def _require_length(name: str, samples: int) -> None:
    """Raise for a recording that is too short for a spectrogram, by its number of samples at 16 kHz."""
    if samples < SHORTEST:
        raise UserError(
            f"{name}: lasts {1000 * samples / SAMPLING_RATE:.1f} ms, expected at least "
            f"{1000 * SHORTEST / SAMPLING_RATE:g} ms, one window of the spectrogram"
        )


def _check_header(name: str, file: soundfile.SoundFile) -> None:
    """Raise for a recording without samples, one that does not say how many it has, or one of no known rate."""
    if file.frames <= 0:
        raise UserError(f"{name}: holds no audio, expected at least one sample at 16 kHz")
    if file.frames == _UNKNOWN_LENGTH:
        raise UserError(f"{name}: has no length in its header, expected a FLAC that was written to a file, not a pipe")
    if not RATES[0] <= file.samplerate <= RATES[1]:
        raise UserError(f"{name}: has {file.samplerate:,} samples a second, expected {RATES[0]:,} to {RATES[1]:,}")


def _unreadable(name: str, error: Exception) -> UserError:
    """The user's error for a file that libsndfile cannot decode."""
    if os.path.isfile(name) and not os.access(name, os.R_OK):
        return UserError(f"{name}: may not be read by this user, expected a readable sound file")
    reason = getattr(error, "error_string", str(error)).strip().strip(".:").replace("\n", " ")
    return UserError(f"{name}: cannot be decoded ({reason}), expected an intact WAV, FLAC, MP3 or Ogg file")
