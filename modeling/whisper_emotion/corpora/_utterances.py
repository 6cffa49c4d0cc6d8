"""What every corpus reader shares: an utterance, the walk over its files, and the table that comes of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.compute
from datasets import Audio, ClassLabel, Dataset, Features, Value

from whisper_emotion.audio import audio_seconds
from whisper_emotion.errors import UserError
from whisper_emotion.recordings import walk


@dataclass(frozen=True)
class Utterance:
    """One labelled recording.

    Args:
        path: The sound file.
        label: Name of its class.
        speaker: Who speaks, unique within the corpus. Where nobody knows, the file's path relative to the corpus,
            without its ending: it has a slash, which no known speaker's name has.
        gender: `female`, `male`, or `None` where it is not known.
        session: The recording session, or `None` where the corpus has none.
        ratings: Emotional dimensions by name, the same names in all of a corpus; empty where it has none.
    """

    path: Path
    label: str
    speaker: str
    gender: str | None = None
    session: str | None = None
    ratings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Corpus:
    """What is known of a corpus, and how it is read.

    Args:
        labels: Its classes; `None` where the folder decides.
        published: How many utterances its owners publish; `None` where that has no meaning.
        layout: What its files look like, for messages.
        read: Called with the corpus's folder and with options; its keywords are the corpus's options.
    """

    labels: Sequence[str] | None
    published: int | None
    layout: str
    read: Callable[..., list[Utterance]]


def audio_files(root: Path) -> list[Path]:
    """All sound files (`SUFFIXES`) below a folder (in any case), sorted by name and then by path.

    Hidden files and folders are left out, and so are the `._*` files that macOS leaves in archives. Links to folders
    are followed, each folder once.

    Raises:
        UserError: The folder is missing, is a file or may not be read, or a file's name is not valid UTF-8.
    """
    require_folder(root)
    found = list(walk(root))
    for path in found:
        if os.fsencode(path).decode("utf-8", errors="ignore") != str(path):
            raise UserError(f"{str(path)!a}: has a name that is not valid UTF-8, rename it")
    return sorted(found, key=lambda path: (path.stem, path.as_posix()))


def named_files(root: Path) -> dict[str, Path]:
    """`audio_files` by stem, for corpora in which a file's name says who speaks how.

    Raises:
        UserError: As `audio_files`, or a name is there twice (some archives hold the corpus two times over: with a
            copy in both parts of a fold, the test is heard in training).
    """
    named: dict[str, Path] = {}
    for path in audio_files(root):
        other = named.setdefault(path.stem, path)
        if other != path:
            raise UserError(
                f"{path}: has the name of {other}, too, expected each recording once (your own: --corpus folder)"
            )
    return named


def require_folder(path: Path) -> None:
    """Raise `UserError` unless the path is an existing folder that may be read."""
    if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
        raise UserError(f"{path}: may not be read by this user, expected a readable folder")
    if not path.is_dir():
        wrong = "is a file" if path.exists() else "does not exist"
        raise UserError(f"{path}: {wrong}, expected a folder of the corpus")


def inner_folder(root: Path, name: str) -> Path:
    """`root/name` where it exists, otherwise `root`: users may name the corpus or the folder that holds its files."""
    return root / name if (root / name).is_dir() else root


def to_dataset(utterances: Iterable[Utterance], labels: Sequence[str]) -> Dataset:
    """The table of a corpus, one row an utterance.

    Args:
        utterances: The rows, in order, one or more. Their files' headers are read here.
        labels: Names of all classes, in the order of their numbers.

    Returns:
        `Dataset` with the columns `audio` (`Audio(decode=False)`: absolute path, no bytes), `label` (`ClassLabel`),
        `speaker`, `gender`, `session` (strings, the last two `None` where unknown), `seconds`, and one column
        (`float64`) for each rating.

    Raises:
        UserError: A file is missing, unreadable or empty.
    """
    rows = [
        {
            "audio": os.path.abspath(one.path),
            "label": labels.index(one.label),
            "speaker": one.speaker,
            "gender": one.gender,
            "session": one.session,
            "seconds": audio_seconds(one.path),
            **one.ratings,
        }
        for one in utterances
    ]
    features = dict.fromkeys(rows[0], Value("float64"))
    features |= dict.fromkeys(("audio", "speaker", "gender", "session"), Value("string"))
    features |= {"label": ClassLabel(names=list(labels))}
    # Paths go in as text and are cast: encoding them as `Audio` rows would need torchcodec even without decoding.
    return Dataset.from_list(rows, features=Features(features)).cast_column("audio", Audio(decode=False))


def audio_paths(dataset: Dataset) -> Iterator[tuple[str | None, bool]]:
    """Each recording's path, and whether the row lacks its bytes, which are not read: they may be gigabytes."""
    field = pyarrow.compute.struct_field
    for batch in dataset.select_columns("audio").with_format("arrow").iter(batch_size=1000):
        lacking = pyarrow.compute.is_null(field(batch["audio"], "bytes"))
        yield from zip(field(batch["audio"], "path").to_pylist(), lacking.to_pylist(), strict=True)
