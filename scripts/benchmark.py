"""Measure what this package's savings are worth against the usual way, in one run on this machine."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whisper_emotion.audio import read_audio
from whisper_emotion.benchmarks import (
    Clips,
    Way,
    benchmark_encoder,
    benchmark_heads,
    describe_encoder,
    list_ways,
    time_contexts,
)
from whisper_emotion.cli import parse_arguments, run_script
from whisper_emotion.corpora.splits import make_folds
from whisper_emotion.errors import UserError
from whisper_emotion.fitting.experiment import Experiment, load_experiment
from whisper_emotion.fitting.stacked_training import check_arguments
from whisper_emotion.fitting.training_arguments import EmotionTrainingArguments
from whisper_emotion.options import CorpusOptions, ModelOptions, ProtocolOptions, option
from whisper_emotion.reporting import CONTEXT, read_contexts, write_frontier
from whisper_emotion.run_folder import write_whole
from whisper_emotion.run_record import describe_machine, public_name

MEASUREMENTS = ("encoder", "heads", "frontier")


@dataclass
class BenchmarkCorpusOptions(CorpusOptions):
    """Recordings to measure on; generated ones where none are named."""

    corpus: str = option("synthetic", help="as cross_validate.py's")

    def __post_init__(self):
        """Generate where the Makefile does, unless told."""
        if self.corpus == "synthetic" and self.corpus_dir is None:
            self.corpus_dir = "data/synthetic"


@dataclass
class BenchmarkOptions:
    """What is measured, how much of it, and where the figures go."""

    GROUP = "measurements"

    output: str = option("benchmark.json", help="JSON file of the figures")
    measure: str = option(
        "encoder",
        help="encoder (against transformers' class), heads (training them, against the usual loop), frontier "
        "(accuracy against speed of --sweeps), or several",
    )
    sweeps: str | None = option(None, help="frontier: folders of sweeps, the reference first")
    clips: int = option(64, help="encoder: clips of the corpus")
    repetitions: int = option(5, help="encoder: rounds")
    plain_folds: int | None = option(None, help="heads: folds of the usual way; default: all")


def main() -> None:
    """Run the measurements and write them."""
    corpus, protocol, benchmark, model, training = parse_arguments(
        BenchmarkCorpusOptions, ProtocolOptions, BenchmarkOptions, ModelOptions, EmotionTrainingArguments
    )
    measured = [name.strip() for name in benchmark.measure.split(",")]
    if not set(measured) <= set(MEASUREMENTS):
        raise UserError(f"--measure {benchmark.measure}: must be {' or '.join(MEASUREMENTS)}, or several of them")
    if ("frontier" in measured) != (benchmark.sweeps is not None):
        raise UserError("--sweeps: names what --measure frontier compares, and that needs it")
    for name in ("plain_folds", "clips", "repetitions"):
        if getattr(benchmark, name) is not None and getattr(benchmark, name) < 1:
            raise UserError(f"--{name} {getattr(benchmark, name)}: must be 1 or more")
    check_arguments(training)
    training.disable_tqdm = True
    experiment = load_experiment(corpus, protocol, model, training)
    record = {"machine": describe_machine(training.device.type)}
    if "encoder" in measured:
        record["encoder"] = _measure_encoder(experiment, benchmark)
        print(describe_encoder(record["encoder"]))
    if "heads" in measured:
        folds = make_folds(experiment.corpus, corpus.corpus, corpus.folds)
        record["heads"] = benchmark_heads(experiment, folds, benchmark.plain_folds or len(folds))
        for name in ("plain", "ours"):
            figures = record["heads"][name]
            print(f"{name}: {figures['seconds']:.0f} s, pooled UA {100 * figures['unweighted_accuracy']:.2f} %")
        timed = record["heads"]["folds_timed"]
        print(f"ratio {record['heads']['ratio']:.1f} (plain way timed on {timed} folds)")
    if "frontier" in measured:
        record["frontier"] = _measure_frontier(experiment, benchmark)
    write_whole(Path(benchmark.output), json.dumps(record, indent=2) + "\n")


def _measure_encoder(experiment: Experiment, benchmark: BenchmarkOptions) -> dict[str, Any]:
    device = torch.device(experiment.args.device)
    config = experiment.config()
    ways = list_ways(tuple(config.context.items()))
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")):
        ways = [way for way in ways if not way.runtime.startswith("onnx")]
        print("ONNX is left out: pip install 'whisper-emotion[onnx]'")
    if device.type == "cpu" and not _has_bfloat16():
        ways = [way for way in ways if way.dtype != "bfloat16"]
        print("bfloat16 is left out: this processor has no instructions for it, and takes many times as long")
    clips = _draw_clips(experiment, benchmark)
    return benchmark_encoder(experiment.encoder, clips, config.encoder_layer, benchmark.repetitions, device, ways)


def _has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16, as oneDNN sees it; not every build of torch has that."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _measure_frontier(experiment: Experiment, benchmark: BenchmarkOptions) -> list[dict[str, Any]]:
    records = read_contexts([Path(folder.strip()) for folder in (benchmark.sweeps or "").split(",")])
    first = next(iter(records.values()))
    if first["encoders"] != [public_name(experiment.encoder).rpartition("/")[-1]]:
        raise UserError(f"--sweeps: are of {', '.join(first['encoders'])}, not of --encoder {experiment.encoder}")
    ways = {
        folder: Way(
            context=tuple((name, record[name]) for name in CONTEXT if name in record and name != "encoder_dtype"),
            dtype=record.get("encoder_dtype", "float32"),
        )
        for folder, record in records.items()
    }
    (layers,) = first["layers"].values()
    clips, device = _draw_clips(experiment, benchmark), torch.device(experiment.args.device)
    seconds = time_contexts(experiment.encoder, clips, layers, list(ways.values()), benchmark.repetitions, device)
    by_folder = {folder: {layer: seconds[way, layer] for layer in layers} for folder, way in ways.items()}
    output = Path(benchmark.output).with_suffix(".md")
    rows = write_frontier(output, records, by_folder)
    print(output.read_text(encoding="utf-8"))
    return rows


def _draw_clips(experiment: Experiment, benchmark: BenchmarkOptions) -> Clips:
    rows = np.random.default_rng(0).permutation(len(experiment.corpus))[: benchmark.clips]
    return Clips([read_audio(experiment.corpus[row]["audio"]) for row in rows.tolist()])


if __name__ == "__main__":
    run_script(main, "the same command begins anew")
