"""Names of files, folders and patterns stand for the sound files that are meant."""

import logging
import os
import sys

import pytest
from conftest import without_privileges, write_files

from whisper_emotion.recordings import SUFFIXES, find_recordings


@pytest.fixture
def tree(tmp_path, monkeypatch):
    names = ["b.wav", "a.FLAC", "inner/c.mp3", "inner/deep/d.ogg", "inner/e.opus", "inner/notes.txt", "inner/._c.mp3"]
    write_files(tmp_path, dict.fromkeys([*names, ".hidden/f.wav", "empty/readme.md", "odd/x[1].wav"], ""))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_stands_for_its_sound_files_in_order(tree):
    assert find_recordings(["inner"]) == (["inner/c.mp3", "inner/deep/d.ogg", "inner/e.opus"], {})
    found, wrong = find_recordings([str(tree)])
    assert [os.path.relpath(path, tree) for path in found] == [
        "a.FLAC", "b.wav", "inner/c.mp3", "inner/deep/d.ogg", "inner/e.opus", "odd/x[1].wav",
    ]  # fmt: skip
    assert not wrong


def test_names_keep_their_order_and_each_file_comes_once(tree):
    assert find_recordings(["inner/notes.txt", "b.wav", "inner", "b.wav", "inner/c.mp3"])[0] == [
        "inner/notes.txt", "b.wav", "inner/c.mp3", "inner/deep/d.ogg", "inner/e.opus",
    ]  # fmt: skip


def test_patterns(tree):
    assert find_recordings(["*.wav", "inner/**/*.ogg"]) == (["b.wav", "inner/deep/d.ogg"], {})
    assert find_recordings(["inn*"])[0] == ["inner/c.mp3", "inner/deep/d.ogg", "inner/e.opus"]
    assert find_recordings(["odd/x[1].wav"])[0] == ["odd/x[1].wav"]  # a file of this name is meant


def test_what_stands_for_nothing_is_named(tree):
    found, wrong = find_recordings(["nowhere*.wav", "empty", "b.wav", "gone.wav"])
    assert found == ["b.wav", "gone.wav"]  # whether a file can be read is found out by reading it
    assert str(wrong["nowhere*.wav"]) == "nowhere*.wav: matches no file"
    assert str(wrong["empty"]).startswith("empty: holds no sound file, expected some of .wav .flac .mp3")


def test_a_link_back_to_the_folder_ends(tree):
    (tree / "inner" / "loop").symlink_to(tree)
    assert len(find_recordings(["inner"])[0]) == 3 + 3


@pytest.mark.skipif(sys.platform != "linux", reason="other systems give up privileges in other ways")
def test_a_folder_that_cannot_be_listed_is_named_and_the_others_are_read(tree):
    (tree / "inner" / "deep").chmod(0)
    try:
        with without_privileges(tree):
            found, wrong = find_recordings(["inner"])
    finally:
        (tree / "inner" / "deep").chmod(0o700)
    assert found == ["inner/c.mp3", "inner/e.opus"]
    assert str(wrong["inner/deep"]).startswith("inner/deep: cannot be listed")


def test_a_folder_gives_files_of_every_known_ending(tmp_path):
    write_files(tmp_path, {f"clip{suffix.upper()}": "" for suffix in SUFFIXES})
    found, wrong = find_recordings([str(tmp_path)])
    assert sorted(os.path.splitext(path)[1].lower() for path in found) == sorted(SUFFIXES) and not wrong
    assert {".aiff", ".au", ".caf", ".w64", ".m4a", ".webm"} < set(SUFFIXES)


def test_one_line_names_how_many_files_of_a_folder_were_left_out(tree, caplog):
    caplog.set_level(logging.WARNING)
    find_recordings(["inner", "b.wav"])
    assert [record.getMessage() for record in caplog.records] == ["inner: left out 1 file of unknown endings (1 .txt)"]
    caplog.clear()
    names = ["a.wav", "a.xyz", "b.XYZ", ".hidden", "LICENSE", "1.b", "2.c", "3.d", "4.e", "5.f"]
    write_files(tree / "many", dict.fromkeys(names, ""))
    find_recordings(["many"])
    (record,) = caplog.records
    said = record.getMessage()
    assert said.startswith("many: left out 8 files of unknown endings (2 .xyz, 1 ") and said.endswith(", …)")
    caplog.clear()
    find_recordings(["inner/deep"])
    assert not caplog.records
