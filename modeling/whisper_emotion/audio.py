"""Any recording as mono float32 at 16 kHz, whole or in blocks, without the ffmpeg program.

- soundfile decodes WAV, FLAC, MP3, Ogg and what else libsndfile knows; PyAV (the extra `media`) decodes MP4, M4A, AAC,
  WebM, Matroska, 3GP, AMR and WMA. soxr resamples.
- A cut WAV, AIFF, AU, W64, RF64, MP3 or Ogg file is read as far as it goes, and one line is logged. Of rarer formats
  libsndfile refuses some cut files, and shortens others silently. A file whose decoder fails on the way (a cut FLAC,
  a damaged packet) is refused.
- Channels are averaged. Where the average of a block of some ten seconds cancels, the louder channel is used instead,
  and one line is logged.
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
"""Samples a second that Whisper's feature extractor expects, in Hz."""

SHORTEST = 400  # samples: one window of the spectrogram, 25 ms
LOUDEST = 16.0  # 24 dB above full scale; samples beyond it are on a scale of integers, or damaged
CANCELLED = 0.1  # power of the channels' mean to that of unrelated channels: two correlate by less than -0.9

AudioSource = str | os.PathLike[str] | Mapping[str, Any] | tuple[Any, int]
"""What `read_audio` takes; torchcodec's `AudioDecoder` has no class here."""


def read_audio(source: AudioSource | Any) -> np.ndarray:
    """Decode a recording, average its channels and resample it to 16 kHz (soxr, high quality).

    Args:
        source: One of

            - a path;
            - `(array, sampling_rate)`: floats within -1 to 1, int16, int32 or uint8; `(samples,)`, or two axes, the
              shorter of which is the channels;
            - a row of a 🤗 `Audio` column, decoded by datasets 3 (`{"array", "sampling_rate", "path"}`), decoded by
              datasets 4 and 5 (torchcodec's `AudioDecoder`), or not decoded (`{"path", "bytes"}`). `array` wins over
              `bytes`, and `bytes` over `path`, which then only names the recording.

    Returns:
        `np.ndarray` of shape `(samples,)`, float32, nominally within -1 to 1.

    Raises:
        UserError: The file is missing, no file, not a sound file, empty, damaged, shorter than 25 ms, or holds NaN,
            infinity or samples far beyond full scale; or PyAV is missing for it.
    """
    return np.concatenate(list(stream_audio(source)))


def stream_audio(source: AudioSource | Any) -> Iterator[np.ndarray]:
    """The samples of `read_audio`, the very same ones, in blocks: a file of any length in constant memory.

    Args:
        source: As in `read_audio`.

    Yields:
        `(samples,)` float32, of some ten seconds, fewer at the end.

    Raises:
        UserError: As `read_audio`; what is wrong further behind is found when it is reached.
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
    """The samples of a part of a recording of any length, the very same ones that `read_audio` gives of it.

    Args:
        source: As in `read_audio`.
        start: Seconds from its start.
        end: The same.

    Returns:
        `(samples,)` float32 at 16 kHz.

    Raises:
        UserError: As `read_audio`.
    """
    first, last, place, parts = round(start * SAMPLING_RATE), round(end * SAMPLING_RATE), 0, []
    for block in stream_audio(source):
        parts.append(block[max(first - place, 0) : max(last - place, 0)])
        place += block.size
        if place >= last:
            break
    return np.concatenate(parts)


def read_header(source: AudioSource | Any) -> Header:
    """Length, rate and channels of a recording; no sample is decoded.

    Args:
        source: As in `read_audio`.

    Raises:
        UserError: The file is missing, no file, not a sound file, or empty; or PyAV is missing for it.
    """
    with open_recording(*_named(source)) as recording:
        return recording.header()


def audio_seconds(source: AudioSource | Any) -> float:
    """Length of a recording in seconds; for the rest see `read_header`."""
    return read_header(source).seconds


def _named(source: Any) -> tuple[str, tuple | Path | bytes]:
    """A name for messages, and an array with its rate, a file or its bytes."""
    if hasattr(source, "get_all_samples"):
        try:
            decoded = source.get_all_samples()
        except Exception as error:  # torchcodec has no class for them
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
            wrong = "is a folder"
        elif not path.exists():
            wrong = "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
        elif not path.is_file():  # a pipe would be waited for without an end
            wrong = "is a pipe or a device"
    except OSError as error:  # such as a name that is too long
        wrong = f"cannot be opened ({error.strerror})"
    if wrong:
        raise UserError(f"{path}: {wrong}, expected a sound file")
    return str(path), path


def _mix(name: str, blocks: Iterable[Block]) -> Iterator[tuple[int, np.ndarray]]:
    """The mean of the channels, or the louder channel where the mean cancels; with the sampling rates.

    Whether the mean cancels is decided for each block, so that a stream needs no look ahead. A last block of less than
    a second says too little: it goes by the block before it.
    """
    louder, cancels = None, None
    for sampling_rate, samples in blocks:
        _require_plausible(name, samples)
        mono, channels = samples.mean(axis=1), samples.shape[1]
        if cancels is None or len(samples) >= sampling_rate:
            powers = samples.var(axis=0, dtype=np.float64)  # without a constant offset, which never cancels
            cancels = channels > 1 and mono.var(dtype=np.float64) < CANCELLED * powers.sum() / channels**2
            if cancels and (louder is None or louder >= channels):
                louder = int(powers.argmax())
                logger.warning(
                    "%s: the mean of its channels cancels, so channel %d, the louder one, is used",
                    *(printable(name), louder + 1),
                )
        if cancels and louder < channels:
            mono = np.ascontiguousarray(samples[:, louder])
        yield sampling_rate, mono


def _resample(blocks: Iterable[tuple[int, np.ndarray]]) -> Iterator[np.ndarray]:
    """Blocks at 16 kHz; where the rate changes, another resampler goes on."""
    for sampling_rate, group in groupby(blocks, key=itemgetter(0)):
        if sampling_rate == SAMPLING_RATE:
            yield from (mono for _, mono in group)
            continue
        resampler = soxr.ResampleStream(sampling_rate, SAMPLING_RATE, 1, dtype="float32", quality="HQ")
        yield from (resampler.resample_chunk(mono) for _, mono in group)
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _require_plausible(name: str, samples: np.ndarray) -> None:
    """Raise for samples that are no numbers, or far beyond full scale."""
    peak = np.abs(samples).max(initial=0.0)
    if not np.isfinite(peak):
        raise UserError(f"{name}: holds samples that are NaN or infinite, expected finite audio, within -1 to 1")
    if peak > LOUDEST:
        raise UserError(
            f"{name}: holds samples of up to {peak:,.6g}, expected audio within -1 to 1. "
            "Divide integers by their full scale, such as 32768"
        )
