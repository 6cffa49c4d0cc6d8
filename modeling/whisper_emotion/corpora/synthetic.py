"""The corpus for a machine without data: generated source-filter speech, the same on every machine and run."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile

from whisper_emotion.corpora.frames import frame_of_rows
from whisper_emotion.corpora.record import Corpus
from whisper_emotion.errors import UserError
from whisper_emotion.synthesis import SAMPLING_RATE, STYLES, draw_voice, synthesise

LABELS = tuple(STYLES)

# Says how a folder's corpus was generated. It is written last but for the rename, so a folder that has it is whole.
RECORD = "synthetic.json"
DEFAULTS = {"speakers": 16, "utterances": 10, "seed": 0}
ALLOWED = {"speakers": range(2, 100), "utterances": range(1, 100), "seed": range(2**32)}


def read(
    corpus_dir: Path,
    record: Corpus,
    *,
    speakers: int | None = None,
    utterances: int | None = None,
    seed: int | None = None,
) -> pd.DataFrame:
    """Read the synthetic corpus, generating it first where the folder is missing or empty.

    Args:
        corpus_dir: The folder. One that holds the corpus is used as it is.
        record: The corpus's record.
        speakers: How many speakers, every other one female (16).
        utterances: How many utterances of each speaker and emotion (10).
        seed: Seed of everything random (0).

    Returns:
        A row an utterance, sorted by name, see `frames.utterance_frame`: speakers `S01F`, `S02M`, …, emotions angry,
        happy, neutral and sad.

    Raises:
        UserError: An option out of range, a folder that cannot be written or holds something else, or a corpus that
            was generated with other options than those given or has lost files.
    """
    given = {"speakers": speakers, "utterances": utterances, "seed": seed}
    asked = {name: _in_range(name, value) for name, value in given.items() if value is not None}
    if not corpus_dir.exists() or (corpus_dir.is_dir() and not any(corpus_dir.iterdir())):
        _generate(corpus_dir, DEFAULTS | asked)
    recorded = _recorded_options(corpus_dir)
    for name, value in asked.items():
        if recorded[name] != value:
            raise UserError(
                f"{corpus_dir}: was generated with {name} {recorded[name]}, not {value}, remove it or name another"
            )
    paths = {
        corpus_dir / speaker / f"{speaker}_{label}_{number:02d}.wav": (label, speaker, gender)
        for speaker, gender in _speakers(recorded["speakers"])
        for label in LABELS
        for number in range(1, recorded["utterances"] + 1)
    }
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: is missing, remove the folder {corpus_dir} to generate the corpus anew")
    names = ("label", "speaker", "gender")
    return frame_of_rows(
        [{"path": str(path), **dict(zip(names, found, strict=True))} for path, found in paths.items()]
    )


def _in_range(name: str, value: int) -> int:
    """An option's value, a whole number within its limits."""
    allowed = ALLOWED[name]
    if type(value) is not int or value not in allowed:
        raise UserError(f"{name}: {value!r}, expected a whole number from {allowed[0]} to {allowed[-1]}")
    return value


def _speakers(count: int) -> list[tuple[str, str]]:
    """Names and genders of the speakers."""
    genders = ["female" if number % 2 else "male" for number in range(1, count + 1)]
    return [(f"S{number:02d}{gender[0].upper()}", gender) for number, gender in enumerate(genders, start=1)]


def _recorded_options(corpus_dir: Path) -> dict[str, Any]:
    """How the folder's corpus was generated."""
    try:
        recorded = json.loads((corpus_dir / RECORD).read_text(encoding="utf-8"))
        return {name: _in_range(name, recorded[name]) for name in DEFAULTS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{corpus_dir}: holds something else than the synthetic corpus, expected a new or an empty folder"
        ) from error


def _generate(corpus_dir: Path, options: dict[str, int]) -> None:
    """Write the corpus beside the folder and move it there as a whole, so that no half-written one is ever read."""
    target = Path(os.path.realpath(corpus_dir))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".synthetic-") as temporary:
            made = Path(temporary, "corpus")
            made.mkdir()
            for index, (speaker, gender) in enumerate(_speakers(options["speakers"])):
                _write_speaker(made / speaker, gender, options, index)
            (made / RECORD).write_text(json.dumps(options) + "\n", encoding="utf-8")
            try:
                os.replace(made, target)
            except OSError:
                # Another process may have been faster; what it left is the same corpus or is refused by the reader.
                if not (target / RECORD).is_file():
                    raise
    except OSError as error:
        raise UserError(f"{corpus_dir}: cannot be written ({error.strerror}), expected a writable folder") from error


def _write_speaker(folder: Path, gender: str, options: dict[str, int], index: int) -> None:
    """Write all utterances of one speaker as 16-bit wav; each has a random stream of its own."""
    folder.mkdir()
    voice = draw_voice(gender, np.random.default_rng([options["seed"], index]))
    for kind, label in enumerate(LABELS):
        for number in range(1, options["utterances"] + 1):
            rng = np.random.default_rng([options["seed"], index, kind, number])
            samples = synthesise(voice, label, rng)
            path = folder / f"{folder.name}_{label}_{number:02d}.wav"
            soundfile.write(path, samples, SAMPLING_RATE, subtype="PCM_16")
