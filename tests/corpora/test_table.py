import math
import os
import unicodedata
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from conftest import silent_wav, write_files
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Value

from whisper_emotion.collator import read_utterance
from whisper_emotion.corpora import load_corpus, table
from whisper_emotion.corpora.records import CORPORA
from whisper_emotion.corpora.splits import make_folds
from whisper_emotion.errors import UserError

read = partial(table.read, record=CORPORA["table"])

COLUMNS = ["path", "label", "speaker", "gender", "session", "split", "start", "end", "seconds"]
HERE = ("a.wav", "b.wav", "c.wav")


def written(folder, content, name="table.csv", files=HERE):
    write_files(folder, dict.fromkeys(files, b"") | {name: content})
    return folder / name


def brief(frame, *things):
    """The rows as tuples: the file's name and label, and whatever else is asked for."""
    names = [os.path.basename(path) for path in frame["path"]]
    return list(zip(names, frame["label"], *(frame[thing] for thing in things), strict=True))


ROWS = [("a.wav", "sad"), ("b.wav", "angry")]
COMPOSED, DECOMPOSED = unicodedata.normalize("NFC", "fröhlich"), unicodedata.normalize("NFD", "fröhlich")

READ = {
    "comma": ("file,label\na.wav,sad\nb.wav,angry\n", ROWS),
    "semicolon": ("file;label\na.wav;sad\nb.wav;angry\n", ROWS),
    "tab in a csv": ("file\tlabel\na.wav\tsad\nb.wav\tangry\n", ROWS),
    "bar": ("file|label\na.wav|sad\nb.wav|angry\n", ROWS),
    "byte order mark": ("\ufefffile,label\na.wav,sad\nb.wav,angry\n", ROWS),
    "Windows line ends": ("file,label\r\na.wav,sad\r\nb.wav,angry\r\n", ROWS),
    "old Mac line ends": ("file,label\ra.wav,sad\rb.wav,angry\r", ROWS),
    "no last line end": ("file,label\na.wav,sad\nb.wav,angry", ROWS),
    "blank lines": ("\n\nfile,label\n\na.wav,sad\n  \nb.wav,angry\n,\n", ROWS),
    "quoted commas": ('file,text,label\na.wav,"Oh, no",sad\nb.wav,"He said ""no"", twice",angry\n', ROWS),
    "quoted line break": ('file,text,label\na.wav,"Oh,\nno",sad\nb.wav,x,angry\n', ROWS),
    "inch marks": ('file,text,label\na.wav,5" wide,sad\nb.wav,6" wide,angry\n', ROWS),
    "stray quotes between tabs": ('file\ttext\tlabel\na.wav\t"Oh\tsad\nb.wav\tno"\tangry\n', ROWS),
    "quoted tabs": ('file\ttext\tlabel\na.wav\t"Oh\tno"\tsad\nb.wav\tx\tangry\n', ROWS),
    "quoted everything between tabs": ('"file"\t"label"\n"a.wav"\t"sad"\n"b.wav"\t"angry"\n', ROWS),
    "capital names": ("FILE NAME,Emo Class\na.wav,sad\nb.wav,angry\n", [("a.wav", "sad"), ("b.wav", "angry")]),
    "an index of pandas": (",file,label\n0,a.wav,sad\n1,b.wav,angry\n", ROWS),
    "stray blanks": (" file , label\n a.wav , sad \nb.wav,\u00a0angry\t\n", ROWS),
    "rows without a label": ("file,label\na.wav,sad\nx.wav,\nb.wav,angry\ny.wav,nan\n", ROWS),
    "repeated rows": ("file,label\na.wav,sad\n./a.wav,sad\nb.wav,angry\nb.wav,Angry\nc.wav,angry\n",
                      [*ROWS, ("c.wav", "angry")]),
    "labels in two forms": (f"file,label\na.wav,{DECOMPOSED}\nb.wav,{COMPOSED}\n",
                            [("a.wav", COMPOSED), ("b.wav", COMPOSED)]),
    "labels that pandas would drop": ("file,label\na.wav,NA\nb.wav,None\n", [("a.wav", "NA"), ("b.wav", "None")]),
    "few numbers as labels": ("file,label\na.wav,1\nb.wav,2\n", [("a.wav", "1"), ("b.wav", "2")]),
    "the same labels twice": ("file,label,emotion\na.wav,sad,sad\nb.wav,,angry\n", ROWS),
    "a nameless column, empty otherwise": ("file,label,x\na.wav,sad,\nb.wav,angry,\n", ROWS),
    "other endings": ("file,label\na.flac,sad\nB.WAV,angry\n", ROWS),
    "no endings": ("file,label\na,sad\nb,angry\n", ROWS),
    "Windows separators": ("file,label\n.\\a.wav,sad\nno\\..\\b.wav,angry\n", ROWS),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_read_takes_tables_of_many_kinds(tmp_path, case):
    content, expected = READ[case]
    frame = read(written(tmp_path, content))
    assert list(frame.columns) == COLUMNS and brief(frame) == expected
    assert all(os.path.isabs(path) and os.path.isfile(path) for path in frame["path"])
    assert frame[["speaker", "gender", "session", "split", "start", "end", "seconds"]].isna().all(axis=None)


HEADER = "expected a header such as file,label,speaker"
REFUSED = {
    "an empty file": ("", r"is empty, expected a table with a header"),
    "blank lines alone": ("\n \n", f"has columns without a name, {HEADER}"),
    "a header alone": ("file,label\n", "has no rows, expected a table with a header"),
    "no header": ("a.wav,sad\nb.wav,angry\n", f"begins with 'a.wav', {HEADER}"),
    "nameless columns": ("file,label,\na.wav,sad,1\n", f"has columns without a name, {HEADER}"),
    "doubled columns": ("file,label,label\na.wav,sad,x\n", "has two columns label, expected different names"),
    "no files": ("utterance,label\na.wav,sad\n", "has no column file or similar, found utterance, label; "
                 "name it with --columns file=NAME"),
    "no labels": ("file,mood\na.wav,sad\n", "has no column label or similar, found file, mood; "
                  "name it with --columns label=NAME"),
    "empty labels alone": ("file,label\na.wav,\n", "holds no row with a label, expected one for every file"),
    "a short row": ("file,label\na.wav,sad\nb.wav\n", "line 3 has 1 values, expected 2"),
    "a long row": ("file,label\na.wav,sad\n\nb.wav,sad,x\n", "line 4 has 3 values, expected 2"),
    "an open quote": ('file,label,text\na.wav,sad,"Oh\nb.wav,sad,x\n', "line 3: unexpected end of data, "
                      "expected paired quotes"),
    "quotes that swallow a row": ('file,label,text\na.wav,sad,"Oh\nb.wav,sad,"no\n', "line 3: ',' expected after"),
    "UTF-16": ("file,label\na.wav,sad\n".encode("utf-16"), "is UTF-16, save it as UTF-8"),
    "Latin-1": ("file,label\na.wav,sad\nb.wav,fröhlich\n".encode("latin-1"), "line 3 is not UTF-8, save the table as "
                "UTF-8"),
    "a sound file": (b"RIFF\x24\0\0\0WAVEfmt ", "is not a text file, expected a table with a header"),
    "two columns of labels": ("file,label,emotion\na.wav,sad,sad\nb.wav,3,angry\n", "columns label and emotion differ "
                              r"(line 3), choose with --columns label=label"),
    "two columns of files": ("file,path,label\na.wav,b.wav,sad\n", "columns file and path differ (line 2), choose "
                             "with --columns path=file"),
    "ratings as labels": ("file,label\n" + "".join(f"a.wav,{number / 7}\n" for number in range(60)),
                          "its labels are 60 different numbers, expected classes; name the class column with "
                          "--columns label=NAME"),
    "numbered folds": ("file,label,fold\na.wav,sad,1\n", "line 2 has split '1', expected train, dev or test "
                       "(--columns split= ignores this column)"),
    "two labels for a file": ("file,label\na.wav,sad\na.wav,angry\n", "a.wav with label sad and with angry, "
                              "expected one"),
    "two splits for a file": ("file,label,set\na.wav,sad,train\na.wav,sad,test\n", "a.wav with split train and with "
                              "test, expected one"),
    "two speakers for a file": ("file,label,spk\na.wav,sad,anna\na.wav,sad,bob\n", "a.wav with speaker anna and with "
                                "bob, expected one"),
    "a negative start": ("file,label,start,end\na.wav,sad,-1,2\n", "line 2 has start and end -1 and 2, "
                         "expected 0 <= start < end"),
    "an end before the start": ("file,label,start,end\na.wav,sad,1,2\na.wav,sad,3,3\n", "line 3 has start and end "
                                "3 and 3, expected 0 <= start < end"),
    "a start that is no number": ("file,label,start\na.wav,sad,soon\n", "line 2 has start 'soon', expected a number, "
                                  "in seconds for times"),
    "a decimal comma": ("file;label;end\na.wav;sad;1,5\n", "line 2 has end '1,5', expected a number"),
    "no length": ("file,label,duration\na.wav,sad,0\n", "line 2 has seconds '0', expected seconds above 0"),
    "a rating that is no number": ("file,label,valence\na.wav,sad,high\n", "line 2 has valence 'high', "
                                   "expected a number"),
    "an endless length": ("file,label,seconds\na.wav,sad,inf\n", "line 2 has seconds 'inf', expected a number"),
    "missing files": ("file,label\na.wav,sad\nx.wav,sad\ny.wav,sad\n", "2 of 3 files are missing, the first is "
                      "'x.wav' (line 3), not found below "),
    "an empty name of a file": ("file,label\na.wav,sad\n,sad\n", "1 of 2 files are missing, the first is '' (line 3)"),
    "a name with a null": ("file,label\na.wav,sad\n" + "b.wav,sad\n" * 600 + "x\0.wav,sad\n", "the first is 'x"),
    "paths of another machine": ("file,label\nC:\\data\\a.wav,sad\n", r"the first is 'C:\data\a.wav' (line 2), a "
                                 "path of another machine; give the files' folder by --audio_dir"),
    "absolute paths that are gone": ("file,label\n/gone/a.wav,sad\n", "1 of 1 files are missing, the first is "
                                     "'/gone/a.wav'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_read_refuses_damaged_tables_in_one_line(tmp_path, case):
    content, message = REFUSED[case]
    table = written(tmp_path, content)
    with pytest.raises(UserError) as caught:
        read(table)
    assert str(caught.value).startswith(f"{table}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t.xlsx", b"PK\3\4", "unknown format, expected one of .csv, .tsv, .jsonl, .ndjson, .parquet"),
        ("t.jsonl", '{"file": "a.wav", "label": "sad"}\n{"file"\n', "line 2 is not JSON"),
        ("t.jsonl", '[{"file": "a.wav", "label": "sad"}]\n', "line 1 is not a JSON object, expected one per line"),
        ("t.jsonl", '{"file": "a.wav"}\n', "has no column label or similar, found file; name it"),
        ("t.jsonl", "[" * 100_000, "RecursionError"),
        ("t.jsonl", '{"file": "a.wav", "label": "\\ud800"}\n', "surrogates not allowed"),
        ("t.parquet", b"file,label\na.wav,sad\n", "Parquet magic bytes not found"),
    ],
)
def test_read_refuses_other_damaged_files_in_one_line(tmp_path, name, content, message):
    table = written(tmp_path, content, name)
    with pytest.raises(UserError) as caught:
        read(table)
    assert str(caught.value).startswith(f"{table}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_read_understands_speakers_genders_sessions_and_splits(tmp_path):
    table = written(
        tmp_path,
        "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set,session\n"
        "a.wav,A,4.5,2,3,   12,Female,Train,1\nb.wav,S,,3,1,Unknown,m,Development,\nc.wav,X,1,1,1,,Unknown,Test2,2\n",
    )
    frame = read(table)
    assert list(frame.columns) == [*COLUMNS, "arousal", "valence", "dominance"]
    assert brief(frame, "speaker", "gender", "split", "session") == [
        ("a.wav", "A", "12", "female", "train", "1"),
        ("b.wav", "S", "Unknown", "male", "dev", None),
        ("c.wav", "X", None, None, "test", "2"),
    ]
    assert frame["valence"].tolist() == [2, 3, 1]
    assert frame["arousal"].tolist()[::2] == [4.5, 1] and math.isnan(frame["arousal"][1])


def test_read_takes_segments_in_seconds_and_as_time_deltas(tmp_path):
    table = written(
        tmp_path,
        "file,start,end,emotion,duration\na.wav,0 days,0 days 00:00:01.500000,sad,9\n"
        "a.wav,00:00:01.5,NaT,angry,9\nb.wav,1,2.5,sad,9\nb.wav,,1,angry,9\nc.wav,0,,sad,9\n",
    )
    frame = read(table)
    numbers = frame[["start", "end", "seconds"]].to_numpy()
    expected = [[0, 1.5, 1.5], [1.5, np.nan, np.nan], [1, 2.5, 1.5], [0, 1, 1], [np.nan, np.nan, 9]]
    np.testing.assert_array_equal(numbers, expected)


def test_read_takes_json_lines(tmp_path):
    lines = (
        '{"file_name": "a.wav", "label": "sad", "start": 0.5, "end": 1, "speaker": 7}\n\n'
        '{"label": "angry", "audio": {"path": "b.wav", "bytes": null}, "speaker": null}\n'
        '{"file_name": "c.wav", "label": NaN}\n'
    )
    frame = read(written(tmp_path, lines, "t.jsonl"))
    assert brief(frame, "speaker") == [("a.wav", "sad", "7"), ("b.wav", "angry", None)]
    np.testing.assert_array_equal(frame["start"], [0.5, np.nan])


def test_read_takes_parquet_of_pandas(tmp_path):
    path = written(tmp_path, b"", "t.parquet")
    times = pd.to_timedelta(["0s", "1.5s"]), pd.to_timedelta(["1.5s", None])
    frame = pd.DataFrame({"emotion": pd.Categorical(["sad", "angry"]), "speaker": [1, 2], "x": [[1], [2]]})
    frame.index = pd.MultiIndex.from_arrays([["a.wav", "b.wav"], *times], names=["file", "start", "end"])
    frame.to_parquet(path)
    frame = read(path)
    assert brief(frame, "speaker", "start") == [("a.wav", "sad", "1", 0), ("b.wav", "angry", "2", 1.5)]
    assert frame["seconds"][0] == 1.5


def test_read_takes_numbered_classes_of_datasets_as_their_names(tmp_path):
    path = written(tmp_path, b"", "t.parquet")
    features = Features({"file": Value("string"), "label": ClassLabel(names=["angry", "sad"])})
    Dataset.from_dict({"file": list(HERE), "label": [1, 0, -1]}, features=features).to_parquet(path)
    assert brief(read(path)) == [("a.wav", "sad"), ("b.wav", "angry")]


def test_read_refuses_parquet_with_recordings_inside(tmp_path):
    path = written(tmp_path, b"", "t.parquet")
    pq.write_table(pa.table({"audio": [{"path": "a.wav", "bytes": b"x"}], "label": ["sad"]}), path)
    with pytest.raises(UserError, match="column audio does not hold text or numbers, expected paths of files; .*hub:"):
        read(path)


def test_columns_of_the_user_win(tmp_path):
    table = written(tmp_path, "file,label,mood,who,fold\na.wav,1,sad,anna,1\nb.wav,2,angry,bob,2\n")
    frame = read(table, columns="label = mood, speaker=who, split=")
    assert brief(frame, "speaker", "split") == [("a.wav", "sad", "anna", None), ("b.wav", "angry", "bob", None)]


@pytest.mark.parametrize(
    "columns, message",
    [
        ("label=moods", "--columns label=moods: .* has no such column, found file, label"),
        ("labels=label", "--columns labels=label: 'labels=label' is not NAME=COLUMN with NAME one of path, label, sp"),
        ("label", "--columns label: 'label' is not NAME=COLUMN"),
        (5, "--columns 5: '5' is not NAME=COLUMN"),
        ("label=", "has no column label or similar, found file, label"),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path, columns, message):
    with pytest.raises(UserError, match=message):
        read(written(tmp_path, "file,label\na.wav,sad\n"), columns=columns)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_a_folder_with_metadata_is_its_table(tmp_path, suffix):
    content = {
        "csv": "file_name,label\na.wav,sad\n",
        "tsv": "file_name\tlabel\na.wav\tsad\n",
        "jsonl": '{"file_name": "a.wav", "label": "sad"}\n',
    }[suffix]
    written(tmp_path, content, f"metadata.{suffix}")
    assert brief(read(tmp_path)) == [("a.wav", "sad")]


@pytest.mark.filterwarnings("error")
def test_folders_of_metadata_are_splits(tmp_path):
    names = {"train": "a.wav,sad,0.5", "validation": "b.wav,,", "test": "a.wav,angry,"}
    files = {f"{split}/metadata.csv": f"file_name,label,valence\n{row}\n" for split, row in names.items()}
    write_files(tmp_path, files | {"train/a.wav": b"", "validation/b.wav": b"", "test/a.wav": b"", "docs/x.txt": b""})
    frame = read(tmp_path)
    assert brief(frame, "split") == [("a.wav", "angry", "test"), ("a.wav", "sad", "train")]
    assert frame["valence"][1] == 0.5


@pytest.mark.parametrize(
    "names, message",
    [
        ([], "holds no metadata.csv, expected one of metadata.csv, metadata.tsv, metadata.jsonl, metadata.parquet"),
        (["data.tsv", "x.csv"], "holds no metadata.csv, name the table itself, such as data.tsv"),
        (["metadata.csv", "metadata.jsonl"], "holds metadata.csv and metadata.jsonl, name one of the tables"),
    ],
)
def test_a_folder_without_one_table_is_refused(tmp_path, names, message):
    write_files(tmp_path, dict.fromkeys(names, b"x"))
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"gone\.csv: does not exist, expected a table or a folder with metadata\.csv"):
        read(tmp_path / "gone.csv")


def test_read_says_what_it_leaves_out(tmp_path, caplog):
    table = written(tmp_path, "file,label\na.wav,sad\na.wav,Sad\nb.wav,sad\nb.wav,\nc.wav,\n")
    assert len(read(table)) == 2
    assert caplog.messages == [
        f"{table}: left out 2 of 5 rows, which have no label",
        f"{table}: merged labels that differ only in spelling: 'sad' = 'Sad'",
        f"{table}: left out 1 of 3 rows, which are duplicates",
    ]


def test_a_table_is_loaded_with_its_parts_of_files_and_its_split(tmp_path):
    """Two utterances in one file, one file by itself: read, encoded and divided as the table says."""
    rng = np.random.default_rng(0)
    clips = {name: rng.normal(size=32_000).clip(-1, 1).astype(np.float32) for name in ("a", "b")}
    for name, samples in clips.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, 16_000, subtype="FLOAT")
    content = (
        "file,start,end,emotion,speaker,split\na.wav,0,0.5,anger,x,train\na.wav,0.5,,Anger,y,dev\n"
        "b.wav,,,happiness,z,test\nb.wav,1,1.25,joy,z,train\n"
    )
    write_files(tmp_path, {"table.csv": content})
    dataset = load_corpus("table", tmp_path / "table.csv")
    assert dataset.features["label"].names == ["angry", "happy"] and dataset["label"][:] == [0, 0, 1, 1]
    assert dataset["seconds"][:] == [0.5, 1.5, 2.0, 0.25]
    assert dataset["corpus"][:] == ["table"] * 4
    places = [("a", slice(0, 8000)), ("a", slice(8000, 32_000)), ("b", slice(0, 32_000)), ("b", slice(16_000, 20_000))]
    for row, (name, part) in zip(dataset, places, strict=True):
        np.testing.assert_array_equal(read_utterance(row), clips[name][part])
    (fold,) = make_folds(dataset, "table", "split")
    assert (fold.train, fold.dev, fold.test) == ([0, 3], [1], [2])
    late = {**dataset[3], "start": 3.0}
    with pytest.raises(UserError, match="b.wav: ends before 3 s, where an utterance starts"):
        read_utterance(late)


def test_nemo_is_the_same_by_its_table_and_by_its_record(shared_dir):
    folder = shared_dir / "corpora" / "nemo"
    by_table, by_record = load_corpus("table", folder / "data.tsv"), load_corpus("nemo", folder)
    kept = ("label", "speaker", "gender", "seconds")
    rows = [
        {audio["path"]: row for audio, *row in zip(one["audio"], *(one[name] for name in kept), strict=True)}
        for one in (by_table, by_record)
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 4481
    assert by_table.features["label"].names == by_record.features["label"].names


def test_a_saved_dataset_is_read_as_a_table(tmp_path):
    write_files(tmp_path, {f"{name}.wav": silent_wav(0.5) for name in "abc"})
    columns = {"audio": [str(tmp_path / f"{name}.wav") for name in "abc"], "label": ["sad", "anger", "sad"]}
    saved = Dataset.from_dict(columns).cast_column("audio", Audio(decode=False))
    DatasetDict({"train": saved.select([0, 1]), "validation": saved.select([2])}).save_to_disk(tmp_path / "saved")
    dataset = load_corpus("table", tmp_path / "saved")
    assert dataset["split"][:] == ["train", "train", "dev"]
    assert [dataset.features["label"].int2str(label) for label in dataset["label"]] == ["sad", "angry", "sad"]
    with pytest.raises(UserError, match="gone.csv: does not exist, expected a table"):
        load_corpus("table", tmp_path / "gone.csv")


def test_msp_podcast_is_read_by_its_owners_table(tmp_path):
    head = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set\n"
    rows = (
        "MSP-PODCAST_0001_0008.wav,A,4.5,2,5,Speaker_1,Male,Train\nMSP-PODCAST_0001_0019.wav,X,4,3,4,2,Female,Test1\n"
    )
    more = "MSP-PODCAST_0002_0033.wav,N,3,4,3,3,Female,Development\nMSP-PODCAST_0002_0039.wav,C,3,4,3,3,Female,Test2\n"
    names = [row.split(",")[0] for row in (rows + more).split()]
    files = {f"Audios/{name}": silent_wav(0.5) for name in names} | {"Labels/labels_consensus.csv": head + rows + more}
    dataset = load_corpus("msp_podcast", write_files(tmp_path, files))
    labels = [dataset.features["label"].int2str(label) for label in dataset["label"]]
    assert labels == ["angry", "neutral", "contemptuous"]  # X is no emotion
    assert dataset["split"][:] == ["train", "dev", "test"] and dataset["gender"][:] == ["male", "female", "female"]
    assert dataset["arousal"][:] == [4.5, 3.0, 3.0]
