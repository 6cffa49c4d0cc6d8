"""The synthetic corpus: generated source-filter speech, identical on every machine and in every run."""

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

# The options of the corpus in a folder. It is written last, just before the rename, so it marks a complete folder.
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
    """Read the synthetic corpus; generate it first if the folder is missing or empty.

    Args:
        corpus_dir: The folder. An existing corpus is reused.
        record: The corpus's record.
        speakers: Number of speakers (16), alternately female and male.
        utterances: Number of utterances per speaker and emotion (10).
        seed: Random seed (0).

    Returns:
        One row per utterance, sorted by name, see `frames.utterance_frame`: speakers `S01F`, `S02M`, …, emotions
        angry, happy, neutral and sad.

    Raises:
        UserError: An option is out of range. The folder cannot be written, holds other files, lacks files, or was
            generated with other options.
    """
    given = {"speakers": speakers, "utterances": utterances, "seed": seed}
    asked = {name: _in_range(name, value) for name, value in given.items() if value is not None}
    if not corpus_dir.exists() or (corpus_dir.is_dir() and not any(corpus_dir.iterdir())):
        _generate(corpus_dir, DEFAULTS | asked)
    recorded = _recorded_options(corpus_dir)
    for name, value in asked.items():
        if recorded[name] != value:
            raise UserError(
                f"{corpus_dir}: was generated with {name} {recorded[name]}, not {value}: remove it or name another"
            )
    paths = {
        corpus_dir / speaker / f"{speaker}_{label}_{number:02d}.wav": (label, speaker, gender)
        for speaker, gender in _speakers(recorded["speakers"])
        for label in LABELS
        for number in range(1, recorded["utterances"] + 1)
    }
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: is missing, remove the folder {corpus_dir} to generate the corpus again")
    names = ("label", "speaker", "gender")
    return frame_of_rows(
        [{"path": str(path), **dict(zip(names, found, strict=True))} for path, found in paths.items()]
    )


def _in_range(name: str, value: int) -> int:
    """Return an option's value; raise unless it is a whole number within its limits."""
    allowed = ALLOWED[name]
    if type(value) is not int or value not in allowed:
        raise UserError(f"{name}: {value!r}, expected a whole number from {allowed[0]} to {allowed[-1]}")
    return value


def _speakers(count: int) -> list[tuple[str, str]]:
    """List names and genders of the speakers."""
    genders = ["female" if number % 2 else "male" for number in range(1, count + 1)]
    return [(f"S{number:02d}{gender[0].upper()}", gender) for number, gender in enumerate(genders, start=1)]


def _recorded_options(corpus_dir: Path) -> dict[str, Any]:
    """Read the options of the folder's corpus."""
    try:
        recorded = json.loads((corpus_dir / RECORD).read_text(encoding="utf-8"))
        return {name: _in_range(name, recorded[name]) for name in DEFAULTS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{corpus_dir}: holds other files than the synthetic corpus, expected a new or an empty folder"
        ) from error


def _generate(corpus_dir: Path, options: dict[str, int]) -> None:
    """Write the corpus to a temporary folder and rename it, so that a half-written corpus is never read."""
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
                # Another process may have been faster; the reader then checks its corpus
                if not (target / RECORD).is_file():
                    raise
    except OSError as error:
        raise UserError(f"{corpus_dir}: cannot be written ({error.strerror}), expected a writable folder") from error


def _write_speaker(folder: Path, gender: str, options: dict[str, int], index: int) -> None:
    """Write all utterances of one speaker as 16-bit WAV, each with a separate random stream."""
    folder.mkdir()
    voice = draw_voice(gender, np.random.default_rng([options["seed"], index]))
    for kind, label in enumerate(LABELS):
        for number in range(1, options["utterances"] + 1):
            rng = np.random.default_rng([options["seed"], index, kind, number])
            samples = synthesise(voice, label, rng)
            path = folder / f"{folder.name}_{label}_{number:02d}.wav"
            soundfile.write(path, samples, SAMPLING_RATE, subtype="PCM_16")
