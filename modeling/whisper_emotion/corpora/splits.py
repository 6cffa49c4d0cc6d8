"""Folds: which utterances train and which test, as published or by speaker, and the held-out speakers of a fold.

The tables in `splits/` are EmoBox's (Ma et al., arXiv 2406.07162; https://github.com/emo-box/EmoBox, MIT licence).
"""

from __future__ import annotations

import csv
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from sklearn.model_selection import GroupKFold

from whisper_emotion.corpora import utterance_names
from whisper_emotion.errors import UserError

TABLES = Path(__file__).parent / "splits"

# The last women and the last men of the 10 groups of consecutive speakers, F01 and M01 first: the released code of
# arXiv 2602.06000.
SHEMO_WOMEN = (3, 6, 9, 12, 15, 18, 21, 24, 27, 31)
SHEMO_MEN = (6, 12, 18, 24, 30, 36, 41, 46, 51, 56)
IEMOCAP_SESSIONS = ("Ses01", "Ses02", "Ses03", "Ses04", "Ses05")
PAPER_CORPORA = ("shemo", "iemocap")
EMOBOX_CORPORA = ("emodb", "ravdess", "iemocap", "shemo")


@dataclass(frozen=True)
class Fold:
    """One division of a corpus.

    Args:
        number: The fold's number, from 1.
        train: Rows to train on, ascending.
        test: Rows to test on, ascending.
    """

    number: int
    train: list[int]
    test: list[int]


def make_folds(dataset: Dataset, corpus: str, folds: str) -> list[Fold]:
    """Divide a corpus into folds.

    Args:
        dataset: What `load_corpus` returned.
        corpus: The corpus's name; published folds go by it.
        folds: `loso` (leave one speaker out), `paper` (arXiv 2602.06000: ShEMO's 10 groups of speakers, IEMOCAP's 5
            sessions), `emobox` (EmoBox's tables; a clip that they do not list is in no fold), or `speakers:K`
            (K speaker-disjoint folds with like numbers of clips).

    Returns:
        The folds, numbered from 1. Their tests are disjoint.

    Raises:
        UserError: Unknown folds, or folds that do not apply to this corpus.
    """
    if folds == "loso":
        speakers = _known_speakers(dataset, folds)
        return _folds_by_group(speakers, sorted(set(speakers)))
    if folds.startswith("speakers:"):
        return _balanced_folds(dataset, folds)
    if folds == "paper" and corpus in PAPER_CORPORA:
        return _paper_folds(dataset, corpus)
    if folds == "emobox" and corpus in EMOBOX_CORPORA:
        return _emobox_folds(dataset, corpus)
    published = {"paper": PAPER_CORPORA, "emobox": EMOBOX_CORPORA}
    if folds in published:
        raise UserError(f"folds: {folds} is defined for {', '.join(published[folds])} only, not for {corpus}")
    known = ["loso", *(name for name, corpora in published.items() if corpus in corpora), "speakers:K"]
    raise UserError(f"folds: unknown value '{folds}', expected one of {', '.join(known)} for {corpus}")


def speakers_known(dataset: Dataset) -> bool:
    """Whether the corpus says who speaks; otherwise every file counts as a speaker of its own."""
    return not all("/" in speaker for speaker in dataset["speaker"][:])


def speakers_shared(dataset: Dataset, fold: Fold) -> int:
    """How many of a fold's test speakers are also heard in its training; 0 where the fold is speaker-disjoint."""
    speakers = dataset["speaker"][:]
    return len({speakers[row] for row in fold.test} & {speakers[row] for row in fold.train})


def hold_out_speakers(
    dataset: Dataset, rows: Sequence[int], seed: int, fraction: float = 0.2
) -> tuple[list[int], list[int]]:
    """Hold speakers out of training rows, to choose an epoch on.

    Several random sets of speakers are drawn. The best one misses the fewest classes on either side, then has the
    likest number of clips of each class. Where speakers are not known, single clips are held out.

    Args:
        dataset: What `load_corpus` returned.
        rows: Rows to divide, such as a fold's `train`.
        seed: Seed of the draw.
        fraction: Share of the clips to hold out, within 0 to 1.

    Returns:
        Rows to train on and rows held out, both ascending, with no speaker in both.

    Raises:
        UserError: The rows have fewer than two speakers.
    """
    check_held_out(dataset, rows)
    chosen = list(rows)
    names, speakers = np.unique(np.asarray(dataset["speaker"][:])[chosen], return_inverse=True)
    labels = np.asarray(dataset["label"][:], dtype=np.int64)[chosen]
    # One row a speaker, one column a class.
    clips = np.zeros((len(names), int(labels.max()) + 1))
    np.add.at(clips, (speakers, labels), 1)
    held_out = np.isin(speakers, _draw_speakers(clips, np.random.default_rng(seed), fraction))
    train = [row for row, held in zip(chosen, held_out, strict=True) if not held]
    dev = [row for row, held in zip(chosen, held_out, strict=True) if held]
    return sorted(train), sorted(dev)


def check_held_out(dataset: Dataset, rows: Sequence[int]) -> None:
    """Raise where `hold_out_speakers` would, without drawing any.

    Raises:
        UserError: The rows have fewer than two speakers.
    """
    found = len(set(np.asarray(dataset["speaker"][:])[list(rows)]))
    if found < 2:
        raise UserError(
            f"select_on: dev needs two or more training speakers, found {found}: use --select_on last, and where "
            "a recipe has them --temperature_scaling false and --adaptation none"
        )


def _draw_speakers(clips: np.ndarray, rng: np.random.Generator, fraction: float) -> np.ndarray:
    """The best of some random sets of speakers, from `clips` `(speakers, classes)`; indices of speakers."""
    totals = clips.sum(axis=0)
    # A class of a single speaker cannot be on both sides: it counts as missing whatever is drawn.
    unavoidable = int(((clips > 0).sum(axis=0) == 1).sum())
    best, best_missing, best_distance = np.array([0]), np.inf, np.inf
    for draw in range(500):
        # A few draws keep seeds different from each other; more are spent only on a class that is still missing.
        if draw >= 10 and best_missing <= unavoidable:
            break
        order = rng.permutation(len(clips))
        held = np.cumsum(clips[order].sum(axis=1))[:-1]
        chosen = order[: 1 + int(np.argmin(np.abs(held - fraction * totals.sum())))]
        dev = clips[chosen].sum(axis=0)
        missing = int(((totals > 0) & ((dev == 0) | (dev == totals))).sum())
        distance = float(np.abs(dev / np.maximum(totals, 1) - fraction)[totals > 0].sum())
        if (missing, distance) < (best_missing, best_distance):
            best, best_missing, best_distance = chosen, missing, distance
    return best


def _folds_by_group(groups: Sequence[Any], order: Iterable[Any], rows: Sequence[int] | None = None) -> list[Fold]:
    """A fold for every group in `order`; the other groups train. `rows` are all rows where not given."""
    names = np.asarray(groups)
    members = np.arange(len(names)) if rows is None else np.asarray(rows)
    return [
        Fold(number, members[names != group].tolist(), members[names == group].tolist())
        for number, group in enumerate(order, start=1)
    ]


def _known_speakers(dataset: Dataset, folds: str) -> list[str]:
    """Every row's speaker, two or more."""
    if not speakers_known(dataset):
        raise UserError(
            f"folds: {folds} needs to know who speaks, give --speaker_pattern to find it in the file names, or a "
            "dataset with a column speaker"
        )
    speakers = dataset["speaker"][:]
    if len(set(speakers)) < 2:
        raise UserError(f"folds: {folds} needs two or more speakers, found {len(set(speakers))}")
    return speakers


def _balanced_folds(dataset: Dataset, folds: str) -> list[Fold]:
    """The folds `speakers:K`: the largest speakers first, each to the group with the fewest clips."""
    speakers = _known_speakers(dataset, folds)
    most = len(set(speakers))
    digits = folds.removeprefix("speakers:")
    if not re.fullmatch("[0-9]{1,9}", digits) or not 2 <= int(digits) <= most:
        raise UserError(f"folds: '{folds}' does not apply, expected speakers:K with K from 2 to {most} (the speakers)")
    divisions = GroupKFold(n_splits=int(digits)).split(speakers, groups=speakers)
    return [Fold(number, train.tolist(), test.tolist()) for number, (train, test) in enumerate(divisions, start=1)]


def _paper_folds(dataset: Dataset, corpus: str) -> list[Fold]:
    """The folds of arXiv 2602.06000: sessions, or groups of speakers."""
    if corpus == "iemocap":
        groups, order = dataset["session"][:], IEMOCAP_SESSIONS
    else:
        firsts = [1, *(last + 1 for last in SHEMO_WOMEN[:-1])]
        order = [f"F{woman:02d} to M{man:02d}" for woman, man in zip(firsts, SHEMO_MEN, strict=True)]
        lasts = {"F": SHEMO_WOMEN, "M": SHEMO_MEN}
        groups = [order[bisect_left(lasts[speaker[0]], int(speaker[1:]))] for speaker in dataset["speaker"][:]]
    absent = [group for group in order if group not in set(groups)]
    if absent:
        raise UserError(f"folds: paper needs all of {corpus}, but nothing of {', '.join(absent)} is there")
    return _folds_by_group(groups, order)


def read_emobox(corpus: str) -> list[dict[str, str]]:
    """EmoBox's table of a corpus: `fold` (the one that tests a clip, 0 where it only ever trains), `name`, `label`."""
    with open(TABLES / f"emobox_{corpus}.csv", encoding="utf-8", newline="") as table:
        return list(csv.DictReader(line for line in table if not line.startswith("#")))


def _emobox_folds(dataset: Dataset, corpus: str) -> list[Fold]:
    """EmoBox's folds of the classes that the dataset has; clips that the table does not list are in none."""
    rows = {name: row for row, name in enumerate(utterance_names(dataset))}
    classes = set(dataset.features["label"].names)
    listed = [entry for entry in read_emobox(corpus) if entry["label"] in classes]
    absent = [entry["name"] for entry in listed if entry["name"] not in rows]
    if absent:
        raise UserError(
            f"folds: emobox needs all of {corpus}, but {absent[0]} is not there ({len(absent)} are missing)"
        )
    fold_of = {rows[entry["name"]]: int(entry["fold"]) for entry in listed}
    members = sorted(fold_of)
    tested_in = [fold_of[row] for row in members]
    return _folds_by_group(tested_in, range(1, max(tested_in) + 1), members)
