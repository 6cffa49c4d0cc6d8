"""What is wrong with an input, drawn by hypothesis: sound files, names, tables, JSON and arrays, almost right."""

import csv
import functools
import io
import json
import math
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from conftest import media_file
from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy], Any]

FORMATS = (  # format, subtype, sampling rate, channels
    ("WAV", "PCM_16", 16_000, 1),
    ("WAV", "FLOAT", 16_000, 2),
    ("WAV", "DOUBLE", 8_000, 1),
    ("WAV", "PCM_U8", 192_000, 64),
    ("WAVEX", "PCM_24", 48_000, 2),
    ("FLAC", "PCM_16", 44_100, 1),
    ("FLAC", "PCM_24", 16_000, 2),
    ("OGG", "VORBIS", 22_050, 1),
    ("OGG", "OPUS", 48_000, 1),
    ("MP3", "MPEG_LAYER_III", 44_100, 2),
    ("AIFF", "PCM_16", 16_000, 1),
    ("AU", "PCM_16", 16_000, 1),
    ("W64", "FLOAT", 16_000, 1),
    ("RF64", "PCM_16", 16_000, 1),
    ("CAF", "PCM_16", 16_000, 1),
)
MEDIA = (  # container, codec, sampling rate, channels
    ("ipod", "aac", 44_100, 2),
    ("mov", "pcm_s16le", 16_000, 1),
    ("webm", "libopus", 48_000, 1),
    ("adts", "aac", 16_000, 1),
    ("amr", "libopencore_amrnb", 8_000, 1),
)
NO_SOUND = (
    b"",
    b"RIFF",
    b"RIFF\xff\xff\xff\xffWAVE",
    b"fLaC",
    b"OggS",
    b"ID3\x04",
    b"no sound\n" * 50,
    bytes(5000),
    b"\x89PNG\r\n\x1a\n" + bytes(100),
    b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
    b"PK\x03\x04" + bytes(99),
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    b"<!DOCTYPE html><title>404</title>",
)
# Where the headers of WAV and FLAC say channels, rate, sizes and numbers of frames
FIELDS = (4, 8, 16, 18, 20, 21, 22, 24, 26, 28, 32, 34, 40, 44)
EXTREMES = (0, 1, 2, 7, 64, 255, 1024, 16_000, 65_535, 192_000, 10**9, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
ODD_SAMPLES = (math.nan, math.inf, -math.inf, 1e9, 3e38, 1e-45)
NAMES = (
    "two\nlines",
    'quo"ted',
    "it's",
    "\u202eصوت غاضب\u202c",
    "😠 ",
    "a\tb",
    "-rf",
    "--model",
    "[a]*?",
    "%s{0}%(x)d",
    "~",
    " ",
    "...",
    "x" * 240,
    "back\\slash",
    "\x1b[31mred",
    "e\u0301",
    "\udcff",
    "$(id)",
    "a:b",
    "a,b;c",
    "..",
    "_",
    "nan",
    "\r",
)


@functools.cache
def intact_sounds() -> tuple[bytes, ...]:
    """A recording of 0.2 s in each of `FORMATS` and `MEDIA`, two chained files, and a WAV that was never finished."""
    rng, made = np.random.default_rng(0), []
    for form, subtype, rate, channels in FORMATS:
        file = io.BytesIO()
        soundfile.write(file, rng.normal(0, 0.1, (rate // 5, channels)).clip(-1, 1), rate, subtype, format=form)
        made.append(file.getvalue())
    for form, codec, rate, channels in MEDIA:
        made.append(media_file(form, codec, rng.normal(0, 0.1, (rate // 5, channels)), rate))
    chained = [sound + sound for sound in made if sound[:4] == b"OggS" or sound[:2] == b"\xff\xfb"]
    return (*made, *chained, made[0][:40] + bytes(4) + made[0][44:])


def sound(draw: Draw) -> bytes:
    """A recording that is damaged, or intact and unusual, or none at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(NO_SOUND) | st.binary(max_size=200))
    data = draw(st.sampled_from(intact_sounds()))
    for _ in range(draw(st.integers(0, 3))):
        data = draw(st.sampled_from((cut, flip, set_field, set_field, set_sample, insert)))(draw, data)
    return data


def cut(draw: Draw, data: bytes) -> bytes:
    """The beginning of a file: often its header alone."""
    return data[: draw(st.integers(0, min(len(data), 200)) | st.integers(0, len(data)))]


def flip(draw: Draw, data: bytes) -> bytes:
    """A byte changed, often in the header."""
    if not data:
        return data
    place = draw(st.integers(0, min(len(data), 200) - 1) | st.integers(0, len(data) - 1))
    return data[:place] + bytes([data[place] ^ draw(st.integers(1, 255))]) + data[place + 1 :]


def set_field(draw: Draw, data: bytes) -> bytes:
    """A number in the header that claims something else."""
    place, value = draw(st.sampled_from(FIELDS) | st.integers(0, 120)), draw(st.sampled_from(EXTREMES))
    code = draw(st.sampled_from(("<H", "<I", ">H", ">I", "<Q", ">Q")))
    size = struct.calcsize(code)
    return data[:place] + struct.pack(code, value % 256**size) + data[place + size :]


def set_sample(draw: Draw, data: bytes) -> bytes:
    """Floats that are none, or beyond all measure, behind the header."""
    value, code = draw(st.sampled_from(ODD_SAMPLES)), draw(st.sampled_from(("<f", "<d")))
    place = draw(st.integers(11, max(11, len(data) // 4))) * 4
    return data[:place] + struct.pack(code, value) + data[place + struct.calcsize(code) :]


def insert(draw: Draw, data: bytes) -> bytes:
    """Something in between, such as another chunk."""
    place = draw(st.integers(0, min(len(data), 100)))
    return data[:place] + draw(st.binary(max_size=20)) + data[place:]


def file_name(draw: Draw) -> str:
    """A name, without ending, that a folder takes and a parser may not."""
    plain = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
    return draw(st.sampled_from(NAMES) | plain)


def put(draw: Draw, path: Path, content: bytes) -> bool:
    """Put something in a file's place, most often the file; returns whether permissions matter to it."""
    kinds = ("file",) * 12 + ("folder", "dangling link", "loop", "link", "fifo", "unreadable")
    kind = draw(st.sampled_from(kinds))
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path):
        return False
    if kind == "folder":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to(path.parent / "gone")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.with_name("target").write_bytes(content)
        path.symlink_to("target")
    else:
        path.write_bytes(content)
        path.chmod(0o000 if kind == "unreadable" else 0o644)
    return kind == "unreadable"


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-4, 4)
    | st.sampled_from(
        (
            10**9,
            2**63,
            -(2**31),
            0.5,
            -1.5,
            1e300,
            math.nan,
            math.inf,
            "",
            "0",
            "1,2",
            "x",
            "../../x",
            "/etc",
            "two\nlines",
            "صوت",
            "nan",
            "true",
            "[",
            "%s",
            "\x00",
        )
    )
    | st.text(max_size=6)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def mangle_value(draw: Draw, value: Any) -> Any:
    """JSON with one of its values, at any depth, replaced, taken out or doubled under an unknown name."""
    if draw(st.integers(0, 30)) == 0:
        return draw(values)
    if isinstance(value, list) and value:
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], *_mangle_entry(draw, value[place]), *value[place + 1 :]]
    if isinstance(value, dict) and value:
        name = draw(st.sampled_from(list(value)))
        rest = {other: one for other, one in value.items() if other != name}
        mangled = _mangle_entry(draw, value[name])
        return rest | dict(zip((name, draw(st.text(max_size=5))), mangled, strict=False))
    return draw(values)


def _mangle_entry(draw: Draw, value: Any) -> list[Any]:
    """What stands in an entry's place: nothing, something else, or two."""
    kind = draw(st.sampled_from(("deeper", "other", "other", "none", "two")))
    if kind == "deeper" and isinstance(value, (list, dict)):
        return [mangle_value(draw, value)]
    return {"none": [], "two": [value, draw(values)]}.get(kind, [draw(values)])


def mangle_json(draw: Draw, text: bytes) -> bytes:
    """A JSON file with a wrong value, or with damage to its bytes."""
    if draw(st.integers(0, 4)) == 0:
        return mangle_bytes(draw, text)
    return json.dumps(mangle_value(draw, json.loads(text))).encode("utf-8", "surrogateescape")


def mangle_csv(draw: Draw, text: bytes) -> bytes:
    """A CSV file with a wrong cell, a row or a column too few or too many, or with damage to its bytes."""
    kind = draw(st.sampled_from(("cell", "cell", "row", "column", "twice", "bytes")))
    if kind == "bytes":
        return mangle_bytes(draw, text)
    rows = list(csv.reader(io.StringIO(text.decode())))
    row, column = draw(st.integers(0, len(rows) - 1)), draw(st.integers(0, len(rows[0]) - 1))
    if kind == "cell":
        rows[row][column] = str(draw(scalars))
    elif kind == "row":
        del rows[row]
    elif kind == "column":
        rows = [[*cells[:column], *cells[column + 1 :]] for cells in rows]
    else:
        rows.insert(row, rows[row])
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue().encode("utf-8", "surrogateescape")


def mangle_bytes(draw: Draw, data: bytes) -> bytes:
    """Any file, cut off, with bytes changed or between, or with other content."""
    if draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from(NO_SOUND) | st.binary(max_size=50))
    return draw(st.sampled_from((cut, flip, set_field, insert)))(draw, data)


def array(draw: Draw, shape: tuple[int, ...]) -> np.ndarray:
    """Noise in a shape, of some type, with an odd value or none in it."""
    kind = draw(st.sampled_from(("f4", "f4", "f4", "f8", "f2", "i2", "i8", "u1", "?", "c8", "O", "U3")))
    seed = draw(st.integers(0, 3))
    with np.errstate(all="ignore"):
        noise = (np.random.default_rng(seed).normal(0, 0.1, shape)).astype(kind)
        if noise.size and kind in ("f4", "f8", "f2") and draw(st.booleans()):
            noise.flat[draw(st.integers(0, noise.size - 1))] = draw(st.sampled_from(ODD_SAMPLES))
    return noise
