"""The tables and pictures of a sweep: the paper's form, with intervals, a reference row and tested differences."""

import csv
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from whisper_emotion.errors import UserError, reading
from whisper_emotion.fitting.grid import (
    RECORD,
    REFERENCE,
    WRITTEN,
    Cell,
    choose_layers,
    read_cells,
    read_clips,
    read_record,
)
from whisper_emotion.metrics import compute_scores
from whisper_emotion.reporting.card import SELECTION, corpus_title, describe_leakage
from whisper_emotion.reporting.plots import Curve, plot_confusion_matrix, plot_curves
from whisper_emotion.run_folder import write_whole
from whisper_emotion.scoring import bootstrap, interval

PUBLISHED = Path(__file__).with_name("published.csv")
PAPER = "paper (all 1,500 frames, chosen on test), WA / UA"
PAPER_CLASSES = {
    "shemo": ["anger", "happiness", "neutral", "sadness"],
    "iemocap": ["angry", "happy", "neutral", "sad"],
}
REFERENCE_CHOICE = "strength chosen on speakers held out of the training folds"
HEARD = ("encoder_context", "context_margin", "silence_stride", "mask_padding")  # what a figure says of its frames
NAMES = {REFERENCE: "logistic regression", "qkv": "QKV"}
# Each pooling looks the same in all pictures, whichever others are there
DRAWN = ("mean", "attentive", "qkv", REFERENCE, "statistics", "attentive_statistics")
LAYER_CHOICE = {
    "dev": "fold by fold, on speakers held out of its training (mean over seeds)",
    "last": "the highest; nothing was chosen",
    "test": "on the test folds, as the paper chose it: optimistic",
}


class System(NamedTuple):
    """An encoder with a pooling at a layer; `None` is the layer that the protocol chose, fold by fold."""

    encoder: str
    pooling: str
    layer: int | None


@dataclass
class SweepResults:
    """A sweep's finished cells, and what follows from them.

    Args:
        output_dir: The sweep's folder.
        labels: Class names in the order of their ids.
        select_on: The sweep's protocol.
    """

    output_dir: Path
    labels: Sequence[str]
    select_on: str

    def __post_init__(self):
        """Read the cells, and find every system's hits."""
        with reading(self.output_dir, WRITTEN):  # cells may be missing, or have other labels and clips
            self._read()

    def _read(self) -> None:
        self.rows, self._logits = read_cells(self.output_dir)
        self.clips = read_clips(self.output_dir)
        self.seeds = sorted(self.rows["seed"].unique().tolist())
        self.chosen = choose_layers(self.rows, self.select_on)
        ids = {label: index for index, label in enumerate(self.labels)}
        self.label_ids = self.clips["label"].map(ids).to_numpy()
        pairs = self.rows[["encoder", "pooling"]].drop_duplicates().itertuples(index=False, name=None)
        layers = self.rows.groupby(["encoder", "pooling"])["encoder_layer"].unique()
        self.systems = [
            System(encoder, pooling, layer)
            for encoder, pooling in pairs
            for layer in (None, *sorted(layers[encoder, pooling].tolist()))
        ]
        self._place = {system: place for place, system in enumerate(self.systems)}
        predicted = np.array([[self.predicted(system, seed) for seed in self.seeds] for system in self.systems])
        self.draws = bootstrap(predicted, self.label_ids, len(self.labels))

    def layer_on(self, system: System, fold: int) -> int:
        """The layer that a system has on a fold."""
        if system.layer is not None:
            return system.layer
        chosen = self.chosen
        at = (chosen["encoder"] == system.encoder) & (chosen["pooling"] == system.pooling) & (chosen["fold"] == fold)
        return int(chosen[at]["encoder_layer"].item())

    def predicted(self, system: System, seed: int) -> np.ndarray:
        """Class ids `(clips,)` that a system gives, in the order of `clips`."""
        return np.concatenate([
            self._logits[Cell(system.encoder, self.layer_on(system, fold), system.pooling, fold, seed)].argmax(axis=1)
            for fold in self.clips["fold"].unique().tolist()
        ])  # fmt: skip

    def over_folds(self, system: System, figure: str) -> tuple[float, float]:
        """Mean and population deviation of a figure over folds, then their means over seeds: the paper's form."""
        rows = self.rows[(self.rows["encoder"] == system.encoder) & (self.rows["pooling"] == system.pooling)]
        layers = [self.layer_on(system, fold) for fold in rows["fold"]]
        values = rows[rows["encoder_layer"] == layers].pivot(index="seed", columns="fold", values=figure).to_numpy()
        return float(values.mean()), float(values.std(axis=1).mean())

    def pooled(self, system: System, figure: str) -> tuple[float, float, float]:
        """A figure over all folds' clips together, mean over seeds, and its 95 % interval (`scoring.bootstrap`)."""
        return interval(self.draws[figure][:, self._place[system]])

    def difference(self, one: System, other: System) -> tuple[float, float, float]:
        """The paired difference of two systems' pooled unweighted accuracy, and its 95 % interval."""
        draws = self.draws["unweighted_accuracy"]
        return interval(draws[:, self._place[one]] - draws[:, self._place[other]])

    def confusion(self, system: System) -> np.ndarray:
        """Counts `(labels, labels)`, rows true, summed over seeds."""
        return np.sum([
            compute_scores(self.predicted(system, seed), self.label_ids, num_classes=len(self.labels))[
                "confusion_matrix"
            ]
            for seed in self.seeds
        ], axis=0)  # fmt: skip


def write_sweep_report(
    output_dir: Path, sweep: SweepResults, facts: Mapping[str, Any], others: Mapping[str, Path]
) -> None:
    """Write `table.md`, `layers.png` and a confusion matrix for each encoder and pooling.

    Args:
        output_dir: Where they go.
        sweep: The results.
        facts: `corpus`, `folds`, `labels`, `speakers_shared` (a fold), and what else the caption says, by name.
        others: Folders of other sweeps of the same clips, by name, that this one is compared with.
    """
    title = f"{corpus_title(facts['corpus'])}, folds: {facts['folds']}"
    runs = f"{len(facts['speakers_shared'])} test folds, {name_seeds(sweep.seeds)}"
    leakage = describe_leakage(facts["corpus"], facts["speakers_shared"])
    heard = _settings(facts, [name for name in HEARD if name in facts])

    def caption(pooling: str | None = None) -> str:
        choice = REFERENCE_CHOICE if pooling == REFERENCE else SELECTION[sweep.select_on]
        return f"{title}; {runs}; {choice}. {leakage}"

    tops = [system for system in sweep.systems if system.layer is None]
    lines = [
        f"# {title}",
        "",
        f"Protocol: {caption()} Settings: {_settings(facts)}.",
        "",
        'WA is weighted accuracy, UA unweighted accuracy, in percent. "Over folds" is the paper\'s form: mean and '
        'population deviation over the folds, averaged over the seeds. "Pooled" puts all folds\' test clips together '
        "for each seed, then averages over the seeds; its 95 % interval is a bootstrap over test clips and seeds. "
        "Speakers are not drawn: other speakers may differ by more. The logistic regression is one on the mean of "
        "each utterance's own frames; its strength and layer are chosen on held-out speakers under every protocol.",
        "",
        "## Poolings",
        "",
        f"Layer chosen {LAYER_CHOICE[sweep.select_on]}. {caption()}",
        "",
        *_table_one(sweep, tops, facts),
        "",
        "## Which differences hold",
        "",
        "Differences of pooled UA in points, with the 95 % interval of the paired bootstrap. One holds (and is bold) "
        f"where the interval leaves out 0; the more rows, the more do so by chance. {caption()}",
        "",
        *_differences(sweep, tops),
        *itertools.chain.from_iterable(_layer_tables(sweep, facts, caption)),
        *itertools.chain.from_iterable(_comparison(sweep, facts, name, path) for name, path in others.items()),
    ]
    write_whole(output_dir / "table.md", "\n".join(lines).rstrip() + "\n")
    below = f"{heard}. {caption()} Pooled, with 95 % intervals over clips and seeds."
    _draw_layers(output_dir / "layers.png", sweep, below)
    for system in tops:
        path = output_dir / f"confusion_{system.encoder}_{system.pooling}.png"
        heading = f"{system.encoder}, {_name(system.pooling)}, layer {_layers(sweep, system)}"
        summed = " Counts are summed over the seeds." * (len(sweep.seeds) > 1)
        text = f"{heading}; {heard}. {caption(system.pooling)}{summed}"
        plot_confusion_matrix(sweep.confusion(system), sweep.labels, path, text)


def check_same_clips(clips: pd.DataFrame, other: Path, option: str = "--compare_with") -> None:
    """Refuse to compare sweeps of different clips.

    Args:
        clips: This sweep's, as `read_clips` gives them.
        other: The other sweep's folder.
        option: What named it.

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


def _table_one(sweep: SweepResults, systems: Iterable[System], facts: Mapping[str, Any]) -> list[str]:
    published = any(_published(facts, system) for system in systems)
    header = ["encoder", "pooling", "layer", "WA over folds", "UA over folds", "WA pooled", "UA pooled"]
    rows = []
    for system in systems:
        row = [system.encoder, _name(system.pooling), _layers(sweep, system)]
        row += [_spread(sweep.over_folds(system, f"{figure}_accuracy")) for figure in ("weighted", "unweighted")]
        row += [with_interval(sweep.pooled(system, f"{figure}_accuracy")) for figure in ("weighted", "unweighted")]
        rows.append(row + ([_published(facts, system) or "–"] if published else []))
    return markdown_table(header + ([PAPER] if published else []), rows)


def _layer_tables(sweep: SweepResults, facts: Mapping[str, Any], caption: Callable[[str], str]) -> Iterable[list[str]]:
    for encoder in dict.fromkeys(system.encoder for system in sweep.systems):
        own = [system for system in sweep.systems if system.encoder == encoder and system.layer is not None]
        for pooling in dict.fromkeys(system.pooling for system in own):
            systems = [system for system in own if system.pooling == pooling]
            published = any(_published(facts, system) for system in systems)
            top = systems[-1]
            header = ["layer", "WA over folds", "UA over folds", "UA pooled", f"UA less layer {top.layer}'s"]
            others = [other for other in ("mean", REFERENCE) if other != pooling and _has(sweep, encoder, other)]
            header += [f"UA less {_name(other)}'s" for other in others]
            rows = []
            for system in systems:
                row = [str(system.layer), _spread(sweep.over_folds(system, "weighted_accuracy"))]
                row += [_spread(sweep.over_folds(system, "unweighted_accuracy"))]
                row += [with_interval(sweep.pooled(system, "unweighted_accuracy"))]
                row += ["–" if system is top else with_gain(sweep.difference(system, top))]
                row += [with_gain(sweep.difference(system, system._replace(pooling=other))) for other in others]
                rows.append(row + ([_published(facts, system) or "–"] if published else []))
            yield [
                f"## {encoder}, {_name(pooling)}, by layer",
                "",
                caption(pooling),
                "",
                *markdown_table(header + ([PAPER] if published else []), rows),
                "",
            ]


def _differences(sweep: SweepResults, tops: Sequence[System]) -> list[str]:
    """Every two poolings of an encoder, the chosen layer and the last, and the same pooling of two encoders."""
    last = {(system.encoder, system.pooling): system for system in sweep.systems if system.layer is not None}
    pairs = [
        (one, other)
        for one, other in itertools.combinations(reversed(tops), 2)
        if one.encoder == other.encoder or one.pooling == other.pooling
    ]
    layers = {system.layer for system in sweep.systems} - {None}
    if sweep.select_on != "last" and len(layers) > 1:
        pairs += [(one, last[one.encoder, one.pooling]) for one in tops]
    rows = []
    for one, other in pairs:
        names, gain = [_label(sweep, one), _label(sweep, other)], with_gain(sweep.difference(one, other))
        if len(set(names)) == 2:  # on every fold the last layer may be the one that was chosen
            rows.append([*names, gain, "yes" if gain.startswith("**") else "no"])
    return [*markdown_table(["this", "less this", "points of UA", "holds"], rows), ""]


def name_seeds(seeds: Sequence[int]) -> str:
    """`seed 0`, or `seeds 0, 1, 2`."""
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def draw_together(sweeps: Sequence[SweepResults], systems: Sequence[System]) -> tuple[list[np.ndarray], list[int]]:
    """Draw the same clips and seeds for the same systems of several sweeps of the same clips.

    Returns:
        A sweep's pooled unweighted accuracies `(1 + RESAMPLES, systems)`, as `scoring.bootstrap` has them, for each
        sweep; and the seeds that all have. Where they share none, each has its own.
    """
    shared = [seed for seed in sweeps[0].seeds if all(seed in other.seeds for other in sweeps)]
    draws = []
    for sweep in sweeps:
        order = sweep.clips["name"].argsort(kind="stable").to_numpy()
        predicted = [[sweep.predicted(system, seed)[order] for seed in shared or sweep.seeds] for system in systems]
        figures = bootstrap(np.array(predicted), sweep.label_ids[order], len(sweep.labels))
        draws.append(figures["unweighted_accuracy"])
    return draws, shared


def _comparison(sweep: SweepResults, facts: Mapping[str, Any], name: str, path: Path) -> Iterable[str]:
    """Differences of the same systems in two sweeps, clip by clip."""
    record = read_record(path, "select_on")
    other = SweepResults(path, sweep.labels, record["select_on"])
    shared = [system for system in sweep.systems if system in other.systems]
    draws, both = draw_together([sweep, other], shared)
    rows = [
        [system.encoder, _name(system.pooling), "chosen" if system.layer is None else str(system.layer),
         *(with_interval(interval(one[:, place])) for one in draws),
         with_gain(interval(draws[0][:, place] - draws[1][:, place]))]
        for place, system in enumerate(shared)
    ]  # fmt: skip
    changed = [key for key in facts if key in record and facts[key] != record[key]]
    mine_said, theirs_said = (_settings(one, changed) or "nothing" for one in (facts, record))
    seeds = "" if sweep.seeds == other.seeds else f" Seeds of both: {', '.join(map(str, both))}."
    return [
        f"## Less {name}",
        "",
        f"The same test clips in two sweeps. What differs: here {mine_said}; {SELECTION[sweep.select_on]}; "
        f"in {name} {theirs_said}; {SELECTION[other.select_on]}.{seeds}",
        "",
        *markdown_table(["encoder", "pooling", "layer", "UA pooled", f"UA pooled, {name}", "difference"], rows),
        "",
    ]


def _draw_layers(path: Path, sweep: SweepResults, title: str) -> None:
    panels = {}
    for encoder in dict.fromkeys(system.encoder for system in sweep.systems):
        for figure, heading in (("weighted_accuracy", "WA"), ("unweighted_accuracy", "UA")):
            curves = []
            own = [system for system in sweep.systems if system.encoder == encoder and system.layer is not None]
            for pooling in dict.fromkeys(system.pooling for system in own):
                systems = [system for system in own if system.pooling == pooling]
                values, low, high = zip(*(sweep.pooled(system, figure) for system in systems), strict=True)
                layers, style = [system.layer for system in systems], DRAWN.index(pooling)
                curves.append(Curve(_name(pooling), layers, values, low, high, style=style))
            panels[f"{heading}, {encoder}"] = curves
    plot_curves(panels, path, title)


def _published(facts: Mapping[str, Any], system: System) -> str:
    """The paper's figure of the same corpus, classes, folds, encoder, layer and pooling, or nothing."""
    name = re.fullmatch(r"whisper-(tiny|small)(\.en)?", system.encoder)
    if (
        name is None
        or facts.get("improvised_only")
        or facts["folds"] != "paper"
        or PAPER_CLASSES.get(facts["corpus"]) != facts["labels"]
    ):
        return ""
    layer = "" if system.layer is None else str(system.layer)
    key = (facts["corpus"], name[1], layer, system.pooling)
    with open(PUBLISHED, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            if (row["corpus"], row["size"], row["encoder_layer"], row["pooling"]) == key:
                weighted, unweighted = (
                    row[figure] + (f" ± {row[figure + '_std']}" if row[figure + "_std"] else "")
                    for figure in ("weighted_accuracy", "unweighted_accuracy")
                )
                return f"{weighted} / {unweighted}"
    return ""


def _settings(facts: Mapping[str, Any], names: Sequence[str] | None = None) -> str:
    """Facts that a title does not say already, all of them or those of some names."""
    left = [name for name in (facts if names is None else names) if name not in ("corpus", "folds", "speakers_shared")]
    return "; ".join(f"{name} {_text(facts[name])}" for name in left)


def _layers(sweep: SweepResults, system: System) -> str:
    """The layers that a system has, the commonest first: `3 (8 folds), 4 (2)`."""
    folds = sweep.clips["fold"].unique().tolist()
    counts = pd.Series([sweep.layer_on(system, fold) for fold in folds]).value_counts()
    if len(counts) == 1:
        return str(counts.index[0])
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    (first, count), *rest = ordered
    return ", ".join([f"{first} ({count} fold{'s' * (count > 1)})", *(f"{layer} ({count})" for layer, count in rest)])


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _has(sweep: SweepResults, encoder: str, pooling: str) -> bool:
    return any(system.encoder == encoder and system.pooling == pooling for system in sweep.systems)


def _name(pooling: str) -> str:
    return NAMES.get(pooling, pooling.replace("_", " "))


def _label(sweep: SweepResults, system: System) -> str:
    return f"{system.encoder}, {_name(system.pooling)}, layer {_layers(sweep, system)}"


def _spread(figures: tuple[float, float]) -> str:
    return f"{100 * figures[0]:.2f} ± {100 * figures[1]:.2f}"


def with_interval(figures: tuple[float, float, float]) -> str:
    """A fraction with its interval, in percent."""
    value, low, high = (100 * figure for figure in figures)
    return f"{value:.2f} ({low:.1f} to {high:.1f})"


def with_gain(figures: tuple[float, float, float]) -> str:
    """A difference with its interval, in points; bold where that leaves out 0."""
    value, low, high = (100 * figure for figure in figures)
    text = f"{value:+.2f} ({low:+.1f} to {high:+.1f})"
    return f"**{text}**" if low > 0 or high < 0 else text


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
