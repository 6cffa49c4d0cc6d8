"""A trained linear head as the start of training on other classes and recordings."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np

from whisper_emotion.configuration_whisper_emotion import WhisperEmotionConfig
from whisper_emotion.errors import UserError, reading
from whisper_emotion.fitting.new_models import build_model, load_config
from whisper_emotion.fitting.regression import Linear
from whisper_emotion.head_files import SHIPPED, checksum, find_model, is_head, load_head, load_whole, read_source
from whisper_emotion.options import ModelOptions

LINEAR_POOLINGS = ("mean", "statistics")


@dataclass(frozen=True)
class InitialHead:
    """The classifier of a linear head.

    Args:
        name: Name of a shipped head, or of the head's folder.
        corpora: Names of its training corpora, as in `load_corpus`; None if unknown.
        config: The model's configuration.
        normalize_speech: Field of its feature extractor.
        linear: Weights and biases.
        population: Mean frame of its training population, `(frame_size,)`.
    """

    name: str
    corpora: str | None
    config: WhisperEmotionConfig
    normalize_speech: bool
    linear: Linear
    population: np.ndarray

    @property
    def record(self) -> dict[str, str | None]:
        """The head's entry in `scores.json`."""
        return {"head": self.name, "corpora": self.corpora}

    def overrides(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the head's fields for the new model's configuration.

        Raises:
            UserError: A `given` field differs from the head's.
        """
        own = _model_fields(self.config)
        for name, value in given.items():
            layer = value + self.config.encoder_layers + 1 if name == "encoder_layer" and value < 0 else value
            if layer != own[name]:
                raise UserError(f"--init {self.name}: has {name}={own[name]}, not {value}; leave --{name} out")
        return own

    def start(self, labels: Sequence[str], mean: np.ndarray) -> Linear:
        """Return the calibrated classifier for new clips, adapted to the head's population.

        The adaptation changes each class's logit by a constant, which is added to the bias.

        Args:
            labels: Classes; a class that the head lacks starts from the mean of the other classes.
            mean: Mean frame of the new clips, `(frame_size,)`.
        """
        weight, bias = self.linear
        known = self.config.label2id or {}
        shared = [known[label] for label in labels if label in known]
        rows = [[known[label]] if label in known else shared for label in labels]
        move = self.population - mean
        moved = bias + weight[:, : len(move)] @ move
        temperature = self.config.temperature_of(adapted=True)
        return Linear(*(np.stack([one[own].mean(axis=0) for own in rows]) / temperature for one in (weight, moved)))


def encoder_of(init: str) -> str:
    """Return the encoder of the head that `--init` names: a Hub name, or the folder of a whole model."""
    folder = Path(find_model(init))
    return read_source(folder).name if is_head(folder) else str(folder)


def load_initial_head(init: str, encoder: str, labels: Sequence[str]) -> InitialHead:
    """Load the head that `--init` names.

    Args:
        init: `general`, or the folder of a head or a whole model.
        encoder: The encoder of the training: a folder or a Hub name.
        labels: Classes of the training.

    Raises:
        UserError: The head does not exist, is not linear, has another encoder, or has none of the classes.
    """
    folder, option = Path(find_model(init)), f"--init {init}"
    if not folder.is_dir():
        raise UserError(
            f"{option}: must be general, permissive, or the folder of a head or a model that train.py wrote"
        )
    model, extractor = load_head(folder, encoder) if is_head(folder) else load_whole(folder)
    config = cast(WhisperEmotionConfig, model.config)
    if config.pooling not in LINEAR_POOLINGS or config.classifier_proj_size or config.use_weighted_layer_sum:
        raise UserError(f"{option}: must be linear: mean or statistics pooling, no projector, no learned layer sum")
    if not set(labels) & set(config.label2id or {}):
        raise UserError(f"{option}: has none of the classes {', '.join(labels)}")
    if not is_head(folder) and Path(encoder).resolve() != folder.resolve():
        own = build_model(encoder, load_config(encoder, labels, _model_fields(config)), seed=0)
        if checksum(own) != checksum(model):
            raise UserError(f"{option}: has another encoder than --encoder {encoder}; leave --encoder out")
    classifier = model.head.classifier
    linear = Linear(*(one.detach().double().numpy() for one in (classifier.weight, classifier.bias)))
    population = model.head.adaptation.population_mean.double().numpy()
    name = init if init in SHIPPED else folder.resolve().name
    return InitialHead(name, _corpora(folder), config, extractor.normalize_speech, linear, population)


def _model_fields(config: WhisperEmotionConfig) -> dict[str, Any]:
    """Return a model's values of `ModelOptions`."""
    return {field.name: getattr(config, field.name) for field in fields(ModelOptions)}


def _corpora(folder: Path) -> str | None:
    """Return the training corpora of a head and of its own initial head."""
    path = folder / "scores.json"
    if not path.exists():
        return None
    with reading(path, "a file of train.py"):
        record = json.loads(path.read_text(encoding="utf-8"))
        earlier = (record.get("init") or {}).get("corpora")
        return ",".join(dict.fromkeys([*record["corpus"].split(","), *(earlier.split(",") if earlier else [])]))
