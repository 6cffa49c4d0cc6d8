"""Means of speakers, corpora and training populations: what adaptation without labels moves clips by.

Cross-corpus work normalises by speaker or by corpus (Schuller et al. 2010, IEEE Trans. Affective Computing 1(2)).
Here clips are moved by means alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from whisper_emotion.modeling_whisper_emotion import EmotionHead
from whisper_emotion.stored_frames import Rows

READ_AT_ONCE = 4096  # vectors that are averaged together


def group_means(mean: Any, groups: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Average the clips `rows` of each group.

    Args:
        mean: Mean frame of every clip, `(clips, frame_size)`.
        groups: Group of every clip, `(clips,)`: its speaker, or its corpus.
        rows: The clips.

    Returns:
        The average of each clip's group, `(rows, frame_size)`.
    """
    averages, places = _averages(mean, groups, rows)
    return averages[places]


def population_mean(mean: Any, speakers: np.ndarray, corpora: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    """Average the speakers' means: corpora count alike, and so do the speakers of a corpus.

    Args:
        mean: As of `group_means`.
        speakers: Speaker of every clip, `(clips,)`.
        corpora: Corpus of every clip, `(clips,)`.
        rows: The training clips.

    Returns:
        `(frame_size,)`.
    """
    return _sum(mean, np.asarray(rows), _shares(speakers, corpora, rows))


def population_deviation(
    means: Sequence[Any], population: np.ndarray, speakers: np.ndarray, corpora: np.ndarray, rows: Sequence[int]
) -> np.ndarray:
    """Return the deviation of the clips' mean frames from the population's mean, `(frame_size,)`.

    Args:
        means: As `mean` of `group_means`: of the clips, and of each of their distorted copies.
        population: `population_mean` of the clips; the further arguments are the same.
        speakers: Speaker of every clip, `(clips,)`.
        corpora: Corpus of every clip, `(clips,)`.
        rows: The training clips.
    """
    chosen, shares = np.asarray(rows), _shares(speakers, corpora, rows)
    squares = [_sum(mean, chosen, shares, lambda values: (values - population) ** 2) for mean in means]
    return np.sqrt(np.mean(squares, axis=0))


@torch.inference_mode()
def measure_novelty(head: EmotionHead, mean: Any, rows: Sequence[int]) -> np.ndarray:
    """Return `EmotionHead.novelty` of the clips `rows`, `(rows,)`; `mean` as of `group_means`."""
    chosen = np.asarray(rows)
    parts = (chosen[start : start + READ_AT_ONCE] for start in range(0, len(chosen), READ_AT_ONCE))
    return np.concatenate([head.novelty(torch.from_numpy(np.asarray(mean[part]))).numpy() for part in parts])


class CentredRows(Rows):
    """`Rows` of which each clip is moved by the difference between the population's mean and its speaker's.

    Args:
        pooled: Vectors `(clips, width)` that begin with the clip's mean frame.
        mean: As of `group_means`.
        speakers: Speaker of every clip, `(clips,)`.
        rows: The clips; their speakers' means are those of these clips.
        population: `(frame_size,)`.
        copies: Distorted copies that follow all clips in `pooled`, see `with_copies`. A copy moves by the same
            difference as its clip.
    """

    def __init__(
        self,
        pooled: Any,
        mean: Any,
        speakers: np.ndarray,
        rows: np.ndarray,
        population: np.ndarray,
        copies: int = 0,
    ):
        super().__init__(pooled, with_copies(rows, len(mean), copies))
        averages, places = _averages(mean, speakers, rows)
        self._places = np.tile(places, 1 + copies)
        self._moves = (population - averages).astype(np.float32)

    def __getitem__(self, part: Any) -> np.ndarray:
        """Read moved rows, as of `Rows`."""
        found = np.array(super().__getitem__(part))
        found[:, : self._moves.shape[1]] += self._moves[self._places[part]]
        return found


def with_copies(rows: np.ndarray, clips: int, copies: int) -> np.ndarray:
    """Return the numbers `rows` of some clips, and behind them those of their copies, `(1 + copies) * len(rows)`.

    Args:
        rows: Numbers below `clips`.
        clips: Number of all clips, in front of the first copies.
        copies: Copies of each clip.
    """
    return np.concatenate([np.asarray(rows) + clips * number for number in range(1 + copies)])


def _averages(mean: Any, groups: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The average of each group, and the number of each clip's group."""
    names, places = np.unique(groups[rows], return_inverse=True)
    return np.stack([mean[rows[places == number]].mean(axis=0) for number in range(len(names))]), places


def _shares(speakers: np.ndarray, corpora: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    """The weight of each clip where corpora count alike, and so do a corpus's speakers and a speaker's clips."""
    chosen = np.asarray(rows)
    names, places, counts = np.unique(speakers[chosen], return_inverse=True, return_counts=True)
    of_speaker = np.empty(len(names), corpora.dtype)
    of_speaker[places] = corpora[chosen]
    _, own, spoken = np.unique(of_speaker, return_inverse=True, return_counts=True)
    return (1 / (len(spoken) * spoken[own] * counts))[places]


def _sum(mean: Any, rows: np.ndarray, shares: np.ndarray, function: Callable = np.asarray) -> np.ndarray:
    """The weighted sum of a function of the rows."""
    parts = (slice(start, start + READ_AT_ONCE) for start in range(0, len(rows), READ_AT_ONCE))
    return np.sum([shares[part] @ function(mean[rows[part]]) for part in parts], axis=0)
