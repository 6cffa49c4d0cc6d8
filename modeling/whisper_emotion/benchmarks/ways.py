"""Ways from audio to probabilities: transformers' class, our model in several contexts and precisions, ONNX graphs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import WhisperFeatureExtractor, WhisperForAudioClassification, pipeline

from whisper_emotion.audio import SAMPLING_RATE
from whisper_emotion.errors import without_loading_report
from whisper_emotion.export import INPUTS, export_onnx, open_session
from whisper_emotion.fitting.new_models import build_extractor, build_model, load_config

DTYPES = ("float32", "bfloat16")
LABELS = tuple("abcdefg")  # as many as EMO-DB has classes


@dataclass(frozen=True)
class Way:
    """One way from audio to probabilities.

    Args:
        runtime: `stock` (transformers' class and extractor), `torch` (ours), `onnx` or `onnx int8` (ours, exported).
        context: Names and values of the fields of `WhisperEmotionConfig` that set the encoder's context.
        dtype: Precision of the encoder.
    """

    runtime: str = "torch"
    context: tuple[tuple[str, Any], ...] = ()
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """Name in the tables."""
        values = [f"{value:g}" if isinstance(value, float) else str(value) for _, value in self.context]
        return ", ".join([self.runtime, *[" ".join(values)] * bool(values), self.dtype])


STOCK = Way("stock")


def list_ways(context: tuple[tuple[str, Any], ...]) -> list[Way]:
    """List the stock class, our model with the window, with 1 s of silence and with `context`, and ONNX graphs."""
    window, utterance = (("encoder_context", "window"),), (("encoder_context", "utterance"), ("context_margin", 1.0))
    contexts = [*(one for one in (window, utterance) if one != context), context]
    torch_ways = [Way(context=one, dtype=dtype) for one in contexts for dtype in DTYPES]
    return [STOCK, *torch_ways, Way("onnx", context), Way("onnx int8", context)]


def build_way(way: Way, encoder: str, layer: int, device: torch.device, folder: Path) -> Callable[[list], Any]:
    """Return a function from a batch of clips to their probabilities; ONNX graphs are written to `folder`."""
    model, extractor = load_way(way, encoder, layer, device)
    if way.runtime.startswith("onnx"):
        path = folder / f"{way.name}.onnx"
        export_onnx(model, extractor, path, quantize=way.runtime == "onnx int8")
        session = open_session(path)

        def label_onnx(batch):
            inputs = extractor(batch, sampling_rate=SAMPLING_RATE, padding="longest", return_tensors="np")
            return session.run(["probabilities"], {name: inputs[name] for name in INPUTS})[0]

        return label_onnx
    padding = "max_length" if way == STOCK else "longest"

    def label_torch(batch):
        inputs = extractor(batch, sampling_rate=SAMPLING_RATE, padding=padding, return_tensors="pt")
        return model(**inputs.to(device)).logits.softmax(dim=-1).cpu()

    return label_torch


def build_pipeline(way: Way, encoder: str, layer: int, device: torch.device) -> Callable[[np.ndarray], Any]:
    """Return a function that labels one clip through `pipeline`; not for ONNX graphs."""
    model, extractor = load_way(way, encoder, layer, device)
    pipe = pipeline("audio-classification", model=model, feature_extractor=extractor, device=device)
    return lambda clip: pipe(clip.copy())


def load_way(way: Way, encoder: str, layer: int, device: torch.device) -> tuple[Any, Any]:
    """Load the model, with a new head, and the feature extractor of a way; the stock class has all layers."""
    if way == STOCK:
        with without_loading_report():  # hides the report about the new head
            model = WhisperForAudioClassification.from_pretrained(encoder, num_labels=len(LABELS), dtype=torch.float32)
        return model.eval().to(device), WhisperFeatureExtractor.from_pretrained(encoder)
    config = load_config(encoder, LABELS, {"encoder_layer": layer, **dict(way.context)})
    model = build_model(encoder, config, seed=0).eval().to(device)
    model.encoder.to(getattr(torch, way.dtype))
    return model, build_extractor(encoder)
