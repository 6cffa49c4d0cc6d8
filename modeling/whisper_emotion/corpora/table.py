"""Read a table of recordings: CSV, TSV, JSON lines or Parquet with a file and a label column."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from whisper_emotion.corpora._utterances import require_folder
from whisper_emotion.corpora.file_search import find_files
from whisper_emotion.corpora.frames import RATINGS, gender_of, one_spelling, split_of, tidy, utterance_frame
from whisper_emotion.corpora.record import Corpus
from whisper_emotion.corpora.table_formats import FORMATS, RawTable, read_raw
from whisper_emotion.errors import UserError, printable

logger = logging.getLogger(__name__)

METADATA = tuple(f"metadata{suffix}" for suffix in (".csv", ".tsv", ".jsonl", ".parquet"))
NAMES = {
    "path": "file path filename filepath fileid audio audiopath audiofile audiofilepath wav wavpath wavfile recording "
    "clip",
    "label": "label labelname emotion emotionlabel emoclass emo class category",
    "speaker": "speaker speakerid speakername spkr spkrid spk spkid actor actorid",
    "gender": "gender sex speakergender",
    "session": "session sessionid",
    "split": "split splitset fold partition subset set",
    "start": "start starttime begin",
    "end": "end endtime",
    "seconds": "seconds duration length",
    "arousal": "arousal activation emoact",
    "valence": "valence emoval",
    "dominance": "dominance emodom",
}
"""Usual column names by content; the comparison ignores case, blanks, `_` and `-`."""

EMPTY = {"", "nan", "nat", "none", "null"}
TIME_DELTA = r"(\d+ days?)?( ?\d+:\d\d:\d\d(\.\d+)?)?"
MOST_NUMBERS = 50  # more different numeric labels are ratings, not classes


def read(
    corpus_dir: Path, record: Corpus, *, audio_dir: str | None = None, columns: str | None = None
) -> pd.DataFrame:
    """Read a table of utterances.

    Columns are found by their usual names (`NAMES`). File names are relative to the table's folder. A missing file is
    searched with other audio suffixes, and by name below that folder.

    Args:
        corpus_dir: The table, or a folder with `metadata.csv`, `.tsv`, `.jsonl` or `.parquet`. The folder may instead
            have such a file in each of its folders `train`, `validation` and `test`.
        record: The corpus's record, which may name the table, the files' folder, and the codes of emotions.
        audio_dir: Folder of relative file names; default: the table's folder. Missing absolute paths are also searched
            below it.
        columns: Names of columns, such as `label=mood,speaker=who`; they win over the usual names. `split=` ignores
            the column split.

    Returns:
        The output of `frames.utterance_frame`, in the table's order, with a column per rating. `start` is NaN for
        whole files; `end` is NaN up to the file's end. Rows without a label and repeated rows are left out.

    Raises:
        UserError: The table is missing or damaged, columns are unknown or ambiguous, files are missing, a value is not
            allowed, or rows contradict each other.
    """
    chosen = {} if columns is None else _chosen_columns(columns)
    if record.table and corpus_dir.is_dir():
        audio_dir = audio_dir or str(corpus_dir / record.table["audio_dir"])
        corpus_dir = corpus_dir / record.table["file"]
    if audio_dir is not None:
        require_folder(Path(audio_dir))
    tables = _tables(corpus_dir)
    frame = pd.concat([_read_rows(table, split, audio_dir, chosen) for table, split in tables], ignore_index=True)
    if frame.empty:
        raise UserError(f"{corpus_dir}: holds no row with a label, expected one for every file")
    spelled = one_spelling(frame["label"], corpus_dir)
    frame["label"] = pd.Series(_mapped(frame["label"].to_numpy(), spelled.__getitem__), dtype=object)
    if record.emotions:
        unknown = sorted(set(frame["label"]) - set(record.emotions))
        if unknown:
            raise UserError(f"{corpus_dir}: '{unknown[0]}' is not an emotion, expected {', '.join(record.emotions)}")
        frame["label"] = frame["label"].map(record.emotions)
    return _without_repetitions(frame, corpus_dir)


def _chosen_columns(columns: str) -> dict[str, str]:
    """Parse the user's column names, by content."""
    chosen = {}
    for part in filter(str.strip, str(columns).split(",")):
        thing, equals, name = (word.strip() for word in part.partition("="))
        thing = "path" if thing == "file" else thing
        if not equals or thing not in NAMES:
            raise UserError(f"--columns {columns}: '{part}' is not NAME=COLUMN with NAME one of {', '.join(NAMES)}")
        chosen[thing] = name
    return chosen


def _tables(corpus_dir: Path) -> list[tuple[Path, str | None]]:
    """Find the tables, each with the split that its folder's name stands for."""
    if not corpus_dir.exists():
        raise UserError(f"{corpus_dir}: does not exist, expected a table or a folder with {METADATA[0]}")
    if corpus_dir.is_file():
        return [(corpus_dir, None)]
    require_folder(corpus_dir)
    folders = [corpus_dir, *sorted(entry for entry in corpus_dir.iterdir() if entry.is_dir() and split_of(entry.name))]
    tables: list[tuple[Path, str | None]] = []
    for folder in folders:
        found = [folder / name for name in METADATA if (folder / name).is_file()]
        if len(found) > 1:
            raise UserError(f"{folder}: holds {' and '.join(path.name for path in found)}, name one of the tables")
        if found and folder == corpus_dir:
            return [(found[0], None)]
        tables += [(path, split_of(folder.name)) for path in found]
    if not tables:
        others = sorted(entry.name for entry in corpus_dir.iterdir() if entry.suffix.lower() in FORMATS)
        hint = f"name the table itself, such as {others[0]}" if others else f"expected one of {', '.join(METADATA)}"
        raise UserError(f"{corpus_dir}: holds no {METADATA[0]}, {hint}")
    return tables


def _read_rows(table: Path, split: str | None, audio_dir: str | None, chosen: dict[str, str]) -> pd.DataFrame:
    """Read the labelled rows of one table."""
    wanted = {_usual(name) for names in NAMES.values() for name in names.split()} | set(map(_usual, chosen.values()))
    raw = read_raw(table, lambda name: _usual(name) in wanted)
    values = {thing: _values(raw, thing, chosen) for thing in NAMES}
    values = {thing: column for thing, column in values.items() if column is not None}
    for thing in ("path", "label"):
        if thing not in values:
            raise UserError(
                f"{table}: has no column {NAMES[thing].split()[0]} or similar, found "
                f"{raw.found()}; name it with --columns {NAMES[thing].split()[0]}=NAME"
            )
    labels = _mapped(values["label"], lambda word: "" if (word := tidy(word)).casefold() == "nan" else word)
    kept = labels != ""
    if not kept.all():
        logger.warning("%s", printable(f"{table}: left out {(~kept).sum()} of {len(kept)} rows, which have no label"))
    raw = replace(raw, numbers=raw.numbers[kept])
    values = {thing: column[kept] for thing, column in values.items()} | {"label": labels[kept]}
    _refuse_ratings(raw, values["label"])
    times = {thing: _numbers(raw, thing, values) for thing in ("start", "end", "seconds", *RATINGS) if thing in values}
    times |= _segments(raw, times)
    columns = {
        thing: _mapped(values[thing], lambda word: None if (word := tidy(word)).casefold() in EMPTY else word)
        for thing in ("speaker", "session")
        if thing in values
    }
    if "gender" in values:
        columns["gender"] = _mapped(values["gender"], gender_of)
    if split is not None:
        columns["split"] = np.full(len(raw.numbers), split, object)
    elif "split" in values:
        columns["split"] = _splits(raw, values["split"])
    codes, names = pd.factorize(values["path"])
    paths = np.array(find_files(raw, list(names), codes, audio_dir), object)
    return utterance_frame(path=paths[codes], label=values["label"], **columns, **times)


def _usual(name: str) -> str:
    """Normalise a column's name as in `NAMES`."""
    return re.sub(r"[\s_-]", "", name).casefold()


def _values(raw: RawTable, thing: str, chosen: dict[str, str]) -> np.ndarray | None:
    """Return a content's column as stripped text; None if the table has no such column."""
    if thing in chosen:
        name = chosen[thing]
        if name and name not in raw.columns:
            raise UserError(f"--columns {thing}={name}: {raw.path} has no such column, found {raw.found()}")
        candidates = [name] if name else []
    else:
        candidates = [name for name in raw.columns if _usual(name) in NAMES[thing].split()]
    values, origin = None, ""
    for name in candidates:
        column = _mapped(raw.columns[name], str.strip)
        if values is None:
            values, origin = column, name
            continue
        clash = (values != "") & (column != "") & (values != column)
        if clash.any():
            row = raw.row(int(np.argmax(clash)))
            raise UserError(
                f"{raw.path}: columns {origin} and {name} differ ({row}), choose with --columns {thing}={origin}"
            )
        values = np.where(values == "", column, values)
    return values


def _refuse_ratings(raw: RawTable, labels: np.ndarray) -> None:
    """Raise if the labels look like ratings: more than `MOST_NUMBERS` different numbers."""
    words = pd.unique(labels)
    if len(words) > MOST_NUMBERS and pd.to_numeric(pd.Series(words), errors="coerce").notna().all():
        raise UserError(
            f"{raw.path}: its labels are {len(words)} different numbers, expected classes; name the class column with "
            "--columns label=NAME"
        )


def _numbers(raw: RawTable, thing: str, values: dict[str, np.ndarray]) -> np.ndarray:
    """Parse a column of numbers; times are in seconds, or written as `0 days 00:00:01.500000`."""
    codes, words = pd.factorize(values[thing])
    texts = pd.Series(words, dtype=object)
    empty = texts.str.casefold().isin(EMPTY)
    numbers = pd.Series(pd.to_numeric(texts.where(~empty), errors="coerce"), dtype=np.float64)
    deltas = texts.str.fullmatch(TIME_DELTA) & (thing not in RATINGS)
    numbers[deltas] = pd.to_timedelta(texts[deltas], errors="coerce").dt.total_seconds()
    expected = "expected a number, in seconds for times"
    raw.require((~empty & ~np.isfinite(numbers)).to_numpy()[codes], thing, values[thing], expected)
    if thing == "seconds":
        raw.require((numbers <= 0).to_numpy()[codes], thing, values[thing], "expected seconds above 0")
    return numbers.to_numpy()[codes]


def _segments(raw: RawTable, times: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Compute start, end and length of every row; a row that starts at 0 without an end is a whole file."""
    unknown = np.full(len(raw.numbers), np.nan)
    start, end, seconds = (times.get(thing, unknown) for thing in ("start", "end", "seconds"))
    start = np.where(np.isnan(start) & ~np.isnan(end), 0.0, start)
    raw.require((start < 0) | (end <= start), "start and end", list(zip(start, end, strict=True)),
                "expected 0 <= start < end")  # fmt: skip
    start = np.where((start == 0) & np.isnan(end), np.nan, start)
    return {"start": start, "end": end, "seconds": np.where(np.isnan(start), seconds, end - start)}


def _splits(raw: RawTable, values: np.ndarray) -> np.ndarray:
    """Parse each row's split; None if empty."""
    splits = _mapped(values, split_of)
    given = _mapped(values, lambda word: word.casefold() not in EMPTY).astype(bool)
    expected = "expected train, dev or test (--columns split= ignores this column)"
    raw.require(given & pd.isna(splits), "split", values, expected)
    return splits


def _mapped(values: np.ndarray, change: Callable[[str], object]) -> np.ndarray:
    """Apply a function to every text, called once per unique text."""
    codes, words = pd.factorize(values)
    changed = np.empty(len(words), object)
    changed[:] = [change(word) for word in words]
    return changed[codes]


def _without_repetitions(frame: pd.DataFrame, source: object) -> pd.DataFrame:
    """Drop repeated rows; raise if rows of the same recording contradict each other."""
    key = ["path", "start", "end"]
    again = frame.duplicated(key)
    if not again.any():
        return frame
    twins = frame[frame.duplicated(key, keep=False)]
    for thing in ("label", "speaker", "split"):
        different = twins.drop_duplicates([*key, thing])
        clash = different[different.duplicated(key, keep=False)]
        if len(clash):
            path = clash["path"].iloc[0]
            first, second = clash.loc[clash["path"] == path, thing].iloc[:2]
            raise UserError(f"{source}: has {printable(path)} with {thing} {first} and with {second}, expected one")
    logger.warning("%s", printable(f"{source}: left out {again.sum()} of {len(frame)} rows, which are duplicates"))
    return frame.loc[~again].reset_index(drop=True)
