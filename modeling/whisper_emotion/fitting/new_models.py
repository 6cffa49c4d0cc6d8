"""New models: configuration, extractor and weights of an encoder, with an untrained head."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from transformers import set_seed

from whisper_emotion.configuration_whisper_emotion import WhisperEmotionConfig
from whisper_emotion.errors import UserError, not_loaded, one_line, reading, without_loading_report
from whisper_emotion.feature_extraction_whisper_emotion import WhisperEmotionFeatureExtractor
from whisper_emotion.modeling_whisper_emotion import EmotionHead, WhisperForEmotionClassification, initialise

CHECKPOINT = "a Whisper checkpoint with safetensors weights, or a model of this package"


def build_extractor(encoder: str, normalize_speech: bool | None = None) -> WhisperEmotionFeatureExtractor:
    """Load the feature extractor of an encoder, given by folder or Hub name.

    Args:
        encoder: A Whisper checkpoint, or a model of this package.
        normalize_speech: Field of the extractor; None keeps the checkpoint's value.

    Raises:
        UserError: The extractor cannot be loaded.
    """
    with reading(f"--encoder {encoder}", CHECKPOINT):
        extractor = WhisperEmotionFeatureExtractor.from_pretrained(encoder)
    if normalize_speech is not None:  # from_pretrained takes only fields that the checkpoint has
        extractor.normalize_speech = normalize_speech
    return extractor


def load_config(encoder: str, labels: Sequence[str], overrides: dict[str, Any]) -> WhisperEmotionConfig:
    """Load an encoder's configuration for a new head.

    Args:
        encoder: Folder or Hub name of a Whisper checkpoint or of a model of this package.
        labels: Class names, ordered by id.
        overrides: Fields of `WhisperEmotionConfig` that differ from the checkpoint's.

    Raises:
        UserError: The configuration cannot be loaded, or a field's value is not allowed.
    """
    new = {
        "id2label": dict(enumerate(labels)), "logit_temperature": 1.0, "adapted_logit_temperature": None,
        "adapted": False,
    }  # fmt: skip
    try:
        with without_loading_report():
            return WhisperEmotionConfig.from_pretrained(encoder, **(new | overrides))
    except OSError as error:
        expected = "a folder with a Whisper checkpoint, or its name on the Hub"
        raise UserError(f"--encoder {encoder}: {not_loaded(encoder, error)}; expected {expected}") from error
    except Exception as error:  # a foreign configuration raises various classes
        message = one_line(error)
        field = re.match(r"\w+", message)  # messages of our own checks begin with the field's name
        if isinstance(error, ValueError) and field and field.group() in overrides:
            raise UserError(message) from error
        raise UserError(f"--encoder {encoder}: its configuration is not valid: {message}") from error


def build_model(
    encoder: str, config: WhisperEmotionConfig, seed: int, from_scratch: bool = False
) -> WhisperForEmotionClassification:
    """Load an encoder and add a new head.

    A head in the checkpoint is not used, because test speakers may have been in its training.

    Args:
        encoder: Folder or Hub name of a Whisper checkpoint or of a model of this package.
        config: Output of `load_config`.
        seed: Seed of the random initialisation.
        from_scratch: Initialise the encoder's weights at random, too.

    Raises:
        UserError: The encoder cannot be loaded, or lacks a requested layer.
    """
    if from_scratch:
        set_seed(seed)
        return WhisperForEmotionClassification(config)
    with reading(f"--encoder {encoder}", CHECKPOINT), without_loading_report():
        loaded: Any = WhisperForEmotionClassification.from_pretrained(
            encoder, config=config, output_loading_info=True, ignore_mismatched_sizes=True
        )
    model, report = loaded
    lacking = sorted(name for name in report["missing_keys"] if name.startswith("encoder."))
    lacking += sorted(name for name, *_ in report["mismatched_keys"] if name.startswith("encoder."))
    if lacking:
        raise UserError(
            f"--encoder {encoder}: lacks {lacking[0]} and {len(lacking) - 1} more weights: give a Whisper checkpoint "
            f"that holds encoder layer {config.encoder_layer}, or --from_scratch"
        )
    model.head = new_head(model.config, seed)  # from_pretrained has copied the configuration
    return model


def new_head(config: WhisperEmotionConfig, seed: int) -> EmotionHead:
    """Initialise a head from a seed.

    Args:
        config: The model's configuration; the head keeps a reference to it.
        seed: Seed of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return EmotionHead(config).apply(partial(initialise, std=config.init_std))
