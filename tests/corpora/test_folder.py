import os
import unicodedata
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import silent_wav, write_files

from whisper_emotion.audio import read_audio
from whisper_emotion.corpora import folder, load_corpus, utterance_names
from whisper_emotion.corpora.records import CORPORA
from whisper_emotion.errors import UserError

read = partial(folder.read, record=CORPORA["folder"])

FILES = ["angry/anna_01.wav", "angry/deep/er/bert_01.FLAC", "sad/anna_02.wav", "sad/bert_02.Wav"]
ANNA = "^([a-z]+)_"


def tree(root, *files):
    return write_files(root, {name: silent_wav() for name in files})


def rows(frame, *things):
    """The rows as tuples: the file's stem, its label, and whatever else is asked for."""
    stems = [Path(path).stem for path in frame["path"]]
    return list(zip(stems, frame["label"], *(frame[thing] for thing in things), strict=True))


@pytest.fixture
def folder(tmp_path):
    return tree(tmp_path, *FILES)


def test_classes_are_the_sub_folders(folder):
    write_files(
        folder, {"README.md": "text", "sad/notes.txt": "text", "angry/._anna_01.wav": b"Mac", ".git/x.wav": b""}
    )
    frame = read(folder)
    assert rows(frame) == [("anna_01", "angry"), ("anna_02", "sad"), ("bert_01", "angry"), ("bert_02", "sad")]
    assert frame["path"][0] == str(folder / "angry" / "anna_01.wav")
    assert list(frame.columns) == [
        *("path", "label", "speaker", "gender", "session", "split"), *("start", "end", "seconds")
    ]  # fmt: skip
    assert frame.drop(columns=["path", "label"]).isna().all(axis=None)
    assert frame["speaker"].tolist() == [None] * 4


def test_relative_folders_give_absolute_paths(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert all(os.path.isabs(path) for path in read(Path(folder.name))["path"])


def test_the_pattern_finds_the_speaker(folder):
    assert read(folder, speaker_pattern=ANNA)["speaker"].tolist() == ["anna", "anna", "bert", "bert"]


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("([a-z", "is not a regular expression"),
        (5, "5: is not a regular expression"),
        ("[a-z]+", "has no group"),
        (
            "^(anna)_",
            r"bert_01\.FLAC: --speaker_pattern .* finds no speaker in its name 'bert_01', expected a pattern such as",
        ),
        ("^(anna)?", r"bert_01\.FLAC: --speaker_pattern .* finds no speaker"),
        (r"(\.wav)$", r"--speaker_pattern \(\\\.wav\)\$ finds no speaker in its name 'anna_01'"),
    ],
)
def test_a_pattern_that_does_not_fit_is_refused(folder, pattern, message):
    with pytest.raises(UserError, match=message):
        read(folder, speaker_pattern=pattern)


def test_a_pattern_that_finds_one_speaker_per_class_is_refused(tmp_path):
    tree(tmp_path, "angry/anger_1.wav", "angry/anger_2.wav", "sad/sadness_1.wav")
    message = r"--speaker_pattern \^\(\[a-z\]\+\)_: finds one speaker per class \(anger in angry, sadness in sad\)"
    with pytest.raises(UserError, match=message):
        read(tmp_path, speaker_pattern=ANNA)


def test_a_single_speaker_of_all_classes_is_taken(tmp_path):
    tree(tmp_path, "angry/anna_1.wav", "sad/anna_2.wav")
    assert read(tmp_path, speaker_pattern=ANNA)["speaker"].tolist() == ["anna", "anna"]


@pytest.mark.parametrize(
    "files, message",
    [
        (["angry/a.wav", "sad/a.txt"], r"sad: holds no sound file, expected some of \.wav \.flac \.mp3"),
        (["a.wav", "angry/a.wav"], r"a\.wav: is not in a class folder"),
        (["train/a.wav", "test/angry/a.wav"], r"train/a\.wav: is not in a class folder"),
        (["angry/a.wav", "angry/a.flac", "sad/b.wav"], r"a\.wav: is the same recording as a\.flac"),
        (["train/angry/a.wav", "test/angry/b.wav", "more/angry/c.wav"], "more: is not a split, but test is"),
        (["angry/happy/a.wav", "sad/happy/b.wav"], r"two levels of folders could be the classes \(angry, sad and hap"),
        (
            ["x/1/a.wav", "x/2/b.wav", "y/1/c.wav", "y/2/d.wav"],
            r"could be the classes \(x, y and 1, 2\), expected one",
        ),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(tmp_path, files, message):
    with pytest.raises(UserError, match=message):
        read(tree(tmp_path, *files))


def test_a_folder_without_class_folders_has_no_rows(tmp_path):
    assert read(write_files(tmp_path, {"notes.txt": "text"})).empty


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="gone: does not exist, expected a folder"):
        read(tmp_path / "gone")


def test_links_are_followed_once(folder, tmp_path_factory):
    elsewhere = tree(tmp_path_factory.mktemp("elsewhere"), "carl_01.wav")
    (folder / "calm").symlink_to(elsewhere)
    (folder / "calm" / "loop").symlink_to(elsewhere)
    frame = read(folder)
    assert set(frame["label"]) == {"angry", "calm", "sad"} and len(frame) == 5


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "dev", "eval"), ("train", "validation", "test2")])
def test_folders_of_splits_hold_the_classes(tmp_path, names):
    tree(tmp_path, *(f"{name}/{label}/{name}.wav" for name in names for label in ("angry", "sad")))
    frame = read(tmp_path)
    known = {"Training": "train", "validation": "dev", "eval": "test", "test2": "test"}
    assert set(frame["label"]) == {"angry", "sad"}
    assert frame["split"].tolist() == [known.get(Path(path).stem, Path(path).stem) for path in frame["path"]]


def test_folders_of_speakers_hold_the_classes(tmp_path):
    tree(tmp_path, "0011/Angry/1.wav", "0011/Happy/train/2.wav", "0012/Angry/3.wav")
    assert rows(read(tmp_path), "speaker") == [
        ("1", "Angry", "0011"), ("2", "Happy", "0011"), ("3", "Angry", "0012")
    ]  # fmt: skip


def test_splits_of_speakers_of_classes_are_read(tmp_path):
    tree(tmp_path, "train/anna/angry/1.wav", "train/anna/sad/2.wav", "test/bob/angry/3.wav", "test/bob/sad/4.wav")
    expected = [("angry", "anna", "train"), ("sad", "anna", "train"), ("angry", "bob", "test"), ("sad", "bob", "test")]
    assert [row[1:] for row in rows(read(tmp_path), "speaker", "split")] == expected


def test_the_pattern_wins_over_folders_of_speakers(tmp_path):
    tree(tmp_path, "A/angry/anna_1.wav", "A/sad/bob_2.wav", "B/angry/bob_3.wav")
    assert read(tmp_path, speaker_pattern=ANNA)["speaker"].tolist() == ["anna", "bob", "bob"]


def test_folders_of_genders_hold_the_classes(tmp_path):
    tree(tmp_path, "female/angry/1.wav", "male/angry/2.wav", "male/sad/3.wav")
    assert rows(read(tmp_path), "gender", "speaker") == [
        ("1", "angry", "female", None), ("2", "angry", "male", None), ("3", "sad", "male", None)
    ]  # fmt: skip


def test_a_lone_folder_above_the_classes_is_no_speaker(tmp_path):
    tree(tmp_path, "data/angry/1.wav", "data/sad/2.wav")
    assert rows(read(tmp_path), "speaker") == [("1", "angry", None), ("2", "sad", None)]


def test_sub_folders_of_known_classes_are_no_classes(tmp_path):
    tree(tmp_path, "angry/anna/1.wav", "angry/bob/2.wav", "sad/anna/3.wav", "sad/bob/4.wav")
    assert rows(read(tmp_path)) == [("1", "angry"), ("2", "angry"), ("3", "sad"), ("4", "sad")]


def test_class_names_that_differ_in_spelling_alone_are_one_class(tmp_path, caplog):
    forms = [unicodedata.normalize(form, "fröhlich") for form in ("NFC", "NFD")]
    tree(tmp_path, "Neutral/1.wav", "neutral/2.wav", "neutral/3.wav", "sad /4.wav", "sad/5.wav", "sad/6.wav")
    tree(tmp_path, *(f"{name}/{number}.wav" for number, name in enumerate(forms, 7)))
    labels = ["neutral"] * 3 + ["sad"] * 3 + [forms[0]] * 2
    assert read(tmp_path)["label"].tolist() == labels
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path}: merged labels that differ only in spelling: 'neutral' = 'Neutral', 'sad'")


# --- as a corpus -----------------------------------------------------------------------------------------------------


def test_without_a_pattern_every_file_is_its_own_speaker(tmp_path):
    files = ["angry/anna_01.wav", "angry/deep/er/bert_01.FLAC", "sad/anna_02.wav", "sad/bert_02.Wav"]
    write_files(tmp_path, {name: silent_wav() for name in files})
    speakers = load_corpus("folder", tmp_path)["speaker"][:]
    assert len(set(speakers)) == 4 and all("/" in speaker for speaker in speakers)
    assert load_corpus("folder", tmp_path, speaker_pattern="^([a-z]+)_")["speaker"][:] == ["anna"] * 2 + ["bert"] * 2


def test_colliding_stems_are_named_by_their_paths(tmp_path):
    write_files(tmp_path, {f"data/{name}.wav": silent_wav() for name in ("angry/a", "sad/a", "sad/v1.2")})
    dataset = load_corpus("folder", tmp_path / "data")
    assert utterance_names(dataset) == ["angry/a", "sad/a", "sad/v1.2"]
    assert utterance_names(dataset.select([1])) == ["a"]
    assert set(dataset["corpus"]) == {"data"}


@pytest.mark.parametrize("classes", [5, 0.5, True])
def test_classes_that_are_no_names_are_refused(tmp_path, classes):
    write_files(tmp_path, {"angry/a.wav": silent_wav(), "sad/b.wav": silent_wav()})
    with pytest.raises(UserError, match=f"classes: {classes} is not a list of names such as angry,happy"):
        load_corpus("folder", tmp_path, classes=classes)


@pytest.mark.parametrize(
    "files, message",
    [
        (["angry/a.wav"], "classes: angry alone, expected two or more"),
        (["notes.txt"], "holds no recordings of --corpus folder, expected one sub-folder of sound files per class"),
    ],
)
def test_a_folder_without_two_classes_is_refused(tmp_path, files, message):
    write_files(tmp_path, {name: silent_wav() for name in files})
    with pytest.raises(UserError, match=message):
        load_corpus("folder", tmp_path)


@pytest.mark.parametrize("ending", ["mp3", "ogg", "opus"])
def test_what_is_labelled_can_be_trained_on(tmp_path, ending):
    samples = np.random.default_rng(0).normal(0, 0.1, 24_000)
    written = {"subtype": "OPUS", "format": "OGG"} if ending == "opus" else {}
    for label in ("calm", "sad"):
        (tmp_path / label).mkdir()
        soundfile.write(tmp_path / label / f"{label}.{ending}", samples, 24_000, **written)
    for row in load_corpus("folder", tmp_path):
        assert row["seconds"] == pytest.approx(1, abs=0.1)  # such files are padded
        assert abs(len(read_audio(row["audio"]["path"])) / 16_000 - row["seconds"]) < 0.01
