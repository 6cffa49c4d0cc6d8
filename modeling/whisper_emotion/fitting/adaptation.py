"""Means of speakers, corpora and training populations, for adaptation without labels.

Cross-corpus work normalises by speaker or by corpus (Schuller et al. 2010, IEEE Trans. Affective Computing 1(2)).
Here only the means are used, to shift clips.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from whisper_emotion.modeling_whisper_emotion import EmotionHead
from whisper_emotion.stored_frames import Rows

READ_AT_ONCE = 4096  # vectors read together


def group_means(mean: Any, groups: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Average the clips `rows` of each group.

    Args:
        mean: Mean frame of every clip, `(clips, frame_size)`.
        groups: Group of every clip, `(clips,)`: its speaker or its corpus.
        rows: The clips.

    Returns:
        The average of each clip's group, `(rows, frame_size)`.
    """
    averages, places = _averages(mean, groups, rows)
    return averages[places]


def population_mean(mean: Any, speakers: np.ndarray, corpora: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    """Average the speakers' means; corpora weigh the same, and so do the speakers of a corpus.

    Args:
        mean: As in `group_means`.
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
    """Return the standard deviation of the clips' mean frames around the population mean, `(frame_size,)`.

    Args:
        means: Mean frames as in `group_means`, of the clips and of each of their distorted copies.
        population: `population_mean` of the clips.
        speakers: Speaker of every clip, `(clips,)`.
        corpora: Corpus of every clip, `(clips,)`.
        rows: The training clips.
    """
    chosen, shares = np.asarray(rows), _shares(speakers, corpora, rows)
    squares = [_sum(mean, chosen, shares, lambda values: (values - population) ** 2) for mean in means]
    return np.sqrt(np.mean(squares, axis=0))


@torch.inference_mode()
def measure_novelty(head: EmotionHead, mean: Any, rows: Sequence[int]) -> np.ndarray:
    """Return `EmotionHead.novelty` of the clips `rows`, `(rows,)`; `mean` as in `group_means`."""
    chosen = np.asarray(rows)
    parts = (chosen[start : start + READ_AT_ONCE] for start in range(0, len(chosen), READ_AT_ONCE))
    return np.concatenate([head.novelty(torch.from_numpy(np.asarray(mean[part]))).numpy() for part in parts])


class CentredRows(Rows):
    """`Rows` that shift each clip by the difference between the population mean and its speaker's mean.

    Args:
        pooled: Vectors `(clips, width)` that begin with the clip's mean frame.
        mean: As in `group_means`.
        speakers: Speaker of every clip, `(clips,)`.
        rows: The clips; speakers' means are computed over them.
        population: `(frame_size,)`.
        copies: Number of distorted copies that follow all clips in `pooled`, see `with_copies`. A copy is shifted like
            its clip.
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
        """Read shifted rows, as in `Rows`."""
        found = np.array(super().__getitem__(part))
        found[:, : self._moves.shape[1]] += self._moves[self._places[part]]
        return found


def with_copies(rows: np.ndarray, clips: int, copies: int) -> np.ndarray:
    """Append the row numbers of the clips' copies to `rows`: `(1 + copies) * len(rows)` numbers.

    Args:
        rows: Row numbers below `clips`.
        clips: Number of all clips, which precede the first copies.
        copies: Number of copies of each clip.
    """
    return np.concatenate([np.asarray(rows) + clips * number for number in range(1 + copies)])


def _averages(mean: Any, groups: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the average of each group, and the index of each clip's group."""
    names, places = np.unique(groups[rows], return_inverse=True)
    return np.stack([mean[rows[places == number]].mean(axis=0) for number in range(len(names))]), places


def _shares(speakers: np.ndarray, corpora: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    """Weight clips so that corpora, the speakers of a corpus, and the clips of a speaker weigh the same."""
    chosen = np.asarray(rows)
    names, places, counts = np.unique(speakers[chosen], return_inverse=True, return_counts=True)
    of_speaker = np.empty(len(names), corpora.dtype)
    of_speaker[places] = corpora[chosen]
    _, own, spoken = np.unique(of_speaker, return_inverse=True, return_counts=True)
    return (1 / (len(spoken) * spoken[own] * counts))[places]


def _sum(mean: Any, rows: np.ndarray, shares: np.ndarray, function: Callable = np.asarray) -> np.ndarray:
    """Return the weighted sum of a function of the rows."""
    parts = (slice(start, start + READ_AT_ONCE) for start in range(0, len(rows), READ_AT_ONCE))
    return np.sum([shares[part] @ function(mean[rows[part]]) for part in parts], axis=0)
