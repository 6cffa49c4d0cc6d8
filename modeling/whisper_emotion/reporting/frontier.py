"""What each saving of the encoder costs: accuracy against speed over encoder contexts, as a table and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whisper_emotion.errors import UserError
from whisper_emotion.fitting.grid import CLIPS, read_clips, read_record
from whisper_emotion.reporting.card import corpus_title
from whisper_emotion.reporting.plots import Curve, plot_curves
from whisper_emotion.reporting.sweep import (
    NAMES,
    SweepResults,
    check_same_clips,
    draw_together,
    markdown_table,
    name_seeds,
    with_gain,
    with_interval,
)
from whisper_emotion.run_folder import CELLS, write_whole
from whisper_emotion.scoring import interval

CONTEXT = ("encoder_context", "context_margin", "silence_stride", "mask_padding", "encoder_dtype")


def read_contexts(folders: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """What the encoder saw in each of several finished sweeps of the same clips.

    Args:
        folders: The sweeps' folders; the first is what the others are compared with.

    Returns:
        By folder, the sweep's record.

    Raises:
        UserError: A folder holds no finished sweep, or one of other clips, encoders, layers or poolings.
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
    """Write `output`, a Markdown table, and the picture of the same name.

    Args:
        output: The table's file.
        records: What `read_contexts` returned.
        seconds: By folder and layer, the seconds that a clip takes from audio to probabilities.

    Returns:
        A row a layer, pooling and context: its name, `clips_per_second`, `speed` (times the first context's),
        `unweighted_accuracy` and `difference` to the first context's, each with its interval.
    """
    folders = list(records)
    first = records[folders[0]]
    sweeps = [SweepResults(folder, first["labels"], records[folder]["select_on"]) for folder in folders]
    systems = [system for system in sweeps[0].systems if system.layer is not None]
    draws, _ = draw_together(sweeps, systems)
    rows = []
    for place, system in enumerate(systems):
        assert system.layer is not None
        for folder, drawn in zip(folders, draws, strict=True):
            family, note = _name(records[folder])
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
    write_whole(output, "\n".join([f"# {title}", "", *table, ""]))
    _draw(output.with_suffix(".png"), rows, title)
    return rows


def _name(record: Mapping[str, Any]) -> tuple[str, str]:
    """A context's family and what tells it from the others of it."""
    family = record["encoder_context"].replace("_", " ")
    if record["encoder_context"] == "sparse_window":
        note = f"stride {record['silence_stride']}"
    else:
        note = f"{record['context_margin']:g} s" if record["encoder_context"] == "utterance" else ""
        family += "" if record["mask_padding"] else ", silence pooled"
    dtype = record.get("encoder_dtype", "float32")
    return family + ("" if dtype == "float32" else f", {dtype}"), note


def _draw(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    panels: dict[str, list[Curve]] = {}
    for layer, pooling in dict.fromkeys((row["layer"], row["pooling"]) for row in rows):
        own = [row for row in rows if (row["layer"], row["pooling"]) == (layer, pooling)]
        curves = []
        for family in dict.fromkeys(row["family"] for row in own):
            points = sorted((row for row in own if row["family"] == family), key=lambda row: row["speed"])
            value, low, high = zip(*(row["unweighted_accuracy"] for row in points), strict=True)
            notes = [row["note"] for row in points]
            curves.append(Curve(family, [row["speed"] for row in points], value, low, high, notes))
        panels[f"UA, {pooling}, layer {layer}"] = curves
    plot_curves(panels, path, title, axis="times the speed of the first context")
