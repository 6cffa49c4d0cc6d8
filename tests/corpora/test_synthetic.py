import os

import numpy as np
import pytest
import soundfile
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import WhisperFeatureExtractor

from whisper_emotion.audio import read_audio
from whisper_emotion.corpora import load_corpus, utterance_names
from whisper_emotion.errors import UserError


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return load_corpus("synthetic", tmp_path_factory.mktemp("full") / "corpus")


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_default_corpus(full):
    assert len(full) == 16 * 4 * 10
    assert full.features["label"].names == ["angry", "happy", "neutral", "sad"]
    assert sorted(set(zip(full["speaker"], full["gender"], strict=True))) == [
        (f"S{number:02d}{'F' if number % 2 else 'M'}", "female" if number % 2 else "male") for number in range(1, 17)
    ]
    assert utterance_names(full)[0] == "S01F_angry_01"
    assert 1.5 <= min(full["seconds"]) and max(full["seconds"]) <= 3.0
    header = soundfile.info(full[0]["audio"]["path"])
    assert (header.samplerate, header.channels, header.subtype) == (16_000, 1, "PCM_16")


def probe_accuracy(full, features: np.ndarray) -> float:
    """Unweighted accuracy of a logistic regression that never heard the test speaker."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    labels, speakers = np.asarray(full["label"][:]), np.asarray(full["speaker"][:])
    return balanced_accuracy_score(
        labels, cross_val_predict(probe, features, labels, groups=speakers, cv=GroupKFold(4))
    )


def mean_pitch(samples: np.ndarray) -> float:
    """Mean log pitch over frames with a clear peak of the autocorrelation between 60 and 350 Hz."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, 1024)[::640]
    autocorrelation = np.fft.irfft(np.abs(np.fft.rfft(frames, 2048)) ** 2)[:, :270]
    lag = 45 + autocorrelation[:, 45:].argmax(axis=1)
    voiced = autocorrelation[np.arange(len(lag)), lag] > 0.5 * autocorrelation[:, 0]
    return float(np.log(16_000 / lag[voiced]).mean()) if voiced.any() else 5.0


def test_emotions_are_learnable_but_not_by_a_single_measure(full):
    recordings = [read_audio(audio) for audio in full["audio"][:]]
    filters = WhisperFeatureExtractor().mel_filters
    features = []
    for samples in recordings:
        frames = np.lib.stride_tricks.sliding_window_view(samples, 400)[::160] * np.hanning(400)
        mel = np.log10(np.abs(np.fft.rfft(frames)) ** 2 @ filters + 1e-10)
        features.append(np.concatenate([mel.mean(axis=0), mel.std(axis=0), np.diff(mel, axis=0).std(axis=0)]))
    assert probe_accuracy(full, np.stack(features)) > 0.9

    energy = np.array([np.log(np.mean(samples**2)) for samples in recordings])
    pitch = np.array([mean_pitch(samples) for samples in recordings])
    female = np.array(full["gender"][:]) == "female"
    speakers = np.array(full["speaker"][:])
    of_speaker = np.array([np.median(pitch[speakers == speaker]) for speaker in speakers])
    for single in (energy[:, None], np.stack([pitch, female], axis=1), (pitch - of_speaker)[:, None]):
        assert 0.3 < probe_accuracy(full, single) < 0.75


def test_generation_is_deterministic_and_the_seed_matters(tmp_path):
    for name, seed in [("a", 3), ("b", 3), ("c", 4)]:
        load_corpus("synthetic", tmp_path / name, speakers=2, utterances=1, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    wav = "S01F/S01F_angry_01.wav"
    assert contents(tmp_path / "a")[wav] != contents(tmp_path / "c")[wav]


def test_more_utterances_keep_the_first_ones(tmp_path):
    load_corpus("synthetic", tmp_path / "one", speakers=2, utterances=1)
    load_corpus("synthetic", tmp_path / "two", speakers=3, utterances=2)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert all(two[name] == data for name, data in one.items() if name.endswith(".wav"))


def test_a_whole_corpus_is_used_as_it_is(synthetic_dir):
    times = {path: path.stat().st_mtime_ns for path in synthetic_dir.rglob("*.wav")}
    dataset = load_corpus("synthetic", synthetic_dir)
    assert len(dataset) == 4 * 4 * 3
    assert times == {path: path.stat().st_mtime_ns for path in synthetic_dir.rglob("*.wav")}
    with pytest.raises(UserError, match="was generated with speakers 4, not 12: remove it or name another"):
        load_corpus("synthetic", synthetic_dir, speakers=12)


def test_an_empty_folder_is_filled_and_nothing_is_left_beside(tmp_path):
    (tmp_path / "corpus").mkdir()
    load_corpus("synthetic", tmp_path / "corpus", speakers=2, utterances=1)
    assert os.listdir(tmp_path) == ["corpus"]
    assert sorted(os.listdir(tmp_path / "corpus")) == ["S01F", "S02M", "synthetic.json"]


def test_a_run_that_dies_leaves_nothing(tmp_path, monkeypatch):
    def die(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(soundfile, "write", die)
    with pytest.raises(KeyboardInterrupt):
        load_corpus("synthetic", tmp_path / "corpus")
    assert os.listdir(tmp_path) == []


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files than the synthetic corpus, expected a new or an empty"):
        load_corpus("synthetic", tmp_path)
    assert os.listdir(tmp_path) == ["notes.txt"]
    with pytest.raises(UserError, match="notes.txt: holds other files"):
        load_corpus("synthetic", tmp_path / "notes.txt")
    with pytest.raises(UserError, match="cannot be written"):
        load_corpus("synthetic", tmp_path / "notes.txt" / "corpus")


def test_a_lost_file_is_named(tmp_path):
    load_corpus("synthetic", tmp_path / "corpus", speakers=2, utterances=1)
    (tmp_path / "corpus" / "S02M" / "S02M_sad_01.wav").unlink()
    with pytest.raises(UserError, match=r"S02M_sad_01\.wav: is missing, remove the folder .* to generate"):
        load_corpus("synthetic", tmp_path / "corpus")


@pytest.mark.parametrize(
    "options", [{"speakers": 1}, {"utterances": 0}, {"seed": -1}, {"speakers": "12"}, {"seed": True}]
)
def test_options_out_of_range_are_refused(tmp_path, options):
    with pytest.raises(UserError, match="expected a whole number from"):
        load_corpus("synthetic", tmp_path / "corpus", **options)
    assert os.listdir(tmp_path) == []
