"""Reports on the robustness and fairness that `evaluate.py` measures: tables and a picture."""

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from whisper_emotion.card_metadata import corpus_title
from whisper_emotion.errors import UserError, reading
from whisper_emotion.reporting.markdown import markdown_table
from whisper_emotion.reporting.plots import STYLES, save_figure
from whisper_emotion.robustness import CLEAN

TOLERATED = 0.05  # loss of unweighted accuracy that the picture marks


def read_evaluations(folders: str) -> list[dict[str, Any]]:
    """Read the `scores.json` of evaluations for a card.

    Args:
        folders: `evaluate.py`'s output folders, comma-separated.

    Raises:
        UserError: Scores are missing or damaged, have nothing for a card, or have different conditions.
    """
    found = []
    for folder in map(Path, folders.split(",")):
        path = _find_scores("--evaluations", folder)
        with reading(path, "a file of evaluate.py"):
            scores = json.loads(path.read_text(encoding="utf-8"))
            tables = [robustness_table([scores]), fairness_table([scores])]  # raises a KeyError for a missing key
        if tables == [None, None] and "corpora" not in scores:
            raise UserError(
                f"--evaluations {folder}: has nothing for a card, run evaluate.py with --robustness or "
                "--fairness, or on several corpora"
            )
        found.append(scores)
    if len({tuple(scores["robustness"]) for scores in found if "robustness" in scores}) > 1:
        raise UserError(f"--evaluations {folders}: have different conditions, run evaluate.py again")
    return found


def read_calibration(folder: str) -> tuple[dict[str, float], str]:
    """Read the calibration from an evaluation, and the titles of its corpora.

    Args:
        folder: `evaluate.py`'s output folder.

    Raises:
        UserError: The folder holds no calibration.
    """
    path = _find_scores("--calibration", Path(folder))
    with reading(path, "a file of evaluate.py with a calibration"):
        scores = json.loads(path.read_text(encoding="utf-8"))
        return {name: float(scores["calibration"][name]) for name in scores["calibration"]}, corpus_title(
            scores["corpus"]
        )


def describe_evaluations(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """Name the evaluated models and corpora in one line, for the card.

    Args:
        evaluations: The contents of `scores.json`.
    """
    models = ", ".join(dict.fromkeys(f"`{scores['model']}`" for scores in evaluations))
    titles = ", ".join(dict.fromkeys(corpus_title(scores["corpus"]) for scores in evaluations))
    ways = ", ".join(dict.fromkeys(scores["adaptation"] for scores in evaluations))
    number = f"{len(evaluations)} corpora" if len(evaluations) > 1 else "1 corpus"
    return f"{number}: {titles}; models: {models}; adaptation: {ways}"


def robustness_table(evaluations: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the scores of each condition in percent as a Markdown table; None without measurements.

    Args:
        evaluations: The contents of `scores.json`. One evaluation is shown with its interval; several are averaged.
    """
    measured = [scores["robustness"] for scores in evaluations if "robustness" in scores]
    if not measured:
        return None
    loss = "loss (95 % interval)" if len(measured) == 1 else "loss (largest of a corpus)"
    rows = []
    for name in measured[0]:
        own = [conditions[name] for conditions in measured]
        accuracy, lost, confidence, error = (
            _percent(np.mean([figures[key] for figures in own]))
            for key in ("unweighted_accuracy", "loss", "mean_confidence", "ece")
        )
        low, high = own[0]["interval"]
        more = f"{_percent(low)} to {_percent(high)}" if len(own) == 1 else _percent(max(one["loss"] for one in own))
        rows.append([name, accuracy, "" if name == CLEAN else f"{lost} ({more})", confidence, error])
    return markdown_table(["condition", "UA", loss, "confidence", "ECE"], rows)


def describe_robustness(scores: Mapping[str, Any]) -> str:
    """Summarise the result, then name the model, the clips and the adaptation.

    Args:
        scores: The content of `scores.json`, with `robustness`.
    """
    losses = {name: figures["loss"] for name, figures in scores["robustness"].items() if name != CLEAN}
    small, worst = sum(loss <= TOLERATED for loss in losses.values()), max(losses, key=lambda name: losses[name])
    low, high = scores["robustness"][worst]["interval"]
    return (
        f"{small} of {len(losses)} conditions lose at most {100 * TOLERATED:g} points of UA. The largest loss is "
        f"{_percent(losses[worst])} points ({_percent(low)} to {_percent(high)}): {worst}. {scores['model']} on "
        f"{corpus_title(scores['corpus'])}, {scores['robustness_clips']:,} clips, adaptation: {scores['adaptation']}; "
        f"clean clips: UA {_percent(scores['robustness'][CLEAN]['unweighted_accuracy'])} %"
    )


def plot_robustness(scores: Mapping[str, Any], path: str | PathLike[str]) -> None:
    """Draw the loss of unweighted accuracy under each condition with its interval.

    Args:
        scores: As in `describe_robustness`.
        path: The PNG file to write.
    """
    names = [name for name in scores["robustness"] if name != CLEAN]
    losses, bounds = (
        100 * np.array([scores["robustness"][name][key] for name in names]) for key in ("loss", "interval")
    )
    figure = Figure(figsize=(6.6, 0.3 * len(names) + 1.4), layout="constrained")
    axes, places = figure.add_subplot(), np.arange(len(names))
    colours = [STYLES[1][0] if loss > 100 * TOLERATED else STYLES[0][0] for loss in losses]
    axes.barh(places, losses, color=colours, height=0.7)
    axes.errorbar(
        losses, places, xerr=np.abs(bounds.T - losses), fmt="none", ecolor="black", elinewidth=0.9, capsize=2
    )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvline(100 * TOLERATED, color="0.5", linewidth=0.8, linestyle="--")
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlabel(f"points of UA lost, 95 % interval; dashed: {100 * TOLERATED:g} points")
    axes.grid(axis="x", linewidth=0.4, color="0.85")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    save_figure(figure, path, describe_robustness(scores))


def fairness_table(evaluations: Sequence[Mapping[str, Any]]) -> str | None:
    """Return accuracy by gender and speaker in percent, one row per corpus; None without measurements.

    Args:
        evaluations: The contents of `scores.json`.
    """
    measured = [(scores["corpus"], scores["fairness"]) for scores in evaluations if "fairness" in scores]
    if not measured:
        return None
    rows = []
    for corpus, fairness in measured:
        genders, speakers, difference = fairness["gender"], fairness["speakers"], fairness["gender_difference"]
        row = [corpus_title(corpus)]
        row += [
            _percent(genders[name]["unweighted_accuracy"]) if name in genders else "–" for name in ("female", "male")
        ]
        row.append("–" if difference is None else f"{_percent(difference[0])} ({_bounds(difference[1:])})")
        if speakers is None:
            row += ["–"] * 4
        else:
            row += [
                f"{speakers['speakers']:,}",
                *(_percent(speakers[key]) for key in ("mean", "worst_decile", "worst")),
            ]
        rows.append(row)
    header = ["corpus", "female", "male", "difference (95 % interval)"]
    return markdown_table([*header, "speakers", "their mean", "worst tenth", "worst"], rows)


def describe_fairness(scores: Mapping[str, Any]) -> str:
    """Return `fairness_table`, and lines on unknown groups, the worst speaker, languages and corpora.

    Args:
        scores: The content of `scores.json`, with `fairness`.
    """
    fairness, lines = scores["fairness"], [str(fairness_table([scores]))]
    if len(fairness["gender"]) == 1:
        lines.append(f"gender: only one group ({next(iter(fairness['gender']))}), nothing to compare")
    elif "not known" in fairness["gender"]:
        lines.append(f"gender: not known for {fairness['gender']['not known']['clips']:,} clips")
    if fairness["speakers"] is None:
        lines.append("speakers: not known")
    elif fairness["speakers"]["speakers"] == 1:
        lines.append("speakers: only one")
    else:
        lines.append(f"speakers: the worst is {fairness['speakers']['worst_speaker']}")
    for kind in ("languages", "corpora"):
        if fairness[kind]:
            groups = sorted(fairness[kind].items(), key=lambda group: group[1]["unweighted_accuracy"])
            figures = (
                f"{name} {_percent(own['unweighted_accuracy'])} ({_bounds(own['interval'])})" for name, own in groups
            )
            lines.append(f"{kind}, UA in percent: {', '.join(figures)}")
    return "\n".join(lines)


def _find_scores(option: str, folder: Path) -> Path:
    path = folder / "scores.json"
    if not path.is_file():
        raise UserError(f"{option} {folder}: holds no scores.json, expected the output of evaluate.py")
    return path


def _bounds(bounds: Sequence[float]) -> str:
    return " to ".join(map(_percent, bounds))


def _percent(fraction: Any) -> str:
    return f"{100 * fraction:z.1f}"  # z: no minus before a zero
