"""Batches of recordings for the encoder."""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from whisper_emotion.audio import SAMPLING_RATE, SHORTEST, read_audio, read_stretch
from whisper_emotion.distortion import distort
from whisper_emotion.errors import UserError
from whisper_emotion.feature_extraction_whisper_emotion import WhisperEmotionFeatureExtractor


def read_utterance(utterance: Mapping[str, Any]) -> np.ndarray:
    """Read a row's recording, or the part of `seconds` from `start` if the row has a start.

    Args:
        utterance: A row of `load_corpus`.

    Returns:
        `(samples,)`, float32 at 16 kHz.

    Raises:
        UserError: The recording cannot be read, or ends before the part begins.
    """
    start = utterance.get("start")
    if start is None or math.isnan(start):
        return read_audio(utterance["audio"])
    samples = read_stretch(utterance["audio"], start, start + utterance["seconds"])
    if len(samples) < SHORTEST:
        raise UserError(f"{utterance['audio']['path']}: ends before {start:g} s, where an utterance starts")
    return samples


@dataclass
class AudioCollator:
    """Turn rows `{audio, label}` of a corpus into features, mask and labels, padded to the longest clip.

    Args:
        extractor: Computes the features.
        copy: 0: undistorted recordings. 1, 2, …: a distorted copy; the number and the recording seed the distortion.
    """

    extractor: WhisperEmotionFeatureExtractor
    copy: int = 0

    def __call__(self, utterances: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Read, extract and pad a batch."""
        clips = [read_utterance(utterance) for utterance in utterances]
        if self.copy:
            clips = [clip[: self.extractor.n_samples] for clip in clips]  # distort no more than the encoder sees
            clips = [distort(clip, [self.copy, zlib.crc32(clip.tobytes())]) for clip in clips]
        batch = dict(self.extractor(clips, sampling_rate=SAMPLING_RATE, padding="longest", return_tensors="pt"))
        batch["labels"] = torch.tensor([utterance["label"] for utterance in utterances])
        return batch
