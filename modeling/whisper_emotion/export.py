"""Export to ONNX: one graph from mel frames and their mask to probabilities and pooling weights."""

import json
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from whisper_emotion.audio import SAMPLING_RATE, SHORTEST
from whisper_emotion.errors import UserError
from whisper_emotion.feature_extraction_whisper_emotion import WhisperEmotionFeatureExtractor
from whisper_emotion.modeling_whisper_emotion import WhisperForEmotionClassification
from whisper_emotion.run_folder import whole
from whisper_emotion.synthesis import STYLES, draw_voice, synthesise

OPSET = 20
INPUTS = ("input_features", "attention_mask")
OUTPUTS = ("probabilities", "pooling_weights")
CHECKED_CLIPS = 50


class Comparison(NamedTuple):
    """Difference between a graph and torch, over `CHECKED_CLIPS` clips of generated speech.

    Args:
        deviation: Largest deviation of a probability.
        relabelled: Number of clips with another label.
    """

    deviation: float
    relabelled: int


class _Graph(nn.Module):
    """The exported computation; `INPUTS` and `OUTPUTS` name its inputs and outputs in order."""

    def __init__(self, model: WhisperForEmotionClassification):
        super().__init__()
        self.model = model

    def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor):
        output = self.model(input_features=input_features, attention_mask=attention_mask)
        return output.logits.softmax(dim=-1), output.pooling_weights


def export_onnx(
    model: WhisperForEmotionClassification,
    extractor: WhisperEmotionFeatureExtractor,
    output: str | os.PathLike[str],
    quantize: bool = False,
) -> Comparison:
    """Write a trained model as an ONNX graph (opset 20) and compare it with torch.

    The graph takes the feature extractor's `input_features` `(batch, mel, frames)` float32 and `attention_mask`
    `(batch, frames)` int64, for any number of clips and up to 3,000 frames. It returns `probabilities`
    `(batch, labels)` and `pooling_weights` `(batch, heads, encoder frames)`, which are 0 after a clip's own frames.
    Its metadata holds the labels as a JSON list under `labels`.

    Args:
        model: The trained model, on the CPU.
        extractor: Its feature extractor.
        output: The file to write.
        quantize: Store the weights of the encoder's linear layers as 8-bit integers (7 bits are used), and multiply
            in integers. The head stays in float32: its weights differ by orders of magnitude, and one scale would
            erase the small ones.

    Returns:
        The difference from torch on 50 clips of generated speech of random lengths up to the window.

    Raises:
        UserError: The packages of the extra `onnx` are not installed, or the file cannot be written.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401  torch.onnx needs it
    except ImportError as error:
        raise UserError(f"--output {output}: ONNX needs {error.name}, pip install 'whisper-emotion[onnx]'") from error
    graph, window = _Graph(model).eval(), 2 * model.config.max_source_positions
    batch = torch.export.Dim("batch", max=2**31)  # torch 2.7 needs a bound
    frames = torch.export.Dim("frames", min=3, max=window)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the exporter's warnings about its own code
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            graph,
            tuple(_features(extractor, [16_000, 24_000])),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_shapes={INPUTS[0]: {0: batch, 2: frames}, INPUTS[1]: {0: batch, 1: frames}},
            verbose=False,
        )
    proto = _quantize(program.model_proto) if quantize else program.model_proto
    onnx.helper.set_model_props(proto, {"labels": json.dumps(list(model.config.id2label.values()))})
    with whole(Path(output)) as part:
        onnx.save(proto, part)
    return _compare(graph, extractor, output)


def _quantize(proto: Any) -> Any:
    """Store the weights of the encoder's linear layers as 8-bit integers."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    del proto.graph.value_info[:]  # torch before 2.13 stores wrong shapes; the quantiser infers them
    logging.disable(logging.WARNING)  # the quantiser asks for a pre-processing that this graph does not need
    try:
        with tempfile.TemporaryDirectory() as folder:
            quantize_dynamic(
                proto,
                Path(folder) / "int8.onnx",
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=True,  # 8-bit products overflow on CPUs without VNNI instructions
                op_types_to_quantize=["MatMul", "Gemm"],  # the convolutions' inputs have too wide a range for 8 bits
                nodes_to_exclude=_head_nodes(proto),
            )
            return onnx.load(Path(folder) / "int8.onnx")
    finally:
        logging.disable(logging.NOTSET)


@torch.inference_mode()
def _compare(graph: _Graph, extractor: WhisperEmotionFeatureExtractor, path: str | os.PathLike[str]) -> Comparison:
    """Run a graph and its model on generated speech."""
    session = open_session(path)
    rng, deviations, relabelled = np.random.default_rng(0), [], 0
    for _ in tqdm(range(CHECKED_CLIPS), desc="comparing with torch", unit="clip"):
        inputs = _features(extractor, rng.integers(SHORTEST, extractor.n_samples, size=1).tolist())
        expected = graph(*inputs)[0].numpy()
        arrays = {name: one.numpy() for name, one in zip(INPUTS, inputs, strict=True)}
        found = session.run(["probabilities"], arrays)[0]
        deviations.append(np.abs(found - expected).max())
        relabelled += int(found.argmax() != expected.argmax())
    return Comparison(float(np.max(deviations)), relabelled)


def _head_nodes(proto: Any) -> list[str]:
    """List the names of the head's nodes; the exporter stores the module of each node."""
    names = [node.name for node in proto.graph.node if any("model.head" in one.value for one in node.metadata_props)]
    return names + [f"{name}_MatMul" for name in names]  # the quantiser splits a Gemm and names its product so


def open_session(path: str | os.PathLike[str]) -> Any:
    """Open an exported graph on the CPU, with as many threads as torch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _features(extractor: WhisperEmotionFeatureExtractor, samples: list[int]) -> list[torch.Tensor]:
    """Compute the graph's inputs for generated speech of these lengths; noise would be unlike any training data."""
    rng = np.random.default_rng(samples)
    clips = []
    for length in samples:
        voice = draw_voice(str(rng.choice(["female", "male"])), rng)
        clips.append(np.resize(synthesise(voice, str(rng.choice(list(STYLES))), rng), length).astype(np.float32))
    batch = extractor(clips, sampling_rate=SAMPLING_RATE, padding="longest", return_tensors="pt")
    return [batch[name] for name in INPUTS]
