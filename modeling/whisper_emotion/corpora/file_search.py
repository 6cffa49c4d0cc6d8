"""Find the files that a table names, listing each folder once."""

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
FOREIGN = re.compile(r"[A-Za-z]:[\\/]|\\\\")  # the start of an absolute path of Windows


def find_files(raw: RawTable, names: list[str], codes: np.ndarray, audio_dir: str | None) -> list[str]:
    """Find the files of a table.

    Args:
        raw: The table.
        names: The table's unique file names.
        codes: Index of each row's name in `names`.
        audio_dir: Folder of relative names, and of absolute names that do not exist; None: the table's folder.

    Returns:
        An absolute path for each name.

    Raises:
        UserError: Some files are missing.
    """
    root = os.path.abspath(audio_dir or raw.path.parent)
    search = _Search(root, absolute=audio_dir is not None)
    found = [search.find(name) for name in names]
    owners = Counter(path for path, _ in found)
    # If two names find the same file, one file is missing, such as bob/01.wav besides anna/01.wav
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
                f"{raw.path}: {len(moved)} of {len(names)} files have another suffix or folder, such as {first}"
            ),
        )
    return [path for path in paths if path is not None]


class _Search:
    """Find files below a folder by the names in a table.

    Args:
        root: The folder.
        absolute: Whether to search below the folder for absolute names that do not exist.
    """

    def __init__(self, root: str, absolute: bool) -> None:
        self.root = root
        self.absolute = absolute
        self.listed: dict[str, tuple[str, dict[str, str]]] = {}
        self.stems: dict[str, dict[str, str]] = {}

    def find(self, name: str) -> tuple[str | None, bool]:
        """Return the file or None, and whether its suffix or folder differs from the name."""
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
        """Return a folder's path, and its file names by their composed form (macOS may decompose names)."""
        if head not in self.listed:
            folder, names = os.path.normpath(os.path.join(self.root, head)), {}
            try:
                with os.scandir(folder) as entries:
                    names = {_composed(entry.name): entry.name for entry in entries if entry.is_file()}
            except (OSError, ValueError):  # no such folder, or an invalid name
                pass
            self.listed[head] = folder.rstrip(os.sep), names
        return self.listed[head]

    def elsewhere(self, spelled: str, stem: str) -> str | None:
        """Return the unique file below the root that matches the name and the most of its folders, or None."""
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
    """Return a name in Unicode's composed form (NFC)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _ending(name: str) -> str:
    """Return a name's suffix in lower case if it belongs to sound files, otherwise an empty string."""
    ending = name[name.rfind(".") :].lower()
    return ending if ending in ENDINGS else ""


def _rank(name: str) -> tuple[int, str]:
    """Return the sort key of a sound file: its suffix's place in `SUFFIXES`, lossless formats first."""
    return SUFFIXES.index(_ending(name)), name


def _stem(name: str) -> str:
    """Return a name in lower case without a sound file's suffix."""
    return _composed(name[: len(name) - len(_ending(name))]).casefold()
