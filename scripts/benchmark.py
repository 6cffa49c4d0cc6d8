"""Measure what this package's savings are worth against the plain way, in one run on this machine."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from whisper_emotion.arguments import (
    CorpusArguments,
    ModelArguments,
    ProtocolArguments,
    load_experiment,
    parse_arguments,
    run_script,
)
from whisper_emotion.benchmarks import benchmark_heads
from whisper_emotion.corpora.splits import make_folds
from whisper_emotion.errors import UserError
from whisper_emotion.heads import check_arguments
from whisper_emotion.results import describe_machine
from whisper_emotion.run_folder import write_whole
from whisper_emotion.training import EmotionTrainingArguments


@dataclass
class BenchmarkCorpusArguments(CorpusArguments):
    """Recordings to measure on; generated ones where none are named."""

    corpus: str = field(default="synthetic", metadata={"help": "as cross_validate.py's"})
    corpus_dir: str = field(default="data/synthetic", metadata={"help": "folder of the recordings"})


@dataclass
class BenchmarkArguments:
    """How much of it, and where the figures go."""

    output: str = field(default="benchmark.json", metadata={"help": "JSON file of the figures"})
    plain_folds: int | None = field(
        default=None, metadata={"help": "folds that the plain way of training heads is timed on; all if none"}
    )
    num_workers: int | None = field(default=None, metadata={"help": "processes that train heads; one a core if none"})


def main() -> None:
    """Run the measurements and write them."""
    corpus, protocol, benchmark, model, training = parse_arguments(
        BenchmarkCorpusArguments, ProtocolArguments, BenchmarkArguments, ModelArguments, EmotionTrainingArguments
    )
    for name in ("plain_folds", "num_workers"):
        if getattr(benchmark, name) is not None and getattr(benchmark, name) < 1:
            raise UserError(f"--{name} {getattr(benchmark, name)}: must be 1 or more")
    check_arguments(training)
    training.disable_tqdm = True
    experiment = load_experiment(corpus, protocol, model, training)
    folds = make_folds(experiment.corpus, corpus.corpus, corpus.folds)
    heads = benchmark_heads(
        experiment, folds, benchmark.plain_folds or len(folds), benchmark.num_workers or os.cpu_count() or 1
    )
    record = {"machine": describe_machine(), "heads": heads}
    write_whole(Path(benchmark.output), json.dumps(record, indent=2) + "\n")
    for name in ("plain", "ours"):
        figures = heads[name]
        print(f"{name}: {figures['seconds']:.0f} s, pooled UA {100 * figures['unweighted_accuracy']:.2f} %")
    print(f"ratio {heads['ratio']:.1f} (plain way timed on {heads['folds_timed']} folds)")


if __name__ == "__main__":
    run_script(main)
