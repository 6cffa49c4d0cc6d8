import logging
from collections import Counter

import pytest
from conftest import silent_wav, write_files

from whisper_emotion.corpora import load_corpus, utterance_names
from whisper_emotion.errors import UserError


def test_the_real_corpus_is_whole(shared_dir):
    dataset = load_corpus("ravdess", shared_dir / "corpora" / "ravdess")
    assert dataset.features["label"].names == [
        "neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"
    ]  # fmt: skip
    assert Counter(dataset["label"]) == {0: 96} | dict.fromkeys(range(1, 8), 192)
    assert Counter(dataset["speaker"]) == {f"{actor:02d}": 60 for actor in range(1, 25)}
    assert all(
        (gender == "female") == (int(actor) % 2 == 0)
        for actor, gender in zip(dataset["speaker"], dataset["gender"], strict=True)
    )


def test_the_originals_load(shared_dir):
    dataset = load_corpus("ravdess", shared_dir / "corpora" / "ravdess_originals")
    assert len(dataset) == 8
    assert all(3.0 < seconds < 5.0 for seconds in dataset["seconds"])


def test_songs_and_videos_are_left_out_and_counted(tmp_path, caplog):
    speech, happy = "Actor_01/03-01-05-01-01-01-01", "Actor_02/03-01-03-01-01-01-02"
    song, video = "Actor_01/03-02-05-01-01-01-01", "Actor_01/01-01-05-01-01-01-01"
    write_files(tmp_path, {f"{name}.wav": silent_wav() for name in (speech, happy, song, video)})
    with caplog.at_level(logging.WARNING):
        dataset = load_corpus("ravdess", tmp_path)
    assert utterance_names(dataset) == ["03-01-03-01-01-01-02", "03-01-05-01-01-01-01"]
    assert "left out 2 files" in caplog.text
    assert "2 of the 1440 published utterances" in caplog.text


@pytest.mark.parametrize("name", ["03-01-09-01-01-01-01", "03-01-05-01-01-01-25", "03-01-05-01-01-01", "song"])
def test_a_name_that_does_not_parse_is_named(tmp_path, name):
    write_files(tmp_path, {f"Actor_01/{name}.wav": silent_wav()})
    with pytest.raises(UserError, match=f"{name}.wav: its name does not parse, expected modality"):
        load_corpus("ravdess", tmp_path)


def test_a_corpus_that_is_there_twice_is_refused(tmp_path):
    name = "Actor_01/03-01-05-01-01-01-01.wav"
    write_files(tmp_path, {name: silent_wav(), f"audio_speech_actors_01-24/{name}": silent_wav()})
    with pytest.raises(UserError, match=r"audio_speech_actors_01-24.*has the name of .*Actor_01"):
        load_corpus("ravdess", tmp_path)
