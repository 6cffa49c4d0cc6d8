"""Throughput from audio to probabilities, compared with transformers' own class on the same clips.

All ways take turns, so that other load on the machine affects all of them. Medians are compared.
"""

import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from whisper_emotion.audio import SAMPLING_RATE
from whisper_emotion.benchmarks.products import Products
from whisper_emotion.benchmarks.ways import STOCK, Way, build_pipeline, build_way
from whisper_emotion.reporting.markdown import markdown_table

BATCH_SIZE = 16
LENGTHS = (1, 3, 10, 30)  # seconds
LATENCY_SECONDS = 3
PEAK = Path("/proc/self/clear_refs")  # only Linux can reset the peak memory of a process


class Clips:
    """Recordings to measure on, shortest first, for length-grouped batches.

    Args:
        audio: Mono clips at 16 kHz.
    """

    def __init__(self, audio: Sequence[np.ndarray]):
        self.audio = sorted(audio, key=len)

    @property
    def mean_seconds(self) -> float:
        """Mean length in seconds."""
        return float(np.mean([len(clip) for clip in self.audio])) / SAMPLING_RATE

    def batches(self, size: int) -> list[list[np.ndarray]]:
        """Return all clips in batches of similar length."""
        return [self.audio[start : start + size] for start in range(0, len(self.audio), size)]

    def middle(self, size: int) -> list[np.ndarray]:
        """Return clips of medium length, at most `size`."""
        start = max(0, (len(self.audio) - size) // 2)
        return self.audio[start : start + size]

    def cut(self, seconds: float, number: int) -> "Clips":
        """Return `number` clips of equal length, cut from the concatenated speech."""
        wanted = round(seconds * SAMPLING_RATE)
        speech = np.resize(np.concatenate(self.audio), number * wanted)
        return Clips(list(speech.reshape(number, wanted)))

    def padding(self, size: int) -> dict[str, float]:
        """Return the share of padding in batches of similar length, and in random order."""
        lengths = np.array([len(clip) for clip in self.audio], dtype=float)
        shuffled = np.random.default_rng(0).permutation(lengths)

        def share(order: np.ndarray) -> float:
            parts = [order[start : start + size] for start in range(0, len(order), size)]
            return float(1 - order.sum() / sum(part.max() * len(part) for part in parts))

        return {"by length": share(lengths), "random order": share(shuffled)}


@dataclass
class Task:
    """Work to measure, one row of a table of results.

    Args:
        table: Name of the table.
        way: Name of the row, hashable.
        number: Second key of the row: a batch size, a clip's length or an encoder layer.
        clips: Number of clips that the task labels.
        run: The work.
        seconds: Measured seconds of each round.
    """

    table: str
    way: Any
    number: int
    clips: int
    run: Callable[[], Any]
    seconds: list[float] = field(default_factory=list)

    @property
    def each(self) -> float:
        """Median seconds per clip."""
        return statistics.median(self.seconds) / self.clips


def _labelling(table: str, way: Any, number: int, label: Callable, batches: list) -> Task:
    return Task(table, way, number, sum(map(len, batches)), lambda: [label(batch) for batch in batches])


def benchmark_encoder(
    encoder: str, clips: Clips, layer: int, repetitions: int, device: torch.device, ways: Sequence[Way]
) -> dict[str, Any]:
    """Measure all ways on the clips.

    Args:
        encoder: Folder or Hub name of a Whisper checkpoint or of a model of this package.
        clips: Clips to label.
        layer: Encoder layer that our model pools; the stock class always runs all layers.
        repetitions: Number of measured rounds, after one warm-up round.
        device: Device for torch. ONNX graphs are measured on CPUs only.
        ways: Ways to measure. The first is the reference; the last one's context is also used for `products` and
            `latency`.

    Returns:
        The settings `clips` and `encoder_layer`, and the results below.

        - `batches`: for each way and batch size, `seconds` per clip (median), their `quartiles`, and the `ratio` to
          the stock class.
        - `lengths`: the same for each way and clip length.
        - `products`: for each dtype, the machine's peak matmul throughput, the encoder's throughput, and the
          extractor's share of the encoder's time.
        - `latency`: the same as `batches` for one clip through `pipeline`.
        - `memory`: peak megabytes of a batch in addition to the loaded model, each way in a separate process (Linux
          only).
    """
    ways = [way for way in ways if device.type == "cpu" or not way.runtime.startswith("onnx")]
    own = {way.dtype: Way(context=ways[-1].context, dtype=way.dtype) for way in ways}
    few = clips.audio[:: max(1, len(clips.audio) // 8)]
    tasks = []
    with tempfile.TemporaryDirectory() as folder:
        for way in ways:
            label = build_way(way, encoder, layer, device, Path(folder))
            tasks.append(_labelling("batches", way.name, BATCH_SIZE, label, clips.batches(BATCH_SIZE)))
            tasks.append(_labelling("batches", way.name, 1, label, [[clip] for clip in few]))
            for seconds in LENGTHS:
                tasks.append(_labelling("lengths", way.name, seconds, label, [clips.cut(seconds, 4).audio]))
        for way in (STOCK, *own.values()):
            classify = build_pipeline(way, encoder, layer, device)
            tasks.append(_labelling("latency", way.name, 1, classify, clips.cut(LATENCY_SECONDS, 1).audio))
        products = {
            dtype: Products(way, encoder, layer, clips.middle(BATCH_SIZE), device) for dtype, way in own.items()
        }
        for dtype, one in products.items():
            tasks += [Task(dtype, name, 1, 1, run) for name, run in one.tasks.items()]
        _take_turns(tasks, repetitions, device)
    return {
        "encoder_layer": layer,
        "clips": {
            "number": len(clips.audio),
            "mean_seconds": clips.mean_seconds,
            "padding": clips.padding(BATCH_SIZE),
        },
        "batches": _rows(tasks, "batches", "batch_size"),
        "lengths": _rows(tasks, "lengths", "clip_seconds"),
        "products": {
            dtype: one.figures({task.way: task.each for task in tasks if task.table == dtype})
            for dtype, one in products.items()
        },
        "latency": _rows(tasks, "latency"),
        "memory": _memory(encoder, layer, clips, ways) if device.type == "cpu" else {},
    }


def _rows(tasks: Sequence[Task], table: str, column: str | None = None) -> list[dict[str, Any]]:
    """Build the rows of a table: seconds per clip, and the speed relative to the first way of the same number."""
    own = [task for task in tasks if task.table == table]
    first = {task.number: task for task in reversed(own)}
    return [
        {
            "way": task.way,
            **({} if column is None else {column: task.number}),
            "seconds": task.each,
            "quartiles": np.quantile(np.array(task.seconds) / task.clips, [0.25, 0.75]).tolist(),
            "ratio": first[task.number].each / task.each,
        }
        for task in own
    ]


def time_contexts(
    encoder: str, clips: Clips, layers: Sequence[int], ways: Sequence[Way], repetitions: int, device: torch.device
) -> dict[tuple[Way, int], float]:
    """Measure the median seconds per clip of each way at each layer, in batches of similar length.

    Arguments as in `benchmark_encoder`.
    """
    tasks = [
        _labelling("contexts", way, layer, build_way(way, encoder, layer, device, Path()), clips.batches(BATCH_SIZE))
        for way, layer in itertools.product(dict.fromkeys(ways), layers)
    ]
    _take_turns(tasks, repetitions, device)
    return {(task.way, task.number): task.each for task in tasks}


def _take_turns(tasks: Sequence[Task], repetitions: int, device: torch.device) -> None:
    """Measure each task once per round; the first round is a warm-up."""
    with torch.inference_mode():
        for turn in tqdm(range(repetitions + 1), desc="measuring", unit="round"):
            for task in tasks:
                started = time.perf_counter()
                task.run()
                if device.type != "cpu":
                    torch.accelerator.synchronize()
                if turn:
                    task.seconds.append(time.perf_counter() - started)


def describe_encoder(figures: dict[str, Any]) -> str:
    """Format the results as Markdown tables."""
    clips = figures["clips"]
    by_length, random_order = (100 * clips["padding"][order] for order in ("by length", "random order"))
    lines = [
        f"{clips['number']} clips of {clips['mean_seconds']:.1f} s on average, encoder layer "
        f"{figures['encoder_layer']}; padding {by_length:.0f} % in batches of {BATCH_SIZE} clips of similar length, "
        f"{random_order:.0f} % in random order. Speed relative to the stock class (ms per clip, quartiles):",
        "",
    ]
    for kind, column, unit in (("batches", "batch_size", "batch of {}"), ("lengths", "clip_seconds", "{} s")):
        cells: dict[str, dict[int, str]] = {}
        for row in figures[kind]:
            middle, low, high = (1000 * seconds for seconds in (row["seconds"], *row["quartiles"]))
            text = f"{row['ratio']:.1f} ({middle:.1f}, {low:.1f} to {high:.1f})"
            cells.setdefault(row["way"], {})[row[column]] = text
        columns = sorted({row[column] for row in figures[kind]})
        rows = ([way, *map(texts.__getitem__, columns)] for way, texts in cells.items())
        lines += [markdown_table(["", *map(unit.format, columns)], rows), ""]
    for dtype, one in figures["products"].items():
        lines.append(
            f"- {dtype}: the encoder alone reaches {one['encoder_gflops']:.0f} of {one['machine_gflops']:.0f} "
            f"GFLOP/s, the machine's peak matmul throughput ({100 * one['share']:.0f} %); the feature extractor takes "
            f"{100 * one['features_share']:.0f} % of the encoder's time"
        )
    lines += [
        f"- one clip of {LATENCY_SECONDS} s through `pipeline`, {row['way']}: {1000 * row['seconds']:.0f} ms, "
        f"{row['ratio']:.1f} times the stock class's speed"
        for row in figures["latency"]
    ]
    for way, megabytes in figures["memory"].items():
        lines.append(f"- {way}: a batch of {BATCH_SIZE} takes {megabytes:.0f} MB in addition to the weights")
    return "\n".join(lines)


def _memory(encoder: str, layer: int, clips: Clips, ways: Sequence[Way]) -> dict[str, float]:
    """Measure the peak megabytes of a batch in addition to the loaded model, each way in a fresh process."""
    batch = clips.batches(BATCH_SIZE)[-1]
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__])
    found = {}
    for way in ways:
        if not way.runtime.startswith("onnx") and PEAK.exists():
            with ProcessPoolExecutor(1, server) as pool:
                found[way.name] = pool.submit(_peak, way, encoder, layer, batch, torch.get_num_threads()).result()
    return found


def _peak(way: Way, encoder: str, layer: int, batch: list[np.ndarray], threads: int) -> float:
    torch.set_num_threads(threads)
    label = build_way(way, encoder, layer, torch.device("cpu"), Path())
    with torch.inference_mode():
        label([batch[0][:SAMPLING_RATE]])
        PEAK.write_text("5")  # reset the peak, which includes loading
        before = _resident("VmRSS")
        label(batch)
    return _resident("VmHWM") - before


def _resident(name: str) -> float:
    """Read megabytes from an entry of this process's status in Linux."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024
