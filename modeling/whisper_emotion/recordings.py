"""Find the sound files that a user names by files, folders and patterns."""

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
"""Suffixes, in any case, of the files that are taken from a folder; a file named directly may have any suffix."""

MOST_ENDINGS = 5  # suffixes of skipped files that a warning names


def find_recordings(names: Iterable[str]) -> tuple[list[str], dict[str, UserError]]:
    """Find the sound files that some names stand for, in the order of the names, each once.

    A warning names the number and the suffixes of the files that are skipped in each folder.

    Args:
        names: Files, folders, or patterns such as `talks/**/*.wav`. From a folder all files with a known suffix are
            taken, recursively, sorted by path.

    Returns:
        Paths, and the error of each name without files and of each folder that cannot be listed. A file that is named
        directly is not checked.
    """
    found: dict[str, None] = {}
    wrong: dict[str, UserError] = {}

    for name in names:
        paths = [name]
        if not os.path.lexists(name) and glob.has_magic(name):
            paths = sorted(glob.glob(name, recursive=True))
            if not paths:
                wrong[name] = UserError(f"{name}: matches no file")
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
        name: A file, folder or pattern, as in `find_recordings`.

    Raises:
        UserError: There are no recordings, or a folder cannot be listed.
    """
    recordings, wrong = find_recordings([name])
    for error in wrong.values():
        raise error
    return recordings


def _count(left_out: Counter[str]) -> str:
    """Describe how many files were skipped, and their most common suffixes."""
    total = left_out.total()
    endings = [f"{count} {ending or 'without an ending'}" for ending, count in left_out.most_common(MOST_ENDINGS)]
    more = [] if len(left_out) <= MOST_ENDINGS else ["…"]
    return f"{total} file{'' if total == 1 else 's'} of unknown endings ({', '.join(endings + more)})"


def walk(
    root: str | os.PathLike[str],
    on_error: Callable[[str, UserError], None] | None = None,
    left_out: Counter[str] | None = None,
) -> Iterator[Path]:
    """Find all sound files (`SUFFIXES`, in any case) below a folder.

    Hidden files and folders are skipped, including the `._*` files of macOS archives. Links to folders are followed,
    each folder once.

    Args:
        root: The folder.
        on_error: Called with a folder that cannot be listed, and its error. None raises the first error.
        left_out: Counter for the suffixes of the other visible files.

    Yields:
        Paths, in no particular order.
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
    """Whether a file name belongs to a visible sound file."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")
