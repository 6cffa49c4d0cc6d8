"""Anyone's recordings: one sub-folder a class, files anywhere below it."""

from __future__ import annotations

import re
from pathlib import Path

from whisper_emotion.corpora._utterances import Corpus, Utterance, audio_files, require_folder
from whisper_emotion.errors import UserError
from whisper_emotion.recordings import SUFFIXES, is_audio

LAYOUT = "one sub-folder a class with sound files, such as angry/anna_01.wav"


def read(corpus_dir: Path, *, speaker_pattern: str | None = None) -> list[Utterance]:
    """Read a folder of class folders.

    Args:
        corpus_dir: The folder.
        speaker_pattern: Regular expression that is searched in a file's name without ending; its first group is the
            speaker. Without it every file is its own speaker, and no speaker-disjoint folds can be made.

    Returns:
        The utterances, sorted by name and path; their labels are the names of the class folders.

    Raises:
        UserError: A missing folder, recordings outside the class folders, a class folder without any, or a pattern
            that is invalid, has no group, or fits a file's name not at all.
    """
    require_folder(corpus_dir)
    pattern = None if speaker_pattern is None else _compile(speaker_pattern)
    utterances, seen = [], {}
    for entry in sorted(corpus_dir.iterdir()):
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            if is_audio(entry.name):
                raise UserError(f"{entry}: lies in no class folder, expected {LAYOUT}")
            continue
        paths = audio_files(entry)
        if not paths:
            raise UserError(f"{entry}: holds no sound file, expected some of {' '.join(SUFFIXES)}")
        for path in paths:
            # A copy as .wav and .flac would leak from training into the test of a fold
            other = seen.setdefault(path.with_suffix(""), path)
            if other != path:
                raise UserError(f"{path}: the same recording as {other.name} beside it, remove one of the two")
            speaker = _speaker(pattern, path) if pattern else path.relative_to(corpus_dir).with_suffix("").as_posix()
            utterances.append(Utterance(path, entry.name, speaker))
    return sorted(utterances, key=lambda utterance: (utterance.path.stem, utterance.path.as_posix()))


def _compile(speaker_pattern: str) -> re.Pattern[str]:
    """The pattern, if it is one and has a group."""
    try:
        pattern = re.compile(speaker_pattern)
    except (re.error, TypeError) as error:
        raise UserError(
            f"--speaker_pattern {speaker_pattern}: is no regular expression ({error}), expected such as '^([a-z]+)_'"
        ) from error
    if not pattern.groups:
        raise UserError(f"--speaker_pattern {speaker_pattern}: has no group, expected such as '^([a-z]+)_'")
    return pattern


def _speaker(pattern: re.Pattern[str], path: Path) -> str:
    """The speaker in a file's name."""
    match = pattern.search(path.stem)
    if match is None or not match[1]:
        raise UserError(
            f"{path}: --speaker_pattern {pattern.pattern} finds no speaker in its name '{path.stem}', "
            "expected such as '^([a-z]+)_', which finds anna in anna_01"
        )
    return match[1]


FOLDER = Corpus(None, None, LAYOUT, read)
"""Recordings in class folders."""
