"""Decode recordings into blocks of samples, with libsndfile or, for phones' and browsers' formats, FFmpeg (PyAV)."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from whisper_emotion.containers import Span, find_links, media_format
from whisper_emotion.errors import UserError, one_line, printable

logger = logging.getLogger(__name__)

BLOCK_SECONDS = 10  # in memory at a time
BLOCK_VALUES = 2**23  # in memory at a time, over all channels
RATES = (1_000, 1_000_000)  # Hz; a damaged header with a larger rate would exhaust the memory
MEDIA_TOLERANCE = 0.25  # seconds that containers of compressed audio may announce in excess
FULL_SCALE = {"u1": 2**7, "i2": 2**15, "i4": 2**31}  # by type; unsigned samples are centred on it
LARGEST_BYTES = 0x7FFF_0000  # writers to pipes announce this or more as an unknown length

# libsndfile reports this length for a FLAC that was written to a pipe, and can read no part of it
_UNKNOWN_LENGTH = 2**63 - 1

# libsndfile's log about a file that is shorter than its header announces, in bytes
_CUT = re.compile(r"^ *(?:data|SSND|Data Size|Riff size|riff) *: (\d+) \(should be (\d+)\)", re.MULTILINE)


class Header(NamedTuple):
    """The properties that a sound file's header announces.

    Args:
        seconds: Length, above 0.
        sampling_rate: In Hz.
        channels: Number of channels.
    """

    seconds: float
    sampling_rate: int
    channels: int


class Block(NamedTuple):
    """Consecutive samples of a recording.

    Args:
        sampling_rate: In Hz. It may change within a chained file.
        samples: `(samples, channels)` float32, full scale is 1.
    """

    sampling_rate: int
    samples: np.ndarray


@contextmanager
def open_recording(name: str, content: tuple | Path | bytes) -> Iterator[_Array | _SoundFile | _Media]:
    """Open a recording; decoders' errors become `UserError`s with the recording's name.

    Args:
        name: For messages.
        content: An array with its rate, a file, or its bytes.

    Yields:
        An object with the recording's `name` and two methods. `header()` decodes no samples. `blocks()` decodes all
        samples, and warns if the file is shorter than its header announces.
    """
    if isinstance(content, tuple):
        yield _Array(name, *content)
        return
    try:
        with open(content, "rb") if isinstance(content, Path) else io.BytesIO(content) as file:
            span = Span(file)
            kind = media_format(span)
            yield _SoundFile(name, span) if kind is None else _Media(name, span, kind)
    except PermissionError as error:
        raise UserError(f"{name}: may not be read by this user, expected a readable sound file") from error
    except (soundfile.SoundFileError, OSError) as error:
        raise _undecodable(name, getattr(error, "error_string", str(error)), error) from error


class _Array:
    """Samples in memory.

    Args:
        name: For messages.
        array: `(samples,)`, or two axes of which the shorter one is the channels: floats, int16, int32 or uint8.
        sampling_rate: In Hz.
    """

    def __init__(self, name: str, array: Any, sampling_rate: Any):
        self.name = name
        if not isinstance(sampling_rate, Real) or sampling_rate % 1 != 0:
            raise UserError(f"{name}: has the sampling rate {sampling_rate!r:.50}, expected (array, rate in Hz)")
        try:
            samples = np.asarray(array)
        except Exception as error:  # tensors on a device, ragged lists and others
            raise UserError(f"{name}: is not an array ({one_line(error)}), expected (samples,) or two axes") from error
        if samples.ndim not in (1, 2):
            raise UserError(f"{name}: has the shape {samples.shape}, expected (samples,) or (channels, samples)")
        if samples.dtype.kind != "f" and samples.dtype.str[1:] not in FULL_SCALE:
            raise UserError(
                f"{name}: holds {samples.dtype} samples, expected floats within -1 to 1, int16 or int32. Convert them"
            )
        rows = samples.reshape(len(samples), -1) if samples.size else samples[:0]
        self.samples, self.rate = rows.T if rows.shape[0] < rows.shape[-1] else rows, int(sampling_rate)

    def header(self) -> Header:
        _require_header(self.name, self.samples.size, self.rate)
        return Header(len(self.samples) / self.rate, self.rate, self.samples.shape[1])

    def blocks(self) -> Iterator[Block]:
        size = _block_size(self.rate, self.header().channels)
        for start in range(0, len(self.samples), size):
            yield Block(self.rate, _to_float(self.samples[start : start + size]))


class _SoundFile:
    """A file that libsndfile decodes, one link after the other."""

    def __init__(self, name: str, span: Span):
        self.name, (self.links, self.cut) = name, find_links(span)

    def header(self) -> Header:
        headers = [Header(file.frames / file.samplerate, file.samplerate, file.channels) for file in self._opened()]
        return headers[0]._replace(seconds=sum(header.seconds for header in headers))

    def blocks(self) -> Iterator[Block]:
        cut = self.cut
        for file in self._opened():
            size, decoded = _block_size(file.samplerate, file.channels), 0
            while len(samples := file.read(size, dtype="float32", always_2d=True)):
                decoded += len(samples)
                yield Block(file.samplerate, samples)
            if decoded < file.frames:
                cut = f"{decoded:,} of {file.frames:,} samples could be decoded"
            elif found := _CUT.search(file.extra_info):
                announced, there = int(found[1]), int(found[2])
                if announced > there + 1 and not announced >= LARGEST_BYTES > there:  # ignore one padding byte
                    cut = f"{announced - there:,} of {announced:,} bytes are missing"
        if cut:
            _warn_of_cut(self.name, cut)

    def _opened(self) -> Iterator[soundfile.SoundFile]:
        """Yield each link in turn, after a check of its header."""
        for link in self.links:
            link.seek(0)
            with _ForwardFile(link) as file:
                if file.frames == _UNKNOWN_LENGTH:
                    raise UserError(
                        f"{self.name}: has no length in its header, expected a FLAC that was written to a file, "
                        "not to a pipe"
                    )
                _require_header(self.name, file.frames, file.samplerate)
                yield file


class _ForwardFile(soundfile.SoundFile):
    """A file that is only read from start to end.

    After each block soundfile seeks to its current position, and MP3 decoders then restart with an audible click.
    """

    def seekable(self) -> bool:
        return False


class _Media:
    """A file that FFmpeg decodes: the first audio stream of an MP4, WebM, AAC, ASF or AMR file."""

    def __init__(self, name: str, span: Span, kind: str):
        self.name, self.span, self.kind = name, span, kind

    def header(self) -> Header:
        with self._open() as (container, stream):
            seconds = self._announced(container, stream)
            if seconds is None:  # sum up the packets, without decoding them
                seconds = float(sum(packet.duration or 0 for packet in container.demux(stream)) * stream.time_base)
            _require_header(self.name, round(seconds * stream.rate), stream.rate)
            return Header(seconds, stream.rate, stream.layout.nb_channels)

    def blocks(self) -> Iterator[Block]:
        seconds, waiting, rate = 0.0, [], 0
        with self._open() as (container, stream):
            announced = self._announced(container, stream)
            for frame in self._frames(container, stream):
                values = frame.to_ndarray()
                samples = _to_float(values.T if frame.format.is_planar else values.reshape(frame.samples, -1))
                _require_header(self.name, len(samples), frame.sample_rate)
                full = sum(map(len, waiting)) >= _block_size(frame.sample_rate, samples.shape[1])
                if waiting and (full or frame.sample_rate != rate or samples.shape[1] != waiting[0].shape[1]):
                    yield Block(rate, np.concatenate(waiting))
                    waiting = []
                waiting.append(samples)
                rate = frame.sample_rate
                seconds += len(samples) / rate
        if not waiting:
            raise UserError(f"{self.name}: holds no audio, expected at least one sample at 16 kHz")
        yield Block(rate, np.concatenate(waiting))
        if announced is not None and seconds < announced - MEDIA_TOLERANCE:
            _warn_of_cut(self.name, f"{seconds:.1f} of {announced:.1f} s could be decoded")

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        """Open the container and its first audio stream."""
        try:
            import av
        except ImportError as error:
            raise UserError(
                f"{self.name}: has the format {self.kind}, which needs PyAV. pip install 'whisper-emotion[media]'"
            ) from error
        try:
            self.span.seek(0)
            with av.open(self.span, format=self.kind, metadata_errors="ignore") as container:
                if not container.streams.audio:
                    raise UserError(f"{self.name}: holds no audio stream, expected one")
                stream = container.streams.audio[0]
                if stream.codec_context is None:
                    raise UserError(f"{self.name}: holds audio of an unknown codec, expected AAC or Opus, for example")
                yield container, stream
        except av.error.FFmpegError as error:
            raise _undecodable(self.name, error.strerror, error) from error

    def _frames(self, container: Any, stream: Any) -> Iterator[Any]:
        """Decode the frames; warn if the last packet is incomplete."""
        from av.error import FFmpegError

        broken = None
        for packet in container.demux(stream):
            if broken is not None and packet.size:
                raise broken
            try:
                yield from packet.decode()
            except FFmpegError as error:
                broken = error
        if broken is not None:
            _warn_of_cut(self.name, "its last packet is incomplete")

    def _announced(self, container: Any, stream: Any) -> float | None:
        """Return the header's length in seconds; None if FFmpeg would only guess it from the bit rate."""
        if self.kind in ("aac", "amr"):
            return None
        if stream.duration is not None:
            return float(stream.duration * stream.time_base)
        return None if container.duration is None else container.duration / 1e6  # in microseconds


def _to_float(samples: np.ndarray) -> np.ndarray:
    """Convert samples of any type to float32 with a full scale of 1."""
    kind = samples.dtype.str[1:]
    if kind not in FULL_SCALE:
        with np.errstate(over="ignore"):  # `read_audio` refuses infinite samples
            return samples.astype(np.float32)
    offset = FULL_SCALE[kind] if kind == "u1" else 0
    return (samples.astype(np.float32) - np.float32(offset)) / np.float32(FULL_SCALE[kind])


def _block_size(sampling_rate: int, channels: int) -> int:
    """Return the number of samples per channel to decode at a time."""
    return max(1, min(BLOCK_SECONDS * sampling_rate, BLOCK_VALUES // channels))


def _require_header(name: str, samples: int, sampling_rate: int) -> None:
    """Raise for a recording without samples or with an implausible rate."""
    if samples <= 0:
        raise UserError(f"{name}: holds no audio, expected at least one sample at 16 kHz")
    if not RATES[0] <= sampling_rate <= RATES[1]:
        raise UserError(f"{name}: has {sampling_rate:,} samples a second, expected {RATES[0]:,} to {RATES[1]:,}")


def _warn_of_cut(name: str, cut: str) -> None:
    """Warn that a recording is truncated."""
    logger.warning("%s: ends early (%s): the part before the cut is used", printable(name), cut)


def _undecodable(name: str, reason: str, error: Exception) -> UserError:
    """Build the error for a file that its decoder cannot read."""
    reason = reason.strip().strip(".:").replace("\n", " ")
    return UserError(f"{name}: cannot be decoded ({reason}), expected an intact WAV, FLAC, MP3, Ogg or MP4 file")
