"""Measure speed, memory and accuracy against the usual implementations, in one run on this machine."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whisper_emotion.audio import read_audio
from whisper_emotion.benchmarks.encoder import Clips, benchmark_encoder, describe_encoder, time_contexts
from whisper_emotion.benchmarks.heads import benchmark_heads
from whisper_emotion.benchmarks.ways import Way, list_ways
from whisper_emotion.cli import parse_arguments, run_script
from whisper_emotion.corpora.splits import make_folds
from whisper_emotion.errors import UserError
from whisper_emotion.fitting.experiment import Experiment, load_experiment
from whisper_emotion.fitting.stacked_training import check_arguments
from whisper_emotion.fitting.training_arguments import EmotionTrainingArguments
from whisper_emotion.options import CorpusOptions, ModelOptions, ProtocolOptions, option
from whisper_emotion.reporting.frontier import read_contexts, write_frontier
from whisper_emotion.reporting.sweep import CONTEXT
from whisper_emotion.run_folder import write_whole
from whisper_emotion.run_record import describe_machine, public_name

MEASUREMENTS = ("encoder", "heads", "frontier")


@dataclass
class BenchmarkCorpusOptions(CorpusOptions):
    """Recordings to measure on; default: generated speech."""

    corpus: str = option("synthetic", help="as in cross_validate.py")

    def __post_init__(self):
        """Default to the Makefile's folder of generated speech."""
        if self.corpus == "synthetic" and self.corpus_dir is None:
            self.corpus_dir = "data/synthetic"


@dataclass
class BenchmarkOptions:
    """Options of the measurements."""

    GROUP = "measurements"

    output: str = option("benchmark.json", help="JSON file of the results")
    measure: str = option(
        "encoder",
        help="encoder (against transformers' class), heads (training, against the usual loop), frontier (accuracy "
        "against speed of --sweeps); several with commas",
    )
    sweeps: str | None = option(None, help="frontier: folders of sweeps, the reference first")
    clips: int = option(64, help="encoder: number of clips")
    repetitions: int = option(5, help="encoder: number of rounds")
    plain_folds: int | None = option(None, help="heads: number of folds to time the usual loop on; default: all")


def main() -> None:
    """Run the measurements and write them."""
    corpus, protocol, benchmark, model, training = parse_arguments(
        BenchmarkCorpusOptions, ProtocolOptions, BenchmarkOptions, ModelOptions, EmotionTrainingArguments
    )
    measured = [name.strip() for name in benchmark.measure.split(",")]
    if not set(measured) <= set(MEASUREMENTS):
        raise UserError(f"--measure {benchmark.measure}: must be {' or '.join(MEASUREMENTS)}, or several of them")
    if ("frontier" in measured) != (benchmark.sweeps is not None):
        raise UserError("--sweeps, --measure frontier: give both or neither")
    for name in ("plain_folds", "clips", "repetitions"):
        value = getattr(benchmark, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: must be 1 or more")
    check_arguments(training)
    training.disable_tqdm = True
    experiment = load_experiment(corpus, protocol, model, training)
    record = {"machine": describe_machine(training.device.type)}
    if "encoder" in measured:
        record["encoder"] = _measure_encoder(experiment, benchmark)
        print(describe_encoder(record["encoder"]))
    if "heads" in measured:
        folds = make_folds(experiment.corpus, corpus.corpus, corpus.folds)
        heads = record["heads"] = benchmark_heads(experiment, folds, benchmark.plain_folds or len(folds))
        for name in ("plain", "ours"):
            accuracy = 100 * heads[name]["unweighted_accuracy"]
            print(f"{name}: {heads[name]['seconds']:.0f} s, pooled UA {accuracy:.2f} %")
        print(f"ratio {heads['ratio']:.1f} (plain way timed on {heads['folds_timed']} folds)")
    if "frontier" in measured:
        record["frontier"] = _measure_frontier(experiment, benchmark)
    write_whole(Path(benchmark.output), json.dumps(record, indent=2) + "\n")


def _measure_encoder(experiment: Experiment, benchmark: BenchmarkOptions) -> dict[str, Any]:
    device, config = torch.device(experiment.args.device), experiment.config()
    ways = list_ways(tuple(config.context.items()))
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")):
        ways = [way for way in ways if not way.runtime.startswith("onnx")]
        print("ONNX is left out: pip install 'whisper-emotion[onnx]'")
    # Ask oneDNN for the CPU's instructions; not every build of torch has oneDNN
    has_bfloat16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if device.type == "cpu" and not has_bfloat16:
        ways = [way for way in ways if way.dtype != "bfloat16"]
        print("bfloat16 is left out: this CPU has no instructions for it, so it would be many times slower")
    clips = _draw_clips(experiment, benchmark)
    return benchmark_encoder(experiment.encoder, clips, config.encoder_layer, benchmark.repetitions, device, ways)


def _measure_frontier(experiment: Experiment, benchmark: BenchmarkOptions) -> list[dict[str, Any]]:
    records = read_contexts([Path(folder.strip()) for folder in (benchmark.sweeps or "").split(",")])
    first = next(iter(records.values()))
    if first["encoders"] != [public_name(experiment.encoder).rpartition("/")[-1]]:
        raise UserError(f"--sweeps: have encoder {', '.join(first['encoders'])}, not --encoder {experiment.encoder}")
    ways = {}
    for folder, record in records.items():
        context = tuple((name, record[name]) for name in CONTEXT if name in record)
        ways[folder] = Way(context=context, dtype=record.get("encoder_dtype", "float32"))
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
    run_script(main, "the same command starts again")
