"""Rows of predictions come back from every kind of file as they were, whatever the recording's name."""

import csv
import json
import os

import pytest
from conftest import full_disk

from whisper_emotion.errors import UserError
from whisper_emotion.reporting.rows import RowFile, table_heading, table_line
from whisper_emotion.windows import Prediction

NAMES = [
    "plain.wav", "two\nlines.wav", 'a "quoted", name.wav', "comma,semi;.wav", "tab\tcarriage\r.wav", "صوت.wav",
    "ü é.wav", "  blanks .wav", "=1+1.wav", "back\\slash.wav", os.fsdecode(b"latin\xe9.wav"),
]  # fmt: skip
LABELS = ["angry", "so, calm", "$sad$"]
PREDICTIONS = [
    prediction
    for place, name in enumerate(NAMES)
    for prediction in (
        Prediction(
            name, 0.0, 2.5 + place / 16_000, -23.456, dict(zip(LABELS, [0.25, 0.123456, 0.626544], strict=True))
        ),
        Prediction(name, 1.25, 3.75, -200.0, None),
        Prediction(name, 2.0, 4.0, -20.0, dict(zip(LABELS, [0.25, 0.25, 0.5], strict=True)), sure_probability=0.6),
    )
]


def rows_of(path):
    """A file's rows as dictionaries of the same form."""
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        named = {label: row.pop(f"p_{label}") for label in LABELS}
        row["silence"] = {"true": True, "false": False}[row["silence"]]
        assert row["silence"] == (set(named.values()) == {""})
        row["probabilities"] = None if row["silence"] else {label: float(value) for label, value in named.items()}
        row |= {name: float(row[name]) for name in ("start", "end", "dbfs")} | {
            "label": row["label"] or None,
            "unsure": row["unsure"] or None,
        }
    return rows


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "CSV"])
def test_every_name_comes_back(tmp_path, ending):
    path = tmp_path / f"rows.{ending}"
    path.write_text("an earlier run's")
    with RowFile(path, LABELS) as rows:
        for prediction in PREDICTIONS:
            rows.write(prediction)
    found = rows_of(path.rename(path.with_suffix(path.suffix.lower())))
    assert [list(row) for row in found] == [list(found[0])] * len(PREDICTIONS)
    for row, prediction in zip(found, PREDICTIONS, strict=True):
        assert row == {
            "file": prediction.file,
            "start": prediction.start,
            "end": prediction.end,
            "label": None if prediction.probabilities is None else "$sad$",
            "unsure": "low probability" if prediction.sure_probability else None,
            "silence": prediction.probabilities is None,
            "dbfs": round(prediction.dbfs, 1),
            "probabilities": prediction.probabilities,
        }
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_rows_are_there_as_soon_as_they_are_written(tmp_path, ending):
    path = tmp_path / f"rows.{ending}"
    with RowFile(path, LABELS) as rows:
        for number, prediction in enumerate(PREDICTIONS, start=1):
            rows.write(prediction)
            assert len(rows_of(path)) == number


def test_json_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text("[]")
    with pytest.raises(RuntimeError), RowFile(path, LABELS) as rows:
        rows.write(PREDICTIONS[0])
        raise RuntimeError
    assert path.read_text() == "[]" and list(tmp_path.iterdir()) == [path]
    with RowFile(path, LABELS) as rows:
        rows.write(PREDICTIONS[0])
        assert path.read_text() == "[]"
    assert len(rows_of(path)) == 1


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv"])
def test_no_predictions_make_an_empty_file(tmp_path, ending):
    with RowFile(tmp_path / f"rows.{ending}", LABELS):
        pass
    assert rows_of(tmp_path / f"rows.{ending}") == []


def test_what_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"^--segments .*rows.txt: must end in .json, .jsonl or .csv$"):
        RowFile(tmp_path / "rows.txt", LABELS, "--segments")
    with pytest.raises(
        UserError, match=r"^--output .*rows.csv: cannot be written \(No such file or directory\), expected"
    ):
        RowFile(tmp_path / "nowhere" / "rows.csv", LABELS).__enter__()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("ending", ["json", "jsonl", "csv"])
def test_a_full_disk_is_one_line(tmp_path, ending):
    path = tmp_path / f"rows.{ending}"
    (tmp_path / "rows.json.part" if ending == "json" else path).symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"rows\.\w+: cannot be written \(No space left on device\)"):
        with RowFile(path, LABELS) as rows:
            for prediction in PREDICTIONS:
                rows.write(prediction)


def test_the_table_has_a_line_a_prediction_and_columns_below_one_another():
    lines = [table_line(prediction, LABELS) for prediction in PREDICTIONS]
    assert not any("\n" in line or "\r" in line for line in lines)
    assert lines[0] == "     0.00      2.50  $sad$      0.250    0.123 0.627  plain.wav"
    assert lines[1] == "     1.25      3.75  (silence)      -        -     -  plain.wav"
    assert table_heading(LABELS) == "    start       end  label      angry so, calm $sad$  file"
    assert lines[2] == "     2.00      4.00  $sad$?     0.250    0.250 0.500  plain.wav"
    assert lines[3].endswith("two\\nlines.wav")
    "".join(lines).encode("utf-8")  # also the name that is no text


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_full_disk_leaves_whole_rows(tmp_path, ending):
    path = tmp_path / f"rows.{ending}"
    with RowFile(path, LABELS) as rows:
        rows.write(PREDICTIONS[0])
    size = path.stat().st_size
    with pytest.raises(UserError, match="cannot be written"), RowFile(path, LABELS) as rows:
        rows.write(PREDICTIONS[0])
        with full_disk(size + 7):  # room for a part of the next one
            rows.write(PREDICTIONS[0])
    assert path.stat().st_size == size
