"""Hold speakers out of the training clips, for selection."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from whisper_emotion.errors import UserError


def hold_out_speakers(
    dataset: Dataset, rows: Sequence[int], seed: int, fraction: float = 0.2
) -> tuple[list[int], list[int]]:
    """Hold speakers out of training rows, for selection.

    Several random sets of speakers are drawn. The best set has the fewest missing classes on either side, then the
    share of clips per class that is closest to `fraction`. If speakers are unknown, single clips are held out.

    Args:
        dataset: Output of `load_corpus`.
        rows: Rows to divide, such as a fold's `train`.
        seed: Seed of the draw.
        fraction: Share of the clips to hold out, 0 to 1.

    Returns:
        Rows to train on and rows held out, both ascending, with no speaker in both.

    Raises:
        UserError: The rows have fewer than two speakers.
    """
    check_held_out(dataset, rows)
    chosen = list(rows)
    names, speakers = np.unique(np.asarray(dataset["speaker"][:])[chosen], return_inverse=True)
    labels = np.asarray(dataset["label"][:], dtype=np.int64)[chosen]
    # One row per speaker, one column per class
    clips = np.zeros((len(names), int(labels.max()) + 1))
    np.add.at(clips, (speakers, labels), 1)
    held_out = np.isin(speakers, _draw_speakers(clips, np.random.default_rng(seed), fraction))
    train = [row for row, held in zip(chosen, held_out, strict=True) if not held]
    dev = [row for row, held in zip(chosen, held_out, strict=True) if held]
    return sorted(train), sorted(dev)


def check_held_out(dataset: Dataset, rows: Sequence[int]) -> None:
    """Check that `hold_out_speakers` can divide the rows.

    Raises:
        UserError: The rows have fewer than two speakers.
    """
    found = len(set(np.asarray(dataset["speaker"][:])[list(rows)]))
    if found < 2:
        raise UserError(
            f"select_on: dev needs two or more training speakers, found {found}: use --select_on last, with "
            "--temperature_scaling false and --adaptation none"
        )


def _draw_speakers(clips: np.ndarray, rng: np.random.Generator, fraction: float) -> np.ndarray:
    """Return the best of some random sets of speakers, as indices; `clips` counts `(speakers, classes)`."""
    totals = clips.sum(axis=0)
    # A class of a single speaker is always missing on one side
    unavoidable = int(((clips > 0).sum(axis=0) == 1).sum())
    best, best_missing, best_distance = np.array([0]), np.inf, np.inf
    for draw in range(500):
        # Ten draws vary the result between seeds; further draws only search for missing classes
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
