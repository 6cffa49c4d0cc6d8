"""From what a user names, files, folders and patterns, to the sound files that are meant."""

import glob
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from whisper_emotion.errors import UserError, printable

logger = logging.getLogger(__name__)

SUFFIXES = (
    *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus"),
    *(".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64"),
    *(".m4a", ".mp4", ".mov", ".3gp", ".aac", ".webm", ".mka", ".mkv", ".amr", ".wma"),  # need the extra `media`
)
"""Endings, in any case, of the files that are taken from a folder; a file that is named itself may have any."""

MOST_ENDINGS = 5  # are named of the files that are left out


def find_recordings(names: Iterable[str]) -> tuple[list[str], dict[str, UserError]]:
    """The sound files that some names stand for, in the order of the names, each once.

    Args:
        names: Files; folders, of which all files with a known ending are taken, in sub-folders, too, sorted by path;
            and patterns such as `talks/**/*.wav`, for shells that leave them as they are.

    Returns:
        Paths, and for each name that stands for none (and each folder that cannot be listed) what is wrong with it.
        Whether a named file can be read is found out by reading it. One line is logged for each folder with files of
        other endings: how many were left out, and their endings.
    """
    found: dict[str, None] = {}
    wrong: dict[str, UserError] = {}

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
            left_out: Counter[str] = Counter()
            inside = sorted(str(file) for file in walk(path, wrong.__setitem__, left_out))
            if not inside and path not in wrong:
                wrong[path] = UserError(f"{path}: holds no sound file, expected some of {' '.join(SUFFIXES)}")
            if left_out:
                logger.warning("%s", printable(f"{path}: left out {_count(left_out)}"))
            found |= dict.fromkeys(inside)
    return list(found), wrong


def find_domain(name: str) -> list[str]:
    """Find the recordings to adapt to.

    Args:
        name: As of `find_recordings`.

    Raises:
        UserError: It stands for none, or a folder cannot be listed.
    """
    recordings, wrong = find_recordings([name])
    for error in wrong.values():
        raise error
    return recordings


def _count(left_out: Counter[str]) -> str:
    """How many files were left out, and their most common endings."""
    total = left_out.total()
    endings = [f"{count} {ending or 'without an ending'}" for ending, count in left_out.most_common(MOST_ENDINGS)]
    more = [] if len(left_out) <= MOST_ENDINGS else ["…"]
    return f"{total} file{'' if total == 1 else 's'} of unknown endings ({', '.join(endings + more)})"


def walk(
    root: str | os.PathLike[str],
    on_error: Callable[[str, UserError], None] | None = None,
    left_out: Counter[str] | None = None,
) -> Iterator[Path]:
    """All sound files (`SUFFIXES`, in any case) below a folder.

    Hidden files and folders are left out, and so are the `._*` files that macOS leaves in archives. Links to folders
    are followed, each folder once.

    Args:
        root: The folder.
        on_error: Called with a folder that cannot be listed, and its error. None raises the first error.
        left_out: Counts the endings of the other visible files.

    Yields:
        Paths, in no order.
    """

    def refuse(error: OSError) -> None:
        folder = os.fsdecode(error.filename)
        refused = UserError(f"{folder}: cannot be listed ({error.strerror}), expected a readable folder")
        if on_error is None:
            raise refused from error
        on_error(folder, refused)

    seen = {os.path.realpath(root)}
    for folder, inner, files in os.walk(root, onerror=refuse, followlinks=True):
        new = []
        for name in sorted(inner):
            real = os.path.realpath(os.path.join(folder, name))
            if not name.startswith(".") and real not in seen:
                seen.add(real)
                new.append(name)
        inner[:] = new
        for name in files:
            if is_audio(name):
                yield Path(folder, name)
            elif left_out is not None and not name.startswith("."):
                left_out[Path(name).suffix.lower()] += 1


def is_audio(name: str) -> bool:
    """Whether a file's name is that of a visible sound file."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")
