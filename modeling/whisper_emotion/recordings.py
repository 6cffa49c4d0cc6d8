"""From what a user names, files, folders and patterns, to the sound files that are meant."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from whisper_emotion.errors import UserError

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus")
"""Endings, in any case, of the files that are taken from a folder; a file that is named itself may have any."""


def find_recordings(names: Iterable[str]) -> tuple[list[str], dict[str, UserError]]:
    """The sound files that some names stand for, in the order of the names, each once.

    Args:
        names: Files; folders, of which all files with a known ending are taken, in sub-folders, too, sorted by path;
            and patterns such as `talks/**/*.wav`, for shells that leave them as they are.

    Returns:
        Paths, and for each name that stands for none (and each folder that cannot be listed) what is wrong with it.
        Whether a named file can be read is found out by reading it.
    """
    found: dict[str, None] = {}
    wrong: dict[str, UserError] = {}

    def refuse(error: OSError) -> None:
        folder = os.fsdecode(error.filename)
        wrong[folder] = UserError(f"{folder}: cannot be listed ({error.strerror}), expected a readable folder")

    for name in names:
        paths = [name]
        if not os.path.lexists(name) and glob.has_magic(name):
            paths = sorted(glob.glob(name, recursive=True))
            if not paths:
                wrong[name] = UserError(f"{name}: no file has such a name")
        for path in paths:
            if not os.path.isdir(path):
                found[path] = None
                continue
            inside = sorted(str(file) for file in walk(path, SUFFIXES, refuse))
            if not inside and path not in wrong:
                wrong[path] = UserError(f"{path}: holds no sound file, expected some of {' '.join(SUFFIXES)}")
            found |= dict.fromkeys(inside)
    return list(found), wrong


def walk(root: str | os.PathLike[str], suffixes: tuple[str, ...], refuse: Callable[[OSError], None]) -> Iterator[Path]:
    """All files below a folder with one of these endings, in any case.

    Hidden files and folders are left out, and so are the `._*` files that macOS leaves in archives. Links to folders
    are followed, each folder once.

    Args:
        root: The folder.
        suffixes: Endings in small letters.
        refuse: Called with the error of a folder that cannot be listed.

    Yields:
        Paths, in no order.
    """
    seen = {os.path.realpath(root)}
    for folder, inner, files in os.walk(root, onerror=refuse, followlinks=True):
        inner[:] = [name for name in sorted(inner) if not name.startswith(".")]
        inner[:] = [name for name in inner if not _visited(os.path.join(folder, name), seen)]
        yield from (Path(folder, name) for name in files if has_suffix(name, suffixes))


def has_suffix(name: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a file's name is a visible one with one of these endings."""
    return name.lower().endswith(suffixes) and not name.startswith(".")


def _visited(folder: str, seen: set[str]) -> bool:
    """Whether a folder was walked before, by its real path; remembers it."""
    real = os.path.realpath(folder)
    known = real in seen
    seen.add(real)
    return known
