"""Explain a label by the frames of its clip: pooling weights, or each frame's part in the difference of two logits."""

from typing import NamedTuple

import numpy as np
import torch

from whisper_emotion.audio import SAMPLING_RATE
from whisper_emotion.encoder_whisper_emotion import encoder_frames
from whisper_emotion.feature_extraction_whisper_emotion import PAUSE_DECIBELS
from whisper_emotion.inference import EmotionClassifier

FRAME_SECONDS = 0.02
"""Seconds between encoder frames; frame `k` is centred on `k * FRAME_SECONDS`."""

UNIFORM_POOLINGS = ("mean", "statistics")  # weigh all frames alike, so that weights explain nothing


class Explanation(NamedTuple):
    """A clip, its probabilities, and the part of each frame in them.

    Args:
        probabilities: By label, the most probable first.
        start: Seconds of the clip before `samples`, which the extractor cuts off.
        samples: The clip, `(samples,)` at 16 kHz.
        log_mel: The encoder's input, `(mel, mel frames)`, 10 ms a frame.
        mel_hertz: Centre of each band, `(mel,)` in Hz.
        weights: Pooling weights of the clip's own frames, `(heads, frames)`, 20 ms a frame. With `behind`, they sum to
            1 on average over the heads.
        behind: Share of the weights on the silence behind the clip, averaged over the heads; more than 0 only with
            `mask_padding=False`.
        evidence: `(frames,)`, the logit of the most probable label minus that of the second one, frame by frame.
            Weighted by the pooling, the values sum to the clip's own difference. None for poolings that are no sum
            over frames.
        speech: `(frames,)`, False in pauses: frames more than 40 dB below the loudest one.
    """

    probabilities: dict[str, float]
    start: float
    samples: np.ndarray
    log_mel: np.ndarray
    mel_hertz: np.ndarray
    weights: np.ndarray
    behind: float
    evidence: np.ndarray | None
    speech: np.ndarray


@torch.inference_mode()
def explain(classifier: EmotionClassifier, samples: np.ndarray) -> Explanation:
    """Label a clip and explain the label by its frames.

    Args:
        classifier: The trained model.
        samples: `(samples,)` at 16 kHz, from 25 ms to 30 s.

    Raises:
        ValueError: The clip is too short or too long.
    """
    model = classifier.model
    speech = classifier.extractor.find_speech(samples)
    samples = samples[speech]
    inputs = classifier.extractor(
        samples, sampling_rate=SAMPLING_RATE, padding="longest", truncation=False, return_tensors="pt"
    )
    seen: list[torch.Tensor] = []
    hook = model.head.pooling.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        output = model(**inputs.to(model.device))
    finally:
        hook.remove()

    mel_frames = int(inputs["attention_mask"].sum())
    own = encoder_frames(mel_frames)
    probabilities = dict(zip(classifier.labels, output.logits[0].softmax(dim=-1).tolist(), strict=True))
    best, second = output.logits[0].topk(2).indices.tolist()
    weights = output.pooling_weights[0].float().cpu().numpy()
    evidence, temperature = None, model.config.temperature_of(model.config.adapted)
    weight = model.head.classifier.weight
    if model.config.pooling in UNIFORM_POOLINGS:
        direction = (weight[best] - weight[second]) / temperature
        bias = (model.head.classifier.bias[best] - model.head.classifier.bias[second]) / temperature
        evidence = (_evidence(seen[0][0], output.embedding[0], direction) + bias)[:own].float().cpu().numpy()
    return Explanation(
        probabilities=dict(sorted(probabilities.items(), key=lambda item: -item[1])),
        start=speech.start / SAMPLING_RATE,
        samples=samples,
        log_mel=inputs["input_features"][0, :, :mel_frames].cpu().numpy(),
        mel_hertz=_centres(classifier.extractor.mel_filters),
        weights=weights[:, :own],
        behind=max(0.0, 1 - float(weights[:, :own].sum(axis=1).mean())),
        evidence=evidence,
        speech=_find_speech(samples, own),
    )


def _find_speech(samples: np.ndarray, frames: int) -> np.ndarray:
    """Find the frames within 40 dB of the loudest one, `(frames,)`; frame `k` is centred on `k * FRAME_SECONDS`."""
    hop = round(FRAME_SECONDS * SAMPLING_RATE)
    padded = np.pad(samples.astype(np.float64), (hop // 2, frames * hop))[: frames * hop]
    power = (padded.reshape(frames, hop) ** 2).mean(axis=1)
    return power >= power.max() * 10 ** (PAUSE_DECIBELS / 10)


def _evidence(frames: torch.Tensor, pooled: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Split the product of a pooled vector and a direction, both `(dim,)` or `(2 dim,)`, over frames `(frames, dim)`.

    A mean is a weighted sum over frames. So is a standard deviation: the squared deviations, each divided by it.
    """
    dim = frames.shape[-1]
    added = frames @ direction[:dim]
    if len(direction) > dim:
        mean, deviation = pooled[:dim], pooled[dim:]
        added = added + ((frames - mean) ** 2 / deviation) @ direction[dim:]
    return added


def _centres(filters: np.ndarray) -> np.ndarray:
    """Compute the centre of gravity of each mel filter, `(frequencies, mel)` -> `(mel,)` in Hz."""
    hertz = np.linspace(0, SAMPLING_RATE / 2, len(filters))
    return hertz @ filters / filters.sum(axis=0)
