"""Load one or several corpora as one dataset with uniform columns and emotion labels."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
from datasets import Dataset, concatenate_datasets

from whisper_emotion.corpora import hub
from whisper_emotion.corpora._utterances import audio_paths, to_dataset
from whisper_emotion.corpora.frames import NUMBERS, RATINGS
from whisper_emotion.corpora.record import Corpus
from whisper_emotion.corpora.records import CORPORA, corpus_name, corpus_record
from whisper_emotion.corpora.vocabulary import canonical, in_order, parse_mapping
from whisper_emotion.errors import UserError

logger = logging.getLogger(__name__)

SELECTION = ("labels", "labels_map", "merge", "classes")  # options of every corpus
SHARED = "shared"  # value of `classes`: the classes that all corpora have


def load_corpus(
    name: str | Sequence[str],
    corpus_dir: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    **options: Any,
) -> Dataset:
    """Read one or several corpora as one dataset.

    Args:
        name: One of `CORPORA`, or `hub:NAMESPACE/NAME`; several as a list or comma-separated.
        corpus_dir: The corpus's folder, or the file of a `table`; None with `hub:`. For several corpora one each, as a
            list or comma-separated, empty with `hub:`.
        **options: The options below; `None` means not given.

            `labels_map` (`ang=angry,hap=happy`, or a mapping): renames the owners' labels.

            `labels`: `original` keeps the owners' labels. By default they are mapped to `vocabulary.EMOTIONS`; unknown
            labels stay.

            `merge` (`calm=neutral,excited=happy`, or a mapping): merges classes into others.

            `classes` (a list, or comma-separated): keeps only these classes; `shared` keeps the classes that all
            corpora have.

            Options of a corpus's reader: `improvised_only` (iemocap), `speaker_pattern` (folder), `audio_dir` and
            `columns` (table), `speakers`, `utterances` and `seed` (synthetic).

            Without `classes` or `merge`, IEMOCAP has its usual four classes, with excited merged into happy.

    Returns:
        `Dataset` with the columns below. Rows are sorted by file name; a table or a Hub dataset keeps its order.

        `audio`: `Audio(decode=False)`, an absolute path without bytes; from the Hub possibly bytes.

        `label`: `ClassLabel`, in the vocabulary's order.

        `speaker`: unique among all corpora; contains a slash if the speaker is unknown.

        `gender` (`female`, `male` or None), `session` (or None), `seconds` (float), `corpus`, and `split` (`train`,
        `dev`, `test` or None).

        `start` and `end` in seconds, if utterances are parts of files. `arousal`, `valence` and `dominance` (floats),
        if a corpus has ratings.

    Raises:
        UserError: A corpus, option or class is unknown. A folder is missing or empty. A file cannot be read, or its
            name does not parse.
    """
    options = {option: value for option, value in options.items() if value is not None}
    selection = {option: options.pop(option) for option in SELECTION if option in options}
    names = [one and corpus_name(one) for one in _several(name)]
    folders = [corpus_dir] if len(names) == 1 and not isinstance(corpus_dir, (list, tuple)) else _several(corpus_dir)
    if len(folders) != len(names):
        raise UserError(f"corpus_dir: {len(folders)} folders for {len(names)} corpora, expected one each")
    readers = [_reader(one) for one in names]
    taken = [set(inspect.signature(reader).parameters) for reader in readers]
    for option in options:
        if not any(option in known for known in taken):
            known = ", ".join([*SELECTION, *(option for reader in readers for option in _own_options(reader))])
            raise UserError(f"{option}: not an option of corpus {', '.join(names)}, which takes {known}")
    parts = []
    for one, folder, reader, known in zip(names, folders, readers, taken, strict=True):
        own = {option: value for option, value in options.items() if option in known}
        parts.append(_read(one, folder, partial(reader, **own), complete=not own))
    _name_apart(parts)
    labels = _select(parts, **selection)
    numbers = [
        number
        for number in (*NUMBERS[:2], *RATINGS)
        if any(number in part.table and part.table[number].notna().any() for part in parts)
    ]
    loaded = [to_dataset(part.table, labels, numbers, part.recordings) for part in parts if len(part.table)]
    return loaded[0] if len(loaded) == 1 else concatenate_datasets(loaded)


@dataclass
class _Part:
    """Output of a corpus's reader; fields as in `to_dataset`."""

    name: str
    record: Corpus
    table: pd.DataFrame
    recordings: Dataset | None = None


def _several(names: Any) -> list[Any]:
    """Split a list or a comma-separated text."""
    if names is None:
        return [None]
    parts = names.split(",") if isinstance(names, str) else names if isinstance(names, (list, tuple)) else [names]
    return [part.strip() or None if isinstance(part, str) else part for part in parts]


def _reader(name: str | None) -> Callable[..., Any]:
    """Return the reader of a corpus: a function of its folder, its record and options."""
    if name is None or (name not in CORPORA and not name.startswith(hub.PREFIX)):
        known = ", ".join(CORPORA)
        raise UserError(f"corpus: unknown name '{name or ''}', expected one of {known} or hub:NAMESPACE/NAME")
    reader = corpus_record(name).reader
    module = f"{__package__}.{reader}"
    # Do not catch ImportError: a missing package is not a mistake in the record
    if importlib.util.find_spec(module) is None or not hasattr(importlib.import_module(module), "read"):
        raise UserError(f"the record of {name}: has no reader '{reader}', expected names or table")
    return importlib.import_module(module).read


def _own_options(reader: Callable[..., Any]) -> list[str]:
    """List the options of a reader: its keyword-only parameters."""
    parameters = inspect.signature(reader).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


def _read(name: str, folder: Any, read: Callable[..., Any], complete: bool) -> _Part:
    """Read one corpus; `complete` expects all published utterances."""
    record = corpus_record(name)
    if name.startswith(hub.PREFIX):
        if folder is not None:
            raise UserError(f"corpus_dir: {name} comes from the Hub, leave {folder} out")
        table, recordings = read(name)
        return _Part(name.rpartition("/")[2], record, table, recordings)
    if folder is None:
        raise UserError(f"corpus_dir: missing, expected the folder of {name}")
    folder, recordings = Path(folder), None
    if record.reader in ("folder", "table") and hub.is_saved(folder):
        found, recordings = hub.read_saved(folder)
    else:
        found = read(folder, record)
    if found.empty:
        raise UserError(f"{folder}: holds no recordings of --corpus {name}, expected {record.layout}")
    if record.published is not None and complete and len(found) != record.published:
        logger.warning("%s: %d of the %d published utterances", folder, len(found), record.published)
    own = name if name not in ("folder", "table") else Path(os.path.abspath(folder)).stem
    return _Part(own, record, found, recordings)


def _name_apart(parts: Sequence[_Part]) -> None:
    """Give each corpus a unique name, and prefix its speakers with the name: speaker ids may repeat."""
    counts: Counter[str] = Counter()
    for part in parts:
        counts[part.name] += 1
        if counts[part.name] > 1:
            part.name += f"_{counts[part.name]}"
        rows = pd.Series(range(len(part.table)), index=part.table.index).map("row/{}".format)
        speaker = part.table["speaker"].str.replace("/", "_").fillna(rows)  # the slash marks unknown speakers
        prefix = f"{part.name}:" if len(parts) > 1 else ""
        part.table = part.table.assign(speaker=prefix + speaker, corpus=part.name)


def _select(
    parts: Sequence[_Part],
    labels: str = "vocabulary",
    labels_map: str | Mapping[str, str] | None = None,
    merge: str | Mapping[str, str] | None = None,
    classes: str | Iterable[str] | None = None,
) -> list[str]:
    """Rename, merge and select classes in the corpora's tables, see `load_corpus`.

    Returns:
        The classes, ordered by id.
    """
    if labels not in ("vocabulary", "original"):
        raise UserError(f"labels: '{labels}', expected vocabulary or original")
    renamed = {} if labels_map is None else parse_mapping("labels_map", labels_map)
    owners = {word for part in parts for word in part.table["label"].unique()}
    for word in renamed:
        if word not in owners:
            raise UserError(f"labels_map: no recording is labelled '{word}', found {', '.join(sorted(owners))}")
    for part in parts:
        spoken = {word: renamed.get(word, word) for word in part.table["label"].unique()}
        if labels == "vocabulary":
            spoken = {word: _in_vocabulary(target, part.record) for word, target in spoken.items()}
        part.table = part.table.assign(label=part.table["label"].map(spoken))
    asked = None if classes is None or classes == SHARED else _names(classes)
    for part in parts:
        if labels == "vocabulary":
            _apply_usual(part, merge is not None, asked)
    if merge is not None:
        _merge(parts, parse_mapping("merge", merge) if merge else {}, translate=labels == "vocabulary")
    found = [set(part.table["label"]) - {""} for part in parts]
    known = in_order(set().union(*found))
    if asked is None:
        kept = in_order(set.intersection(*found)) if classes == SHARED else known
    else:
        kept = in_order(_known_class("classes", name, known) for name in asked)
    if len(kept) < 2:
        raise UserError(f"classes: {', '.join(kept) or 'none'} alone, expected two or more of {', '.join(known)}")
    for part in parts:
        chosen = part.table["label"].isin(kept).to_numpy()  # excludes empty labels
        if part.recordings is not None and not chosen.all():
            part.recordings = part.recordings.select(chosen.nonzero()[0])
        part.table = part.table[chosen]
    return kept


def _in_vocabulary(word: str, record: Corpus) -> str:
    """Return the vocabulary's class for an owner's label, or the label itself."""
    return "other" if word in record.other else canonical(word) or word


def _apply_usual(part: _Part, merged: bool, asked: Sequence[str] | None) -> None:
    """Merge and select classes as in published work, unless the user gives other classes."""
    usual = {} if merged else {one: target for one, target in part.record.merge.items() if one not in (asked or ())}
    label = part.table["label"].replace(usual)
    part.table = part.table.assign(label=label)
    if part.record.classes and asked is None and not merged:
        part.table = part.table[label.isin(part.record.classes)]


def _merge(parts: Sequence[_Part], merges: Mapping[str, str], translate: bool) -> None:
    """Merge classes, named by their current names."""
    known = in_order(label for part in parts for label in part.table["label"].unique() if label)
    joined = {
        _known_class("merge", one, known): (canonical(target) if translate else None) or target
        for one, target in merges.items()
    }
    for part in parts:
        part.table = part.table.assign(label=part.table["label"].replace(joined))


def _names(classes: str | Iterable[str]) -> list[str]:
    """Split the requested classes."""
    if not isinstance(classes, Iterable):
        raise UserError(f"classes: {classes} is not a list of names such as angry,happy,neutral,sad")
    names = classes.split(",") if isinstance(classes, str) else classes
    return [name for name in (str(one).strip() for one in names) if name]


def _known_class(option: str, name: str, known: Sequence[str]) -> str:
    """Find a class by its name or a synonym."""
    for one in (name, canonical(name) or name):
        if one in known:
            return one
    raise UserError(f"{option}: there are no recordings of class '{name}', expected some of {', '.join(known)}")


def utterance_names(dataset: Dataset) -> list[str]:
    """Name every row by its file's stem, or by its path below the common folder if stems collide.

    If names still collide or are missing, as for bytes or parts of one file, row numbers are prefixed.

    Args:
        dataset: Output of `load_corpus`, or a selection of its rows.

    Returns:
        One unique name per row; paths have forward slashes and no suffix.
    """
    paths = [PurePath(path or "") for path, _ in audio_paths(dataset)]
    names = [path.stem for path in paths]
    if len(set(names)) < len(names) and all(path.is_absolute() for path in paths):
        common = os.path.commonpath([path.parent for path in paths])
        names = [path.relative_to(common).with_suffix("").as_posix() for path in paths]
    if len(set(names)) < len(names) or not all(names):
        digits = len(str(len(names)))
        names = [f"{row:0{digits}d}_{name}".rstrip("_") for row, name in enumerate(names)]
    return names


__all__ = ["CORPORA", "load_corpus", "utterance_names"]
