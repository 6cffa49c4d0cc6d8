"""The encoder's throughput, compared with the machine's peak matmul throughput."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from whisper_emotion.audio import SAMPLING_RATE
from whisper_emotion.benchmarks.ways import Way, load_way
from whisper_emotion.configuration_whisper_emotion import WhisperEmotionConfig
from whisper_emotion.encoder_whisper_emotion import encoder_frames


class Products:
    """Tasks that measure the encoder on a batch, and the machine's peak matmul throughput for the encoder's shapes."""

    def __init__(self, way: Way, encoder: str, layer: int, batch: list[np.ndarray], device: torch.device):
        model, extractor = load_way(way, encoder, layer, device)

        def extract():
            return extractor(batch, sampling_rate=SAMPLING_RATE, padding="longest", return_tensors="pt")

        inputs = extract().to(device)
        self.flops, rows = encoder_flops(model.config, inputs.attention_mask.sum(dim=1).tolist())
        width, inner = model.config.d_model, model.config.encoder_ffn_dim
        self.shapes = {(2048, 2048, 2048), (rows, width, width), (rows, width, inner), (rows, inner, width)}
        self.tasks: dict[Any, Callable[[], Any]] = {"encoder": lambda: model.encoder(**inputs), "features": extract}
        for shape in self.shapes:
            sizes = (shape[0], shape[1]), (shape[2], shape[1])
            pair = [torch.randn(size, dtype=getattr(torch, way.dtype), device=device) for size in sizes]
            self.tasks[shape] = partial(torch.nn.functional.linear, *pair)

    def figures(self, seconds: dict[Any, float]) -> dict[str, float]:
        """Compute GFLOP/s and shares from the tasks' seconds."""
        machine = max(2 * np.prod(shape) / seconds[shape] for shape in self.shapes) / 1e9
        encoder = self.flops / seconds["encoder"] / 1e9
        return {
            "machine_gflops": float(machine),
            "encoder_gflops": encoder,
            "share": float(encoder / machine),
            "features_share": seconds["features"] / seconds["encoder"],
        }


def encoder_flops(config: WhisperEmotionConfig, mel_frames: Sequence[int]) -> tuple[float, int]:
    """Count the encoder's operations for clips of `mel_frames` in the sparse window.

    Returns:
        Number of multiplications and additions in the convolutions, linear layers and attention, without padding; and
        the number of tokens in the layers.
    """
    width, inner, window = config.d_model, config.encoder_ffn_dim, config.max_source_positions
    flops, rows = 0.0, 0
    for mel in mel_frames:
        audible = min(encoder_frames(mel) + 2, window)
        frames = audible - (audible - window) // config.silence_stride
        convolutions = 2 * 3 * width * (config.num_mel_bins * mel + width * encoder_frames(mel))
        linear = 2 * frames * (4 * width * width + 2 * width * inner)
        attention = 2 * 2 * frames * frames * width
        flops += convolutions + config.encoder_layer * (linear + attention)
        rows += frames
    return flops, rows
