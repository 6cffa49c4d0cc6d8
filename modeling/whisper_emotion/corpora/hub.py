"""Corpora on the Hugging Face Hub, `hub:NAMESPACE/NAME`: any dataset with a column of audio and one of labels."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Audio, ClassLabel, Dataset, Features, Value, concatenate_datasets, config, load_dataset
from huggingface_hub.constants import HF_HUB_CACHE

from whisper_emotion.audio import audio_seconds
from whisper_emotion.corpora._utterances import audio_paths
from whisper_emotion.errors import UserError, one_line

PREFIX = "hub:"
EXPECTED = "expected the columns audio and label, and as it has them speaker, gender, session and seconds"


def load(name: str, choose: Callable[[Sequence[str], Sequence[str]], list[str]]) -> Dataset:
    """Load a dataset from the Hub, all its splits in their order: which clips train and which test, the folds say.

    `audio` is an `Audio` column. `label` is a `ClassLabel`, or text. `speaker` is text or a number; without that
    column every clip is its own speaker, and no speaker-disjoint folds can be made. `gender` is `female` or `male` or
    else counts as unknown. `seconds`, where it is missing, is read from the recordings' headers. Other columns are
    left out.

    Args:
        name: `hub:NAMESPACE/NAME`.
        choose: From the names of all classes and from every clip's, those to keep, in the order of their numbers.

    Returns:
        What `load_corpus` promises, but for `audio`: the recordings' bytes, or paths in the cache of `datasets`.

    Raises:
        UserError: No such dataset, or it may not be read; no audio or labels, or a clip without label or speaker.
    """
    table = _download(name)
    for column in ("audio", "label"):
        if column not in table.features:
            raise UserError(f"{name}: has no column {column}, {EXPECTED}")
    if not isinstance(table.features["audio"], Audio):
        raise UserError(f"{name}: its column audio holds no recordings, expected the type Audio of datasets")
    table = table.cast_column("audio", Audio(decode=False))
    _check_files(table, name)
    label = table.features["label"]
    spoken = _texts(table, name, "label")
    labels = choose(label.names if isinstance(label, ClassLabel) else sorted(set(spoken)), spoken)
    speakers = [f"row/{row}" for row in range(len(table))]  # the slash says that nobody knows who speaks
    if "speaker" in table.features:
        speakers = [speaker.replace("/", "_") for speaker in _texts(table, name, "speaker")]
    genders = [str(gender).lower() for gender in _values(table, "gender")]
    columns = {
        "label": [labels.index(one) if one in labels else 0 for one in spoken],
        "speaker": speakers,
        "gender": [gender if gender in ("female", "male") else None for gender in genders],
        "session": [None if one is None else str(one) for one in _values(table, "session")],
        "seconds": _seconds(table, name),
    }
    kinds: dict[str, Any] = {column: Value("string") for column in columns}
    kinds |= {"label": ClassLabel(names=labels), "seconds": Value("float64")}
    described = Dataset.from_dict(columns, features=Features(kinds))
    whole = concatenate_datasets([table.select_columns("audio"), described], axis=1)
    kept = [row for row, one in enumerate(spoken) if one in labels]
    return whole if len(kept) == len(whole) else whole.select(kept)


def _download(name: str) -> Dataset:
    """The dataset, all splits as one."""
    if not re.fullmatch(r"hub:[\w.-]+/[\w.-]+", name):
        raise UserError(f"corpus: '{name}' names no dataset on the Hub, expected hub:NAMESPACE/NAME")
    try:
        # As an address: a name alone would mean a local folder, if there is one that is called so
        return load_dataset(f"hf://datasets/{name.removeprefix(PREFIX)}", split="all")
    except Exception as error:  # whatever the readers of tables and archives raise on what others have uploaded
        raise UserError(f"{name}: cannot be loaded from the Hub: {one_line(error)}") from error


def _check_files(table: Dataset, name: str) -> None:
    """Raise where a row is no recording but a file's name, and the file did not come with the dataset."""
    folders = (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, config.EXTRACTED_DATASETS_PATH, HF_HUB_CACHE)
    caches = [os.path.realpath(folder) for folder in folders]
    for row, (path, is_file) in enumerate(audio_paths(table)):
        if is_file and not (path and any(Path(os.path.realpath(path)).is_relative_to(cache) for cache in caches)):
            raise UserError(f"{name}: row {row} has no recording, and {path} did not come with the dataset")


def _values(table: Dataset, column: str) -> list[Any]:
    """A column's values, a `ClassLabel`'s by name; None for each clip where there is no such column."""
    if column not in table.features:
        return [None] * len(table)
    kind, values = table.features[column], table[column][:]
    if isinstance(kind, ClassLabel):
        known = range(kind.num_classes)
        return [kind.int2str(value) if value in known else None for value in values]
    return values


def _texts(table: Dataset, name: str, column: str) -> list[str]:
    """A column in which every clip has something."""
    values = _values(table, column)
    for row, value in enumerate(values):
        if value is None or value == "":
            raise UserError(f"{name}: row {row} has no {column}, expected one for every clip")
    if column == "label" and not all(isinstance(value, str) for value in values):
        raise UserError(f"{name}: its labels are numbers without names, expected text or the type ClassLabel")
    return [str(value) for value in values]


def _seconds(table: Dataset, name: str) -> list[float]:
    """Every clip's length, from its column or from the recordings' headers."""
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
