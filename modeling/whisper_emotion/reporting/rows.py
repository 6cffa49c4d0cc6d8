"""Write predictions as rows of a JSON, JSONL or CSV file, or as a printed table."""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from whisper_emotion.errors import UserError, printable
from whisper_emotion.windows import Prediction

ENDINGS = (".json", ".jsonl", ".csv")
COLUMNS = ("file", "start", "end", "label", "unsure", "silence", "dbfs")
SILENCE = "(silence)"


class RowFile:
    """A context manager that writes predictions to a file as they come, one row each.

    JSONL and CSV files contain every row immediately. A JSON file, one list, only appears when it is complete. An
    existing file is replaced. The attribute `rows` counts the written rows.

    A row has `file`, `start`, `end` (seconds), `label`, `unsure`, `silence`, `dbfs` and the probabilities. `unsure` is
    the reason, null for a sure label. `silence` is true if the label is null. The probabilities are under
    `probabilities` by name; in CSV they are columns `p_LABEL`.

    Args:
        path: The file; its suffix determines the format.
        labels: The model's labels.
        option: The option that named the file, for messages.

    Raises:
        UserError: The suffix is unknown, or the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], labels: Sequence[str], option: str = "--output"):
        self.path, self.labels, self.option = Path(path), list(labels), option
        self.kind = self.path.suffix.lower()
        if self.kind not in ENDINGS:
            raise UserError(f"{option} {path}: must end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
        self._target = self.path.with_name(self.path.name + ".part") if self.kind == ".json" else self.path
        self.rows = self._size = 0

    def __enter__(self) -> "RowFile":
        with self._one_line_errors():
            self._file = open(self._target, "wb", buffering=0)
            if self.kind == ".csv":
                names = [*COLUMNS, *(f"p_{label}" for label in self.labels)]
                self._write(_csv_line(names))
        return self

    def write(self, prediction: Prediction) -> None:
        """Add a row.

        Raises:
            UserError: The file cannot be written.
        """
        row = _as_row(prediction)
        if self.kind == ".csv":
            named = row.pop("probabilities") or {}
            row["silence"] = str(row["silence"]).lower()
            line = _csv_line([*row.values(), *(named.get(label) for label in self.labels)])
        elif self.kind == ".jsonl":
            line = json.dumps(row) + "\n"
        else:
            line = (",\n" if self.rows else "[\n") + json.dumps(row)
        with self._one_line_errors():
            self._write(line)
        self.rows += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        whole = self.kind == ".json" and kind is None
        try:
            with suppress(OSError) if kind else self._one_line_errors():
                if whole:
                    self._write("\n]\n" if self.rows else "[]\n")
                self._file.close()
                if whole:
                    os.replace(self._target, self.path)
        finally:
            if self.kind == ".json":
                self._target.unlink(missing_ok=True)

    def _write(self, text: str) -> None:
        """Append all of a text, or nothing if the disk is full."""
        left = text.encode("utf-8", "surrogateescape")  # keeps the bytes of invalid file names
        size = self._size + len(left)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            with suppress(OSError):  # a pipe cannot be truncated
                self._file.truncate(self._size)
            raise
        self._size = size

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.option} {self.path}: cannot be written ({error.strerror}), expected a writable folder with "
                "free space"
            ) from error


def _csv_line(values: Sequence[Any]) -> str:
    """Format a line of CSV; Python's writer only quotes a carriage return if its lines end with one."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(values)
    return line.getvalue().removesuffix("\r\n") + "\n"


def table_heading(labels: Sequence[str]) -> str:
    """Format the header of the table of `table_line`."""
    return _table(labels, "start", "end", "label", labels, "file")


def table_line(prediction: Prediction, labels: Sequence[str]) -> str:
    """Format a prediction as a table row: times in seconds, label (`sad?` is unsure), all probabilities, file."""
    named = prediction.probabilities or {}
    shares = [f"{named[label]:.3f}" if label in named else "-" for label in labels]
    label = SILENCE if prediction.label is None else prediction.label + "?" * (prediction.unsure is not None)
    times = f"{prediction.start:.2f}", f"{prediction.end:.2f}"
    return _table(labels, *times, label, shares, printable(prediction.file))


def _table(labels: Sequence[str], start: str, end: str, label: str, shares: Sequence[str], file: str) -> str:
    width = max(len(SILENCE), *(len(name) + 1 for name in labels))
    columns = (f"{share:>{max(5, len(name))}}" for name, share in zip(labels, shares, strict=True))
    return f"{start:>9} {end:>9}  {label:<{width}}  {' '.join(columns)}  {file}"


def _as_row(prediction: Prediction) -> dict[str, Any]:
    """Return the fields of a prediction that all formats share."""
    named = prediction.probabilities
    return {
        "file": prediction.file,
        "start": prediction.start,
        "end": prediction.end,
        "label": prediction.label,
        "unsure": prediction.unsure,
        "silence": named is None,
        "dbfs": round(prediction.dbfs, 1),
        "probabilities": None if named is None else {label: round(value, 6) for label, value in named.items()},
    }
