import os
import sys

import pytest
from conftest import silent_wav, without_privileges, write_files
from datasets import Audio, ClassLabel, Value

from whisper_emotion.corpora import CORPORA, load_corpus, utterance_names
from whisper_emotion.errors import UserError

COLUMNS = ["audio", "label", "speaker", "gender", "session", "seconds", "corpus", "split"]
EMODB = ["03a01Wa", "03a01Na", "08a01Ta", "08a02Na"]


@pytest.fixture
def emodb_dir(tmp_path):
    return write_files(tmp_path / "emodb", {f"wav/{name}.wav": silent_wav(0.5) for name in EMODB})


def test_every_corpus_has_the_same_columns(emodb_dir, synthetic_dir):
    for dataset in (load_corpus("emodb", emodb_dir), load_corpus("synthetic", synthetic_dir)):
        assert list(dataset.features) == COLUMNS
        assert dataset.features["audio"] == Audio(decode=False)
        assert isinstance(dataset.features["label"], ClassLabel)
        assert dataset.features["seconds"] == Value("float64")
        row = dataset[0]
        assert os.path.isabs(row["audio"]["path"]) and row["audio"]["bytes"] is None
        assert row["seconds"] > 0


def test_no_audio_library_of_datasets_is_needed(emodb_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.encoders", None)
    dataset = load_corpus("emodb", emodb_dir)
    assert dataset.filter(lambda row: row["speaker"] == "03", keep_in_memory=True)[0]["audio"]["path"].endswith(
        "Na.wav"
    )


def test_rows_are_in_the_order_of_their_names(emodb_dir):
    assert utterance_names(load_corpus("emodb", emodb_dir)) == sorted(EMODB)


def test_relative_paths_become_absolute(emodb_dir, monkeypatch):
    monkeypatch.chdir(emodb_dir.parent)
    assert load_corpus("emodb", "emodb")[0]["audio"]["path"] == str(emodb_dir / "wav" / "03a01Na.wav")


def test_hidden_files_are_ignored(emodb_dir):
    write_files(emodb_dir, {"wav/._03a01Wa.wav": b"Mac", "wav/.cache/x.wav": b"", "wav/.DS_Store": b"Mac"})
    assert len(load_corpus("emodb", emodb_dir)) == 4


@pytest.mark.parametrize(
    "classes", ["sad,angry", " sad , angry,", ["sad", "angry"], ("angry", "sad"), "sadness,anger"]
)
def test_classes_keep_the_vocabularys_order(emodb_dir, classes):
    dataset = load_corpus("emodb", emodb_dir, classes=classes)
    assert dataset.features["label"].names == ["angry", "sad"]
    assert utterance_names(dataset) == ["03a01Wa", "08a01Ta"]
    assert dataset["label"][:] == [0, 1]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"classes": "angry,joy"}, "classes: there are no recordings of class 'joy', expected some of angry, neu"),
        ({"classes": "angry"}, "classes: angry alone, expected two or more of angry, neutral, sad"),
        ({"classes": ""}, "classes: none alone, expected two or more"),
        ({"merge": "calm=neutral"}, "merge: there are no recordings of class 'calm', expected some of angry, "),
        ({"merge": "calm"}, "merge calm: must be pairs, such as calm=neutral,excited=happy"),
        ({"merge": "sad=a,sad=b"}, "merge sad=a,sad=b: gives sad twice, expected each name once"),
        ({"labels_map": "W=angry"}, "labels_map: no recording is labelled 'W', found anger, neutral, sadness"),
        ({"labels": "owners"}, "labels: 'owners', expected vocabulary or original"),
    ],
)  # fmt: skip
def test_classes_that_do_not_fit_are_refused(emodb_dir, options, message):
    with pytest.raises(UserError, match=message):
        load_corpus("emodb", emodb_dir, **options)


def test_classes_are_joined_and_renamed(emodb_dir):
    merged = load_corpus("emodb", emodb_dir, merge="sadness=neutral")
    assert merged.features["label"].names == ["angry", "neutral"] and merged["label"][:] == [1, 0, 1, 1]
    named = load_corpus("emodb", emodb_dir, labels_map={"anger": "rage", "sadness": "sad"})
    assert named.features["label"].names == ["neutral", "sad", "rage"]
    original = load_corpus("emodb", emodb_dir, labels="original", merge="neutral=sadness")
    assert original.features["label"].names == ["anger", "sadness"]


def test_several_corpora_are_one_dataset_of_different_speakers(emodb_dir, synthetic_dir):
    names = ["03-01-05-01-01-01-03", "03-01-04-01-01-01-08", "03-01-02-01-01-01-08"]
    ravdess = write_files(emodb_dir.parent / "ravdess", {f"{name}.wav": silent_wav(1) for name in names})
    dataset = load_corpus("emodb,ravdess", f"{emodb_dir},{ravdess}")
    assert list(dataset.features) == COLUMNS
    assert dataset["corpus"][:] == ["emodb"] * 4 + ["ravdess"] * 3
    assert dataset["speaker"][:] == ["emodb:03"] * 2 + ["emodb:08"] * 2 + ["ravdess:08"] * 2 + ["ravdess:03"]
    assert dataset.features["label"].names == ["angry", "neutral", "sad", "calm"]
    shared = load_corpus(["emodb", "ravdess"], [emodb_dir, ravdess], classes="shared")
    assert shared.features["label"].names == ["angry", "sad"] and len(shared) == 4
    joined = load_corpus("emodb,ravdess", f"{emodb_dir},{ravdess}", merge="calm=neutral", classes="shared")
    assert joined.features["label"].names == ["angry", "neutral", "sad"] and len(joined) == 7
    twice = load_corpus("emodb,emodb", f"{emodb_dir},{emodb_dir}")
    assert set(twice["corpus"]) == {"emodb", "emodb_2"} and len(set(twice["speaker"])) == 4


def test_corpora_and_folders_are_counted(emodb_dir):
    with pytest.raises(UserError, match="corpus_dir: 1 folders for 2 corpora, expected one each"):
        load_corpus("emodb,ravdess", emodb_dir)
    with pytest.raises(UserError, match="improvised_only: not an option of corpus emodb, emodb, which takes labels"):
        load_corpus("emodb,emodb", f"{emodb_dir},{emodb_dir}", improvised_only=True)


def test_an_unknown_corpus_lists_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="unknown name 'mine', expected one of emodb, ravdess, iemocap, shemo, emovo"):
        load_corpus("mine", tmp_path)


def test_an_unknown_option_lists_those_of_the_corpus(emodb_dir):
    known = "which takes labels, labels_map, merge, classes"
    with pytest.raises(UserError, match=f"improvised_only: not an option of corpus emodb, {known}$"):
        load_corpus("emodb", emodb_dir, improvised_only=True)
    with pytest.raises(UserError, match=f"seed: not an option of corpus folder, {known}, speaker_pattern"):
        load_corpus("folder", emodb_dir, seed=1)


def test_options_that_are_none_count_as_not_given(emodb_dir):
    assert len(load_corpus("emodb", emodb_dir, classes=None, speaker_pattern=None)) == 4


@pytest.mark.parametrize("name", [name for name in CORPORA if name not in ("synthetic", "table", "msp_podcast")])
def test_a_folder_that_is_missing_empty_or_a_file_is_named(tmp_path, name):
    with pytest.raises(UserError, match="gone: does not exist, expected a folder of the corpus"):
        load_corpus(name, tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"empty: holds no recordings of --corpus {name}, expected "):
        load_corpus(name, tmp_path / "empty")
    (tmp_path / "file").write_text("text")
    with pytest.raises(UserError, match="file: is a file, expected a folder of the corpus"):
        load_corpus(name, tmp_path / "file")


@pytest.mark.parametrize(
    "content, message",
    [(b"", "cannot be decoded"), (b"RIFF text", "cannot be decoded"), (silent_wav(0), "holds no audio")],
)
def test_an_unreadable_file_is_named(emodb_dir, content, message):
    (emodb_dir / "wav" / "08a02Na.wav").write_bytes(content)
    with pytest.raises(UserError, match=rf"wav.08a02Na\.wav: {message}"):
        load_corpus("emodb", emodb_dir)


def test_a_dangling_link_is_named(emodb_dir):
    (emodb_dir / "wav" / "09a01Wa.wav").symlink_to(emodb_dir / "gone.wav")
    with pytest.raises(UserError, match=r"09a01Wa\.wav: is a link to a file that does not exist"):
        load_corpus("emodb", emodb_dir)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
def test_a_name_that_is_not_utf8_is_named(emodb_dir):
    (emodb_dir / "wav" / os.fsdecode(b"03a01\xffa.wav")).write_bytes(silent_wav())
    with pytest.raises(UserError, match="is not valid UTF-8, rename it") as caught:
        load_corpus("emodb", emodb_dir)
    str(caught.value).encode()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems give up privileges in other ways")
def test_a_folder_that_may_not_be_read_is_named(emodb_dir):
    write_files(emodb_dir, {"wav/more/09a01Wa.wav": silent_wav()})
    for folder, message in [("wav/more", "cannot be listed"), ("wav", "cannot be listed")]:
        (emodb_dir / folder).chmod(0)
        try:
            with without_privileges(emodb_dir), pytest.raises(UserError, match=message):
                load_corpus("emodb", emodb_dir)
        finally:
            (emodb_dir / folder).chmod(0o755)
