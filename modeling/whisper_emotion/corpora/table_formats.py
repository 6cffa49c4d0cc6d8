"""Read CSV, TSV, JSON lines and Parquet as tables of text, with the wanted columns only."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from whisper_emotion.errors import UserError, printable, reading
from whisper_emotion.recordings import is_audio

FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
EXPECTED = "a table with a header, as CSV, TSV or JSON lines in UTF-8, or as Parquet"
MOST_NAMES = 30  # column names that a message lists

Wanted = Callable[[str], bool]


@dataclass
class RawTable:
    """Some columns of a table.

    Args:
        path: The table.
        names: Names of all columns, in order.
        columns: Values of the wanted columns, `object` arrays of text; missing values are empty.
        numbers: Each row's number for messages: line of a text file, row from 1 of a Parquet file.
    """

    path: Path
    names: list[str]
    columns: dict[str, np.ndarray]
    numbers: np.ndarray

    def found(self) -> str:
        """Return the names of the columns, for a message."""
        more = ", …" if len(self.names) > MOST_NAMES else ""
        return printable(", ".join(self.names[:MOST_NAMES]) + more)

    def row(self, index: int) -> str:
        """Return a row's name, for a message."""
        return f"{'row' if self.path.suffix.lower() == '.parquet' else 'line'} {self.numbers[index]}"

    def require(self, wrong: np.ndarray, thing: str, values: Any, expected: str) -> None:
        """Raise `UserError` for the first wrong row."""
        if wrong.any():
            index = int(np.argmax(wrong))
            value = values[index]
            said = f"'{printable(value)}'" if isinstance(value, str) else " and ".join(f"{part:g}" for part in value)
            raise UserError(f"{self.path}: {self.row(index)} has {thing} {said}, {expected}")


def read_raw(table: Path, wanted: Wanted) -> RawTable:
    """Read the wanted columns of a table.

    Args:
        table: The file; its suffix is one of `FORMATS`.
        wanted: Function of a column's name that returns whether to read it.

    Raises:
        UserError: The suffix is unknown, the file is damaged, empty or of another format, the header is bad, or a row
            has the wrong length.
    """
    suffix = table.suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"{table}: unknown format, expected one of {', '.join(FORMATS)}")
    with reading(table, EXPECTED):
        if not table.stat().st_size:
            raise UserError(f"{table}: is empty, expected {EXPECTED}")
        if suffix == ".parquet":
            raw = _read_parquet(table, wanted)
        else:
            _require_utf8(table)
            raw = _read_json(table, wanted) if suffix in (".jsonl", ".ndjson") else _read_csv(table, wanted)
    if not len(raw.numbers):
        raise UserError(f"{table}: has no rows, expected {EXPECTED}")
    return raw


def _require_utf8(table: Path) -> None:
    """Raise unless a file is UTF-8 text."""
    with open(table, "rb") as file:
        head = file.read(4096)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise UserError(f"{table}: is UTF-16, save it as UTF-8")
        if b"\0" in head:
            raise UserError(f"{table}: is not a text file, expected {EXPECTED}")
        file.seek(0)
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                raise UserError(f"{table}: line {number} is not UTF-8, save the table as UTF-8") from None


def _read_csv(table: Path, wanted: Wanted) -> RawTable:
    """Read delimited text. In a table with tabs, quotes are literal unless the table only parses with quoting."""
    with open(table, encoding="utf-8-sig", newline="") as file:
        header = next((line for line in file if line.strip()), "")
    delimiter = max("\t;,|", key=header.count)
    if delimiter == "\t" and '"' not in header:
        try:
            return _read_delimited(table, wanted, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        except UserError as plain:
            try:
                return _read_delimited(table, wanted, delimiter=delimiter, strict=True)
            except UserError:
                raise plain from None
    return _read_delimited(table, wanted, delimiter=delimiter, strict=True)


def _read_delimited(table: Path, wanted: Wanted, **dialect: Any) -> RawTable:
    """Read delimited text in a dialect of `csv`."""
    with open(table, encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, **dialect)
        try:
            names = [name.strip() for name in next(filter(None, rows), [""])]
            _check_header(table, names)
            places = [place for place, name in enumerate(names) if name and wanted(name)]
            values, numbers = [], []
            for row in rows:
                if len(row) == len(names):
                    values.append([row[place] for place in places])
                    numbers.append(rows.line_num)
                elif "".join(row).strip():
                    raise UserError(f"{table}: line {rows.line_num} has {len(row)} values, expected {len(names)}")
        except csv.Error as error:
            raise UserError(f"{table}: line {rows.line_num}: {error}, expected paired quotes") from error
    columns = np.array(values, object).reshape(len(values), len(places)).T
    kept = {names[place]: column for place, column in zip(places, columns, strict=True)}
    return RawTable(table, names, kept, np.array(numbers, np.int64))


def _check_header(table: Path, names: list[str]) -> None:
    """Raise unless the first line holds column names; only the first, an index of pandas, may be empty."""
    for name in names:
        if is_audio(name):
            raise UserError(f"{table}: begins with '{name}', expected a header such as file,label,speaker")
        if name and names.count(name) > 1:
            raise UserError(f"{table}: has two columns {name}, expected different names")
    if not all(names[1:]) or names == [""]:
        raise UserError(f"{table}: has columns without a name, expected a header such as file,label,speaker")


def _read_json(table: Path, wanted: Wanted) -> RawTable:
    """Read a table of one JSON object per line."""
    names: dict[str, None] = {}
    values: dict[str, list[str]] = {}
    numbers: list[int] = []
    with open(table, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                if "\\u" in line:
                    json.dumps(entry, ensure_ascii=False).encode()  # raises for lone surrogates
            except ValueError as error:
                raise UserError(f"{table}: line {number} is not JSON ({error}), expected one object a line") from error
            if not isinstance(entry, dict):
                raise UserError(f"{table}: line {number} is not a JSON object, expected one per line")
            for name in entry:
                if name not in names and wanted(name):
                    values[name] = [""] * len(numbers)
            names |= dict.fromkeys(entry)
            numbers.append(number)
            for name, column in values.items():
                column.append(_text(entry.get(name)))
    columns = {name: np.array(column, object) for name, column in values.items()}
    return RawTable(table, list(names), columns, np.array(numbers, np.int64))


def _text(value: Any) -> str:
    """Return a JSON value as text; for a Hugging Face audio struct, its path."""
    if isinstance(value, dict):
        value = value.get("path")
    return "" if value is None else str(value)


def _read_parquet(table: Path, wanted: Wanted) -> RawTable:
    """Read a Parquet table, with class ids of `datasets` as names."""
    from datasets import ClassLabel, Features

    file = pq.ParquetFile(table)
    schema = file.schema_arrow
    _check_header(table, schema.names)
    kept = [name for name in schema.names if wanted(name)]
    for name in kept:
        if pa.types.is_nested(schema.field(name).type):
            raise UserError(
                f"{table}: column {name} does not hold text or numbers, expected paths of files; read a dataset that "
                "contains its recordings with --corpus hub:NAMESPACE/NAME"
            )
    with reading(table, "features of datasets in its metadata"):
        features = Features.from_arrow_schema(schema) if b"huggingface" in (schema.metadata or {}) else {}
    columns = {}
    for name in kept:
        column = file.read([name]).column(0)
        feature = features.get(name)
        columns[name] = _texts(column, feature.names if isinstance(feature, ClassLabel) else None)
    return RawTable(table, schema.names, columns, np.arange(1, file.metadata.num_rows + 1))


def _texts(column: pa.ChunkedArray, classes: Iterable[str] | None) -> np.ndarray:
    """Return a column's values as text: class ids as names, durations as seconds."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if classes is not None:
        known = pc.if_else(pc.less(column, 0), None, column)  # -1 is the unknown class of datasets
        column = pc.take(pa.array(classes), known)
    if pa.types.is_duration(column.type):
        column = pc.divide(column.cast(pa.duration("ns")).cast(pa.int64()).cast(pa.float64()), 1e9)
    return column.cast(pa.string()).fill_null("").to_numpy()
