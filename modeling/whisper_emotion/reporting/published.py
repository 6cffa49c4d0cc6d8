"""The paper's results for cells with the same corpus, classes, folds, encoder, layer and pooling."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from whisper_emotion.reporting.sweep_results import System

CLASSES = ["angry", "happy", "neutral", "sad"]


def published_figures(facts: Mapping[str, Any], system: System) -> str:
    """Return the paper's results as `WA / UA` in percent, or an empty string.

    Args:
        facts: The sweep's `corpus`, `folds`, `labels` and `improvised_only`.
        system: The cell; without a layer, the result comes from the paper's Table 1.
    """
    size = re.fullmatch(r"whisper-(tiny|small)(\.en)?", system.encoder)
    same_protocol = facts["folds"] == "paper" and not facts.get("improvised_only")
    if size is None or not same_protocol or facts["labels"] != CLASSES:
        return ""
    layer = "" if system.layer is None else str(system.layer)
    wanted = {"corpus": facts["corpus"], "size": size[1], "encoder_layer": layer, "pooling": system.pooling}
    table = pd.read_csv(Path(__file__).with_name("published.csv"), comment="#", dtype=str, keep_default_na=False)
    for row in table.to_dict("records"):
        if wanted.items() <= row.items():
            return f"{_spread(row, 'weighted_accuracy')} / {_spread(row, 'unweighted_accuracy')}"
    return ""


def _spread(row: Mapping[Any, str], figure: str) -> str:
    deviation = row[f"{figure}_std"]
    return f"{row[figure]} ± {deviation}" if deviation else row[figure]
