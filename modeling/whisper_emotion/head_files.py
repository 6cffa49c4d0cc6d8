"""A head without its encoder, in a folder of its own: the weights above a Whisper encoder that is named.

The folder holds `head.safetensors`, the configurations of model and extractor, and `encoder.json`: the encoder's name
and revision on the Hub, and the checksum of the weights that the head was trained on.
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
"""The heads that come with the package: `general` is trained on six corpora, `permissive` on EMO-DB alone."""
GENERAL = HEADS / "general"


class EncoderSource(NamedTuple):
    """Which encoder a head is for.

    Args:
        name: Its name on the Hub.
        revision: The commit.
        sha256: `checksum` of its weights.
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
    """Write the head of a model, the configurations, and which encoder it needs.

    Args:
        folder: An existing folder.
        model: The model.
        extractor: Its feature extractor.
        name: The encoder's name on the Hub.
        revision: The commit of the encoder's repository.
    """
    config = json.loads(model.config.to_json_string())
    config.pop("auto_map", None)  # it names files of code, which a head leaves out
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    extractor.to_json_file(folder / "preprocessor_config.json")
    save_file({key: tensor.contiguous() for key, tensor in model.head.state_dict().items()}, folder / WEIGHTS)
    source = EncoderSource(name, revision, checksum(model))
    (folder / ENCODER).write_text(json.dumps(source._asdict(), indent=2) + "\n", encoding="utf-8")


def load_head(
    folder: str | os.PathLike[str], encoder: str | os.PathLike[str] | None = None
) -> tuple[WhisperForEmotionClassification, WhisperEmotionFeatureExtractor]:
    """Put a head on its encoder.

    Args:
        folder: What `save_head` wrote.
        encoder: A folder of the encoder, or a name on the Hub. None takes the named revision from the Hub, or from the
            cache.

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
            WhisperEmotionConfig.from_pretrained(name, revision=revision)  # whose errors say why there is none
            model = cast(
                WhisperForEmotionClassification,
                WhisperForEmotionClassification.from_pretrained(
                    name, config=config, revision=revision, ignore_mismatched_sizes=True
                ),  # whose checksum differs
            )
    except Exception as error:  # damaged files raise exceptions of any class
        expected = f"give the folder of {source.name} by --encoder" if encoder is None else f"expected {source.name}"
        raise UserError(f"encoder {name}: {not_loaded(name, error)}; {expected}") from error
    if checksum(model) != source.sha256:
        raise UserError(f"encoder {name}: has other weights than {source.name}, which the head was trained on")
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
        UserError: It cannot be loaded, or its head is random.
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
        raise UserError(f"{model}: is no trained emotion classifier, it has no weights for {lacking}")
    return loaded, extractor


def read_source(folder: str | os.PathLike[str]) -> EncoderSource:
    """Read which encoder a head is for.

    Raises:
        UserError: The file is missing or damaged.
    """
    path = Path(folder) / ENCODER
    with reading(path, "name, revision and sha256 of an encoder"):
        return EncoderSource(**json.loads(path.read_text(encoding="utf-8")))


def checksum(model: WhisperForEmotionClassification) -> str:
    """Return the SHA-256 of the encoder's weights in float32, up to the layer that the model has: half a second."""
    running = hashlib.sha256()
    for key, tensor in sorted(model.encoder.state_dict().items()):
        running.update(key.encode())
        running.update(cast(Any, tensor.detach().to("cpu", torch.float32).contiguous().numpy()))
    return running.hexdigest()


def find_model(model: str | os.PathLike[str] | None) -> str | os.PathLike[str]:
    """Return a model's folder or Hub name: None is the general model, and a name in `SHIPPED` a head's folder here."""
    if model is None:
        return GENERAL
    return HEADS / model if model in SHIPPED and not Path(model).exists() else model


def is_head(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a head without its encoder."""
    return (Path(folder) / ENCODER).is_file()
