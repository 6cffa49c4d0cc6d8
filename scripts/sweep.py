"""Run the paper's grid (encoders x layers x poolings x folds x seeds) on stored frames, and write tables."""

import dataclasses
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from whisper_emotion.cli import parse_arguments, parse_seeds, run_script
from whisper_emotion.corpora.splits import make_folds, speakers_shared
from whisper_emotion.errors import UserError
from whisper_emotion.fitting.experiment import Experiment, load_experiment
from whisper_emotion.fitting.grid import RECORD, Grid, finished_cells, list_clips, run_grid
from whisper_emotion.fitting.stacked_training import check_arguments
from whisper_emotion.fitting.training_arguments import EmotionTrainingArguments
from whisper_emotion.options import CorpusOptions, ModelOptions, ProtocolOptions, option, settings
from whisper_emotion.pooling_whisper_emotion import POOLING_CLASSES
from whisper_emotion.processes import leave_group
from whisper_emotion.reporting.sweep import write_sweep_report
from whisper_emotion.reporting.sweep_results import SweepResults, check_same_clips
from whisper_emotion.run_folder import CELLS, claim, write_whole
from whisper_emotion.run_record import describe_machine, public_name
from whisper_emotion.stored_frames import StoredFrames


@dataclass
class SweepOptions:
    """Options of the grid."""

    GROUP = "grid"

    layers: str = option("all", help="all (1 to the last), or a list such as 1,2,3")
    poolings: str = option("mean,attentive,qkv", help="comma-separated, or none for the regression only")
    seeds: str | None = option(None, help="such as 0,1,2; default: --seed")
    compare_with: str | None = option(None, help="folders of finished sweeps of the same clips, comma-separated")


def main() -> None:
    """Run the grid and write `results.csv`, `table.md`, `layers.png` and confusion matrices."""
    corpus, protocol, sweep, model, training = parse_arguments(
        CorpusOptions, ProtocolOptions, SweepOptions, ModelOptions, EmotionTrainingArguments
    )
    _check_options(protocol, sweep, model, training)
    grid = _grid(corpus, protocol, sweep, model, training)
    experiment = next(iter(grid.experiments.values()))
    others = _others(sweep.compare_with, list_clips(experiment.corpus, grid.folds))
    output_dir = Path(training.output_dir)
    encoders = [one.encoder for one in grid.experiments.values()]
    options = settings(corpus, protocol, model, training)  # layers, poolings and seeds may be added later
    del options["seed"]
    for one in grid.experiments.values():
        one.extractor()
    with claim(output_dir, experiment.corpus, encoders, options, CELLS):
        grid, frames = _store(grid, output_dir)
        if leave_group():  # the other processes only share the encoding
            _run(corpus, protocol, sweep, training, grid, frames, others)


def _run(
    corpus: CorpusOptions,
    protocol: ProtocolOptions,
    sweep: SweepOptions,
    training: EmotionTrainingArguments,
    grid: Grid,
    frames: dict[str, dict[int, StoredFrames]],
    others: dict[str, Path],
) -> None:
    """Train the grid and write its tables."""
    experiment, output_dir = next(iter(grid.experiments.values())), Path(training.output_dir)
    (output_dir / RECORD).unlink(missing_ok=True)  # it marks a finished sweep
    seconds = run_grid(grid, frames, output_dir)
    facts = _facts(corpus, grid, training)
    write_sweep_report(output_dir, SweepResults(output_dir, experiment.labels, protocol.select_on), facts, others)
    record = {
        **facts,
        "select_on": protocol.select_on,
        "encoders": list(grid.experiments),
        "layers": grid.layers,
        "poolings": grid.poolings,
        "seeds": grid.seeds,
        "command": _command(),
        "training_seconds": round(seconds),
        "machine": describe_machine(training.device.type),
    }
    write_whole(output_dir / RECORD, json.dumps(record, indent=2) + "\n")
    table = (output_dir / "table.md").read_text(encoding="utf-8")
    print(table.partition("## Poolings\n")[2].partition("\n## ")[0])
    print(f"saved to {output_dir}")


def _check_options(protocol: Any, sweep: SweepOptions, model: Any, training: Any) -> None:
    """Refuse options that a sweep does not support."""
    for name, instead in (
        ("encoder_layer", "--layers"),
        ("pooling", "--poolings"),
        ("use_weighted_layer_sum", "single layers"),
        ("concatenated_layers", "single layers"),
    ):
        if getattr(model, name) is not None:
            raise UserError(f"--{name}: not supported by a sweep, which uses {instead} instead")
    if protocol.adaptation != "none" or protocol.temperature_scaling:
        raise UserError("--adaptation, --temperature_scaling: not supported by a sweep, use cross_validate.py")
    if protocol.augmented_copies or protocol.train_adaptation != "none" or protocol.held_out != "speakers":
        raise UserError(
            "--augmented_copies, --train_adaptation, --held_out: not supported by a sweep, use cross_validate.py"
        )
    if protocol.init is not None or protocol.clips_per_class is not None:
        raise UserError("--init, --clips_per_class: not supported by a sweep, use cross_validate.py")
    if not protocol.freeze_encoder or protocol.from_scratch:
        raise UserError("--freeze_encoder false: not supported by a sweep, which trains on stored frames")
    if model.classifier_proj_size == 0:
        raise UserError("--classifier_proj_size 0: not supported by a sweep, use --poolings none for the regression")
    check_arguments(training)


def _grid(corpus: CorpusOptions, protocol: Any, sweep: SweepOptions, model: Any, training: Any) -> Grid:
    """Build the grid from the options."""
    model.use_weighted_layer_sum = False  # overrides the checkpoint's value
    experiments = _experiments(corpus, protocol, model, dataclasses.replace(training, disable_tqdm=True))
    recordings = next(iter(experiments.values())).corpus
    folds = make_folds(recordings, corpus.corpus, corpus.folds)
    speakers = np.array(recordings["speaker"][:])
    poolings = _parse_poolings(sweep.poolings)
    reference = all(len(set(speakers[fold.train])) > 1 for fold in folds)  # selection needs a speaker to hold out
    if not poolings and not reference:
        raise UserError("--poolings none: needs two or more training speakers in every fold, to hold one out")
    return Grid(
        experiments,
        {name: _parse_layers(sweep.layers, one) for name, one in experiments.items()},
        poolings,
        folds,
        [training.seed] if sweep.seeds is None else parse_seeds(sweep.seeds),
        reference,
    )


def _experiments(corpus: Any, protocol: Any, model: Any, training: Any) -> dict[str, Experiment]:
    """Load one experiment per encoder, by the encoder's public name."""
    names = [name.strip() for name in protocol.encoder.split(",")]
    first = load_experiment(corpus, dataclasses.replace(protocol, encoder=names[0]), model, training)
    experiments = {public_name(name).rpartition("/")[-1]: dataclasses.replace(first, encoder=name) for name in names}
    if len(experiments) < len(names):
        raise UserError(f"--encoder {protocol.encoder}: two encoders have the same name")
    return experiments


def _parse_layers(text: str, experiment: Experiment) -> list[int]:
    """Parse the layers of an encoder, ascending; negative layers count from the top."""
    top = experiment.config().encoder_layers
    if text == "all":
        return list(range(1, top + 1))
    try:
        layers = [int(layer) for layer in text.split(",")]
    except ValueError as error:
        raise UserError(f"--layers {text}: give all, or comma-separated layers, such as 1,2,3") from error
    for layer in layers:
        if not -(top + 1) <= layer <= top:
            raise UserError(f"--layers {text}: {experiment.encoder} has the layers 0 to {top}, not {layer}")
    return sorted({layer % (top + 1) for layer in layers})


def _parse_poolings(text: str) -> list[str]:
    if text == "none":
        return []
    poolings = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in poolings:
        if name not in POOLING_CLASSES:
            raise UserError(f"--poolings {text}: {name!r} is not one of {', '.join(POOLING_CLASSES)}")
    return poolings


def _others(folders: str | None, clips: pd.DataFrame) -> dict[str, Path]:
    """Return the sweeps to compare with, by folder name."""
    paths = [Path(folder.strip()) for folder in (folders or "").split(",") if folder.strip()]
    others = {path.name: path for path in paths}
    if len(others) < len(paths):
        raise UserError(f"--compare_with {folders}: two folders have the same name")
    for path in others.values():
        check_same_clips(clips, path)
    return others


def _store(grid: Grid, output_dir: Path) -> tuple[Grid, dict[str, dict[int, StoredFrames]]]:
    """Return the grid with its store keys, and the frames of the encoders with unfinished cells."""
    stores = {name: one.feature_store(grid.layers[name]) for name, one in grid.experiments.items()}
    digests = {name: {layer: path.name for layer, path in store.folders.items()} for name, store in stores.items()}
    grid = dataclasses.replace(grid, digests=digests)
    finished = finished_cells(grid, output_dir)
    unfinished = {cell.encoder for cell in grid.cells() if cell not in finished}
    for name in unfinished:
        stores[name].lay_out()  # check the disk space of all stores before encoding
    for name in unfinished:
        stores[name].fill()
    frames = {
        name: {layer: cast(StoredFrames, stores[name].open([layer])) for layer in grid.layers[name]}
        for name in unfinished
    }
    return grid, frames


def _command() -> str:
    """Return this run's command line without local folders."""
    parts = [",".join(public_name(name) for name in part.split(",")) for part in sys.argv[1:]]
    return shlex.join(["python", f"scripts/{Path(sys.argv[0]).name}", *parts])


def _facts(corpus: Any, grid: Grid, training: Any) -> dict[str, Any]:
    """Return the facts for the tables' captions."""
    experiment = next(iter(grid.experiments.values()))
    config = experiment.config()
    names = (*config.context, "mask_padding", "pooling_scores", "pooling_heads", "pooling_head_dim",
             "pooling_dropout", "classifier_proj_size")  # fmt: skip
    refit = {"refit": experiment.refit} if experiment.select_on == "dev" else {}
    return {
        "corpus": corpus.corpus,
        "folds": corpus.folds,
        "labels": experiment.labels,
        "improvised_only": bool(corpus.improvised_only),
        "speakers_shared": [speakers_shared(experiment.corpus, fold) for fold in grid.folds],
        **{name: getattr(config, name) for name in names},
        "encoder_dtype": experiment.encoder_dtype,
        "class_weights": experiment.class_weights or "none",
        "label_smoothing": training.label_smoothing_factor,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": str(training.lr_scheduler_type.value),
        "warmup_steps": training.warmup_steps,
        "weight_decay": training.weight_decay,
        "num_train_epochs": training.num_train_epochs,
        "batch_size": training.per_device_train_batch_size,
        "sampling": training.train_sampling_strategy,
        "precision": "bf16" if training.bf16 else "float32",
        "metric_for_best_model": training.metric_for_best_model,
        **refit,
    }


if __name__ == "__main__":
    run_script(main)
