"""Speakers held out of training clips, to choose on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from whisper_emotion.errors import UserError


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
