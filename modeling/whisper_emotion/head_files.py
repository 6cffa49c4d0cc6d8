"""Save and load a head without its encoder: the weights above a named Whisper encoder.

The folder holds `head.safetensors`, the configurations of model and extractor, and `encoder.json`. `encoder.json`
names the encoder and its revision on the Hub, with the checksum of its weights.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors.torch import load_file, save_file

from whisper_emotion.configuration_whisper_emotion import WhisperEmotionConfig
from whisper_emotion.errors import UserError, not_loaded, reading, without_loading_report
from whisper_emotion.feature_extraction_whisper_emotion import WhisperEmotionFeatureExtractor
from whisper_emotion.modeling_whisper_emotion import WhisperForEmotionClassification

ENCODER, WEIGHTS = "encoder.json", "head.safetensors"
HEADS = Path(__file__).with_name("heads")
SHIPPED = ("general", "permissive")
"""The shipped heads: `general` is trained on six corpora, `permissive` on EMO-DB alone."""
GENERAL = HEADS / "general"


class EncoderSource(NamedTuple):
    """The encoder that a head was trained on.

    Args:
        name: Name on the Hub.
        revision: Commit on the Hub.
        sha256: `checksum` of the weights.
    """

    name: str
    revision: str
    sha256: str


def save_head(
    folder: Path,
    model: WhisperForEmotionClassification,
    extractor: WhisperEmotionFeatureExtractor,
    name: str,
    revision: str,
) -> None:
    """Write a model's head, its configurations and the name of its encoder.

    Args:
        folder: An existing folder.
        model: The model.
        extractor: Its feature extractor.
        name: The encoder's name on the Hub.
        revision: The commit of the encoder's repository.
    """
    config = json.loads(model.config.to_json_string())
    config.pop("auto_map", None)  # names code files, which a head's folder lacks
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    extractor.to_json_file(folder / "preprocessor_config.json")
    save_file({key: tensor.contiguous() for key, tensor in model.head.state_dict().items()}, folder / WEIGHTS)
    source = EncoderSource(name, revision, checksum(model))
    (folder / ENCODER).write_text(json.dumps(source._asdict(), indent=2) + "\n", encoding="utf-8")


def load_head(
    folder: str | os.PathLike[str], encoder: str | os.PathLike[str] | None = None
) -> tuple[WhisperForEmotionClassification, WhisperEmotionFeatureExtractor]:
    """Load a head together with its encoder.

    Args:
        folder: A folder that `save_head` wrote.
        encoder: The encoder's folder or Hub name. None takes the recorded revision from the cache or the Hub.

    Returns:
        The model, and its feature extractor.

    Raises:
        UserError: The folder is damaged; the encoder cannot be loaded, or is not the one that the head was trained on.
    """
    folder, source = Path(folder), read_source(folder)
    with reading(folder, "a head: its weights and configurations"):
        config = WhisperEmotionConfig.from_pretrained(folder)
        extractor = WhisperEmotionFeatureExtractor.from_pretrained(folder)
        weights = load_file(folder / WEIGHTS)
    name, revision = (source.name, source.revision) if encoder is None else (os.fspath(encoder), "main")
    try:
        with without_loading_report():
            WhisperEmotionConfig.from_pretrained(name, revision=revision)  # its errors give the clearest reason
            model = cast(
                WhisperForEmotionClassification,
                WhisperForEmotionClassification.from_pretrained(
                    name, config=config, revision=revision, ignore_mismatched_sizes=True
                ),  # the checksum below reports mismatched weights
            )
    except Exception as error:  # damaged files raise exceptions of any class
        expected = f"give the folder of {source.name} by --encoder" if encoder is None else f"expected {source.name}"
        raise UserError(f"encoder {name}: {not_loaded(name, error)}; {expected}") from error
    if checksum(model) != source.sha256:
        raise UserError(f"encoder {name}: has other weights than {source.name}, the encoder of this head")
    with reading(folder / WEIGHTS, "the weights of this head"):
        model.head.load_state_dict(weights)
    return model, extractor


def load_whole(
    model: str | os.PathLike[str],
) -> tuple[WhisperForEmotionClassification, WhisperEmotionFeatureExtractor]:
    """Load a whole model and its extractor.

    Args:
        model: A trained folder or a Hub name.

    Raises:
        UserError: The model cannot be loaded, or has no trained head.
    """
    try:
        with without_loading_report():
            loaded, report = cast(
                tuple[WhisperForEmotionClassification, dict[str, Any]],
                WhisperForEmotionClassification.from_pretrained(model, output_loading_info=True),
            )
            extractor = WhisperEmotionFeatureExtractor.from_pretrained(model)
    except UserError:
        raise
    except Exception as error:  # damaged files raise exceptions of any class
        raise UserError(
            f"{model}: {not_loaded(model, error)}; expected a folder that train.py finished, or a Hub name"
        ) from error
    if report["missing_keys"]:
        lacking = min(report["missing_keys"])
        raise UserError(f"{model}: is not a trained emotion classifier: it has no weights for {lacking}")
    return loaded, extractor


def read_source(folder: str | os.PathLike[str]) -> EncoderSource:
    """Read a head's `encoder.json`.

    Raises:
        UserError: The file is missing or damaged.
    """
    path = Path(folder) / ENCODER
    with reading(path, "name, revision and sha256 of an encoder"):
        return EncoderSource(**json.loads(path.read_text(encoding="utf-8")))


def checksum(model: WhisperForEmotionClassification) -> str:
    """Return the SHA-256 of the encoder's weights in float32, up to the model's top layer (half a second)."""
    running = hashlib.sha256()
    for key, tensor in sorted(model.encoder.state_dict().items()):
        running.update(key.encode())
        running.update(cast(Any, tensor.detach().to("cpu", torch.float32).contiguous().numpy()))
    return running.hexdigest()


def find_model(model: str | os.PathLike[str] | None) -> str | os.PathLike[str]:
    """Return a model's folder or Hub name; None means the general head, and `SHIPPED` names map to their folders."""
    if model is None:
        return GENERAL
    return HEADS / model if model in SHIPPED and not Path(model).exists() else model


def is_head(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a head without its encoder."""
    return (Path(folder) / ENCODER).is_file()
