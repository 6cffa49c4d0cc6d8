"""The paper's grid: encoder x layer x pooling x fold x seed on stored frames, each finished cell kept at once."""

import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from whisper_emotion.corpora import utterance_names
from whisper_emotion.corpora.splits import Fold, hold_out_speakers
from whisper_emotion.errors import reading
from whisper_emotion.features import StoredFrames
from whisper_emotion.heads import choose_epoch, classify, train_head
from whisper_emotion.metrics import compute_scores
from whisper_emotion.processes import forget_group
from whisper_emotion.protocol import Experiment
from whisper_emotion.run_folder import CELLS, whole, write_whole
from whisper_emotion.stacked_heads import train_heads
from whisper_emotion.termination import termination
from whisper_emotion.training import EmotionTrainer, build_trainer, collate_frames

REFERENCE = "logistic_regression"  # in place of a pooling: on the mean of an utterance's own frames
STRENGTHS = tuple(10.0**exponent for exponent in range(-5, 2))  # scikit-learn's C, from the strongest penalty on
RESULTS, CLIPS, RECORD = "results.csv", "clips.csv", "sweep.json"  # the record says that a sweep is finished
WRITTEN = "what sweep.py wrote"


class Cell(NamedTuple):
    """One training and test of the grid; `pooling` may be `REFERENCE`."""

    encoder: str
    encoder_layer: int
    pooling: str
    fold: int
    seed: int

    @property
    def file(self) -> str:
        """The name of the file that a finished cell leaves."""
        return f"{self.encoder}_layer{self.encoder_layer:02d}_{self.pooling}_fold{self.fold:02d}_seed{self.seed}.npz"


@dataclass(frozen=True)
class Grid:
    """What is to be trained.

    Args:
        experiments: By the encoder's public name: what its cells share. All are of one corpus.
        layers: By the same names, the encoder's layers.
        poolings: Names of poolings.
        folds: The corpus's folds.
        seeds: Seeds of the heads, the order of the utterances and the choice of held-out speakers.
        reference: Whether the reference is part of it.
        digests: By encoder and layer, the name of the frames in the feature store. A finished cell of other frames
            (another encoder of that name, other recordings) is not taken for this one's.
    """

    experiments: dict[str, Experiment]
    layers: dict[str, list[int]]
    poolings: list[str]
    folds: list[Fold]
    seeds: list[int]
    reference: bool = True
    digests: dict[str, dict[int, str]] = field(default_factory=dict)

    def digest(self, cell: Cell) -> str | None:
        """The name of a cell's frames; None where the grid has no names for them."""
        return self.digests.get(cell.encoder, {}).get(cell.encoder_layer)

    def cells(self) -> list[Cell]:
        """All cells, in the order of the results."""
        return [
            Cell(encoder, layer, pooling, fold.number, seed)
            for encoder in self.experiments
            for layer in self.layers[encoder]
            for pooling in [*self.poolings, *[REFERENCE] * self.reference]
            for seed in self.seeds
            for fold in self.folds
        ]


def finished_cells(grid: Grid, output_dir: Path) -> dict[Cell, dict[str, Any]]:
    """The rows of the grid's cells that earlier runs have finished."""
    rows = {}
    for cell in grid.cells():
        path = output_dir / CELLS / cell.file
        if path.exists():
            row = _read_row(path)
            if row["frames"] == grid.digest(cell):
                rows[cell] = row
    return rows


def run_grid(
    grid: Grid,
    frames: dict[str, dict[int, StoredFrames]],
    output_dir: Path,
    workers: int,
    side_by_side: bool = False,
) -> float:
    """Train and test every cell that is not finished yet, several at a time.

    Args:
        grid: The cells.
        frames: By encoder and layer; only of encoders that have unfinished cells.
        output_dir: Every finished cell leaves a file in its folder `cells`; `results.csv`, the table of all of them,
            is there and whole at any time.
        workers: Processes that train at the same time; side by side, that fit the regressions.
        side_by_side: Train all unfinished folds and seeds of a layer and a pooling together, in this process: for
            accelerators. Such a stack is kept when it is whole, and what the workers have finished meanwhile, too.
            Dropout depends on which cells are in it: a sweep whose seeds are added later draws other numbers.

    Returns:
        The seconds that all cells took, those of earlier runs and of parallel ones added up.
    """
    cells_dir, results = output_dir / CELLS, output_dir / RESULTS
    corpus = next(iter(grid.experiments.values())).corpus
    write_whole(cells_dir / CLIPS, list_clips(corpus, grid.folds).to_csv(index=False))
    cells, rows = grid.cells(), finished_cells(grid, output_dir)
    missing = [cell for cell in cells if cell not in rows]
    folds = {fold.number: fold for fold in grid.folds}

    def task(some: Sequence[Cell]) -> tuple:
        cell = some[0]
        stored = frames[cell.encoder][cell.encoder_layer]
        return grid.experiments[cell.encoder], stored, some, [folds[cell.fold] for cell in some]

    together = dict.fromkeys(cell for cell in missing if side_by_side and cell.pooling != REFERENCE)
    tasks = (task([cell]) for cell in missing if cell not in together)
    stacks = itertools.groupby(together, lambda cell: (cell.encoder, cell.encoder_layer, cell.pooling))
    trained = (run_cells(*task(list(stack)), train_heads) for _, stack in stacks)
    with tqdm(total=len(cells), initial=len(rows), desc="sweep", unit="cell", smoothing=0.02) as bar:
        _write_results(results, cells, rows)
        with closing(_in_parallel(tasks, trained, workers)) as finished:
            for cell, row, logits in itertools.chain.from_iterable(finished):
                rows[cell] = {**row, "frames": grid.digest(cell)}
                _write_cell(cells_dir / cell.file, rows[cell], logits)
                _write_results(results, cells, rows)
                bar.update()
    return sum(rows[cell]["seconds"] for cell in cells)


def _in_parallel(
    tasks: Iterator[tuple], trained: Iterator[list["FinishedCell"]], workers: int
) -> Iterator[list["FinishedCell"]]:
    """Run the tasks, a few more than there are workers under way at a time, and hand their results on as they come.

    Meanwhile this process trains what `trained` gives. Who closes the generator, or is interrupted in it, does not
    wait for the cells that are under way.
    """
    if workers == 1:
        threads = torch.get_num_threads()
        with threadpool_limits(1):
            torch.set_num_threads(1)  # as a worker has: other numbers of threads, other roundings
            try:
                yield from (run_cells(*task) for task in tasks)
                yield from trained
            finally:
                torch.set_num_threads(threads)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with ProcessPoolExecutor(workers, spawn, _start_worker, (os.getpid(),)) as pool:
        try:
            with termination.held():  # a worker that is being started could not be found and ended
                pending = {pool.submit(run_cells, *task) for task in itertools.islice(tasks, 8 * workers)}
            more = True
            while pending or more:
                if more := (stack := next(trained, None)) is not None:
                    yield stack
                # Without a timeout, a signal that comes while the lock is being taken would not be acted on for hours
                done, pending = wait(pending, timeout=0 if more else 1, return_when=FIRST_COMPLETED)
                pending |= {pool.submit(run_cells, *task) for task in itertools.islice(tasks, len(done))}
                for future in done:
                    yield future.result()
        except BaseException:
            for worker in multiprocessing.active_children():  # they write nothing, so nothing is lost with them
                worker.kill()
            raise


def _start_worker(parent: int) -> None:
    """One thread, since a head's products are too small for more; and a life that ends with the parent's."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all processes together; the parent's to act on
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    threadpool_limits(1)  # scikit-learn's
    forget_group()

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class FinishedCell(NamedTuple):
    """A cell, its row of `results.csv` with `seconds` added, and the logits `(test clips, labels)`."""

    cell: Cell
    row: dict[str, Any]
    logits: np.ndarray


def _train_each(
    trainers: Sequence[EmotionTrainer], frames: StoredFrames, _, watched_rows: Sequence[Sequence[int]] | None, epochs
) -> list[list[float]]:
    """`train_heads` one after the other; a trainer has its training rows already."""
    none = [None] * len(trainers)
    watched = none if watched_rows is None else [[frames[row] for row in own] for own in watched_rows]
    return [train_head(*one) for one in zip(trainers, watched, epochs or none, strict=True)]


def run_cells(
    experiment: Experiment,
    frames: StoredFrames,
    cells: Sequence[Cell],
    folds: Sequence[Fold],
    train: Callable[..., list[list[float]]] = _train_each,
) -> list[FinishedCell]:
    """Train and test cells that differ in fold and seed alone.

    Args:
        experiment: Its layer and pooling are the cells'.
        frames: The stored frames of the cells' encoder and layer.
        cells: Which ones.
        folds: Each cell's fold.
        train: `train_heads`, or the same one head after the other.
    """
    started = time.monotonic()
    overrides = experiment.overrides | {"encoder_layer": cells[0].encoder_layer, "concatenated_layers": None}
    if cells[0].pooling == REFERENCE:
        fitted = [_fit_reference(experiment, frames, cell.seed, fold) for cell, fold in zip(cells, folds, strict=True)]
    else:
        experiment = dataclasses.replace(experiment, overrides=overrides | {"pooling": cells[0].pooling})
        fitted = _fit_heads(experiment, frames, [cell.seed for cell in cells], folds, train)
    labels, finished = np.asarray(experiment.corpus["label"][:]), []
    for cell, fold, (choice, logits) in zip(cells, folds, fitted, strict=True):
        scores = compute_scores(logits.argmax(axis=1), labels[fold.test], num_classes=len(experiment.labels))
        figures = {name: scores[name] for name in ("weighted_accuracy", "unweighted_accuracy", "macro_f1")}
        select_on = "dev" if cell.pooling == REFERENCE else experiment.select_on
        row = {**cell._asdict(), "select_on": select_on, **choice, **figures}
        finished.append(FinishedCell(cell, row, logits.astype(np.float32)))
    seconds = (time.monotonic() - started) / len(cells)
    return [one._replace(row=one.row | {"seconds": seconds}) for one in finished]


def _fit_heads(
    experiment: Experiment, frames: StoredFrames, seeds: Sequence[int], folds: Sequence[Fold], train: Callable
) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Train a head a seed and fold; returns what was chosen for each, and its logits of its fold's test rows."""
    tests = [fold.test for fold in folds]

    def trained(rows, watched=None, epochs=None):
        trainers = []
        for seed, own in zip(seeds, rows, strict=True):
            args = dataclasses.replace(experiment.args, seed=seed)
            model = experiment.model_for(frames, own, seed, head_only=True)
            utterances = [frames[row] for row in own]
            trainers.append(build_trainer(model, utterances, None, collate_frames, args, Path(args.output_dir)))
        return trainers, train(trainers, frames, rows, watched, epochs)

    rows = [fold.train for fold in folds]
    if experiment.select_on == "last":
        trainers, _ = trained(rows)
        chosen = [(math.ceil(experiment.args.num_train_epochs), None)] * len(trainers)
    else:
        watched = tests
        if experiment.select_on == "dev":
            held_out = [hold_out_speakers(experiment.corpus, own, seed) for own, seed in zip(rows, seeds, strict=True)]
            fit_rows, watched = map(list, zip(*held_out, strict=True))
        else:
            fit_rows = rows
        trainers, values = trained(fit_rows, watched)
        chosen = [(choose_epoch(one), max(one)) for one in values]
        if experiment.select_on == "dev" and experiment.refit:
            trainers, _ = trained(rows, epochs=[epoch for epoch, _ in chosen])
    logits = [classify(trainer, [frames[row] for row in test]) for trainer, test in zip(trainers, tests, strict=True)]
    return [
        ({"epoch": epoch, "strength": None, "selection_value": value}, one)
        for (epoch, value), one in zip(chosen, logits, strict=True)
    ]


def _fit_reference(
    experiment: Experiment, frames: StoredFrames, seed: int, fold: Fold
) -> tuple[dict[str, Any], np.ndarray]:
    """Logistic regression on standardised means; its strength is chosen on held-out speakers under every protocol."""
    means, labels = frames.own_means(), np.asarray(experiment.corpus["label"][:])
    weights = experiment.overrides.get("class_weights")
    metric = experiment.args.metric_for_best_model

    def fit(strength, rows):
        present = np.unique(labels[rows])
        if len(present) == 1:
            return DummyClassifier().fit(means[rows], labels[rows])
        given = weights if weights in (None, "balanced") else {label: weights[label] for label in present}
        penalised = LogisticRegression(C=strength, max_iter=300, class_weight=given)
        return make_pipeline(StandardScaler(), penalised).fit(means[rows], labels[rows])

    def logits(fitted, rows):
        full = np.full((len(rows), len(experiment.labels)), -1e3)  # a class that no training speaker has
        full[:, fitted.classes_] = np.log(fitted.predict_proba(means[rows]).clip(1e-30))
        return full

    def value(fitted, rows):
        found = logits(fitted, rows)
        if metric == "loss":
            return -log_loss(labels[rows], torch.tensor(found).softmax(1).numpy(), labels=range(found.shape[1]))
        return compute_scores(found.argmax(1), labels[rows], num_classes=found.shape[1])[metric]

    fit_rows, dev_rows = hold_out_speakers(experiment.corpus, fold.train, seed)
    values = [value(fit(strength, fit_rows), dev_rows) for strength in STRENGTHS]
    strength = STRENGTHS[int(np.argmax(values))]
    fitted = fit(strength, fold.train if experiment.refit else fit_rows)
    chosen = {"epoch": None, "strength": strength, "selection_value": max(values)}
    return chosen, logits(fitted, fold.test)


def choose_layers(results: pd.DataFrame, select_on: str) -> pd.DataFrame:
    """Which layer stands for an encoder and a pooling on each fold.

    Args:
        results: Rows of cells.
        select_on: `dev`: fold by fold, the layer whose selection value, on speakers held out of the fold's training
            and averaged over seeds, is best; `test`: the layer with the best mean unweighted accuracy on the tests,
            as the paper has it; `last`: the highest. The reference's is always chosen on dev.

    Returns:
        Columns `encoder, pooling, fold, encoder_layer`.
    """
    keys = ["encoder", "pooling", "fold"]
    chosen = []
    for (_, pooling), cells in results.groupby(["encoder", "pooling"], sort=False):
        protocol = "dev" if pooling == REFERENCE else select_on
        if protocol == "dev":
            values = cells.groupby([*keys, "encoder_layer"], sort=False)["selection_value"].mean().reset_index()
            values = values.sort_values("encoder_layer").sort_values("selection_value", ascending=False, kind="stable")
            chosen.append(values.groupby(keys, sort=False).head(1)[[*keys, "encoder_layer"]])
            continue
        if protocol == "last":
            layer = cells["encoder_layer"].max()
        else:
            layer = cells.groupby("encoder_layer")["unweighted_accuracy"].mean().idxmax()
        chosen.append(cells[keys].drop_duplicates().assign(encoder_layer=layer))
    return pd.concat(chosen, ignore_index=True).sort_values(keys, kind="stable", ignore_index=True)


def read_cells(output_dir: Path) -> tuple[pd.DataFrame, dict[Cell, np.ndarray]]:
    """A sweep's finished cells: the rows of its results, and the logits of each."""
    with reading(output_dir / RESULTS, WRITTEN):
        rows = pd.read_csv(output_dir / RESULTS, dtype={"encoder": str, "pooling": str}, keep_default_na=False,
                           na_values={name: [""] for name in ("epoch", "strength", "selection_value")})  # fmt: skip
        cells = [Cell(*row) for row in rows[list(Cell._fields)].itertuples(index=False)]
        files = {cell: output_dir / CELLS / cell.file for cell in cells}
    logits = {}
    for cell, path in files.items():
        with reading(path, WRITTEN), np.load(path) as file:
            logits[cell] = file["logits"]
    return rows, logits


def read_record(output_dir: Path, *needed: str) -> dict[str, Any]:
    """What a finished sweep says of itself; these keys must be there, others another version may not have."""
    with reading(output_dir / RECORD, WRITTEN):
        record = json.loads((output_dir / RECORD).read_text(encoding="utf-8"))
        return {name: record[name] for name in needed} | record


def list_clips(corpus: Dataset, folds: Sequence[Fold]) -> pd.DataFrame:
    """The test clips in the order of the logits, fold after fold: `name, label, fold`."""
    names, labels, classes = utterance_names(corpus), corpus["label"][:], corpus.features["label"].names
    clips = [(names[row], classes[labels[row]], fold.number) for fold in folds for row in fold.test]
    return pd.DataFrame(clips, columns=["name", "label", "fold"])


def read_clips(output_dir: Path) -> pd.DataFrame:
    """What `list_clips` gave for a sweep."""
    path = output_dir / CELLS / CLIPS
    with reading(path, WRITTEN):
        clips = pd.read_csv(path, keep_default_na=False, dtype={"name": str, "label": str})
        return clips[["name", "label", "fold"]]


def _write_cell(path: Path, row: dict[str, Any], logits: np.ndarray) -> None:
    with whole(path) as part, open(part, "wb") as file:  # savez would give a path an ending of its own
        np.savez(file, logits=logits, row=json.dumps(row))


def _read_row(path: Path) -> dict[str, Any]:
    with reading(path, f"{WRITTEN}; without that file it is trained anew"), np.load(path) as file:
        row = json.loads(str(file["row"]))
        return {"frames": row["frames"], "seconds": row["seconds"]} | row


def _write_results(path: Path, cells: Sequence[Cell], rows: dict[Cell, dict[str, Any]]) -> None:
    table = pd.DataFrame([rows[cell] for cell in cells if cell in rows])
    if not table.empty:
        table = table.drop(columns=["seconds", "frames"]).astype({"epoch": "Int64"})
        write_whole(path, table.to_csv(index=False))
