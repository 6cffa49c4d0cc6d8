"""Read a folder of recordings: one sub-folder per class, with files anywhere below it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pandas as pd

from whisper_emotion.corpora._utterances import audio_files, require_folder
from whisper_emotion.corpora.frames import gender_of, one_spelling, split_of, tidy, utterance_frame
from whisper_emotion.corpora.record import Corpus
from whisper_emotion.corpora.records import CORPORA
from whisper_emotion.corpora.vocabulary import canonical
from whisper_emotion.errors import UserError
from whisper_emotion.recordings import SUFFIXES, is_audio

LAYOUT = CORPORA["folder"].layout


def read(corpus_dir: Path, record: Corpus, *, speaker_pattern: str | None = None) -> pd.DataFrame:
    """Read a folder of class folders.

    Folders above the classes may be splits (`train/angry`), speakers (`anna/angry`), both (`train/anna/angry`), or
    genders (`female/angry`). A single folder above the classes (`data/angry`) is ignored.

    Args:
        corpus_dir: The folder.
        record: The corpus's record.
        speaker_pattern: Regular expression that is searched in a file's name without suffix; its first group is the
            speaker. It wins over folders of speakers.

    Returns:
        The output of `frames.utterance_frame`, sorted by name and path.

    Raises:
        UserError: The folder is missing, recordings are outside the class folders, a class folder is empty, or two
            levels could be the classes. The pattern is invalid, has no group, or finds no speaker in a file name. Each
            class has exactly one speaker.
    """
    require_folder(corpus_dir)
    pattern = None if speaker_pattern is None else _compile(speaker_pattern)
    tops: list[tuple[str | None, Path]] = [(None, folder) for folder in _sub_folders(corpus_dir)]
    splits = [folder for _, folder in tops if split_of(folder.name)]
    if 1 < len(splits) < len(tops):
        other = next(folder for _, folder in tops if folder not in splits)
        raise UserError(f"{other}: is not a split, but {splits[0].name} is; expected only splits, or {LAYOUT}")
    if splits and len(splits) == len(tops):
        tops = [(split_of(folder.name), inner) for folder in splits for inner in _sub_folders(folder)]
    files = {folder: audio_files(folder) for _, folder in tops}
    for folder, paths in files.items():
        if not paths:
            raise UserError(f"{folder}: holds no sound file, expected some of {' '.join(SUFFIXES)}")
    nested = _classes_are_inside(corpus_dir, files)
    outer_names = {tidy(folder.name) for folder in files}
    known_genders = nested and all(map(gender_of, outer_names))
    known_speakers = nested and not known_genders and len(outer_names) > 1
    rows, seen = [], {}
    for split, folder in tops:
        for path in files[folder]:
            # The same recording as .wav and .flac would leak between training and test
            other = seen.setdefault(path.with_suffix(""), path)
            if other != path:
                raise UserError(f"{path}: is the same recording as {other.name}, remove one of the two")
            label = path.relative_to(folder).parts[0] if nested else folder.name
            speaker = _speaker(pattern, path) if pattern else tidy(folder.name) if known_speakers else None
            rows.append((path, label, speaker, gender_of(folder.name) if known_genders else None, split))
    rows.sort(key=lambda row: (row[0].stem, row[0].as_posix()))
    spelled = one_spelling((label for _, label, *_ in rows), corpus_dir)
    frame = utterance_frame(
        path=[os.path.abspath(path) for path, *_ in rows],
        label=[spelled[label] for _, label, *_ in rows],
        speaker=[speaker for _, _, speaker, *_ in rows],
        gender=[gender for *_, gender, _ in rows],
        split=[split for *_, split in rows],
    )
    if pattern:
        _require_speakers_across_classes(frame, pattern)
    return frame


def _sub_folders(folder: Path) -> list[Path]:
    """List the visible folders in a folder; raise if it holds recordings itself."""
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    for entry in entries:
        if not entry.is_dir() and is_audio(entry.name):
            raise UserError(f"{entry}: is not in a class folder, expected {LAYOUT}")
    return [entry for entry in entries if entry.is_dir()]


def _classes_are_inside(corpus_dir: Path, files: dict[Path, list[Path]]) -> bool:
    """Whether the classes are the folders' sub-folders; raise if both levels could be classes."""
    below = {folder: [path.relative_to(folder).parts for path in paths] for folder, paths in files.items()}
    if not below or any(len(parts) == 1 for paths in below.values() for parts in paths):
        return False
    inner = {folder: {tidy(parts[0]) for parts in paths} for folder, paths in below.items()}
    outer_names, inner_names = {tidy(folder.name) for folder in files}, set().union(*inner.values())
    outer_moods, inner_moods = ([canonical(name) for name in names] for names in (outer_names, inner_names))
    unknown = not any(outer_moods) and not any(inner_moods)
    same = len(outer_names) > 1 and len(inner_names) > 1 and all(names == inner_names for names in inner.values())
    if (any(outer_moods) and all(inner_moods)) or (unknown and same):
        levels = " and ".join(", ".join(sorted(names)[:3]) for names in (outer_names, inner_names))
        raise UserError(
            f"{corpus_dir}: two levels of folders could be the classes ({levels}), expected {LAYOUT}, or "
            "anna/angry/01.wav with usual names of emotions; otherwise list the files in a table (--corpus table)"
        )
    return all(inner_moods)


def _compile(speaker_pattern: str) -> re.Pattern[str]:
    """Compile the pattern; raise unless it is valid and has a group."""
    try:
        pattern = re.compile(speaker_pattern)
    except (re.error, TypeError) as error:
        raise UserError(
            f"--speaker_pattern {speaker_pattern}: is not a regular expression ({error}), expected one such as "
            "'^([a-z]+)_'"
        ) from error
    if not pattern.groups:
        raise UserError(f"--speaker_pattern {speaker_pattern}: has no group, expected one as in '^([a-z]+)_'")
    return pattern


def _speaker(pattern: re.Pattern[str], path: Path) -> str:
    """Find the speaker in a file's name."""
    match = pattern.search(path.stem)
    if match is None or not match[1]:
        raise UserError(
            f"{path}: --speaker_pattern {pattern.pattern} finds no speaker in its name '{path.stem}', "
            "expected a pattern such as '^([a-z]+)_', which finds anna in anna_01"
        )
    return match[1]


def _require_speakers_across_classes(frame: pd.DataFrame, pattern: re.Pattern[str]) -> None:
    """Raise if every class has exactly one speaker: the pattern matches the class, or folds cannot be tested."""
    pairs = frame[["label", "speaker"]].drop_duplicates()
    if len(pairs) > 1 and pairs["label"].is_unique and pairs["speaker"].is_unique:
        first = ", ".join(f"{speaker} in {label}" for label, speaker in pairs.values[:2])
        raise UserError(
            f"--speaker_pattern {pattern.pattern}: finds one speaker per class ({first}), expected speakers with "
            "several classes"
        )
