"""Shared code of the corpus readers: find files, and turn a table of utterances into a dataset."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute
from datasets import Audio, ClassLabel, Dataset, Features, Value, concatenate_datasets

from whisper_emotion.audio import audio_seconds
from whisper_emotion.corpora.frames import NUMBERS
from whisper_emotion.errors import UserError
from whisper_emotion.recordings import walk


def audio_files(root: Path) -> list[Path]:
    """Find all sound files below a folder with `recordings.walk`, sorted by name and then by path.

    Raises:
        UserError: The folder is missing, is a file or may not be read, or a file's name is not valid UTF-8.
    """
    require_folder(root)
    found = list(walk(root))
    for path in found:
        if os.fsencode(path).decode("utf-8", errors="ignore") != str(path):
            raise UserError(f"{str(path)!a}: has a name that is not valid UTF-8, rename it")
    return sorted(found, key=lambda path: (path.stem, path.as_posix()))


def require_folder(path: Path) -> None:
    """Raise `UserError` unless the path is a readable folder."""
    if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
        raise UserError(f"{path}: may not be read by this user, expected a readable folder")
    if not path.is_dir():
        wrong = "is a file" if path.exists() else "does not exist"
        raise UserError(f"{path}: {wrong}, expected a folder of the corpus")


def inner_folder(root: Path, name: str) -> Path:
    """Return `root/name` if it exists, otherwise `root`: users may give the corpus's folder or its inner folder."""
    return root / name if (root / name).is_dir() else root


def to_dataset(
    table: pd.DataFrame, labels: Sequence[str], numbers: Sequence[str] = (), recordings: Dataset | None = None
) -> Dataset:
    """Turn a table of utterances into the dataset of a corpus.

    Args:
        table: Output of `utterance_frame`, at least one row, with the column `corpus`.
        labels: Names of all classes, ordered by id.
        numbers: Further numeric columns.
        recordings: A dataset with the column `audio` for the same rows, if the recordings are not files.

    Returns:
        The dataset, as in `load_corpus`. Missing lengths are read from the files' headers.

    Raises:
        UserError: A file is missing, unreadable or empty, or ends before an utterance in it.
    """
    columns: dict[str, Any] = {"label": pd.Index(labels).get_indexer(table["label"])}
    columns |= {name: table[name].tolist() for name in ("speaker", "gender", "session")}
    columns |= {"seconds": _seconds(table), "corpus": table["corpus"].tolist(), "split": table["split"].tolist()}
    kinds: dict[str, Any] = dict.fromkeys(columns, Value("string"))
    kinds |= {"label": ClassLabel(names=list(labels)), "seconds": Value("float64")}
    columns |= {name: table[name].to_numpy() if name in table else [None] * len(table) for name in numbers}
    kinds |= dict.fromkeys(numbers, Value("float64"))
    if recordings is None:
        # Cast paths from text, because encoding `Audio` rows needs torchcodec even without decoding
        columns = {"audio": [os.path.abspath(path) for path in table["path"]], **columns}
        described = Dataset.from_dict(columns, features=Features({"audio": Value("string"), **kinds}))
        return described.cast_column("audio", Audio(decode=False))
    described = Dataset.from_dict(columns, features=Features(kinds))
    return concatenate_datasets([recordings.select_columns("audio"), described], axis=1)


def _seconds(table: pd.DataFrame) -> np.ndarray:
    """Return every utterance's length, from the table or from its file's header, which is read once per file."""
    start, end, seconds = (table[name].to_numpy(dtype=float) for name in NUMBERS)
    seconds = np.where(np.isnan(seconds), end - np.nan_to_num(start), seconds)
    unknown = np.isnan(seconds)
    if unknown.any():
        lengths = {path: audio_seconds(path) for path in dict.fromkeys(table["path"][unknown])}
        seconds[unknown] = table["path"][unknown].map(lengths).to_numpy() - np.nan_to_num(start[unknown])
    for row in np.flatnonzero(~(seconds > 0))[:1]:
        raise UserError(f"{table['path'].iloc[row]}: ends before {start[row]:g} s, where an utterance starts")
    return seconds


def audio_paths(dataset: Dataset) -> Iterator[tuple[str | None, bool]]:
    """Yield each recording's path, and whether the row lacks its bytes; the bytes, maybe gigabytes, are not read."""
    field = pyarrow.compute.struct_field
    for batch in dataset.select_columns("audio").with_format("arrow").iter(batch_size=1000):
        lacking = pyarrow.compute.is_null(field(batch["audio"], "bytes"))
        yield from zip(field(batch["audio"], "path").to_pylist(), lacking.to_pylist(), strict=True)
