"""Read corpora from the Hugging Face Hub, `hub:NAMESPACE/NAME`: any dataset with an audio and a label column."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Audio, ClassLabel, Dataset, concatenate_datasets, config, load_dataset, load_from_disk
from huggingface_hub.constants import HF_HUB_CACHE

from whisper_emotion.audio import audio_seconds
from whisper_emotion.corpora._utterances import audio_paths
from whisper_emotion.corpora.frames import gender_of, split_of, utterance_frame
from whisper_emotion.errors import UserError, one_line

PREFIX = "hub:"
EXPECTED = "expected the columns audio and label, optionally speaker, gender, session and seconds"


def read(name: str) -> tuple[pd.DataFrame, Dataset]:
    """Load all splits of a dataset from the Hub, in order; see `from_splits`.

    Args:
        name: `hub:NAMESPACE/NAME`.
    """
    return from_splits(_download(name), name)


def read_saved(folder: Path) -> tuple[pd.DataFrame, Dataset]:
    """Load a folder that `save_to_disk` wrote, with its splits if any; see `from_splits`."""
    try:
        saved = load_from_disk(folder)
    except Exception as error:  # as in `_download`
        raise UserError(f"{folder}: cannot be loaded as a saved dataset: {one_line(error)}") from error
    return from_splits(saved if isinstance(saved, dict) else {"": saved}, str(folder))


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()


def from_splits(splits: Mapping[str, Dataset], name: str) -> tuple[pd.DataFrame, Dataset]:
    """Read the columns of a dataset.

    `audio` is an `Audio` column. `label` is a `ClassLabel` or text. `speaker` is text or a number; without this column
    speakers are unknown. `gender` is `female` or `male`, otherwise unknown. Missing `seconds` are read from the
    recordings' headers. Other columns are ignored.

    Args:
        splits: The dataset's splits by name.
        name: The dataset's name, for messages.

    Returns:
        One row per utterance, see `frames.utterance_frame`, and the column `audio`: bytes, or paths in the cache of
        `datasets`.

    Raises:
        UserError: Audio or labels are missing, or a clip has no label or speaker.
    """
    table = concatenate_datasets(list(splits.values()))
    for column in ("audio", "label"):
        if column not in table.features:
            raise UserError(f"{name}: has no column {column}, {EXPECTED}")
    if not isinstance(table.features["audio"], Audio):
        raise UserError(f"{name}: its column audio holds no recordings, expected the type Audio of datasets")
    table = table.cast_column("audio", Audio(decode=False))
    if name.startswith(PREFIX):
        _check_files(table, name)
    columns: dict[str, list[Any]] = {
        "label": _texts(table, name, "label"),
        "gender": [gender_of(str(gender)) for gender in _values(table, "gender")],
        "session": [None if one is None else str(one) for one in _values(table, "session")],
        "split": [split_of(split) for split, part in splits.items() for _ in range(len(part))],
        "seconds": _seconds(table, name),
    }
    if "speaker" in table.features:
        columns["speaker"] = _texts(table, name, "speaker")
    return utterance_frame(path=[None] * len(table), **columns), table.select_columns("audio")


def _download(name: str) -> dict[str, Dataset]:
    """Load the dataset's splits."""
    if not re.fullmatch(r"hub:[\w.-]+/[\w.-]+", name):
        raise UserError(f"corpus: '{name}' is not a dataset on the Hub, expected hub:NAMESPACE/NAME")
    try:
        # A URL, because a bare name could also mean a local folder
        loaded = load_dataset(f"hf://datasets/{name.removeprefix(PREFIX)}")
        return {str(split): part for split, part in loaded.items()}
    except Exception as error:  # readers of tables and archives raise various classes
        raise UserError(f"{name}: cannot be loaded from the Hub: {one_line(error)}") from error


def _check_files(table: Dataset, name: str) -> None:
    """Raise if a row names a file that is not part of the dataset: it could be any file of the user."""
    folders = (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, config.EXTRACTED_DATASETS_PATH, HF_HUB_CACHE)
    caches = [os.path.realpath(folder) for folder in folders]
    for row, (path, is_file) in enumerate(audio_paths(table)):
        if is_file and not (path and any(Path(os.path.realpath(path)).is_relative_to(cache) for cache in caches)):
            raise UserError(f"{name}: row {row} has no recording, and {path} is not part of the dataset")


def _values(table: Dataset, column: str) -> list[Any]:
    """Return a column's values, `ClassLabel`s as names; None for each clip if the column is missing."""
    if column not in table.features:
        return [None] * len(table)
    kind, values = table.features[column], table[column][:]
    if isinstance(kind, ClassLabel):
        known = range(kind.num_classes)
        return [kind.int2str(value) if value in known else None for value in values]
    return values


def _texts(table: Dataset, name: str, column: str) -> list[str]:
    """Return a column as text; raise if a value is missing."""
    values = _values(table, column)
    for row, value in enumerate(values):
        if value is None or value == "":
            raise UserError(f"{name}: row {row} has no {column}, expected one for every clip")
    if column == "label" and not all(isinstance(value, str) for value in values):
        raise UserError(f"{name}: its labels are numbers without names, expected text or the type ClassLabel")
    return [str(value) for value in values]


def _seconds(table: Dataset, name: str) -> list[float]:
    """Return every clip's length, from its column or from the recordings' headers."""
    seconds, given = [], "seconds" in table.features
    for row, value in enumerate(_values(table, "seconds") if given else table["audio"]):
        try:
            length = value if given else audio_seconds(value)
        except UserError as error:
            raise UserError(f"{name}: row {row}: {error}") from error
        if not isinstance(length, (int, float)) or not length > 0:
            raise UserError(f"{name}: row {row} lasts {length} seconds, expected a number above 0")
        seconds.append(length)
    return seconds
