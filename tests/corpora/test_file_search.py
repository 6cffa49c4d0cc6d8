import os
import unicodedata
from functools import partial

import pytest
from conftest import write_files

from whisper_emotion.corpora import table
from whisper_emotion.corpora.records import CORPORA
from whisper_emotion.errors import UserError

read = partial(table.read, record=CORPORA["table"])

COMPOSED, DECOMPOSED = unicodedata.normalize("NFC", "fröhlich"), unicodedata.normalize("NFD", "fröhlich")


def written(folder, content, files=()):
    write_files(folder, dict.fromkeys(files, b"") | {"table.csv": content})
    return folder / "table.csv"


def test_read_finds_msp_podcast_audio_beside_the_labels(tmp_path):
    labels = "FileName,EmoClass,SpkrID,Gender,Split_Set\nMSP-PODCAST_0001_0008.wav,H,1,Female,Test1\n"
    write_files(tmp_path, {"Labels/labels_consensus.csv": labels, "Audios/MSP-PODCAST_0001_0008.wav": b""})
    table = tmp_path / "Labels" / "labels_consensus.csv"
    with pytest.raises(UserError, match="give the files' folder by --audio_dir"):
        read(table)
    frame = read(table, audio_dir=str(tmp_path / "Audios"))
    assert frame[["label", "split"]].values.tolist() == [["H", "test"]]


def test_files_are_sought_below_the_table_by_their_names(tmp_path, caplog):
    files = ["samples/x_1.opus", "y/anna/01.wav", "y/bob/01.wav"]
    table = written(tmp_path, "file_id,emotion\nx_1.wav,sad\nbob/01.wav,angry\n", files=files)
    assert [os.path.relpath(path, tmp_path) for path in read(table)["path"]] == ["samples/x_1.opus", "y/bob/01.wav"]
    assert caplog.messages == [
        f"{table}: 2 of 2 files have another suffix or folder, such as samples/x_1.opus for x_1.wav"
    ]


def test_a_file_does_not_stand_in_for_another_of_its_name(tmp_path):
    table = written(tmp_path, "file,label\nanna/01.wav,sad\nbob/01.wav,angry\n", files=["anna/01.wav"])
    with pytest.raises(UserError, match=r"1 of 2 files are missing, the first is 'bob/01\.wav' \(line 3\)"):
        read(table)
    table = written(tmp_path, "file,label\n01.wav,sad\n", files=["bob/01.wav"])
    with pytest.raises(UserError, match="1 of 1 files are missing"):
        read(table)


def test_paths_of_another_machine_are_sought_below_audio_dir(tmp_path):
    rows = "C:\\data\\bob\\01.wav,sad\n/home/x/anna/01.wav,angry\n"
    table = written(tmp_path, f"file,label\n{rows}", files=["w/bob/01.flac", "w/anna/01.wav"])
    frame = read(table, audio_dir=str(tmp_path / "w"))
    assert [os.path.relpath(path, tmp_path) for path in frame["path"]] == ["w/bob/01.flac", "w/anna/01.wav"]


def test_absolute_paths_are_taken_as_they_are(tmp_path):
    files = write_files(tmp_path / "elsewhere", {"a.wav": b"", DECOMPOSED + ".wav": b""})
    table = written(tmp_path / "here", f"file,label\n{files}/a.wav,sad\n{files}/{COMPOSED}.wav,sad\n")
    assert read(table)["path"].tolist() == [f"{files}/a.wav", f"{files}/{DECOMPOSED}.wav"]


def test_audio_dir_has_to_be_a_folder(tmp_path):
    with pytest.raises(UserError, match="gone: does not exist, expected a folder"):
        read(written(tmp_path, "file,label\na.wav,sad\n"), audio_dir=str(tmp_path / "gone"))


def test_a_line_break_in_a_name_does_not_break_messages(tmp_path):
    table = written(tmp_path, 'file,label\n"a\nb.wav",sad\n')
    with pytest.raises(UserError, match=r"'a\\nb\.wav' \(line 3\)"):
        read(table)


def test_read_lists_each_folder_once(tmp_path, monkeypatch):
    files = [f"s{number % 20:02d}/{number:05d}.wav" for number in range(2000)]
    rows = "".join(f"{file},sad,{start},{start + 1}\n" for start in range(10) for file in files)
    table = written(tmp_path, "file,label,start,end\n" + rows, files=files)
    scandir, listed = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(folder) or scandir(folder))
    assert len(read(table)) == 20_000
    assert sorted(listed) == [str(tmp_path / f"s{number:02d}") for number in range(20)]


def test_read_finds_the_real_nemo(shared_dir):
    folder = shared_dir / "corpora" / "nemo"
    frame = read(folder / "data.tsv")
    assert len(frame) == 4481 and set(frame["gender"]) == {"female", "male"}
    assert sorted(frame["speaker"].unique()) == ["EB0", "IC0", "KD0", "KS0", "MK0", "MP0", "SM0", "TP0", "WR0"]
    assert frame["path"].str.endswith(".opus").all()
