"""Measure a model's loss of accuracy on distorted recordings, similar to audEERING's tests (arXiv 2312.06270)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset

from whisper_emotion.audio import SAMPLING_RATE
from whisper_emotion.distortion import QUIETEST, add_noise, add_room, compress, pass_telephone
from whisper_emotion.evaluation import classify_corpus, tabulate
from whisper_emotion.fitting.regression import sample_clips
from whisper_emotion.inference import EmotionClassifier
from whisper_emotion.scoring import CALIBRATION, compare, score_table

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]

CLEAN = "clean"
CLIPPED = 0.1  # share of clipped samples
PINK = (0.5, 0.5)
MP3_32 = {"level": (0.85, 0.85), "codec": {"format": "MP3", "bitrate_mode": "CONSTANT"}}  # 32 kbit/s of mono at 16 kHz
OPUS_12 = {
    "level": (0.976, 0.976),
    "codec": {"format": "OGG", "subtype": "OPUS"},
}  # 12 kbit/s without the container's pages


def measure_robustness(
    classifier: EmotionClassifier, corpus: Dataset, adaptation: str, clips_at_most: int
) -> dict[str, Any]:
    """Classify the same clips clean and distorted.

    Args:
        classifier: The model.
        corpus: Output of `load_corpus`.
        adaptation: As in `classify_corpus`; in each condition, the distorted clips form the domain.
        clips_at_most: Number of clips per corpus, stratified by class.

    Returns:
        Fractions under these keys.

        - `robustness`: for `CLEAN` and each of `CONDITIONS`: `unweighted_accuracy`, its `loss` against the clean
          clips with a paired 95 % `interval` over clips, `ece` and `mean_confidence`.
        - `robustness_clips`: Number of clips.

    Raises:
        UserError: As in `classify_corpus`.
    """
    rows = draw_clips(corpus, clips_at_most)
    clips = corpus.select(rows)
    found, clean = {}, None
    for name, change in {CLEAN: None, **CONDITIONS}.items():
        applied = None if change is None else partial(_distort, change, rows)
        probabilities = classify_corpus(classifier, clips, adaptation, applied, name).found
        table, labels = tabulate(clips, probabilities)
        clean = table if clean is None else clean
        scores = score_table(table, labels, [1])
        loss, *interval = compare(clean, table, labels)["unweighted_accuracy"]
        figures: dict[str, Any] = {"unweighted_accuracy": scores["pooled"]["unweighted_accuracy"], "loss": loss}
        found[name] = figures | {"interval": interval, **{key: scores[key] for key in CALIBRATION}}
    return {"robustness": found, "robustness_clips": len(clean)}


def draw_clips(corpus: Dataset, clips_at_most: int) -> np.ndarray:
    """Draw clips of each corpus, stratified by class, always the same; return ascending rows."""
    corpora, labels = np.asarray(corpus["corpus"][:]), np.asarray(corpus["label"][:])
    parts = [np.flatnonzero(corpora == name) for name in np.unique(corpora)]
    return np.sort(np.concatenate([own[sample_clips(labels[own], clips_at_most)] for own in parts]))


def _distort(change: Change, rows: np.ndarray, clip: np.ndarray, place: int) -> np.ndarray:
    """Distort a clip; its row in the corpus is the seed, so that all noise levels use the same noise."""
    if np.sqrt(np.mean(np.square(clip, dtype=np.float64))) < QUIETEST:
        return clip
    return change(clip.astype(np.float64), np.random.default_rng(int(rows[place]))).astype(np.float32)


def at_the_same_peak(change: Change) -> Change:
    """Restore a clip's peak level after a distortion."""

    def changed(samples: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        found = change(samples, draw)
        return found * (np.abs(samples).max() / max(np.abs(found).max(), QUIETEST))

    return changed


def _amplify(samples: np.ndarray, draw: np.random.Generator, *, decibels: float) -> np.ndarray:
    """Change the level; floats beyond 1 are not clipped."""
    return samples * 10 ** (decibels / 20)


def _clip(samples: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Clip the peaks symmetrically."""
    limit = np.quantile(np.abs(samples), 1 - CLIPPED)
    return samples.clip(-limit, limit) if limit > 0 else samples


def _surround(samples: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    return np.pad(samples, SAMPLING_RATE)


def _cut(samples: np.ndarray, draw: np.random.Generator, *, seconds: int) -> np.ndarray:
    return samples[: seconds * SAMPLING_RATE]


CONDITIONS: dict[str, Change] = {
    "telephone (8 kHz, mu-law)": at_the_same_peak(pass_telephone),
    "MP3 at 32 kbit/s": at_the_same_peak(partial(compress, **MP3_32)),
    "Opus at 12 kbit/s": at_the_same_peak(partial(compress, **OPUS_12)),
    "pink noise at 20 dB SNR": partial(add_noise, decibels=(20, 20), slope=PINK),
    "pink noise at 10 dB SNR": partial(add_noise, decibels=(10, 10), slope=PINK),
    "pink noise at 0 dB SNR": partial(add_noise, decibels=(0, 0), slope=PINK),
    "reverberation (0.5 s)": partial(add_room, seconds=(0.5, 0.5), decibels=(3, 3)),
    "gain of +20 dB": partial(_amplify, decibels=20),
    "gain of -20 dB": partial(_amplify, decibels=-20),
    "clipping (10 % of samples)": _clip,
    "1 s of silence around": _surround,
    "first 1 s only": partial(_cut, seconds=1),
    "first 2 s only": partial(_cut, seconds=2),
    "first 3 s only": partial(_cut, seconds=3),
}
