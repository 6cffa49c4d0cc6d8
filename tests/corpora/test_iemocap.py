from collections import Counter

import pytest
from conftest import iemocap_files, read_table, silent_wav, write_files
from datasets import Value

from whisper_emotion.corpora import load_corpus, utterance_names
from whisper_emotion.errors import UserError


def sheet_row(name: str, emotion: str, valence="2.5", activation="3", dominance="2.5") -> dict[str, str]:
    ratings = dict(valence=valence, activation=activation, dominance=dominance)
    return dict(name=name, emotion=emotion, start="0.5", end="1.5", **ratings)


ROWS = [
    sheet_row("Ses01F_impro01_F000", "neu"),
    sheet_row("Ses01F_impro01_M003", "ang", valence="1.6667", activation="4", dominance="5"),
    sheet_row("Ses01F_script01_1_F001", "exc"),
    sheet_row("Ses01F_script01_1_F002", "fru"),
    sheet_row("Ses02M_impro05a_M000", "hap"),
    sheet_row("Ses02M_impro05a_M001", "xxx"),
]


@pytest.fixture
def small_dir(tmp_path):
    return write_files(tmp_path / "IEMOCAP_full_release", iemocap_files(ROWS, silent_wav()))


def test_the_published_counts(iemocap_dir):
    dataset = load_corpus("iemocap", iemocap_dir)
    names = dataset.features["label"].names
    assert len(dataset) == 5531
    assert Counter(names[label] for label in dataset["label"]) == {
        "angry": 1103, "happy": 1636, "sad": 1084, "neutral": 1708
    }  # fmt: skip
    assert Counter(dataset["session"]) == {"Ses01": 1085, "Ses02": 1023, "Ses03": 1151, "Ses04": 1031, "Ses05": 1241}
    assert len(set(dataset["speaker"])) == 10
    assert set(dataset["seconds"]) == {0.05}
    assert utterance_names(dataset) == sorted(utterance_names(dataset))


def test_the_improvised_half(iemocap_dir):
    dataset = load_corpus("iemocap", iemocap_dir, improvised_only=True)
    assert len(dataset) == 2943
    assert all("_impro" in name for name in utterance_names(dataset))


def test_the_speaker_is_the_last_letter(small_dir):
    dataset = load_corpus("iemocap", small_dir)
    label = dataset.features["label"].int2str
    rows = zip(
        utterance_names(dataset), dataset["speaker"], dataset["gender"], map(label, dataset["label"]), strict=True
    )
    assert list(rows) == [
        ("Ses01F_impro01_F000", "Ses01F", "female", "neutral"),
        ("Ses01F_impro01_M003", "Ses01M", "male", "angry"),
        ("Ses01F_script01_1_F001", "Ses01F", "female", "happy"),
        ("Ses02M_impro05a_M000", "Ses02M", "male", "happy"),
    ]
    assert dataset["session"][:] == ["Ses01", "Ses01", "Ses01", "Ses02"]


def test_the_usual_classes_give_way_to_those_that_are_asked_for(small_dir):
    assert load_corpus("iemocap", small_dir).features["label"].names == ["angry", "happy", "neutral"]
    excited = load_corpus("iemocap", small_dir, classes="excited,frustrated,happy")
    assert [excited.features["label"].int2str(label) for label in excited["label"]] == [
        "excited",
        "frustrated",
        "happy",
    ]
    happy = load_corpus("iemocap", small_dir, classes="happy,frustrated")
    assert [happy.features["label"].int2str(label) for label in happy["label"]] == ["happy", "frustrated", "happy"]
    apart = load_corpus("iemocap", small_dir, merge="frustrated=angry")
    assert apart.features["label"].names == ["angry", "happy", "neutral", "excited"]
    original = load_corpus("iemocap", small_dir, labels="original")
    assert original.features["label"].names == ["anger", "happiness", "neutral", "excited", "frustration"]


def test_an_emotion_that_the_owners_do_not_use_is_refused(tmp_path):
    write_files(tmp_path, iemocap_files([sheet_row("Ses01F_impro01_F000", "joy")], silent_wav()))
    with pytest.raises(UserError, match=r"Ses01F_impro01.txt: emotion 'joy' is unknown, expected ang, hap, exc, neu"):
        load_corpus("iemocap", tmp_path)


def test_iemocap_rows_have_the_three_dimensions(small_dir):
    dataset = load_corpus("iemocap", small_dir)
    assert list(dataset.features)[-3:] == ["arousal", "valence", "dominance"]
    assert {dataset.features[name] == Value("float64") for name in ("arousal", "valence", "dominance")} == {True}
    angry = dataset[1]
    assert (angry["arousal"], angry["valence"], angry["dominance"]) == (4.0, 1.6667, 5.0)
    assert dataset["arousal"][:] == [3.0, 4.0, 3.0, 3.0]


def test_iemocap_dimensions_are_the_published_ones(iemocap_dir, shared_dir):
    dataset = load_corpus("iemocap", iemocap_dir)
    rated = {row["name"]: row for row in read_table(shared_dir / "labels" / "iemocap.csv")}
    names = utterance_names(dataset)
    for column, owners in (("arousal", "activation"), ("valence", "valence"), ("dominance", "dominance")):
        expected = [float(rated[name][owners]) for name in names]
        assert dataset[column][:] == pytest.approx(expected, abs=1e-4)


def test_the_folder_above_is_the_same_corpus(small_dir):
    assert load_corpus("iemocap", small_dir.parent)[:] == load_corpus("iemocap", small_dir)[:]


def test_flac_in_place_of_wav(small_dir):
    path = small_dir / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"
    path.rename(path.with_suffix(".FLAC"))  # the decoder goes by content
    assert len(load_corpus("iemocap", small_dir)) == 4


def test_a_labelled_utterance_without_audio_is_named(small_dir):
    (small_dir / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M003.wav").unlink()
    with pytest.raises(UserError, match=r"has no Ses01F_impro01_M003\.wav, which Ses01F_impro01\.txt labels"):
        load_corpus("iemocap", small_dir)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "holds no label line"),
        ("[1.0 - 2.0] Ses01F_impro01_F000 neu\n", "does not parse, expected .start - end.<TAB>name"),
        ("[1.0 - 2.0]\tSes01F_impro01_F000\tneu\t[2.5, 2.5]\n", "does not parse, expected .start - end.<TAB>name"),
        ("[1.0 - 2.0]\tF000\tneu\t[2.5, 2.5, 2.5]\n", "utterance 'F000' is unknown, expected Ses01F"),
    ],
)
def test_a_label_file_that_does_not_parse_is_named(small_dir, text, message):
    (small_dir / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt").write_text(text)
    with pytest.raises(UserError, match=rf"Ses01F_impro01\.txt: .*{message}"):
        load_corpus("iemocap", small_dir)


def test_missing_parts_are_named(small_dir, tmp_path):
    with pytest.raises(UserError, match=r"holds no recordings of --corpus iemocap, expected Session1/dialog"):
        load_corpus("iemocap", small_dir / "Session1")
    (small_dir / "Session2/dialog").rename(tmp_path / "dialog")
    with pytest.raises(UserError, match=r"Session2.dialog.EmoEvaluation: does not exist"):
        load_corpus("iemocap", small_dir)
