"""The paper's grid: encoder x layer x pooling x fold x seed on stored frames, each finished cell kept at once."""

import dataclasses
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from datasets import Dataset
from tqdm.auto import tqdm

from whisper_emotion.corpora import utterance_names
from whisper_emotion.corpora.splits import Fold
from whisper_emotion.errors import reading
from whisper_emotion.fitting.experiment import Experiment
from whisper_emotion.fitting.fit import Job, fit
from whisper_emotion.fitting.selection import scores_of
from whisper_emotion.run_folder import CELLS, whole, write_whole
from whisper_emotion.stored_frames import StoredFrames

REFERENCE = "logistic_regression"  # in place of a pooling: a linear classifier on the mean of a clip's frames
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


def run_grid(grid: Grid, frames: dict[str, dict[int, StoredFrames]], output_dir: Path) -> float:
    """Train and test every cell that is not finished yet.

    All folds of an encoder, layer, pooling and seed are trained side by side and finish together: dropout depends on
    which heads are side by side, so a resumed sweep has the same results.

    Args:
        grid: The cells.
        frames: By encoder and layer; only of encoders that have unfinished cells.
        output_dir: Every finished cell leaves a file in its folder `cells`. `results.csv`, the table of all of them,
            is there and whole at any time.

    Returns:
        The seconds that all cells took, also in earlier runs.
    """
    cells_dir, results = output_dir / CELLS, output_dir / RESULTS
    corpus = next(iter(grid.experiments.values())).corpus
    write_whole(cells_dir / CLIPS, list_clips(corpus, grid.folds).to_csv(index=False))
    cells, rows = grid.cells(), finished_cells(grid, output_dir)
    stacks = [list(stack) for _, stack in itertools.groupby(cells, lambda cell: cell._replace(fold=0))]
    missing = [stack for stack in stacks if not all(cell in rows for cell in stack)]
    initial = sum(map(len, stacks)) - sum(map(len, missing))
    with tqdm(total=len(cells), initial=initial, desc="sweep", unit="cell", smoothing=0.02) as bar:
        _write_results(results, cells, rows)
        for stack in missing:
            encoder, layer = stack[0].encoder, stack[0].encoder_layer
            for cell, row, logits in run_cells(grid.experiments[encoder], frames[encoder][layer], stack, grid.folds):
                rows[cell] = {**row, "frames": grid.digest(cell)}
                _write_cell(cells_dir / cell.file, rows[cell], logits)
            _write_results(results, cells, rows)
            bar.update(len(stack))
    return sum(rows[cell]["seconds"] for cell in cells)


class FinishedCell(NamedTuple):
    """A cell, its row of `results.csv` with `seconds` added, and the logits `(test clips, labels)`."""

    cell: Cell
    row: dict[str, Any]
    logits: np.ndarray


def run_cells(
    experiment: Experiment, frames: StoredFrames, cells: Sequence[Cell], folds: Sequence[Fold]
) -> list[FinishedCell]:
    """Train and test cells that differ in their fold alone.

    Args:
        experiment: What the cells share; their layer and pooling replace its own.
        frames: The stored frames of the cells' encoder and layer.
        cells: The cells.
        folds: The fold of each cell.
    """
    started = time.monotonic()
    layer = {"encoder_layer": cells[0].encoder_layer, "concatenated_layers": None}
    if cells[0].pooling == REFERENCE:  # its strength is selected on held-out speakers under every protocol
        own = {"pooling": "mean", "classifier_proj_size": 0}
        experiment = dataclasses.replace(experiment, select_on="dev")
    else:
        own = {"pooling": cells[0].pooling}
    experiment = dataclasses.replace(experiment, overrides=experiment.overrides | layer | own)
    jobs = [Job(fold.train, fold.test, cell.seed, fold.dev) for cell, fold in zip(cells, folds, strict=True)]
    finished = []
    for cell, fold, fitted in zip(cells, folds, fit(experiment, frames, jobs, Path()), strict=True):
        logits = fitted.classify(fold.test, False)
        row = {
            **cell._asdict(), "select_on": experiment.select_on, **fitted.choice,
            **scores_of(logits, experiment.label_ids[fold.test]),
        }  # fmt: skip
        finished.append(FinishedCell(cell, row, logits))
    seconds = (time.monotonic() - started) / len(cells)
    return [one._replace(row=one.row | {"seconds": seconds}) for one in finished]


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
    for _, cells in results.groupby(["encoder", "pooling"], sort=False):
        protocol = "dev" if cells["pooling"].iloc[0] == REFERENCE else select_on
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
        columns = ["name", "label", "fold"]
        return pd.read_csv(path, keep_default_na=False, usecols=columns, dtype={"name": str, "label": str})


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
