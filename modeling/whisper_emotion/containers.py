"""Where the audio of a file lies, from its bytes alone: links of chained files, unfinished headers, missing ends."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

WINDOW = 2**16  # bytes that are searched at a time

MEDIA_MAGIC = {
    b"\x1aE\xdf\xa3": "matroska",
    b"0&\xb2u\x8ef\xcf\x11": "asf",
    b"#!AMR": "amr",
}
"""First bytes of containers that libsndfile lacks, and FFmpeg's names for them; `media_format` knows MP4 and ADTS."""

# The index in the header of an MPEG frame to kbit/s of layer III: MPEG 1, and MPEG 2 and 2.5 (ISO 11172-3, 13818-3).
_KILOBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44_100, 48_000, 32_000)  # Hz of MPEG 1; MPEG 2 has half of it, MPEG 2.5 a quarter


class Span(io.RawIOBase):
    """A part of a file as a file of its own: some bytes of memory, then the bytes from `start` to `stop`.

    Args:
        file: The whole file. Several spans may share it.
        start: Where the part begins.
        stop: Where it ends; the end of the file where not given.
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

    def tell(self) -> int:
        """Where the next read begins."""
        return self.place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, never before the start: a damaged header may ask for that, and no decoder catches an exception."""
        self.place = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence])
        return self.place

    def readinto(self, buffer) -> int:
        """Fill a buffer as far as the span goes."""
        data = self.peek_at(self.place, len(buffer))
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)

    def peek_at(self, place: int, size: int) -> bytes:
        """The bytes at a place, fewer at the end; a reader of the span stays where it is."""
        data = self.head[place : place + size]
        wanted = min(size, self.size - place) - len(data)
        if wanted > 0:
            self.file.seek(self.start + place + len(data) - len(self.head))
            data += self.file.read(wanted)
        return data


class Audio(NamedTuple):
    """The audio of a file.

    Args:
        links: What a decoder takes for one file each, in order.
        cut: How the file ends before its header says so; empty if it does not.
    """

    links: list[Span]
    cut: str = ""


def media_format(span: Span) -> str | None:
    """FFmpeg's name of a container that libsndfile cannot read (MP4, Matroska, ADTS, ASF, AMR), None for others."""
    start = span.peek_at(0, 16)
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        return "mp4"
    sync = span.peek_at(_behind_tags(span, 0), 2)
    if len(sync) == 2 and sync[0] == 0xFF and sync[1] & 0xF6 == 0xF0:
        return "aac"
    return next((name for magic, name in MEDIA_MAGIC.items() if start.startswith(magic)), None)


def find_audio(span: Span) -> Audio:
    """The links of a file that libsndfile decodes, each of which it reads to its true end."""
    start = span.peek_at(0, 12)
    if start[:4] == b"OggS":
        return _ogg(span)
    if start[:4] == b"RIFF":
        return _wav(span)
    announced = {
        b"FORM": lambda: 8 + struct.unpack(">I", span.peek_at(4, 4))[0],
        b".snd": lambda: sum(struct.unpack(">II", span.peek_at(4, 8))),
        b"RF64": lambda: 8 + struct.unpack("<Q", span.peek_at(20, 8))[0],
        b"riff": lambda: struct.unpack("<Q", span.peek_at(16, 8))[0],  # Sony Wave64
    }.get(start[:4])
    if announced is not None and span.size >= 28:
        return Audio([span], _missing(span, announced()))
    return _mp3(span)


def _missing(span: Span, announced: int) -> str:
    """What to say of a file that is shorter than its header announces; writers to pipes announce 2 GiB or more."""
    lacking = announced - span.size
    if lacking <= 1 or announced >= 0x7FFF_0000 > span.size:  # a padding byte is nothing
        return ""
    return f"{lacking:,} of {announced:,} bytes are missing"


# --- WAV -------------------------------------------------------------------------------------------------------------


def _wav(span: Span) -> Audio:
    """A RIFF file; where its header was never finished (a data size of 0), the samples reach to the end."""
    for identity, place, size in _chunks(span, 12):
        if identity != b"data":
            continue
        rest = span.size - place
        if size == 0 and rest and not _is_chain(span, place):
            # libsndfile takes the largest size for an unknown one.
            return Audio([Span(span.file, place, head=span.peek_at(0, place - 4) + b"\xff" * 4)])
        return Audio([span], _missing(span, place + size))
    return Audio([span])


def _chunks(span: Span, place: int) -> Iterator[tuple[bytes, int, int]]:
    """The chunks of a RIFF file from a place on: names, where their contents begin, and announced sizes."""
    while len(header := span.peek_at(place, 8)) == 8:
        size = int.from_bytes(header[4:], "little")
        yield header[:4], place + 8, size
        place += 8 + size + size % 2


def _is_chain(span: Span, place: int) -> bool:
    """Whether chunks with printable names follow one another from a place to the very end of the file."""
    end = place
    for identity, content, size in _chunks(span, place):
        if not all(32 <= sign < 127 for sign in identity):
            return False
        end = content + size
    return span.size - 1 <= end <= span.size + 1


# --- Ogg -------------------------------------------------------------------------------------------------------------


def _ogg(span: Span) -> Audio:
    """The links of a chained Ogg file (RFC 3533): streams that begin after others have begun and gone on."""
    starts, opening, place, last, end = [], False, 0, 0, 0
    while (place := _find(span, b"OggS", place)) >= 0:
        page = span.peek_at(place, 27 + 255)
        if len(page) < 27:
            end = span.size + 1
            break
        begins = bool(page[5] & 2)
        if begins and not opening:
            starts.append(place)
        opening, last = begins, page[5]
        segments = page[26]
        place = end = place + 27 + segments + sum(page[27 : 27 + segments])
    cut = "its last page is incomplete" if end > span.size else "its stream has no end" if not last & 4 else ""
    if len(starts) < 2:
        return Audio([span], cut)
    bounds = [0, *starts[1:], span.size]
    return Audio([Span(span.file, *bound) for bound in zip(bounds, bounds[1:], strict=False)], cut)


def _find(span: Span, wanted: bytes, place: int) -> int:
    """Where some bytes come next, -1 if nowhere."""
    while True:
        found = (data := span.peek_at(place, len(wanted))).find(wanted)  # mostly right here
        if found < 0:
            found = (data := span.peek_at(place, WINDOW)).find(wanted)
        if found >= 0:
            return place + found
        if len(data) < WINDOW:
            return -1
        place += WINDOW - len(wanted) + 1


# --- MP3 -------------------------------------------------------------------------------------------------------------


class _Frame(NamedTuple):
    """The header of an MPEG frame of layer III: its bytes, the frame's size and rate, and a table's place in it."""

    header: bytes
    size: int
    rate: int
    table: int

    @classmethod
    def parse(cls, header: bytes) -> _Frame | None:
        """The frame with these four bytes; None if they are no such header."""
        if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
            return None
        version, code, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
        if version == 1 or code in (0, 15) or rate == 3:
            return None
        first, mono = version == 3, header[3] >> 6 == 3
        rate = _RATES[rate] // {3: 1, 2: 2, 0: 4}[version]
        size = (144 if first else 72) * _KILOBITS[first][code] * 1000 // rate + (header[2] >> 1 & 1)
        table = 4 + ((17 if mono else 32) if first else (9 if mono else 17))
        return cls(header, size, rate, table)


@dataclass
class _Link:
    """A part of an MP3: where it begins, its first frame, the frames that its table announces, and those counted."""

    start: int
    frame: _Frame
    announced: int
    frames: int = 0


def _mp3(span: Span) -> Audio:
    """The links of an MP3: it may be several behind one another, each with a Xing table of its length or without one.

    Without a table libsndfile guesses the length from the first frame's bit rate and stops there. A link without one,
    or with one that lacks frames, gets a table. A link begins at a table, and where the rate changes.
    """
    place = _behind_tags(span, 0)
    frame = _Frame.parse(span.peek_at(place, 4))
    if frame is None or _Frame.parse(span.peek_at(place + frame.size, 4)) is None:
        return Audio([span])
    links: list[_Link] = []
    while frame is not None:
        table = _frames_by_table(span.peek_at(place, frame.table + 12)[frame.table :])
        behind = _next_frame(span, place + frame.size)
        following = _Frame.parse(span.peek_at(behind, 4))
        changes = not links or (links[-1].frame.rate != frame.rate and following and following.rate == frame.rate)
        if table or changes:
            links.append(_Link(place, frame, table))
        links[-1].frames += 1
        place, frame = behind, following
    stops = [link.start for link in links[1:]] + [span.size]
    return Audio([
        Span(span.file, link.start, stop, head=b"" if link.announced >= link.frames - 3 else _table(link))
        for link, stop in zip(links, stops, strict=True)
    ])  # fmt: skip


def _frames_by_table(table: bytes) -> int:
    """The number of frames in a Xing table, which may count its own one or two more; 0 without a table."""
    counted = table[:4] in (b"Xing", b"Info") and len(table) == 12 and table[7] & 1
    return int.from_bytes(table[8:], "big") if counted else 0


def _table(link: _Link) -> bytes:
    """A frame without sound that holds a Xing table with the number of frames behind it."""
    first, second, third, fourth = link.frame.header
    header = bytes((first, second, third & 0x0D | 0x80, fourth))  # a bit rate with enough room
    start = header + bytes(link.frame.table - 4) + b"Xing" + struct.pack(">II", 1, link.frames)
    return start.ljust(_Frame.parse(header).size, b"\0")


def _next_frame(span: Span, place: int) -> int:
    """Where the next MPEG frame begins, with tags and up to 1 KiB of other bytes before it: as far as mpg123 looks."""
    place = _behind_tags(span, place)
    if _Frame.parse(span.peek_at(place, 4)):
        return place
    data = span.peek_at(place, 1028)
    for skip in range(1, len(data) - 3):
        frame = _Frame.parse(data[skip : skip + 4])
        if frame and _Frame.parse(span.peek_at(place + skip + frame.size, 4)):
            return place + skip
    return span.size


def _behind_tags(span: Span, place: int) -> int:
    """Where a place's ID3v2 tags end."""
    while len(tag := span.peek_at(place, 10)) == 10 and tag[:3] == b"ID3":
        place += 10 + (tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9])
    return place
