from collections import Counter

import pytest
from conftest import read_table, silent_wav, write_files

from whisper_emotion.corpora import load_corpus, utterance_names
from whisper_emotion.errors import UserError

PUBLISHED_WORDS = {
    "angry": "anger", "fearful": "fear", "happy": "happiness", "neutral": "neutral", "sad": "sadness",
    "surprised": "surprise",
}  # fmt: skip


def test_the_published_counts(shemo_dir):
    dataset = load_corpus("shemo", shemo_dir)
    names = dataset.features["label"].names
    assert len(dataset) == 3000
    assert len(set(dataset["speaker"])) == 87
    assert Counter(dataset["gender"]) == {"female": 1263, "male": 1737}
    assert Counter(names[label] for label in dataset["label"]) == {
        "anger": 1042, "fear": 32, "happiness": 203, "neutral": 1160, "sadness": 362, "surprise": 201
    }  # fmt: skip


def test_letters_agree_with_the_owners_labels(shemo_dir, shared_dir):
    dataset = load_corpus("shemo", shemo_dir)
    loaded = zip(utterance_names(dataset), dataset["speaker"], dataset["gender"], dataset["label"], strict=True)
    label = dataset.features["label"].int2str
    rows = read_table(shared_dir / "labels" / "shemo.csv")
    assert sorted((name, speaker, gender, label(number)) for name, speaker, gender, number in loaded) == sorted(
        (row["name"], row["speaker"], row["gender"], PUBLISHED_WORDS[row["emotion"]]) for row in rows
    )


def test_the_papers_four_classes(shemo_dir):
    dataset = load_corpus("shemo", shemo_dir, classes="sadness,anger,happiness,neutral")
    assert dataset.features["label"].names == ["anger", "happiness", "neutral", "sadness"]
    assert len(dataset) == 1042 + 203 + 1160 + 362


@pytest.mark.parametrize("name", ["F03X02", "F32S01", "M57S01", "M00A01", "X03S02", "F3S02", "F03S"])
def test_a_name_that_does_not_parse_is_named(tmp_path, name):
    write_files(tmp_path, {f"female/{name}.wav": silent_wav()})
    with pytest.raises(UserError, match=rf"{name}\.wav: its name does not parse, expected .* such as F03S02"):
        load_corpus("shemo", tmp_path)
