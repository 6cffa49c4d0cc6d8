"""Scores of a finished sweep for every encoder, pooling and layer, and their paired differences."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from whisper_emotion.errors import UserError, reading
from whisper_emotion.fitting.grid import RECORD, WRITTEN, Cell, choose_layers, read_cells, read_clips
from whisper_emotion.scoring import bootstrap, interval


class System(NamedTuple):
    """An encoder with a pooling at a layer; `None` means the layer that the protocol chose for each fold."""

    encoder: str
    pooling: str
    layer: int | None


class SweepResults:
    """Scores of a sweep's finished cells.

    Args:
        output_dir: The sweep's folder.
        labels: Class names, ordered by id.
        select_on: The sweep's protocol.

    Attributes:
        clips: The test clips, fold by fold: `name, label, fold`.
        seeds: Seeds of the heads, ascending.
        layers: By system, its layer on each fold. The chosen layer of a pooling precedes its single layers.
        predicted: By system, class ids `(seeds, clips)`.

    Raises:
        UserError: Cells are missing or damaged, or have other labels or clips.
    """

    def __init__(self, output_dir: Path, labels: Sequence[str], select_on: str):
        self.output_dir, self.labels, self.select_on = output_dir, labels, select_on
        with reading(output_dir, WRITTEN):
            rows, logits = read_cells(output_dir)
            self.clips = read_clips(output_dir)
            self.seeds: list[int] = sorted(rows["seed"].unique().tolist())
            self._folds: list[int] = self.clips["fold"].unique().tolist()
            self._rows = rows.set_index(list(Cell._fields))
            self.label_ids = self.clips["label"].map({label: index for index, label in enumerate(labels)}).to_numpy()
            self.layers = self._find_layers(rows)
            self.predicted = {
                system: np.array([
                    np.concatenate([logits[cell].argmax(axis=1) for cell in self._cells(system, seed)])
                    for seed in self.seeds
                ])
                for system in self.layers
            }  # fmt: skip
            self._draws = bootstrap(np.array(list(self.predicted.values())), self.label_ids, len(labels))

    def _find_layers(self, rows: pd.DataFrame) -> dict[System, list[int]]:
        keys = ["encoder", "pooling", "fold"]
        chosen = choose_layers(rows, self.select_on).set_index(keys)["encoder_layer"].to_dict()
        layers = {}
        pairs = rows[["encoder", "pooling"]].drop_duplicates().itertuples(index=False, name=None)
        for encoder, pooling in pairs:
            own = rows[(rows["encoder"] == encoder) & (rows["pooling"] == pooling)]
            layers[System(encoder, pooling, None)] = [int(chosen[encoder, pooling, fold]) for fold in self._folds]
            for layer in sorted(own["encoder_layer"].unique().tolist()):
                layers[System(encoder, pooling, layer)] = [layer] * len(self._folds)
        return layers

    def _cells(self, system: System, seed: int) -> list[Cell]:
        """List the cells of a system with a seed, fold by fold."""
        return [
            Cell(system.encoder, layer, system.pooling, fold, seed)
            for fold, layer in zip(self._folds, self.layers[system], strict=True)
        ]

    @property
    def chosen(self) -> list[System]:
        """Each encoder and pooling at the layer that the protocol chose."""
        return [system for system in self.layers if system.layer is None]

    @property
    def by_layer(self) -> list[list[System]]:
        """The single layers of each encoder and pooling, ascending."""
        single = [system for system in self.layers if system.layer is not None]
        return [list(systems) for _, systems in groupby(single, lambda system: system[:2])]

    def over_folds(self, system: System, figure: str) -> tuple[float, float]:
        """Return the mean and population deviation of a score over folds, averaged over seeds, as in the paper."""
        values = np.array([self._rows.loc[self._cells(system, seed), figure] for seed in self.seeds])
        return float(values.mean()), float(values.std(axis=1).mean())

    def pooled(self, system: System, figure: str) -> tuple[float, float, float]:
        """Return a score over all folds' clips, mean over seeds, with its 95 % interval (`scoring.bootstrap`)."""
        return interval(self._draws_of(system, figure))

    def difference(self, one: System, other: System) -> tuple[float, float, float]:
        """Return the paired difference of two systems' pooled unweighted accuracy, with its 95 % interval."""
        return interval(self._draws_of(one, "unweighted_accuracy") - self._draws_of(other, "unweighted_accuracy"))

    def _draws_of(self, system: System, figure: str) -> np.ndarray:
        return self._draws[figure][:, list(self.layers).index(system)]

    def confusion(self, system: System) -> np.ndarray:
        """Return counts `(labels, labels)`, rows are true labels, summed over seeds."""
        classes = len(self.labels)
        cells = self.label_ids * classes + self.predicted[system]
        return np.bincount(cells.ravel(), minlength=classes**2).reshape(classes, classes)


def draw_together(sweeps: Sequence[SweepResults], systems: Sequence[System]) -> tuple[list[np.ndarray], list[int]]:
    """Resample the same clips and seeds for the same systems of several sweeps of the same clips.

    Returns:
        For each sweep, the pooled unweighted accuracies `(1 + RESAMPLES, systems)` of `scoring.bootstrap`; and the
        seeds that all sweeps share. Without shared seeds, each sweep uses its own.
    """
    shared = [seed for seed in sweeps[0].seeds if all(seed in other.seeds for other in sweeps)]
    draws = []
    for sweep in sweeps:
        order = sweep.clips["name"].argsort(kind="stable").to_numpy()
        seeds = [sweep.seeds.index(seed) for seed in shared or sweep.seeds]
        predicted = np.array([sweep.predicted[system][seeds] for system in systems])
        figures = bootstrap(predicted[..., order], sweep.label_ids[order], len(sweep.labels))
        draws.append(figures["unweighted_accuracy"])
    return draws, shared


def check_same_clips(clips: pd.DataFrame, other: Path, option: str = "--compare_with") -> None:
    """Refuse to compare sweeps of different clips.

    Args:
        clips: Output of `read_clips` for this sweep.
        other: The other sweep's folder.
        option: The option that named the folder.

    Raises:
        UserError: The other sweep is not finished, or has other test clips or labels.
    """
    if not (other / RECORD).exists():
        raise UserError(f"{option} {other}: holds no finished sweep (no {RECORD})")
    mine, theirs = (
        one.sort_values("name")[["name", "label"]].to_numpy().tolist() for one in (clips, read_clips(other))
    )
    if mine != theirs:
        raise UserError(f"{option} {other}: has other test clips than this sweep, or other labels")
