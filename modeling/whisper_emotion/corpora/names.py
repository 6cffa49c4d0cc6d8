"""Read corpora whose file names contain speaker and emotion, by the pattern in the corpus's record."""

from __future__ import annotations

import csv
import logging
import os
import re
from pathlib import Path

import pandas as pd

from whisper_emotion.corpora._utterances import audio_files
from whisper_emotion.corpora.frames import frame_of_rows, gender_of
from whisper_emotion.corpora.record import Corpus
from whisper_emotion.corpora.vocabulary import canonical
from whisper_emotion.errors import UserError, reading

logger = logging.getLogger(__name__)


def read(corpus_dir: Path, record: Corpus) -> pd.DataFrame:
    """Read a corpus by its file names.

    Args:
        corpus_dir: The corpus's folder, its parent, or the folder of its recordings.
        record: The corpus's record.

    Returns:
        One row per utterance, see `frames.utterance_frame`; labels are the owners' words.

    Raises:
        UserError: A folder is missing, the record is wrong, or a name does not parse. A recording exists twice: some
            archives hold the corpus twice, and copies in training and test would leak.
    """
    try:
        pattern = re.compile(f"(?:.*/)?(?P<whole>{record.pattern})")
    except re.error as error:
        raise UserError(f"the record of {record.title}: invalid pattern ({error}): {record.pattern}") from error
    if lacking := sorted({"emotion", "speaker"} - set(pattern.groupindex)):
        raise UserError(f"the record of {record.title}: its pattern lacks the group {lacking[0]}: {record.pattern}")
    unknown = [word for word in record.emotions.values() if word and not canonical(word) and word not in record.other]
    if unknown:
        raise UserError(
            f"the record of {record.title}: '{unknown[0]}' is not in the vocabulary: use a word of the vocabulary, or "
            "add it to `other`"
        )
    rows: list[dict[str, str | None]] = []
    seen: dict[str, Path] = {}
    left_out = 0
    genders = {**record.genders, **_read_genders(corpus_dir, record)}
    outer = Path(os.path.abspath(corpus_dir)).as_posix()  # the pattern may include folders above corpus_dir
    for path in audio_files(corpus_dir):
        inner = path.with_suffix("").relative_to(corpus_dir).as_posix()
        match = pattern.fullmatch(f"{outer}/{inner}")
        if match is None:
            raise UserError(f"{path}: its name does not parse, expected a name such as {record.layout}")
        found = match.groupdict()
        if found.get("other"):
            left_out += 1
            continue
        other = seen.setdefault(match["whole"], path)
        if other != path:
            raise UserError(
                f"{path}: is the same utterance as {other}, expected each once (for your own recordings use --corpus "
                "folder)"
            )
        if (emotion := record.emotions.get(match["emotion"])) is None:
            raise UserError(f"{path}: '{match['emotion']}' is not an emotion, expected {', '.join(record.emotions)}")
        speaker = record.speakers.get(match["speaker"], match["speaker"])
        gender = genders.get(found.get("gender") or speaker)
        rows.append({"path": str(path), "label": emotion, "speaker": speaker, "gender": gender})
    if left_out:
        logger.warning("%s: left out %d files that are songs or the sound of a video", corpus_dir, left_out)
    return frame_of_rows(rows)


def _read_genders(corpus_dir: Path, record: Corpus) -> dict[str, str | None]:
    """Read genders by speaker from the corpus's own table, if the folder or its parent has one."""
    if record.speaker_table is None:
        return {}
    name, speaker, gender = record.speaker_table
    for path in (corpus_dir / name, corpus_dir.parent / name):
        if path.exists():
            with reading(path, f"a table with the columns {speaker} and {gender}"), open(path, newline="") as table:
                return {row[speaker]: gender_of(row[gender]) for row in csv.DictReader(table)}
    return {}
