"""Accuracy against speed for several encoder contexts, as a table and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from whisper_emotion.card_metadata import corpus_title
from whisper_emotion.errors import UserError
from whisper_emotion.fitting.grid import CLIPS, read_clips, read_record
from whisper_emotion.reporting.markdown import markdown_table, with_gain, with_interval
from whisper_emotion.reporting.plots import Curve, plot_curves
from whisper_emotion.reporting.sweep import NAMES, name_seeds
from whisper_emotion.reporting.sweep_results import SweepResults, check_same_clips, draw_together
from whisper_emotion.run_folder import CELLS, write_whole
from whisper_emotion.scoring import interval


def read_contexts(folders: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """Read the records of several finished sweeps of the same clips.

    Args:
        folders: The sweeps' folders; the first is the reference.

    Returns:
        By folder, the sweep's record.

    Raises:
        UserError: A folder holds no finished sweep, or a sweep of other clips, encoders, layers or poolings.
    """
    records = {}
    for folder in folders:
        if not (folder / CELLS / CLIPS).exists():
            raise UserError(f"--sweeps {folder}: holds no sweep")
        check_same_clips(read_clips(folders[0]), folder, "--sweeps")
        records[folder] = read_record(folder, "encoders", "layers", "poolings", "labels", "select_on")
        for name in ("encoders", "layers", "poolings"):
            if records[folder][name] != records[folders[0]][name]:
                raise UserError(f"--sweeps {folder}: has other {name} than {folders[0]}")
    return records


def write_frontier(
    output: Path, records: Mapping[Path, Mapping[str, Any]], seconds: Mapping[Path, Mapping[int, float]]
) -> list[dict[str, Any]]:
    """Write `output`, a Markdown table, and a picture of the same name.

    Args:
        output: The table's file.
        records: The sweeps' records, from `read_contexts`.
        seconds: By folder and layer, the seconds per clip from audio to probabilities.

    Returns:
        One row per layer, pooling and context: its name, `clips_per_second`, `speed` relative to the first context,
        `unweighted_accuracy`, and its `difference` from the first context, both with intervals.
    """
    folders = list(records)
    first = records[folders[0]]
    sweeps = [SweepResults(folder, first["labels"], record["select_on"]) for folder, record in records.items()]
    systems = [system for system in sweeps[0].layers if system.layer is not None]
    draws, _ = draw_together(sweeps, systems)
    rows = []
    for place, system in enumerate(systems):
        assert system.layer is not None
        for folder, drawn in zip(folders, draws, strict=True):
            family, note = _name_context(records[folder])
            rows.append({
                "layer": system.layer,
                "pooling": NAMES.get(system.pooling, system.pooling),
                "family": family,
                "context": f"{family} {note}".strip(),
                "note": note,
                "clips_per_second": 1 / seconds[folder][system.layer],
                "speed": seconds[folders[0]][system.layer] / seconds[folder][system.layer],
                "unweighted_accuracy": interval(drawn[:, place]),
                "difference": interval(drawn[:, place] - draws[0][:, place]),
            })  # fmt: skip
    title = (
        f"{corpus_title(first['corpus'])}, folds: {first['folds']}; {first['encoders'][0]}; "
        f"{name_seeds(first['seeds'])}. Unweighted accuracy pooled over all folds' test clips, with 95 % "
        "intervals over clips and seeds, against the speed from audio to probabilities."
    )
    table = markdown_table(
        ["layer", "pooling", "encoder sees", "clips a second", "speed", "UA", "UA less the first's"],
        [
            [
                str(row["layer"]), row["pooling"], row["context"], f"{row['clips_per_second']:.1f}",
                f"{row['speed']:.1f}", with_interval(row["unweighted_accuracy"]), with_gain(row["difference"]),
            ]
            for row in rows
        ],
    )  # fmt: skip
    write_whole(output, f"# {title}\n\n{table}\n")
    _draw(output.with_suffix(".png"), rows, title)
    return rows


def _name_context(record: Mapping[str, Any]) -> tuple[str, str]:
    """Return a context's family, and a note that distinguishes it within the family."""
    context, dtype = record["encoder_context"], record.get("encoder_dtype", "float32")
    family, note = context.replace("_", " "), ""
    if context == "sparse_window":
        note = f"stride {record['silence_stride']}"
    elif context == "utterance":
        note = f"{record['context_margin']:g} s"
    if context != "sparse_window" and not record["mask_padding"]:
        family += ", silence pooled"
    return family if dtype == "float32" else f"{family}, {dtype}", note


def _draw(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    panels: dict[str, list[Curve]] = {}
    table = pd.DataFrame(rows).sort_values("speed", kind="stable")
    for layer, pooling, family in dict.fromkeys((row["layer"], row["pooling"], row["family"]) for row in rows):
        of_curve = (table["layer"] == layer) & (table["pooling"] == pooling) & (table["family"] == family)
        points = table[of_curve]
        values, low, high = zip(*points["unweighted_accuracy"], strict=True)
        curve = Curve(family, points["speed"].tolist(), values, low, high, points["note"].tolist())
        panels.setdefault(f"UA, {pooling}, layer {layer}", []).append(curve)
    plot_curves(panels, path, title, axis="times the speed of the first context")
