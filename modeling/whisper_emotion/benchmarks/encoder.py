"""Audio in, probabilities out: clips a second against transformers' own class, on the same clips in the same run.

All ways take turns, so that what slows the machine down for a while slows them all, and medians are compared.
"""

import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import WhisperFeatureExtractor, WhisperForAudioClassification, pipeline
from transformers.utils import logging

from whisper_emotion.audio import SAMPLING_RATE
from whisper_emotion.configuration_whisper_emotion import WhisperEmotionConfig
from whisper_emotion.encoder_whisper_emotion import encoder_frames
from whisper_emotion.export import INPUTS, export_onnx, open_session
from whisper_emotion.fitting.experiment import build_extractor, build_model, load_config
from whisper_emotion.reporting import markdown_table

BATCH_SIZE = 16
LENGTHS = (1, 3, 10, 30)  # seconds
DTYPES = ("float32", "bfloat16")
LABELS = tuple("abcdefg")  # as many as EMO-DB has; their names play no part
LATENCY_SECONDS = 3
PEAK = Path("/proc/self/clear_refs")  # Linux alone says what a process took at most, from a moment on


@dataclass(frozen=True)
class Way:
    """One way from audio to probabilities.

    Args:
        runtime: `stock` (transformers' class and extractor), `torch` (ours), `onnx` or `onnx int8` (ours, exported).
        context: Fields of `WhisperEmotionConfig` that say what the encoder sees.
        dtype: Of the encoder.
    """

    runtime: str = "torch"
    context: tuple[tuple[str, Any], ...] = ()
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """What the tables call it."""
        values = [f"{value:g}" if isinstance(value, float) else str(value) for _, value in self.context]
        return ", ".join([self.runtime, *[" ".join(values)] * bool(values), self.dtype])


STOCK = Way("stock")


def list_ways(context: tuple[tuple[str, Any], ...]) -> list[Way]:
    """The stock class, ours with the whole window, with a second of silence, and, exported too, with `context`."""
    window, utterance = (("encoder_context", "window"),), (("encoder_context", "utterance"), ("context_margin", 1.0))
    contexts = [*(one for one in (window, utterance) if one != context), context]
    torch_ways = [Way(context=one, dtype=dtype) for one in contexts for dtype in DTYPES]
    return [STOCK, *torch_ways, Way("onnx", context), Way("onnx int8", context)]


class Clips:
    """Recordings to measure on, shortest first, as length-grouped batches have them.

    Args:
        audio: Mono clips at 16 kHz.
    """

    def __init__(self, audio: Sequence[np.ndarray]):
        self.audio = sorted(audio, key=len)

    @property
    def mean_seconds(self) -> float:
        """Their mean length."""
        return float(np.mean([len(clip) for clip in self.audio])) / SAMPLING_RATE

    def batches(self, size: int) -> list[list[np.ndarray]]:
        """All clips, in batches of like length."""
        return [self.audio[start : start + size] for start in range(0, len(self.audio), size)]

    def cut(self, seconds: float, number: int) -> "Clips":
        """Clips of one length, of the same speech behind one another."""
        wanted = round(seconds * SAMPLING_RATE)
        speech = np.resize(np.concatenate(self.audio), number * wanted)
        return Clips(list(speech.reshape(number, wanted)))

    def padding(self, size: int) -> dict[str, float]:
        """Share of padding in batches of like length, and in random order."""
        lengths = np.array([len(clip) for clip in self.audio], dtype=float)
        shuffled = np.random.default_rng(0).permutation(lengths)

        def share(order: np.ndarray) -> float:
            parts = [order[start : start + size] for start in range(0, len(order), size)]
            return float(1 - order.sum() / sum(part.max() * len(part) for part in parts))

        return {"by length": share(lengths), "random order": share(shuffled)}


def benchmark_encoder(
    encoder: str, clips: Clips, layer: int, repetitions: int, device: torch.device, ways: Sequence[Way]
) -> dict[str, Any]:
    """Measure all ways on the clips.

    Args:
        encoder: A Whisper checkpoint, or one of ours.
        clips: What they label.
        layer: Encoder layer that ours pools; the stock class always runs all of them.
        repetitions: Times that each is measured; once more before, which does not count.
        device: Where torch runs. ONNX graphs are measured on processors only.
        ways: What is measured; the first is what the others are compared with, and the context of the last is that of
            `products` and `latency`, too.

    Returns:
        `clips`, `encoder_layer`; `batches`, a row a way and batch size, and `lengths`, a row a way and clip length:
        `seconds` a clip (median and the quartiles) and the `ratio` to the stock class's; `products`, for each dtype
        the machine's rate in products of matrices, the encoder's own, and what the extractor takes of its time;
        `latency` of one clip through `pipeline`; `memory` that a batch takes at most beside the loaded model, in
        megabytes, each way in a process of its own (on Linux).
    """
    ways = [way for way in ways if device.type == "cpu" or not way.runtime.startswith("onnx")]
    with tempfile.TemporaryDirectory() as folder:
        labelled = {way: _build(way, encoder, layer, device, Path(folder)) for way in ways}
        tasks: dict[tuple, Callable[[], Any]] = {}
        sizes: dict[tuple, int] = {}

        def measure(key: tuple, label: Callable, batches: list[list[np.ndarray]]) -> None:
            tasks[key] = lambda: [label(batch) for batch in batches]
            sizes[key] = sum(map(len, batches))

        for way, label in labelled.items():
            measure(("batches", way, BATCH_SIZE), label, clips.batches(BATCH_SIZE))
            few = clips.audio[:: max(1, len(clips.audio) // 8)]
            measure(("batches", way, 1), label, [[clip] for clip in few])
            for seconds in LENGTHS:
                measure(("lengths", way, seconds), label, [clips.cut(seconds, 4).audio])
        own = {way.dtype: Way(context=ways[-1].context, dtype=way.dtype) for way in ways}
        products = {dtype: _Products(way, encoder, layer, clips, device) for dtype, way in own.items()}
        for dtype, one in products.items():
            for name, task in one.tasks().items():
                tasks["products", dtype, name], sizes["products", dtype, name] = task, 1
        for name, label in _pipelines(encoder, layer, device, own.values()).items():
            clip = clips.cut(LATENCY_SECONDS, 1).audio
            measure(("latency", name, 1), lambda batch, label=label: label(*batch), [clip])
        seconds = _take_turns(tasks, repetitions, device)

    def rows(kind: str) -> list[dict[str, Any]]:
        return [
            {
                "way": way.name,
                ("batch_size" if kind == "batches" else "clip_seconds"): number,
                **_spread(seconds[kind, way, number], sizes[kind, way, number]),
                "ratio": _median_ratio(kind, number, way),
            }
            for found, way, number in tasks
            if found == kind
        ]

    def _median_ratio(kind: str, number: int, way: Way) -> float:
        stock, own = (_spread(seconds[kind, one, number], sizes[kind, one, number]) for one in (ways[0], way))
        return stock["seconds"] / own["seconds"]

    latency = {name: _spread(times, 1) for (kind, name, _), times in seconds.items() if kind == "latency"}
    return {
        "encoder_layer": layer,
        "clips": {
            "number": len(clips.audio),
            "mean_seconds": clips.mean_seconds,
            "padding": clips.padding(BATCH_SIZE),
        },
        "batches": rows("batches"),
        "lengths": rows("lengths"),
        "products": {
            dtype: one.figures({name: statistics.median(seconds["products", dtype, name]) for name in one.tasks()})
            for dtype, one in products.items()
        },
        "latency": [
            {"way": name, **spread, "ratio": latency[STOCK.name]["seconds"] / spread["seconds"]}
            for name, spread in latency.items()
        ],
        "memory": _memory(encoder, layer, clips, ways) if device.type == "cpu" else {},
    }


def time_contexts(
    encoder: str, clips: Clips, layers: Sequence[int], ways: Sequence[Way], repetitions: int, device: torch.device
) -> dict[tuple[Way, int], float]:
    """Seconds a clip, the median, of each way at each layer, in batches of like length; the arguments are as above."""
    tasks: dict[tuple, Callable[[], Any]] = {}
    for way, layer in itertools.product(dict.fromkeys(ways), layers):
        label = _build(way, encoder, layer, device, Path())
        tasks[way, layer] = lambda label=label: [label(batch) for batch in clips.batches(BATCH_SIZE)]
    seconds = _take_turns(tasks, repetitions, device)
    return {(way, layer): statistics.median(times) / len(clips.audio) for (way, layer), times in seconds.items()}


def describe_encoder(figures: dict[str, Any]) -> str:
    """The figures as Markdown tables."""
    clips = figures["clips"]
    by_length, random_order = (100 * clips["padding"][order] for order in ("by length", "random order"))
    lines = [
        f"{clips['number']} clips of {clips['mean_seconds']:.1f} s on average, encoder layer "
        f"{figures['encoder_layer']}; padding {by_length:.0f} % in batches of {BATCH_SIZE} clips of like length, "
        f"{random_order:.0f} % in random order. How many times as fast as the stock class (ms a clip, quartiles):",
        "",
    ]
    for kind, column, unit in (("batches", "batch_size", "batch of {}"), ("lengths", "clip_seconds", "{} s")):
        columns = sorted({row[column] for row in figures[kind]})
        cells: dict[str, dict[float, str]] = {}
        for row in figures[kind]:
            low, high = (1000 * quartile for quartile in row["quartiles"])
            text = f"{row['ratio']:.1f} ({1000 * row['seconds']:.1f}, {low:.1f} to {high:.1f})"
            cells.setdefault(row["way"], {})[row[column]] = text
        rows = [[way, *(texts[one] for one in columns)] for way, texts in cells.items()]
        lines += [*markdown_table(["", *map(unit.format, columns)], rows), ""]
    for dtype, one in figures["products"].items():
        lines.append(
            f"- {dtype}: the encoder alone does {one['encoder_gflops']:.0f} of the {one['machine_gflops']:.0f} "
            f"GFLOP/s that the machine reaches in products of matrices, {100 * one['share']:.0f} %; the feature "
            f"extractor takes {100 * one['features_share']:.0f} % of its time"
        )
    lines += [
        f"- one clip of {LATENCY_SECONDS} s through `pipeline`, {row['way']}: {1000 * row['seconds']:.0f} ms, "
        f"{row['ratio']:.1f} times the stock class's speed"
        for row in figures["latency"]
    ]
    for way, megabytes in figures["memory"].items():
        lines.append(f"- {way}: a batch of {BATCH_SIZE} takes {megabytes:.0f} MB beside the weights")
    return "\n".join(lines)


def _build(way: Way, encoder: str, layer: int, device: torch.device, folder: Path) -> Callable[[list], Any]:
    """A function that gives a batch of clips their probabilities."""
    if way.runtime == "stock":
        model, extractor = _stock(encoder, device)
        model.to(getattr(torch, way.dtype))

        def label_stock(batch):
            inputs = extractor(batch, sampling_rate=SAMPLING_RATE, return_tensors="pt")
            return model(inputs.input_features.to(device, model.dtype)).logits.softmax(dim=-1).float().cpu()

        return label_stock
    model, extractor = _ours(way, encoder, layer, device), build_extractor(encoder)
    if way.runtime == "torch":

        def label_ours(batch):
            inputs = extractor(batch, sampling_rate=SAMPLING_RATE, padding="longest", return_tensors="pt")
            return model(**inputs.to(device)).logits.softmax(dim=-1).cpu()

        return label_ours
    path = folder / f"{way.name}.onnx"
    export_onnx(model, extractor, path, quantize=way.runtime == "onnx int8")
    session = open_session(path)

    def label_onnx(batch):
        inputs = extractor(batch, sampling_rate=SAMPLING_RATE, padding="longest", return_tensors="np")
        return session.run(["probabilities"], {name: inputs[name] for name in INPUTS})[0]

    return label_onnx


def _stock(encoder: str, device: torch.device):
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its head is new, as ours is
    try:
        model = WhisperForAudioClassification.from_pretrained(encoder, num_labels=len(LABELS), dtype=torch.float32)
        return model.eval().to(device), WhisperFeatureExtractor.from_pretrained(encoder)
    finally:
        logging.set_verbosity(verbosity)


def _ours(way: Way, encoder: str, layer: int, device: torch.device):
    config = load_config(encoder, LABELS, {"encoder_layer": layer, **dict(way.context)})
    model = build_model(encoder, config, seed=0).eval().to(device)
    model.encoder.to(getattr(torch, way.dtype))
    return model


def _pipelines(
    encoder: str, layer: int, device: torch.device, ways: Iterable[Way]
) -> dict[str, Callable[[np.ndarray], Any]]:
    """A function that labels one clip through `pipeline`, by the name of its way: the stock one, and these of ours."""
    model, extractor = _stock(encoder, device)
    pipes = {STOCK.name: pipeline("audio-classification", model=model, feature_extractor=extractor, device=device)}
    own = build_extractor(encoder)
    for way in ways:
        model = _ours(way, encoder, layer, device)
        pipes[way.name] = pipeline("audio-classification", model=model, feature_extractor=own, device=device)
    return {name: (lambda clip, pipe=pipe: pipe(clip.copy())) for name, pipe in pipes.items()}


def _take_turns(tasks: dict[tuple, Callable], repetitions: int, device: torch.device) -> dict[tuple, list[float]]:
    """Seconds of each task, every one once in each round; the first round warms up."""
    seconds: dict[tuple, list[float]] = {key: [] for key in tasks}
    with torch.inference_mode():
        for turn in tqdm(range(repetitions + 1), desc="measuring", unit="round"):
            for key, task in tasks.items():
                started = time.perf_counter()
                task()
                if device.type != "cpu":
                    torch.accelerator.synchronize()
                if turn:
                    seconds[key].append(time.perf_counter() - started)
    return seconds


class _Products:
    """The encoder alone on a batch, and what the machine reaches in products of matrices of its shapes."""

    def __init__(self, way: Way, encoder: str, layer: int, clips: Clips, device: torch.device):
        self.extractor = build_extractor(encoder)
        self.model = _ours(way, encoder, layer, device)
        middle = max(0, (len(clips.audio) - BATCH_SIZE) // 2)
        self.batch = clips.audio[middle : middle + BATCH_SIZE]
        inputs = self.extractor(self.batch, sampling_rate=SAMPLING_RATE, padding="longest", return_tensors="pt")
        self.inputs = inputs.to(device)
        lengths = inputs.attention_mask.sum(dim=1)
        self.flops, rows = encoder_flops(self.model.config, lengths.tolist())
        width, inner = self.model.config.d_model, self.model.config.encoder_ffn_dim
        shapes = {(2048, 2048, 2048), (rows, width, width), (rows, width, inner), (rows, inner, width)}
        numbers = {"dtype": getattr(torch, way.dtype), "device": device}
        self.pairs = {
            shape: (torch.randn(shape[0], shape[1], **numbers), torch.randn(shape[2], shape[1], **numbers))
            for shape in shapes
        }

    def tasks(self) -> dict[Any, Callable[[], Any]]:
        """What is measured, by name: the encoder, the extractor, and a product a shape."""
        extract = {"sampling_rate": SAMPLING_RATE, "padding": "longest", "return_tensors": "pt"}
        return {
            "encoder": lambda: self.model.encode(**self.inputs),
            "features": lambda: self.extractor(self.batch, **extract),
            **{
                shape: (lambda left=left, right=right: torch.nn.functional.linear(left, right))
                for shape, (left, right) in self.pairs.items()
            },
        }

    def figures(self, seconds: dict[Any, float]) -> dict[str, float]:
        """GFLOP/s from the tasks' seconds, and shares."""
        machine = max(2 * np.prod(shape) / seconds[shape] for shape in self.pairs) / 1e9
        encoder = self.flops / seconds["encoder"] / 1e9
        return {
            "machine_gflops": float(machine),
            "encoder_gflops": encoder,
            "share": float(encoder / machine),
            "features_share": seconds["features"] / seconds["encoder"],
        }


def encoder_flops(config: WhisperEmotionConfig, mel_frames: Sequence[int]) -> tuple[float, int]:
    """Operations that the encoder cannot do without for clips of so many frames in the sparse window.

    Returns:
        Multiplications and additions in the convolutions, linear layers and attention, of real frames only; and the
        frames that go through the layers.
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


def _memory(encoder: str, layer: int, clips: Clips, ways: Sequence[Way]) -> dict[str, float]:
    """Megabytes that a batch takes, at its peak, more than the loaded model did: each way in a fresh process."""
    batch = clips.batches(BATCH_SIZE)[-1]
    spawn = multiprocessing.get_context("spawn")
    found = {}
    for way in ways:
        if not way.runtime.startswith("onnx") and PEAK.exists():
            with ProcessPoolExecutor(1, spawn) as pool:
                found[way.name] = pool.submit(_peak, way, encoder, layer, batch, torch.get_num_threads()).result()
    return found


def _peak(way: Way, encoder: str, layer: int, batch: list[np.ndarray], threads: int) -> float:
    torch.set_num_threads(threads)
    label = _build(way, encoder, layer, torch.device("cpu"), Path())
    with torch.inference_mode():
        label([batch[0][:SAMPLING_RATE]])
        PEAK.write_text("5")  # forget the peak of loading
        before = _resident("VmRSS")
        label(batch)
    return _resident("VmHWM") - before


def _resident(name: str) -> float:
    """Megabytes that Linux counts under a name in this process's status."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


def _spread(seconds: Sequence[float], clips: int) -> dict[str, Any]:
    """Median and quartiles of the seconds a clip."""
    each = np.asarray(seconds) / clips
    return {"seconds": float(np.median(each)), "quartiles": np.quantile(each, [0.25, 0.75]).tolist()}
