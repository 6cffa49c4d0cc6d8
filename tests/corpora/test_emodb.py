from collections import Counter

import pytest
from conftest import silent_wav, write_files

from whisper_emotion.corpora import load_corpus, utterance_names
from whisper_emotion.errors import UserError


def test_the_real_corpus_is_whole(shared_dir):
    dataset = load_corpus("emodb", shared_dir / "corpora" / "emodb")
    names = dataset.features["label"].names
    counts = Counter(names[label] for label in dataset["label"])
    assert counts == {
        "anger": 127, "boredom": 81, "disgust": 46, "fear": 69, "happiness": 71, "neutral": 79, "sadness": 62
    }  # fmt: skip
    assert len(dataset) == 535
    assert sorted(set(dataset["speaker"])) == ["03", "08", "09", "10", "11", "12", "13", "14", "15", "16"]
    genders = dict(zip(dataset["speaker"], dataset["gender"], strict=True))
    assert [speaker for speaker in sorted(genders) if genders[speaker] == "female"] == ["08", "09", "13", "14", "16"]
    assert set(dataset["session"]) == {None}
    assert 1.2 < min(dataset["seconds"]) and max(dataset["seconds"]) < 9.0
    assert utterance_names(dataset) == sorted(utterance_names(dataset))


def test_the_inner_folder_is_the_same_corpus(shared_dir):
    outer = load_corpus("emodb", shared_dir / "corpora" / "emodb")
    inner = load_corpus("emodb", shared_dir / "corpora" / "emodb" / "wav")
    assert outer[:] == inner[:]


def test_letters_are_german_words(tmp_path):
    write_files(tmp_path, {f"wav/03a01{letter}a.wav": silent_wav() for letter in "WLEAFTN"})
    dataset = load_corpus("emodb", tmp_path)
    labels = dict(zip(utterance_names(dataset), map(dataset.features["label"].int2str, dataset["label"]), strict=True))
    assert labels == {
        "03a01Wa": "anger", "03a01La": "boredom", "03a01Ea": "disgust", "03a01Aa": "fear", "03a01Fa": "happiness",
        "03a01Ta": "sadness", "03a01Na": "neutral",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["03a01Xa", "01a01Wa", "03a01W", "notes", "03a01Wa (copy)"])
def test_a_name_that_does_not_parse_is_named(tmp_path, name):
    write_files(tmp_path, {"wav/03a01Wa.wav": silent_wav(), f"wav/{name}.wav": silent_wav()})
    with pytest.raises(UserError, match="does not parse, expected .* such as 03a01Wa") as caught:
        load_corpus("emodb", tmp_path)
    assert f"{name}.wav" in str(caught.value)
