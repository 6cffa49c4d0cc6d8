"""Audio in, probabilities out: clips a second against transformers' own class, on the same clips in the same run.

All ways take turns, so that other load on the machine slows all of them. Medians are compared.
"""

import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from whisper_emotion.audio import SAMPLING_RATE
from whisper_emotion.benchmarks.products import Products
from whisper_emotion.benchmarks.ways import STOCK, Way, build_pipelines, build_way
from whisper_emotion.reporting import markdown_table

BATCH_SIZE = 16
LENGTHS = (1, 3, 10, 30)  # seconds
LATENCY_SECONDS = 3
PEAK = Path("/proc/self/clear_refs")  # Linux alone says what a process took at most, from a moment on


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

    def middle(self, size: int) -> list[np.ndarray]:
        """Return clips of medium length, at most `size`."""
        start = max(0, (len(self.audio) - size) // 2)
        return self.audio[start : start + size]

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
        labelled = {way: build_way(way, encoder, layer, device, Path(folder)) for way in ways}
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
        products = {
            dtype: Products(way, encoder, layer, clips.middle(BATCH_SIZE), device) for dtype, way in own.items()
        }
        for dtype, one in products.items():
            for name, task in one.tasks().items():
                tasks["products", dtype, name], sizes["products", dtype, name] = task, 1
        for name, label in build_pipelines(encoder, layer, device, own.values()).items():
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
        label = build_way(way, encoder, layer, device, Path())
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
        lines += [markdown_table(["", *map(unit.format, columns)], rows), ""]
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


def _take_turns(tasks: dict[tuple, Callable], repetitions: int, device: torch.device) -> dict[tuple, list[float]]:
    """Measure the seconds of each task, once in each round; the first round warms up."""
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


def _memory(encoder: str, layer: int, clips: Clips, ways: Sequence[Way]) -> dict[str, float]:
    """Measure the peak megabytes of a batch beside the loaded model, each way in a fresh process."""
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
    label = build_way(way, encoder, layer, torch.device("cpu"), Path())
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
