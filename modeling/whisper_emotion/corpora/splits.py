"""Divide corpora into folds of training and test utterances: published folds, by speaker, or by corpus.

The tables in `splits/` are EmoBox's (Ma et al., arXiv 2406.07162; https://github.com/emo-box/EmoBox, MIT licence).
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from sklearn.model_selection import GroupKFold

from whisper_emotion.corpora._utterances import audio_paths
from whisper_emotion.corpora.loading import utterance_names
from whisper_emotion.corpora.records import CORPORA, corpus_name, corpus_record
from whisper_emotion.corpora.vocabulary import canonical
from whisper_emotion.errors import UserError

logger = logging.getLogger(__name__)

TABLES = Path(__file__).parent / "splits"
# Matches the serial number and checksum of an Ogg page, which differ between copies of a recording
OGG_PAGE = re.compile(rb"(OggS.{10}).{4}(.{4}).{4}", re.DOTALL)


@dataclass(frozen=True)
class Fold:
    """One division of a corpus.

    Args:
        number: The fold's number, from 1.
        train: Rows to train on, ascending.
        test: Rows to test on, ascending.
        dev: Rows to select on, ascending; None holds training speakers out instead.
    """

    number: int
    train: list[int]
    test: list[int]
    dev: list[int] | None = None


def make_folds(dataset: Dataset, corpus: str, folds: str) -> list[Fold]:
    """Divide one or several corpora into folds.

    Byte-identical copies of a fold's test recordings are removed from its training clips.

    Args:
        dataset: Output of `load_corpus`.
        corpus: The corpus's name, which determines published folds.
        folds: One of the following.

            `loso`: leave one speaker out.

            `speakers:K`: K speaker-disjoint folds with similar numbers of clips.

            `paper`: folds of arXiv 2602.06000: ShEMO's 10 groups of speakers, IEMOCAP's 5 sessions.

            `emobox`: EmoBox's tables; clips that the tables do not list are in no fold.

            `split`: the corpus's own training, dev and test recordings, one fold.

            `loco`: leave one of several corpora out.

            `cross`: train on each corpus alone, and test on each other corpus.

    Returns:
        The folds, numbered from 1. Their test clips are disjoint, except with `cross`.

    Raises:
        UserError: The folds are unknown, or do not apply to this corpus.
    """
    record, published = corpus_record(corpus), ("paper", "emobox")
    makers = {"loso": _speaker_folds, "split": _split_folds, "loco": _corpus_folds, "cross": _cross_folds}
    if folds in makers:
        made = makers[folds](dataset)
    elif folds.startswith("speakers:"):
        made = _balanced_folds(dataset, folds)
    elif folds in published and folds in record.folds:
        made = _emobox_folds(dataset, corpus) if folds == "emobox" else _paper_folds(dataset, corpus)
    elif folds in published:
        have = ", ".join(name for name, one in CORPORA.items() if folds in one.folds)
        raise UserError(f"folds: {folds} is defined for {have} only, not for {corpus}")
    else:
        known = ["loso", *(name for name in published if name in record.folds), "speakers:K", "split", "loco", "cross"]
        raise UserError(f"folds: unknown value '{folds}', expected one of {', '.join(known)} for {corpus}")
    return _without_copies(dataset, made)


def speakers_known(dataset: Dataset) -> bool:
    """Whether the corpus names its speakers; if not, every file counts as a separate speaker."""
    return not all("/" in speaker for speaker in dataset["speaker"][:])


def speakers_shared(dataset: Dataset, fold: Fold) -> int:
    """Return the number of a fold's test speakers that are also in its training clips; 0 if speaker-disjoint."""
    speakers = dataset["speaker"][:]
    return len({speakers[row] for row in fold.test} & {speakers[row] for row in fold.train})


def _folds_by_group(groups: Sequence[Any], order: Iterable[Any], rows: Sequence[int] | None = None) -> list[Fold]:
    """Make a fold that tests on each group in `order` and trains on the others; `rows` defaults to all rows."""
    names = np.asarray(groups)
    members = np.arange(len(names)) if rows is None else np.asarray(rows)
    return [
        Fold(number, members[names != group].tolist(), members[names == group].tolist())
        for number, group in enumerate(order, start=1)
    ]


def _known_speakers(dataset: Dataset, folds: str) -> list[str]:
    """Return every row's speaker; raise unless there are at least two."""
    if not speakers_known(dataset):
        raise UserError(
            f"folds: {folds} needs known speakers, give --speaker_pattern to find them in the file names, or a "
            "dataset with a column speaker"
        )
    speakers = dataset["speaker"][:]
    if len(set(speakers)) < 2:
        raise UserError(f"folds: {folds} needs two or more speakers, found {len(set(speakers))}")
    return speakers


def _balanced_folds(dataset: Dataset, folds: str) -> list[Fold]:
    """Make the folds `speakers:K`: largest speakers first, each assigned to the fold with the fewest clips."""
    speakers = _known_speakers(dataset, folds)
    most = len(set(speakers))
    digits = folds.removeprefix("speakers:")
    if not re.fullmatch("[0-9]{1,9}", digits) or not 2 <= int(digits) <= most:
        raise UserError(f"folds: '{folds}' does not apply, expected speakers:K with K from 2 to {most} (the speakers)")
    divisions = GroupKFold(n_splits=int(digits)).split(speakers, groups=speakers)
    return [Fold(number, train.tolist(), test.tolist()) for number, (train, test) in enumerate(divisions, start=1)]


def _speaker_folds(dataset: Dataset) -> list[Fold]:
    """Make the folds `loso`."""
    speakers = _known_speakers(dataset, "loso")
    return _folds_by_group(speakers, sorted(set(speakers)))


def _corpus_folds(dataset: Dataset) -> list[Fold]:
    """Make the folds `loco`."""
    order = _corpora(dataset, "loco")
    return [_known_classes(dataset, fold) for fold in _folds_by_group(dataset["corpus"][:], order)]


def _cross_folds(dataset: Dataset) -> list[Fold]:
    """Make the folds `cross`, ordered by training corpus, then by test corpus."""
    pairs = permutations(_corpora(dataset, "cross"), 2)
    corpora = np.asarray(dataset["corpus"][:])
    rows = {name: np.flatnonzero(corpora == name).tolist() for name in np.unique(corpora).tolist()}
    return [
        _known_classes(dataset, Fold(number, rows[train], rows[test]))
        for number, (train, test) in enumerate(pairs, start=1)
    ]


def _corpora(dataset: Dataset, folds: str) -> list[str]:
    """Return the names of the corpora in order; raise unless there are at least two."""
    order = list(dict.fromkeys(dataset["corpus"][:]))
    if len(order) < 2:
        raise UserError(f"folds: {folds} needs two or more corpora, found {order[0]}: --corpus emodb,ravdess")
    return order


def _known_classes(dataset: Dataset, fold: Fold) -> Fold:
    """Drop test clips of classes without training clips."""
    labels, names = dataset["label"][:], dataset.features["label"].names
    trained = {labels[row] for row in fold.train}
    unknown = {labels[row] for row in fold.test} - trained
    if unknown:
        classes = ", ".join(names[label] for label in sorted(unknown))
        logger.warning("fold %d: left out test clips of %s, which has no training clips", fold.number, classes)
    return dataclasses.replace(fold, test=[row for row in fold.test if labels[row] in trained])


def _split_folds(dataset: Dataset) -> list[Fold]:
    """Make the fold `split`; recordings without a part are in no fold."""
    splits = np.asarray(dataset["split"][:], dtype=object)
    train, dev, test = (np.flatnonzero(splits == name).tolist() for name in ("train", "dev", "test"))
    if not train or not test:
        lacking = " or ".join(name for name, rows in (("train", train), ("test", test)) if not rows)
        raise UserError(
            f"folds: split needs a corpus with its own parts, but no recording belongs to {lacking}; give a table "
            "with a column split (or --columns split=NAME), or use loso or speakers:K"
        )
    corpora = np.asarray(dataset["corpus"][:], dtype=object)
    unused = Counter(corpora[~np.isin(splits, ("train", "dev", "test"))].tolist())
    for name, count in unused.items():
        logger.warning(
            "folds: split leaves out %d of %d clips of %s, which have no part", count, (corpora == name).sum(), name
        )
    return [Fold(1, train, test, dev or None)]


def _paper_folds(dataset: Dataset, corpus: str) -> list[Fold]:
    """Make the folds of arXiv 2602.06000: sessions, or groups of speakers."""
    order = corpus_record(corpus).paper_folds
    group_of = {speaker: group for group, speakers in order.items() for speaker in speakers}
    groups = [group_of[speaker] for speaker in dataset["speaker"][:]]
    absent = [group for group in order if group not in set(groups)]
    if absent:
        raise UserError(f"folds: paper needs all of {corpus}, but it lacks {', '.join(absent)}")
    return _folds_by_group(groups, order)


def _without_copies(dataset: Dataset, folds: list[Fold]) -> list[Fold]:
    """Remove copies of test clips from the training clips, and copies of test and training clips from dev."""
    first = _first_copies(dataset)
    clean = []
    for fold in folds:
        tested = {first.get(row, row) for row in fold.test}
        train = [row for row in fold.train if first.get(row, row) not in tested]
        known = tested | {first.get(row, row) for row in train}
        dev = None if fold.dev is None else [row for row in fold.dev if first.get(row, row) not in known]
        clean.append(Fold(fold.number, train, fold.test, dev))
    if first:
        names, (row, other) = utterance_names(dataset), next(iter(first.items()))
        logger.warning(
            "%d recordings are byte-identical copies of others (%s of %s): no fold trains and tests on copies",
            *(len(first), names[row], names[other]),
        )
    return clean


def speaker_groups(dataset: Dataset) -> np.ndarray:
    """Return the speaker of each clip, `(clips,)`; copies of a recording by an unknown speaker share one speaker."""
    groups = np.asarray(dataset["speaker"][:], dtype=object)
    if not speakers_known(dataset):
        for row, other in _first_copies(dataset).items():
            groups[row] = groups[other]
    return groups.astype(str)


def _first_copies(dataset: Dataset) -> dict[int, int]:
    """Map each row whose file is a copy to the first row with the same bytes; read only files of equal size."""
    if "start" in dataset.features or "audio" not in dataset.features:
        return {}  # utterances of one file share its bytes
    by_size = defaultdict(list)
    for row, (path, is_file) in enumerate(audio_paths(dataset)):
        if is_file and path is not None:
            by_size[os.path.getsize(path)].append((row, path))
    same = defaultdict(list)
    for row, path in (one for files in by_size.values() if len(files) > 1 for one in files):
        same[hashlib.sha256(OGG_PAGE.sub(rb"\1\2", Path(path).read_bytes())).digest()].append(row)
    # Content that most files share is a placeholder, not a recording
    return {row: rows[0] for rows in same.values() if len(rows) <= len(dataset) / 2 for row in rows[1:]}


def read_emobox(corpus: str) -> list[dict[str, str]]:
    """Read EmoBox's table of a corpus: `fold` (a clip's test fold, 0 for training only), `name`, `label`."""
    with open(TABLES / f"emobox_{corpus_name(corpus)}.csv", encoding="utf-8", newline="") as table:
        return list(csv.DictReader(line for line in table if not line.startswith("#")))


def _emobox_folds(dataset: Dataset, corpus: str) -> list[Fold]:
    """Make EmoBox's folds for the dataset's classes; clips that the table does not list are in no fold."""
    rows = {name: row for row, name in enumerate(utterance_names(dataset))}
    classes = {canonical(name) or name for name in dataset.features["label"].names}
    listed = read_emobox(corpus)
    absent = [entry["name"] for entry in listed if entry["name"] not in rows and entry["label"] in classes]
    if absent:
        raise UserError(f"folds: emobox needs all of {corpus}, but it lacks {absent[0]} ({len(absent)} are missing)")
    fold_of = {rows[entry["name"]]: int(entry["fold"]) for entry in listed if entry["name"] in rows}
    members = sorted(fold_of)
    tested_in = [fold_of[row] for row in members]
    return _folds_by_group(tested_in, range(1, max(tested_in) + 1), members)
