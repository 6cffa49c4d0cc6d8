"""From the names that a table has for its files to the files on this machine, each folder listed once."""

from __future__ import annotations

import itertools
import logging
import os
import re
import unicodedata
from collections import Counter, defaultdict
from functools import cached_property

import numpy as np

from whisper_emotion.corpora.table_formats import RawTable
from whisper_emotion.errors import UserError, printable
from whisper_emotion.recordings import SUFFIXES, walk

logger = logging.getLogger(__name__)

ENDINGS = frozenset(SUFFIXES)
FOREIGN = re.compile(r"[A-Za-z]:[\\/]|\\\\")  # how absolute paths of Windows begin


def find_files(raw: RawTable, names: list[str], codes: np.ndarray, audio_dir: str | None) -> list[str]:
    """Find the files of a table.

    Args:
        raw: The table.
        names: Its different names of files.
        codes: Which of the names each row has.
        audio_dir: The folder that relative names are below, and absolute ones, too, where they are not there; None
            for the table's own.

    Returns:
        An absolute path for each name.

    Raises:
        UserError: Some files are missing.
    """
    root = os.path.abspath(audio_dir or raw.path.parent)
    search = _Search(root, absolute=audio_dir is not None)
    found = [search.find(name) for name in names]
    owners = Counter(path for path, _ in found)
    # Two names for one file mean that the second one's own is missing, such as bob/01.wav beside anna/01.wav
    paths = [None if sought and owners[path] > 1 else path for path, sought in found]
    missing = [number for number, path in enumerate(paths) if path is None]
    if missing:
        first = names[missing[0]]
        row = raw.row(int(np.argmax(codes == missing[0])))
        where = "a path of another machine" if FOREIGN.match(first) and not audio_dir else f"not found below {root}"
        hint = "name another --audio_dir" if audio_dir else "give the files' folder by --audio_dir"
        raise UserError(
            f"{raw.path}: {len(missing)} of {len(names)} files are missing, the first is '{printable(first)}' "
            f"({row}), {where}; {hint}"
        )
    moved = [number for number, (_, sought) in enumerate(found) if sought]
    if moved:
        first = f"{os.path.relpath(paths[moved[0]], root)} for {names[moved[0]]}"
        logger.warning(
            "%s",
            printable(
                f"{raw.path}: {len(moved)} of {len(names)} files have another ending or folder, such as {first}"
            ),
        )
    return [path for path in paths if path is not None]


class _Search:
    """Finds files below a folder by the names that a table has for them.

    Args:
        root: The folder.
        absolute: Whether absolute names that are not there are sought below the folder.
    """

    def __init__(self, root: str, absolute: bool) -> None:
        self.root = root
        self.absolute = absolute
        self.listed: dict[str, tuple[str, dict[str, str]]] = {}
        self.stems: dict[str, dict[str, str]] = {}

    def find(self, name: str) -> tuple[str | None, bool]:
        """The file, None where there is none; and whether it has another ending or folder than its name says."""
        spelled, stem = name, ""
        for spelled in (name, name.replace("\\", "/")) if "\\" in name else (name,):
            head, slash, base = spelled.rpartition("/")
            folder, inside = self.inside(head + slash)
            if hit := inside.get(base) or inside.get(_composed(base)):
                return f"{folder}{os.sep}{hit}", False
            stem = _stem(base)
            if head not in self.stems:
                by_ending = sorted((name for name in inside.values() if _ending(name)), key=_rank, reverse=True)
                self.stems[head] = {_stem(name): name for name in by_ending}
            if hit := self.stems[head].get(stem):
                return f"{folder}{os.sep}{hit}", True
        if (os.path.isabs(spelled) or FOREIGN.match(name)) and not self.absolute:
            return None, False
        return self.elsewhere(spelled, stem), True

    def inside(self, head: str) -> tuple[str, dict[str, str]]:
        """A folder's path, and the names of its files by their composed form (macOS may have decomposed them)."""
        if head not in self.listed:
            folder, names = os.path.normpath(os.path.join(self.root, head)), {}
            try:
                with os.scandir(folder) as entries:
                    names = {_composed(entry.name): entry.name for entry in entries if entry.is_file()}
            except (OSError, ValueError):  # no such folder, or a name that no folder can have
                pass
            self.listed[head] = folder.rstrip(os.sep), names
        return self.listed[head]

    def elsewhere(self, spelled: str, stem: str) -> str | None:
        """The one file below the root that has the name, and the most of the folders above it."""
        candidates = self.tree.get(stem, [])
        if len(candidates) > 1:
            *folders, base = _composed(spelled).split("/")
            ranked = defaultdict(list)
            for path in candidates:
                *above, name = _composed(path).split(os.sep)
                pairs = zip(above[::-1], folders[::-1], strict=False)
                ranked[sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)), name == base] += [
                    path
                ]
            candidates = ranked[max(ranked)]
        return candidates[0] if len(candidates) == 1 else None

    @cached_property
    def tree(self) -> dict[str, list[str]]:
        """All sound files below the root by their stems."""
        tree = defaultdict(list)
        for path in walk(self.root, on_error=lambda *_: None):
            tree[_stem(path.name)].append(str(path))
        return tree


def _composed(name: str) -> str:
    """A name in Unicode's composed form (NFC)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _ending(name: str) -> str:
    """A name's ending if it is one of sound files, in small letters."""
    ending = name[name.rfind(".") :].lower()
    return ending if ending in ENDINGS else ""


def _rank(name: str) -> tuple[int, str]:
    """Where a sound file's ending stands among `SUFFIXES`, lossless ones first."""
    return SUFFIXES.index(_ending(name)), name


def _stem(name: str) -> str:
    """A name in small letters without the ending of a sound file."""
    return _composed(name[: len(name) - len(_ending(name))]).casefold()
