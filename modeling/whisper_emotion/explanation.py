"""Which moment of a clip decided: the pooling's weights, or what each frame adds where all weigh the same."""

from typing import NamedTuple

import numpy as np
import torch

from whisper_emotion.audio import SAMPLING_RATE
from whisper_emotion.encoder_whisper_emotion import encoder_frames
from whisper_emotion.inference import EmotionClassifier

FRAME_SECONDS = 0.02
"""From one encoder frame to the next; frame `k` is centred on `k` times as much."""

UNIFORM_POOLINGS = ("mean", "statistics")  # whose weights say nothing


class Explanation(NamedTuple):
    """What a model heard in a clip, frame by frame.

    Args:
        probabilities: By label, the most probable first.
        samples: The clip, `(samples,)` at 16 kHz.
        log_mel: What the encoder was given, `(mel, mel frames)`, 10 ms a frame.
        mel_hertz: Centre of each band, `(mel,)` in Hz.
        weights: Of the pooling, `(heads, frames)`, 20 ms a frame: those of the clip's own frames. A head's sum to 1
            less its part of `behind`.
        behind: Share of the weights, over all heads, that lies on the silence behind the clip, which a model with
            `mask_padding=False` pools, too.
        evidence: `(frames,)`, where the pooling weighs all frames alike: what each adds to the difference between the
            logits of the two most probable labels. The difference is their weighted sum and the `bias`. None for the
            other poolings, which are not a sum over frames.
        margin: The difference between these logits.
        bias: The difference of the two labels' biases.
    """

    probabilities: dict[str, float]
    samples: np.ndarray
    log_mel: np.ndarray
    mel_hertz: np.ndarray
    weights: np.ndarray
    behind: float
    evidence: np.ndarray | None
    margin: float
    bias: float


@torch.inference_mode()
def explain(classifier: EmotionClassifier, samples: np.ndarray) -> Explanation:
    """Label a clip and look at what its frames had to do with it.

    Args:
        classifier: The trained model.
        samples: `(samples,)` at 16 kHz, from 25 ms to 30 s.

    Raises:
        ValueError: The clip is too short or too long.
    """
    model = classifier.model
    inputs = classifier.extractor(
        samples, sampling_rate=SAMPLING_RATE, padding="longest", truncation=False, return_tensors="pt"
    )
    seen: list[torch.Tensor] = []
    hook = model.pooling.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        output = model(**inputs.to(model.device), speaker_mean=classifier.speaker_mean)
    finally:
        hook.remove()

    mel_frames = int(inputs["attention_mask"].sum())
    own = encoder_frames(mel_frames)
    probabilities = dict(zip(classifier.labels, output.logits[0].softmax(dim=-1).tolist(), strict=True))
    best, second = output.logits[0].topk(2).indices.tolist()
    weights = output.pooling_weights[0].float().cpu().numpy()
    evidence, temperature = None, model.config.temperature_of(classifier.speaker_mean is not None)
    if model.config.pooling in UNIFORM_POOLINGS:
        direction = (model.classifier.weight[best] - model.classifier.weight[second]) / temperature
        evidence = _evidence(seen[0][0], output.embedding[0], direction)[:own].float().cpu().numpy()
    return Explanation(
        probabilities=dict(sorted(probabilities.items(), key=lambda item: -item[1])),
        samples=samples,
        log_mel=inputs["input_features"][0, :, :mel_frames].cpu().numpy(),
        mel_hertz=_centres(classifier.extractor.mel_filters),
        weights=weights[:, :own],
        behind=max(0.0, 1 - float(weights[:, :own].sum(axis=1).mean())),
        evidence=evidence,
        margin=float(output.logits[0, best] - output.logits[0, second]),
        bias=float(model.classifier.bias[best] - model.classifier.bias[second]) / temperature,
    )


def _evidence(frames: torch.Tensor, pooled: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """What each frame `(frames, dim)` adds to the product of the pooled vector, `(dim,)` or twice, and a direction.

    A mean is a sum over frames as it is; so is a standard deviation, if each frame's share of the variance is divided
    by it.
    """
    dim = frames.shape[-1]
    added = frames @ direction[:dim]
    if len(direction) > dim:
        mean, deviation = pooled[:dim], pooled[dim:]
        added = added + ((frames - mean) ** 2 / deviation) @ direction[dim:]
    return added


def _centres(filters: np.ndarray) -> np.ndarray:
    """Centre of gravity of each mel filter, `(frequencies, mel)` -> `(mel,)` in Hz."""
    hertz = np.linspace(0, SAMPLING_RATE / 2, len(filters))
    return hertz @ filters / filters.sum(axis=0)


__all__ = ["FRAME_SECONDS", "Explanation", "explain"]
