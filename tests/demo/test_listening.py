"""What the page says of a recording: the model's own probabilities, silence, and what is wrong with a file."""

import io

import numpy as np
import pytest
import soundfile
from conftest import run_python
from matplotlib.image import imread

from whisper_emotion.demo.listening import describe_seconds, listen
from whisper_emotion.errors import UserError
from whisper_emotion.inference import EmotionClassifier


@pytest.fixture(scope="module")
def classifier(model_dir):
    return EmotionClassifier(model_dir)


def noise(seconds, rate=16_000):
    return np.random.default_rng(0).normal(0, 0.1, round(seconds * rate)).clip(-1, 1)


def shows(picture):
    """Whether a picture is one, of a phone's width."""
    image = imread(io.BytesIO(picture.png))
    return image.std() > 0.05 and 600 < image.shape[1] < 900


def test_a_short_recording_has_the_classifiers_probabilities(classifier, tmp_path):
    file = str(tmp_path / "a.wav")
    soundfile.write(file, noise(1.5, 44_100), 44_100)
    account = listen(classifier, file, 60)
    assert account.summary == "1.5 s, labelled whole."
    assert account.probabilities == pytest.approx(classifier(file)[0], abs=1e-6)
    assert account.timeline is None
    assert shows(account.attention)
    label, probability = max(account.probabilities.items(), key=lambda item: item[1])
    assert account.attention.caption.startswith(f"Whole recording: {label} ({probability:.0%}). ")
    assert "Curve: the pooling's weights, averaged over heads" in account.attention.caption


def test_a_long_recording_has_the_mean_over_what_is_not_silent(classifier, tmp_path):
    file, samples, parts = str(tmp_path / "a.flac"), noise(34), []
    samples[8 * 16_000 : 16 * 16_000] = 0
    soundfile.write(file, samples, 16_000)
    account = listen(classifier, file, 60, parts.append)
    windows = list(classifier.predict([file], 4, 2))
    assert [window.start for window in windows if window.label is None] == [8, 10, 12]
    # Windows start every 2 s and last 4 s, so the moments from 2 s on are each the mean of two windows; those of 8 to
    # 16 s are silent, and the first and the last moment belong to one window each.
    labels = [None if window.probabilities is None else list(window.probabilities.values()) for window in windows]
    moments = [labels[0], *map(mean_of_two, labels, labels[1:]), labels[-1]]
    assert account.probabilities == pytest.approx(
        dict(zip(classifier.labels, np.mean([one for one in moments if one is not None], axis=0), strict=True))
    )
    assert account.summary == "The mean over 34 s in windows of 4 s, without 8 s of silence."
    assert shows(account.timeline) and shows(account.attention)
    certain = max(windows, key=lambda window: max((window.probabilities or {"": 0}).values()))
    stretch = f"{certain.start:.0f} to {certain.end:.0f} s: {certain.label} "
    assert account.attention.caption.startswith(f"Most certain window, {stretch}")
    assert account.timeline.caption.startswith("a.flac: angry throughout, without the silence. ")
    assert parts == sorted(parts) and parts[-1] == 1


def mean_of_two(one, other):
    return None if one is None or other is None else np.mean([one, other], axis=0)


def test_silence_is_said_to_be_silence(classifier, tmp_path):
    for seconds in (2, 40):
        samples = np.tile([2**-13, -(2**-13)], seconds * 8_000)  # 20 log10(2**-13) = -78.3
        soundfile.write(tmp_path / "a.wav", samples, 16_000)
        account = listen(classifier, str(tmp_path / "a.wav"), 60)
        assert set(account[1:]) == {None}
        assert account.summary == (
            f"Silence: the loudest moment of these {seconds} s has -78 dBFS, speech more than -60. "
            "There is nothing to label."
        )


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda file: open(file, "w").write("a text"), "a.wav: cannot be decoded (Format not recognised), expected"),
        (lambda file: open(file, "w").close(), "a.wav: cannot be decoded"),
        (lambda file: soundfile.write(file, noise(0.02), 16_000), "a.wav: lasts 20.0 ms, expected at least 25 ms"),
        (lambda file: soundfile.write(file, noise(61), 16_000), "a.wav: lasts 61 s, expected at most 60 s"),
        (lambda file: soundfile.write(file, np.zeros((9, 9)), 96_000), "a.wav: has 9 channels at 96000 Hz, expected"),
        (
            lambda file: soundfile.write(file, [0.1, np.nan] * 800, 16_000, "FLOAT"),
            "a.wav: holds samples that are NaN",
        ),
        (lambda file: None, "a.wav: does not exist"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_without_its_folder(classifier, tmp_path, write, said):
    write(tmp_path / "a.wav")
    with pytest.raises(UserError) as error:
        listen(classifier, str(tmp_path / "a.wav"), 60)
    assert str(error.value).startswith(said)
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.51, "0.5 s"), (2, "2 s"), (90, "90 s"), (119.9, "120 s"), (600, "10 min"), (725, "12:05 min")],
)
def test_lengths_are_readable(seconds, text):
    assert describe_seconds(seconds) == text


def test_nothing_but_the_page_loads_gradio():
    program = (
        "import sys, whisper_emotion, whisper_emotion.cli, whisper_emotion.publishing\n"
        "import whisper_emotion.demo.listening, whisper_emotion.demo.space\n"
        "assert 'gradio' not in sys.modules"
    )
    done = run_python("-c", program)
    assert done.returncode == 0, done.stderr


def test_doubt_is_said_before_all_else(model_dir, tmp_path):
    classifier, file = EmotionClassifier(model_dir), str(tmp_path / "a.wav")
    soundfile.write(file, noise(1.5), 16_000)
    classifier.model.config.sure_probability = 1.0
    account = listen(classifier, file, 60)
    assert account.unsure == "low probability"
    assert account.summary == "Unsure: low probability. The label may well be wrong. 1.5 s, labelled whole."
    soundfile.write(file, noise(35), 16_000)
    assert listen(classifier, file, 60).summary.startswith(
        "Unsure: low probability. The label may well be wrong. The mean"
    )
