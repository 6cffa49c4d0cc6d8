"""Batches of recordings for the encoder."""

from dataclasses import dataclass
from typing import Any

import torch

from whisper_emotion.audio import SAMPLING_RATE, read_audio
from whisper_emotion.feature_extraction_whisper_emotion import WhisperEmotionFeatureExtractor


@dataclass
class AudioCollator:
    """Turn rows `{audio, label}` of a corpus into features, their mask and labels, as wide as the longest clip.

    Args:
        extractor: Computes the features.
    """

    extractor: WhisperEmotionFeatureExtractor

    def __call__(self, utterances: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Read, extract and pad a batch."""
        clips = [read_audio(utterance["audio"]) for utterance in utterances]
        batch = dict(self.extractor(clips, sampling_rate=SAMPLING_RATE, padding="longest", return_tensors="pt"))
        batch["labels"] = torch.tensor([utterance["label"] for utterance in utterances])
        return batch
