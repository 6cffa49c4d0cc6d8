"""Write `scores.json`, the record of a run; read a cross-validation's record for a model card."""

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from whisper_emotion.configuration_whisper_emotion import WhisperEmotionConfig
from whisper_emotion.errors import UserError, reading
from whisper_emotion.fitting.experiment import Experiment
from whisper_emotion.run_folder import write_whole
from whisper_emotion.scoring import CALIBRATION, FIGURES

CARD_NEEDS = (*FIGURES, "pooled", "interval", "confusion_matrix", *CALIBRATION, "speakers_shared")


def write_scores(path: Path, scores: dict[str, Any], experiment: Experiment, **facts: Any) -> dict[str, Any]:
    """Write `scores.json`.

    Args:
        path: The file.
        scores: The result of `summarise`; empty without a test fold.
        experiment: The experiment.
        **facts: Other entries: `corpus`, `folds`, `seeds`, `seconds`. `config`, the model's, is read but not written.

    Returns:
        The content of the file.

    Raises:
        UserError: The file cannot be written.
    """
    config = facts.pop("config")
    selected = "strength" if experiment.is_linear else "epoch"
    record = {**facts, **describe_recipe(experiment, config), "selected": selected, **scores}
    write_whole(path, json.dumps(record, indent=2, allow_nan=False) + "\n")
    return record


def describe_recipe(experiment: Experiment, config: WhisperEmotionConfig) -> dict[str, Any]:
    """Return the entries of `scores.json` that describe the training, without corpus and hyper-parameters."""
    return {
        "select_on": experiment.select_on,
        "held_out": experiment.held_out,
        "refit": experiment.select_on == "dev" and experiment.refit,
        "encoder": public_name(experiment.encoder),
        "from_scratch": experiment.from_scratch,
        "freeze_encoder": experiment.freeze_encoder,
        "encoder_layer": config.encoder_layer,
        "concatenated_layers": config.concatenated_layers,
        "normalize_speech": experiment.extractor().normalize_speech,
        "encoder_dtype": experiment.encoder_dtype,
        "adaptation": experiment.adaptation,
        "train_adaptation": experiment.train_adaptation,
        "augmented_copies": experiment.augmented_copies,
        "temperature_scaling": experiment.temperature_scaling,
        "init": None if experiment.initial is None else experiment.initial.record,
        "clips_per_class": experiment.clips_per_class,
        **config.context,
        "mask_padding": config.mask_padding,
        "classifier_proj_size": config.classifier_proj_size,
        "pooling": config.pooling,
        "labels": experiment.labels,
    }


def read_cross_validation(folder: Path, corpus: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Read the scores of a finished cross-validation of a recipe.

    Args:
        folder: The output folder of `cross_validate.py`.
        corpus: The corpus's name.
        recipe: `describe_recipe` of the model whose card will show the scores.

    Raises:
        UserError: The scores are missing, damaged or of another recipe; the message names the difference.
    """
    option, path = f"--cross_validation {folder}", folder / "scores.json"
    for needed in (path, folder / "confusion_matrix.png"):  # the card needs both at the end of the training
        if not needed.exists():
            raise UserError(f"{option}: holds no {needed.name}, expected a finished cross-validation")
    with reading(path, "a file of cross_validate.py"):
        scores = dict(json.loads(path.read_text(encoding="utf-8")))
        found = {name: (scores[name], value) for name, value in {"corpus": corpus, **recipe}.items()}
        adapted = any(map(any, scores.get("adapted", [])))
        for name in ("folds", "seeds", *CARD_NEEDS, *(["unadapted"] if adapted else [])):
            scores[name]  # raises a KeyError that names a missing entry
    if "test_fold" in scores:
        raise UserError(f"{option}: is a model's folder, expected a finished cross-validation")
    for name, (theirs, ours) in found.items():
        if theirs != ours:
            raise UserError(f"{option}: was made with {name}={theirs}, not {ours}: its scores are of another recipe")
    return scores


def describe_machine(device: str = "cpu") -> str:
    """Describe the machine of a measurement, with its accelerator if `device` is not the processor."""
    parts = [platform.processor() or platform.machine(), f"{os.cpu_count()} cores"]
    if device != "cpu":
        name = getattr(torch.get_device_module(device), "get_device_name", None)  # torch.mps has none
        parts.append(device if name is None else name())
    return ", ".join([*parts, f"torch {torch.__version__}"])


def public_name(encoder: str) -> str:
    """Return an encoder's name without its path on this machine."""
    return Path(encoder).resolve().name if Path(encoder).exists() else encoder
