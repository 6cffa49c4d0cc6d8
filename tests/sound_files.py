"""Recordings of silence or noise, and the trees of folders in which corpora hold them."""

import io
import struct
from pathlib import Path

import av
import numpy as np


def silent_wav(seconds: float = 0.05, sampling_rate: int = 16_000, channels: int = 1) -> bytes:
    """A 16-bit wav file of silence, as bytes: thousands of them are written faster than with a codec."""
    size = int(seconds * sampling_rate) * 2 * channels
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, channels, sampling_rate,
                       sampling_rate * 2 * channels, 2 * channels, 16, b"data", size)  # fmt: skip
    return head + bytes(size)


def media_file(form: str, codec: str, samples: np.ndarray, sampling_rate: int) -> bytes:
    """`(samples, channels)` in a container that FFmpeg writes."""
    file, layout = io.BytesIO(), {1: "mono", 2: "stereo"}[samples.shape[1]]
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=sampling_rate, layout=layout)
        whole = np.ascontiguousarray(samples.T, np.float32)
        frame = av.AudioFrame.from_ndarray(whole, format="fltp", layout=layout)
        frame.sample_rate = sampling_rate
        resampler = av.AudioResampler(format=stream.format, layout=layout, rate=sampling_rate)
        for part in [*resampler.resample(frame), None]:
            container.mux(stream.encode(part))
    return file.getvalue()


def write_files(root: Path, contents: dict[str, bytes | str]) -> Path:
    """Write files by their paths below a folder; returns the folder."""
    made = set()
    for name, content in contents.items():
        path = root / name
        if path.parent not in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.add(path.parent)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def iemocap_files(rows: list[dict[str, str]], wav: bytes) -> dict[str, bytes | str]:
    """IEMOCAP's layout with all its label lines (and single annotators' lines between) for the rows of its sheet."""
    files: dict[str, bytes | str] = {}
    sheets: dict[str, list[str]] = {}
    for row in rows:
        name, emotion = row["name"], row["emotion"]
        dialogue = name.rsplit("_", 1)[0]
        session = f"Session{name[4]}"
        grades = ", ".join(f"{float(row[key]):.4f}" for key in ("valence", "activation", "dominance"))
        sheets.setdefault(f"{session}/dialog/EmoEvaluation/{dialogue}.txt", []).append(
            f"[{float(row['start']):.4f} - {float(row['end']):.4f}]\t{name}\t{emotion}\t[{grades}]\n"
            "C-E2:\tNeutral;\t()\nC-E4:\tSadness;\t()\nA-E3:\tval 3; act 2; dom  2;\t()\n\n"
        )
        files[f"{session}/sentences/wav/{dialogue}/{name}.wav"] = wav
    for path, lines in sheets.items():
        files[path] = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n" + "".join(lines)
        folder, sheet = path.rsplit("/", 1)
        dialogue = sheet.removesuffix(".txt")
        session = path.split("/", 1)[0]
        files[f"{folder}/._{sheet}"] = b"\x00\x05\x16\x07 Mac OS X"
        files[f"{session}/sentences/wav/{dialogue}/._{dialogue}_F000.wav"] = b"\x00\x05\x16\x07 Mac OS X"
    return files
