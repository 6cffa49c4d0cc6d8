import numpy as np
import pytest
import soundfile
from conftest import silent_wav, write_files

from whisper_emotion.audio import read_audio
from whisper_emotion.corpora import load_corpus, utterance_names
from whisper_emotion.errors import UserError

FILES = ["angry/anna_01.wav", "angry/deep/er/bert_01.FLAC", "sad/anna_02.wav", "sad/bert_02.Wav"]


@pytest.fixture
def folder(tmp_path):
    return write_files(tmp_path, {name: silent_wav() for name in FILES})


def test_classes_are_the_sub_folders(folder):
    write_files(
        folder, {"README.md": "text", "sad/notes.txt": "text", "angry/._anna_01.wav": b"Mac", ".git/x.wav": b""}
    )
    dataset = load_corpus("folder", folder)
    assert dataset.features["label"].names == ["angry", "sad"]
    assert utterance_names(dataset) == ["anna_01", "anna_02", "bert_01", "bert_02"]
    assert dataset["label"][:] == [0, 1, 0, 1]
    assert dataset["gender"][:] == dataset["session"][:] == [None] * 4


def test_without_a_pattern_every_file_is_its_own_speaker(folder):
    assert load_corpus("folder", folder)["speaker"][:] == [
        "angry/anna_01", "sad/anna_02", "angry/deep/er/bert_01", "sad/bert_02"
    ]  # fmt: skip


def test_the_pattern_finds_the_speaker(folder):
    dataset = load_corpus("folder", folder, speaker_pattern="^([a-z]+)_")
    assert dataset["speaker"][:] == ["anna", "anna", "bert", "bert"]


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("([a-z", "is no regular expression"),
        (5, "5: is no regular expression"),
        ("[a-z]+", "has no group"),
        ("^(anna)_", r"bert_01\.FLAC: --speaker_pattern .* finds no speaker in its name 'bert_01', expected such as"),
        ("^(anna)?", r"bert_01\.FLAC: --speaker_pattern .* finds no speaker"),
        (r"(\.wav)$", r"--speaker_pattern \(\\\.wav\)\$ finds no speaker in its name 'anna_01'"),
    ],
)
def test_a_pattern_that_does_not_fit_is_refused(folder, pattern, message):
    with pytest.raises(UserError, match=message):
        load_corpus("folder", folder, speaker_pattern=pattern)


def test_colliding_stems_are_named_by_their_paths(tmp_path):
    write_files(
        tmp_path, {"data/angry/a.wav": silent_wav(), "data/sad/a.wav": silent_wav(), "data/sad/v1.2.wav": silent_wav()}
    )
    dataset = load_corpus("folder", tmp_path / "data")
    assert utterance_names(dataset) == ["angry/a", "sad/a", "sad/v1.2"]
    assert utterance_names(dataset.select([1])) == ["a"]


@pytest.mark.parametrize(
    "files, message",
    [
        (["angry/a.wav"], "classes: angry alone, expected two or more"),
        (["angry/a.wav", "sad/a.txt"], r"sad: holds no sound file, expected some of \.wav \.flac \.mp3"),
        (["a.wav", "angry/a.wav"], r"a\.wav: lies in no class folder"),
        (["angry/a.wav", "angry/a.flac", "sad/b.wav"], r"a\.wav: the same recording as a\.flac beside it"),
        (["notes.txt"], "holds no recordings as --corpus folder has them, expected one sub-folder a class"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(tmp_path, files, message):
    write_files(tmp_path, {name: silent_wav() for name in files})
    with pytest.raises(UserError, match=message):
        load_corpus("folder", tmp_path)


def test_links_are_followed_once(folder, tmp_path_factory):
    elsewhere = write_files(tmp_path_factory.mktemp("elsewhere"), {"carl_01.wav": silent_wav()})
    (folder / "calm").symlink_to(elsewhere)
    (folder / "calm" / "loop").symlink_to(elsewhere)
    dataset = load_corpus("folder", folder)
    assert dataset.features["label"].names == ["angry", "calm", "sad"]
    assert len(dataset) == 5


@pytest.mark.parametrize("classes", [5, 0.5, True])
def test_classes_that_are_no_names_are_refused(folder, classes):
    with pytest.raises(UserError, match=f"classes: {classes} is no list of names, expected some of angry, sad"):
        load_corpus("folder", folder, classes=classes)


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
