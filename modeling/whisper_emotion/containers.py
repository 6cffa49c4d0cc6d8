"""Locate the audio in a file's bytes: links of chained files, unfinished headers, missing ends."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO, NamedTuple

WINDOW = 2**16  # bytes searched at a time

MEDIA_MAGIC = {
    b"\x1aE\xdf\xa3": "matroska",
    b"0&\xb2u\x8ef\xcf\x11": "asf",
    b"#!AMR": "amr",
}
"""First bytes of containers that libsndfile cannot read, with FFmpeg's names; `media_format` adds MP4 and ADTS."""

# kbit/s of layer III by index in the frame header: MPEG 1, and MPEG 2 and 2.5 (ISO 11172-3, 13818-3)
_KILOBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44_100, 48_000, 32_000)  # Hz of MPEG 1; half in MPEG 2, a quarter in MPEG 2.5


class Span(io.RawIOBase):
    """A part of a file as a readable file: the bytes of `head`, then the file's bytes from `start` to `stop`.

    Args:
        file: The whole file. Several spans may share it.
        start: First byte of the part.
        stop: End of the part; default: the end of the file.
        head: Bytes that come first.
    """

    def __init__(self, file: BinaryIO, start: int = 0, stop: int | None = None, head: bytes = b""):
        self.file, self.start, self.head = file, start, head
        stop = file.seek(0, os.SEEK_END) if stop is None else stop
        self.size = len(head) + stop - start
        self.place = 0

    def readable(self) -> bool:
        """Spans can be read."""
        return True

    def seekable(self) -> bool:
        """Spans can be read from any place."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position; clamp at 0, because decoders follow damaged headers and catch no exception."""
        self.place = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence])
        return self.place

    def readinto(self, buffer) -> int:
        """Fill a buffer as far as the span goes."""
        data = self.peek_at(self.place, len(buffer))
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)

    def peek_at(self, place: int, size: int) -> bytes:
        """Return the bytes at a place, fewer at the end; the position of the span does not change."""
        data = self.head[place : place + size]
        wanted = min(size, self.size - place) - len(data)
        if wanted > 0:
            self.file.seek(self.start + place + len(data) - len(self.head))
            data += self.file.read(wanted)
        return data


def media_format(span: Span) -> str | None:
    """Return FFmpeg's name of a container that libsndfile cannot read (MP4, Matroska, ADTS, ASF, AMR), else None."""
    start = span.peek_at(0, 16)
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        return "mp4"
    sync = span.peek_at(_behind_tags(span, 0), 2)
    if len(sync) == 2 and sync[0] == 0xFF and sync[1] & 0xF6 == 0xF0:
        return "aac"
    return next((name for magic, name in MEDIA_MAGIC.items() if start.startswith(magic)), None)


def find_links(span: Span) -> tuple[list[Span], str]:
    """Divide a file into parts that libsndfile reads to their true ends.

    Returns:
        The parts in order, and why the last part ends early; empty if it is complete or libsndfile notices the cut.
    """
    start = span.peek_at(0, 8)
    if start[:4] == b"OggS":
        return _ogg(span)
    if start[:4] != b"RIFF":
        return _mp3(span), ""
    wrong = abs(8 + int.from_bytes(start[4:], "little") - span.size) > 1
    if wrong and b"data\0\0\0\0" in span.peek_at(0, WINDOW):
        # The writer left size 0 in the header; with this size, libsndfile reads the samples up to the end
        return [Span(span.file, 8, head=b"RIFF\x08\0\0\0")], ""
    return [span], ""


# --- Ogg -------------------------------------------------------------------------------------------------------------


def _ogg(span: Span) -> tuple[list[Span], str]:
    """Find the links of a chained Ogg file (RFC 3533): streams that begin after pages of earlier streams."""
    starts, flags, end = [], 0, 0
    for place, new_flags, end in _ogg_pages(span):  # noqa: B007
        if new_flags & 2 and not flags & 2:
            starts.append(place)
        flags = new_flags
    links = [Span(span.file, *bounds) for bounds in pairwise([0, *starts[1:], span.size])]
    if end > span.size:
        return links, "its last page is incomplete"
    return links, "" if flags & 4 else "its stream has no end"


def _ogg_pages(span: Span) -> Iterator[tuple[int, int, int]]:
    """Yield each page's start, flags (2: first page of a stream, 4: last page) and end."""
    place = 0
    while (place := _find(span, b"OggS", place)) >= 0:
        header = span.peek_at(place, 27 + 255)
        if len(header) < 27:
            yield place, 0, span.size + 1
            return
        end = place + 27 + header[26] + sum(header[27 : 27 + header[26]])
        yield place, header[5], end
        place = end


def _find(span: Span, wanted: bytes, place: int) -> int:
    """Return the next position of some bytes, or -1."""
    if span.peek_at(place, len(wanted)) == wanted:
        return place
    while len(data := span.peek_at(place, WINDOW)) >= len(wanted):
        if (found := data.find(wanted)) >= 0:
            return place + found
        place += len(data) - len(wanted) + 1
    return -1


# --- MP3 -------------------------------------------------------------------------------------------------------------


class _Frame(NamedTuple):
    """An MPEG frame of layer III.

    Args:
        header: Its first four bytes.
        start: Position of the frame.
        end: Expected position of the next frame.
        rate: Sampling rate in Hz.
        table: Offset of a Xing table in the frame.
        announced: Number of frames in its Xing table, with or without itself; 0 without a table.
    """

    header: bytes
    start: int
    end: int
    rate: int
    table: int
    announced: int


def _mp3(span: Span) -> list[Span]:
    """Find the links of an MP3, which may consist of several files, each with or without a Xing table of its length.

    Without a table libsndfile guesses the length from the first frame's bit rate, and stops there. A link with no
    table, or a table with too few frames, therefore gets a new table. A table or a change of rate starts a link.
    """
    counts: dict[_Frame, int] = {}  # number of frames in a link, by the link's first frame
    first, frame = None, _parse_frame(span, _behind_tags(span, 0))
    while frame:
        if first is None or frame.announced or frame.rate != first.rate:
            first = frame
            counts[first] = 0
        counts[first] += 1
        frame = _next_frame(span, frame.end)
    if sum(counts.values()) < 2:
        return [span]
    stops = [*(first.start for first in counts), span.size][1:]
    return [
        Span(span.file, first.start, stop, head=b"" if first.announced >= frames - 3 else _table(first, frames))
        for (first, frames), stop in zip(counts.items(), stops, strict=True)
    ]


def _next_frame(span: Span, place: int) -> _Frame | None:
    """Find the next MPEG frame behind tags and up to 1 KiB of other bytes, as far as mpg123 looks."""
    place = _behind_tags(span, place)
    if frame := _parse_frame(span, place):
        return frame
    data = span.peek_at(place, 1028)
    for skip in range(1, len(data) - 3):
        # One header may be chance, so a second one must follow
        if data[skip] == 0xFF and (frame := _parse_frame(span, place + skip)) and _parse_frame(span, frame.end):
            return frame
    return None


def _parse_frame(span: Span, place: int) -> _Frame | None:
    """Parse the frame at a place; None if there is no frame header."""
    data = span.peek_at(place, 48)
    if len(data) < 4 or data[0] != 0xFF or data[1] & 0xE6 != 0xE2:
        return None
    version, code, rate = data[1] >> 3 & 3, data[2] >> 4, data[2] >> 2 & 3
    if version == 1 or code in (0, 15) or rate == 3:
        return None
    first, mono = version == 3, data[3] >> 6 == 3
    rate = _RATES[rate] // {3: 1, 2: 2, 0: 4}[version]
    size = (144 if first else 72) * _KILOBITS[first][code] * 1000 // rate + (data[2] >> 1 & 1)
    table = 4 + ((17 if mono else 32) if first else (9 if mono else 17))
    xing = data[table : table + 12]
    counted = xing[:4] in (b"Xing", b"Info") and len(xing) == 12 and xing[7] & 1
    return _Frame(data[:4], place, place + size, rate, table, int.from_bytes(xing[8:], "big") if counted else 0)


def _table(first: _Frame, frames: int) -> bytes:
    """Build a silent frame with a Xing table that counts the frames behind it."""
    sync, version, rates, mode = first.header
    header = bytes((sync, version, rates & 0x0D | 0x80, mode))  # a bit rate whose frames have room for the table
    frame = _parse_frame(Span(io.BytesIO(header)), 0)
    assert frame is not None
    return (header + bytes(first.table - 4) + b"Xing" + struct.pack(">II", 1, frames)).ljust(frame.end, b"\0")


def _behind_tags(span: Span, place: int) -> int:
    """Return the position after the ID3v2 tags at a place."""
    while len(tag := span.peek_at(place, 10)) == 10 and tag[:3] == b"ID3":
        place += 10 + (tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9])
    return place
