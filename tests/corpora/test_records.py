import dataclasses
import logging
import re
from collections import Counter

import pytest
from conftest import read_table, silent_wav, write_files

from whisper_emotion.corpora import CORPORA, load_corpus, utterance_names
from whisper_emotion.corpora.splits import read_emobox
from whisper_emotion.corpora.vocabulary import EMOTIONS, canonical
from whisper_emotion.errors import UserError

# For each corpus files as their owners publish them: label, speaker, gender
TREES = {
    "emodb": {
        "wav/03a01Wa.wav": ("angry", "03", "male"),
        "wav/08a01La.wav": ("bored", "08", "female"),
        "wav/10b02Eb.wav": ("disgusted", "10", "male"),
        "wav/16a05Ab.wav": ("fearful", "16", "female"),
        "wav/11a01Fa.wav": ("happy", "11", "male"),
        "wav/14a01Ta.wav": ("sad", "14", "female"),
        "wav/09a01Na.wav": ("neutral", "09", "female"),
    },
    "ravdess": {
        "Actor_01/03-01-01-01-01-01-01.wav": ("neutral", "01", "male"),
        "Actor_24/03-01-02-02-02-02-24.wav": ("calm", "24", "female"),
        "Actor_24/03-01-07-02-02-02-24.wav": ("disgusted", "24", "female"),
        "audio_speech_actors_01-24/Actor_02/03-01-08-01-01-01-02.wav": ("surprised", "02", "female"),
    },
    "shemo": {
        "female/F03S02.wav": ("sad", "F03", "female"),
        "male/M56W01.wav": ("surprised", "M56", "male"),
        "male/M32A01.wav": ("angry", "M32", "male"),
    },
    "emovo": {
        "f1/dis-f1-b1.wav": ("disgusted", "f1", "female"),
        "f1/gio-f1-l4.wav": ("happy", "f1", "female"),
        "m3/pau-m3-n5.wav": ("fearful", "m3", "male"),
        "m3/rab-m3-d2.wav": ("angry", "m3", "male"),
        "m3/sor-m3-n1.wav": ("surprised", "m3", "male"),
        "m3/tri-m3-n1.wav": ("sad", "m3", "male"),
        "m3/neu-m3-n1.wav": ("neutral", "m3", "male"),
    },
    "ased": {
        "01Neutral/n1-02-01-02-46.wav": ("neutral", "46", "male"),
        "02Fearful/f2-06-02-01-63.wav": ("fearful", "63", "female"),
        "04Sad/S4-06-02-01-63.wav": ("sad", "63", "female"),
    },
    "tess": {
        "OAF_angry/OAF_back_angry.wav": ("angry", "OAF", "female"),
        "OAF_Fear/OA_bite_neutral.wav": ("neutral", "OAF", "female"),
        "YAF_pleasant_surprised/YAF_bar_ps.wav": ("surprised", "YAF", "female"),
    },
    "nemo": {
        "samples/EB0_anger_58.wav": ("angry", "EB0", "female"),
        "samples/WR0_surprised_64.wav": ("surprised", "WR0", "male"),
    },
    "cremad": {
        "AudioWAV/1001_DFA_ANG_XX.wav": ("angry", "1001", "male"),
        "AudioWAV/1002_IEO_DIS_HI.wav": ("disgusted", "1002", "female"),
        "AudioWAV/1076_MTI_SAD_X.wav": ("sad", "1076", None),  # its level is cut off
    },
    "savee": {
        "AudioData/DC/a01.wav": ("angry", "DC", "male"),
        "AudioData/JE/a01.wav": ("angry", "JE", "male"),
        "AudioData/KL/sa15.wav": ("sad", "KL", "male"),
        "flat/JK_su03.wav": ("surprised", "JK", "male"),
    },
    "cafe": {
        "Colère/Fort/01-C-2-1.wav": ("angry", "01", "male"),
        "Neutre/12-N-1-6.wav": ("neutral", "12", "female"),
    },
    "aesdd": {
        "anger/a01 (1).wav": ("angry", "1", None),
        "sadness/s19 (5).wav": ("sad", "5", None),
    },
    "mesd": {
        "Anger_C_A_abajo.wav": ("angry", "C", None),
        "Happiness_F_B_mucho gusto.wav": ("happy", "F", "female"),
        "Fear_M_A_abajo.wav": ("fearful", "M", "male"),
    },
    "subesco": {
        "F_01_OISHI_S_1_ANGRY_1.wav": ("angry", "F_01", "female"),
        "M_01_NIPUN_S_10_SURPRISE_5.wav": ("surprised", "M_01", "male"),
    },
    "esd": {
        "0001/Angry/0001_000351.wav": ("angry", "0001", None),
        "0020/Surprise/train/0020_001401.wav": ("surprised", "0020", None),
    },
    "jl_corpus": {
        "female1_angry_10a_1.wav": ("angry", "female1", "female"),
        "male2_excited_1b_2.wav": ("excited", "male2", "male"),
        "male2_apologetic_1b_2.wav": ("other", "male2", "male"),
    },
    "turev": {
        "Angry/1157_kz_acik.wav": ("angry", "1157", None),
        "Calm/1298_sk_baba.wav": ("calm", "1298", None),
        "Happy/1157_mt_acik.wav": ("happy", "1157", None),
    },
}  # fmt: skip


@pytest.fixture
def load_tree(tmp_path):
    def load(name, **options):
        files = {path: silent_wav() for path in TREES[name]}
        if name == "cremad":
            files["VideoDemographics.csv"] = (
                "ActorID,Age,Sex,Race,Ethnicity\n1001,51,Male,Caucasian,Not Hispanic\n1002,21,Female,Caucasian,\n"
            )
        return load_corpus(name, write_files(tmp_path / name, files), **options)

    return load


@pytest.mark.parametrize("name", TREES)
def test_a_record_reads_its_owners_layout(name, load_tree):
    dataset = load_tree(name)
    labels = map(dataset.features["label"].int2str, dataset["label"])
    paths = [audio["path"] for audio in dataset["audio"]]
    read = zip(labels, dataset["speaker"], dataset["gender"], strict=True)
    found = {
        next(one for one in TREES[name] if path.endswith(one)): row for path, row in zip(paths, read, strict=True)
    }
    assert found == TREES[name]
    assert len(set(utterance_names(dataset))) == len(TREES[name])


@pytest.mark.parametrize("name", TREES)
def test_original_labels_are_the_owners_words(name, load_tree):
    words = load_tree(name, labels="original").features["label"].names
    assert set(words) <= set(CORPORA[name].emotions.values())
    assert {canonical(word) or "other" for word in words} == {label for label, _, _ in TREES[name].values()}


@pytest.mark.parametrize("name", TREES)
def test_a_name_that_does_not_parse_is_refused(name, tmp_path):
    write_files(tmp_path, dict.fromkeys((*TREES[name], "notes.wav"), silent_wav()))
    layout = CORPORA[name].layout.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(UserError, match=f"notes.wav: its name does not parse, expected a name such as {layout}"):
        load_corpus(name, tmp_path)


@pytest.mark.parametrize(
    "name, file",
    [
        *[("emodb", f"wav/{one}.wav") for one in ("03a01Xa", "01a01Wa", "03a01W", "03a01Wa (copy)")],
        *[("ravdess", f"{one}.wav") for one in ("03-01-09-01-01-01-01", "03-01-05-01-01-01-25", "03-01-05-01-01-01")],
        *[("shemo", f"female/{one}.wav") for one in ("F03X02", "F32S01", "M57S01", "M00A01", "X03S02", "F03S")],
        ("esd", "0001/Bored/0001_000351.wav"),
        ("jl_corpus", "female1_bored_10a_1.wav"),
    ],
)
def test_values_that_the_owners_do_not_use_are_refused(name, file, tmp_path):
    write_files(tmp_path, {file: silent_wav()})
    with pytest.raises(UserError, match="its name does not parse|is not an emotion, expected angry"):
        load_corpus(name, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pattern": "(?P<speaker>..[a-z"}, "the record of EMO-DB: invalid pattern (unterminated character set"),
        ({"pattern": "(?P<speaker>..).*"}, "the record of EMO-DB: its pattern lacks the group emotion"),
        ({"emotions": {"W": "angst"}}, "the record of EMO-DB: 'angst' is not in the vocabulary"),
        ({"reader": "names_and_more"}, "the record of emodb: has no reader 'names_and_more', expected names or table"),
    ],
)
def test_a_mistake_in_a_record_is_named(changes, message, tmp_path, monkeypatch):
    monkeypatch.setitem(CORPORA, "emodb", dataclasses.replace(CORPORA["emodb"], **changes))
    with pytest.raises(UserError, match=re.escape(message)):
        load_corpus("emodb", tmp_path)


def test_every_record_can_be_shown():
    for name, record in CORPORA.items():
        assert record.title and record.layout, name
        assert record.reader in ("folder", "table") or record.about, name
        words = {word for word in record.emotions.values() if word}
        assert {canonical(word) or "other" for word in words} <= set(EMOTIONS), name


def test_songs_and_videos_are_left_out_and_counted(tmp_path, caplog):
    speech, happy = "Actor_01/03-01-05-01-01-01-01", "Actor_02/03-01-03-01-01-01-02"
    song, video = "Actor_01/03-02-05-01-01-01-01", "Actor_01/01-01-05-01-01-01-01"
    write_files(tmp_path, {f"{name}.wav": silent_wav() for name in (speech, happy, song, video)})
    with caplog.at_level(logging.WARNING):
        dataset = load_corpus("ravdess", tmp_path)
    assert utterance_names(dataset) == ["03-01-03-01-01-01-02", "03-01-05-01-01-01-01"]
    assert "left out 2 files" in caplog.text
    assert "2 of the 1440 published utterances" in caplog.text


def test_a_corpus_that_is_there_twice_is_refused(tmp_path):
    name = "Actor_01/03-01-05-01-01-01-01.wav"
    write_files(tmp_path, {name: silent_wav(), f"audio_speech_actors_01-24/{name}": silent_wav()})
    with pytest.raises(UserError, match=r"audio_speech_actors_01-24.*is the same utterance as .*Actor_01"):
        load_corpus("ravdess", tmp_path)


@pytest.mark.parametrize("inner", ["AudioData", "AudioData/DC"])
def test_a_folder_within_the_layout_may_be_named(tmp_path, inner):
    write_files(tmp_path, {f"AudioData/DC/{name}.wav": silent_wav() for name in ("a01", "sa01")})
    assert set(load_corpus("savee", tmp_path / inner)["speaker"]) == {"DC"}


SEVEN = ("angry", "happy", "neutral", "sad", "fearful", "disgusted", "surprised")
REAL = {  # clips, speakers, and clips by class
    "emodb": (535, 10, dict(zip((*SEVEN[:6], "bored"), (127, 71, 79, 62, 69, 46, 81), strict=True))),
    "ravdess": (1440, 24, dict.fromkeys((*SEVEN, "calm"), 192) | {"neutral": 96}),
    "emovo": (588, 6, dict.fromkeys(SEVEN, 84)),
    "ased": (2474, 65, dict(zip(SEVEN[:5], (486, 486, 522, 470, 510), strict=True))),
    "tess": (1960, 2, dict.fromkeys(SEVEN, 280)),
    "nemo": (4481, 9, dict(zip((*SEVEN[:5], "surprised"), (749, 749, 809, 769, 736, 669), strict=True))),
}


@pytest.mark.parametrize("name", REAL)
def test_a_real_corpus_is_whole(name, shared_dir):
    dataset = load_corpus(name, shared_dir / "corpora" / name)
    clips, speakers, classes = REAL[name]
    label = dataset.features["label"].int2str
    assert len(dataset) == clips and len(set(dataset["speaker"])) == speakers
    assert Counter(map(label, dataset["label"])) == classes
    assert set(dataset["corpus"]) == {name} and set(dataset["session"]) == {None}
    assert 0.4 < min(dataset["seconds"]) and max(dataset["seconds"]) < 15


def test_the_original_files_of_ravdess_load(shared_dir):
    dataset = load_corpus("ravdess", shared_dir / "corpora" / "ravdess_originals")
    assert len(dataset) == 8
    assert all(3.0 < seconds < 5.0 for seconds in dataset["seconds"])


def test_the_inner_folder_is_the_same_corpus(tmp_path):
    write_files(tmp_path, {f"wav/{row['name']}.wav": silent_wav() for row in read_emobox("emodb")[::10]})
    outer, inner = load_corpus("emodb", tmp_path), load_corpus("emodb", tmp_path / "wav")
    assert outer[:] == inner[:] and len(outer) == 54


def test_shemo_letters_agree_with_the_owners_labels(shemo_dir, shared_dir):
    dataset = load_corpus("shemo", shemo_dir)
    loaded = zip(utterance_names(dataset), dataset["speaker"], dataset["gender"], dataset["label"], strict=True)
    label = dataset.features["label"].int2str
    rows = read_table(shared_dir / "labels" / "shemo.csv")
    assert sorted((name, speaker, gender, label(number)) for name, speaker, gender, number in loaded) == sorted(
        (row["name"], row["speaker"], row["gender"], row["emotion"]) for row in rows
    )
    assert Counter(dataset["gender"]) == {"female": 1263, "male": 1737}


def test_the_papers_four_classes_of_shemo(shemo_dir):
    dataset = load_corpus("shemo", shemo_dir, classes="sad,angry,happy,neutral")
    assert dataset.features["label"].names == ["angry", "happy", "neutral", "sad"]
    assert len(dataset) == 1042 + 203 + 1160 + 362
