"""The paper's grid: encoder x layer x pooling x fold x seed on stored frames; every finished cell is saved."""

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

REFERENCE = "logistic_regression"  # instead of a pooling: a linear classifier on a clip's mean frame
RESULTS, CLIPS, RECORD = "results.csv", "clips.csv", "sweep.json"  # the record marks a finished sweep
WRITTEN = "a file of sweep.py"


class Cell(NamedTuple):
    """One training and test of the grid; `pooling` may be `REFERENCE`."""

    encoder: str
    encoder_layer: int
    pooling: str
    fold: int
    seed: int

    @property
    def file(self) -> str:
        """File name of the finished cell."""
        return f"{self.encoder}_layer{self.encoder_layer:02d}_{self.pooling}_fold{self.fold:02d}_seed{self.seed}.npz"


@dataclass(frozen=True)
class Grid:
    """The cells to train.

    Args:
        experiments: By the encoder's public name, the experiment that its cells share. All use the same corpus.
        layers: By the encoder's public name, the encoder's layers.
        poolings: Names of poolings.
        folds: The corpus's folds.
        seeds: Seeds of the heads, the order of the utterances and the choice of held-out speakers.
        reference: Whether the grid contains the reference.
        digests: By encoder and layer, the store key of the frames. Finished cells with another key (another encoder of
            the same name, other recordings) are not reused.
    """

    experiments: dict[str, Experiment]
    layers: dict[str, list[int]]
    poolings: list[str]
    folds: list[Fold]
    seeds: list[int]
    reference: bool = True
    digests: dict[str, dict[int, str]] = field(default_factory=dict)

    def digest(self, cell: Cell) -> str | None:
        """Return the store key of a cell's frames; None without digests."""
        return self.digests.get(cell.encoder, {}).get(cell.encoder_layer)

    def cells(self) -> list[Cell]:
        """List all cells, in the order of the results."""
        return [
            Cell(encoder, layer, pooling, fold.number, seed)
            for encoder in self.experiments
            for layer in self.layers[encoder]
            for pooling in [*self.poolings, *[REFERENCE] * self.reference]
            for seed in self.seeds
            for fold in self.folds
        ]


def finished_cells(grid: Grid, output_dir: Path) -> dict[Cell, dict[str, Any]]:
    """Read the rows of the cells that earlier runs finished."""
    rows = {}
    for cell in grid.cells():
        path = output_dir / CELLS / cell.file
        if path.exists():
            row = _read_row(path)
            if row["frames"] == grid.digest(cell):
                rows[cell] = row
    return rows


def run_grid(grid: Grid, frames: dict[str, dict[int, StoredFrames]], output_dir: Path) -> float:
    """Train and test every unfinished cell.

    All folds of an encoder, layer, pooling and seed are trained in parallel and finish together. Dropout depends on
    the heads that are trained together, so a resumed sweep has the same results.

    Args:
        grid: The cells.
        frames: By encoder and layer, for the encoders with unfinished cells.
        output_dir: Folder of the results. Its folder `cells` gets one file per finished cell. `results.csv`, the table
            of all cells, is replaced atomically.

    Returns:
        The seconds of all cells, including earlier runs.
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
    """Train and test cells that differ only in their fold.

    Args:
        experiment: The experiment of the cells; the cells' layer and pooling replace its own.
        frames: The stored frames of the cells' encoder and layer.
        cells: The cells.
        folds: The fold of each cell.
    """
    started = time.monotonic()
    layer = {"encoder_layer": cells[0].encoder_layer, "concatenated_layers": None}
    if cells[0].pooling == REFERENCE:  # always selects its strength on held-out speakers
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
    """Choose the layer of each encoder, pooling and fold.

    Args:
        results: Rows of cells.
        select_on: `dev`: for each fold, the layer with the best selection value on held-out training speakers, mean
            over seeds. `test`: the layer with the best mean unweighted accuracy on the tests, as in the paper. `last`:
            the highest layer. The reference's layer is always chosen on dev.

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
    """Read a sweep's finished cells: the rows of its results, and the logits of each cell."""
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
    """Read the record of a finished sweep; the keys `needed` must exist, others may be missing in older versions."""
    with reading(output_dir / RECORD, WRITTEN):
        record = json.loads((output_dir / RECORD).read_text(encoding="utf-8"))
        return {name: record[name] for name in needed} | record


def list_clips(corpus: Dataset, folds: Sequence[Fold]) -> pd.DataFrame:
    """List the test clips in the order of the logits, fold by fold: `name, label, fold`."""
    names, labels, classes = utterance_names(corpus), corpus["label"][:], corpus.features["label"].names
    clips = [(names[row], classes[labels[row]], fold.number) for fold in folds for row in fold.test]
    return pd.DataFrame(clips, columns=["name", "label", "fold"])


def read_clips(output_dir: Path) -> pd.DataFrame:
    """Read a sweep's `list_clips`."""
    path = output_dir / CELLS / CLIPS
    with reading(path, WRITTEN):
        columns = ["name", "label", "fold"]
        return pd.read_csv(path, keep_default_na=False, usecols=columns, dtype={"name": str, "label": str})


def _write_cell(path: Path, row: dict[str, Any], logits: np.ndarray) -> None:
    with whole(path) as part, open(part, "wb") as file:  # savez would append a suffix to a path
        np.savez(file, logits=logits, row=json.dumps(row))


def _read_row(path: Path) -> dict[str, Any]:
    with reading(path, f"{WRITTEN}: delete it to train the cell again"), np.load(path) as file:
        row = json.loads(str(file["row"]))
        return {"frames": row["frames"], "seconds": row["seconds"]} | row


def _write_results(path: Path, cells: Sequence[Cell], rows: dict[Cell, dict[str, Any]]) -> None:
    table = pd.DataFrame([rows[cell] for cell in cells if cell in rows])
    if not table.empty:
        table = table.drop(columns=["seconds", "frames"]).astype({"epoch": "Int64"})
        write_whole(path, table.to_csv(index=False))
