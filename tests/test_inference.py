"""EmotionClassifier: files, arrays and windows are labelled as if alone; silence and bad files are reported."""

import json
import logging
import shutil
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
from conftest import save_model

from whisper_emotion.audio import SAMPLING_RATE, read_audio, read_stretch
from whisper_emotion.errors import UserError
from whisper_emotion.inference import PRIOR_RECORDINGS, EmotionClassifier, choose_device
from whisper_emotion.pieces import Piece
from whisper_emotion.windows import IMPROBABLE, UNLIKE, Prediction


@pytest.fixture(scope="module")
def classifier(model_dir):
    return EmotionClassifier(model_dir)


def babble(seconds, seed=0):
    """Noise whose colour and loudness change all the time."""
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal(round(seconds * SAMPLING_RATE))
    pieces = np.array_split(samples, max(1, round(3 * seconds)))
    return np.concatenate(
        [np.convolve(piece, rng.standard_normal(5), "same") * rng.uniform(0.005, 0.1) for piece in pieces]
    ).astype(np.float32)


def write(path, samples, sampling_rate=SAMPLING_RATE):
    soundfile.write(path, samples, sampling_rate, subtype="FLOAT")
    return str(path)


def assert_alone(classifier, predictions, folder, tolerance=1e-4):
    """Each prediction equals that of a file that holds its samples alone."""
    for number, one in enumerate(predictions):
        piece = write(folder / f"piece{number}.wav", read_stretch(one.file, one.start, one.end))
        (expected,) = classifier([piece])
        assert one.label == next(iter(expected))
        assert one.probabilities == pytest.approx(expected, abs=tolerance)


def test_files_of_any_length_come_in_order_and_as_if_alone(classifier, tmp_path):
    lengths = [2.0, 0.3, 29.0, 0.025, 1.0, 7.5, 30.0, 0.7]
    files = [write(tmp_path / f"{place}.wav", babble(length, place)) for place, length in enumerate(lengths)]
    predictions = list(classifier.predict(files, batch_size=3))
    assert [(one.file, one.start, one.end) for one in predictions] == [
        (file, 0, length) for file, length in zip(files, lengths, strict=True)
    ]
    assert_alone(classifier, predictions, tmp_path)
    assert len({round(one.probabilities["angry"], 3) for one in predictions}) > 4  # they are told apart
    assert [list(one.probabilities) for one in predictions] == [["angry", "calm", "sad"]] * len(files)


def test_windows_are_as_if_alone(classifier, tmp_path):
    file = write(tmp_path / "long.wav", babble(41.37))
    predictions = list(classifier.predict([file], window=3, hop=1.25))
    assert [one.start for one in predictions] == [1.25 * number for number in range(32)]
    assert [one.end for one in predictions[:-1]] == [1.25 * number + 3 for number in range(31)]
    assert predictions[-1].end == 41.37
    assert_alone(classifier, predictions, tmp_path)


def test_windows_of_a_real_recording_are_as_if_alone(shared_dir, tmp_path):
    """Real speech, resampled on the way, and the real encoder: what a stream hears is what the whole file holds."""
    corpus = shared_dir / "corpora" / "ravdess_originals"
    originals = sorted(corpus.rglob("*.wav"))
    speech = np.concatenate([soundfile.read(path, always_2d=True)[0].mean(axis=1) for path in originals])
    file = write(tmp_path / "speech.wav", speech, 48_000)
    encoder = shared_dir / "encoders" / "whisper-base-encoder"
    folder = save_model(encoder, tmp_path / "model", pooling="qkv", encoder_context="sparse_window")
    classifier = EmotionClassifier(folder)
    predictions = [one for one in classifier.predict([file], window=4, hop=2) if one.probabilities is not None]
    assert len(predictions) > 10
    assert_alone(classifier, predictions[::3], tmp_path)


def test_a_file_of_more_than_30_s_is_labelled_in_windows_and_that_is_said(classifier, tmp_path, caplog):
    files = [write(tmp_path / f"{length}.wav", babble(length)) for length in (30.0, 30.1, 33.0)]
    with caplog.at_level(logging.WARNING):
        predictions = list(classifier.predict(files))
    assert [one.end - one.start for one in predictions if one.file == files[0]] == [30.0]
    spans = [(one.start, one.end) for one in predictions if one.file == files[1]]
    assert spans == [*((start, start + 4.0) for start in range(0, 28, 2)), (28.0, 30.1)][: len(spans)]
    assert spans[-1][1] == 30.1
    (said,) = [record.getMessage() for record in caplog.records]  # once
    assert "30.1.wav lasts 30.1 s: files of more than 30 s are labelled in windows of 4 s, one every 2 s" in said


def test_called_on_a_longer_file_it_takes_the_first_30_s_and_names_the_file(classifier, tmp_path, caplog):
    samples = babble(31)
    long, cut = write(tmp_path / "long.wav", samples), write(tmp_path / "cut.wav", samples[: 30 * SAMPLING_RATE])
    with caplog.at_level(logging.WARNING):
        labelled, expected = classifier([long, cut])
    assert labelled == pytest.approx(expected, abs=1e-6)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == f"{long} lasts 31.0 s: only its first 30 s are used; `predict` labels all of it, in windows"


def test_silence_is_not_labelled_and_the_threshold_can_be_moved(classifier, tmp_path):
    samples = np.concatenate([babble(4), np.zeros(6 * SAMPLING_RATE), babble(2), 1e-4 * babble(8)]).astype(np.float32)
    file = write(tmp_path / "pauses.wav", samples)
    predictions = list(classifier.predict([file], window=2, hop=2))
    assert [one.probabilities is None for one in predictions] == [False] * 2 + [True] * 3 + [False] + [True] * 4
    assert all(one.label is None and one.dbfs < -60 for one in predictions if one.probabilities is None)
    assert [one.dbfs for one in predictions[2:5]] == [-200] * 3
    quiet = predictions[-1].dbfs
    assert -130 < quiet < -80
    lower = list(classifier.predict([file], window=2, hop=2, silence_dbfs=quiet))
    assert [one.probabilities is None for one in lower[-4:]] == [one.dbfs < quiet for one in predictions[-4:]]
    assert lower[-1].probabilities is not None
    everything = list(classifier.predict([file], window=2, hop=2, silence_dbfs=-np.inf))
    assert all(one.probabilities is not None for one in everything)
    assert everything[0].probabilities == pytest.approx(predictions[0].probabilities, abs=1e-4)


def test_a_whole_file_of_silence_has_no_label(classifier, tmp_path):
    file = write(tmp_path / "silence.wav", np.zeros(16_000, np.float32))
    (one,) = classifier.predict([file])
    assert (one.label, one.probabilities, one.dbfs) == (None, None, -200)


def test_bad_files_are_named_and_the_others_labelled(classifier, tmp_path):
    broken = babble(45)
    broken[43 * SAMPLING_RATE] = np.nan
    files = [
        write(tmp_path / "one.wav", babble(1)), str(tmp_path / "gone.wav"), write(tmp_path / "broken.wav", broken),
        write(tmp_path / "two.wav", babble(2)),
    ]  # fmt: skip
    (tmp_path / "text.wav").write_text("no sound")
    errors = {}
    predictions = list(
        classifier.predict([*files, tmp_path / "text.wav"], window=5, hop=5, on_error=errors.__setitem__)
    )
    assert {str(file).rpartition("/")[2]: str(error) for file, error in errors.items()}.keys() == {
        "gone.wav", "broken.wav", "text.wav",
    }  # fmt: skip
    assert all(str(error).startswith(file) for file, error in errors.items())
    # Of the one that breaks at 43 s, what was heard before stands.
    assert [(one.start, one.end) for one in predictions if one.file == files[2]] == [
        (start, start + 5) for start in range(0, 35, 5)
    ]
    assert [one.file for one in predictions if one.file != files[2]] == [files[0], files[3]]
    with pytest.raises(UserError, match="gone.wav: does not exist"):
        list(classifier.predict(files))


def test_hours_are_not_read_ahead(classifier, monkeypatch):
    read = []

    def endless(file):
        while True:
            read.append(1)
            yield babble(10, len(read))

    monkeypatch.setattr("whisper_emotion.pieces.stream_audio", endless)
    monkeypatch.setattr("whisper_emotion.pieces.audio_seconds", lambda file: 1e6)
    predictions = classifier.predict(["endless.wav"], window=4, hop=4, batch_size=2)
    for number in range(30):
        assert next(predictions).start == 4 * number
        assert 10 * len(read) <= 4 * number + 8 * 2 * 4 + 20  # eight batches ahead, and the blocks they end in


@pytest.mark.parametrize("options", [{"hop": 1.0}, {"window": 31.0}, {"batch_size": 0}])
def test_wrong_options_are_refused_at_once(classifier, options):
    with pytest.raises(UserError, match=f"--{next(iter(options))}"):
        classifier.predict([], **options)


def test_arrays_and_files_have_the_same_probabilities(classifier, tmp_path):
    samples = babble(2.5)
    stereo = np.stack([samples, 0.5 * samples], axis=1)
    file = write(tmp_path / "stereo.wav", stereo, 44_100)
    (expected,) = classifier(file)
    for recordings in ((stereo, 44_100), [(stereo, 44_100)], [file], (file,), [tmp_path / "stereo.wav"]):
        (result,) = classifier(recordings)
        assert result == pytest.approx(expected, abs=1e-6)
    several = classifier([(samples, SAMPLING_RATE), file, (samples[:8000], np.int64(SAMPLING_RATE))], 2)
    assert several[1] == pytest.approx(expected, abs=1e-5)
    assert several[0] == pytest.approx(classifier((samples, SAMPLING_RATE))[0], abs=1e-5)
    assert several[2] == pytest.approx(classifier((samples[:8000], 16_000))[0], abs=1e-5)
    assert classifier([]) == []


def test_a_long_array_loses_all_but_30_s_with_a_warning(classifier, caplog):
    samples = babble(31)
    with caplog.at_level(logging.WARNING):
        assert classifier((samples, 16_000)) == classifier((samples[:480_000], 16_000))
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "a recording lasts 31.0 s: only its first 30 s are used"
    ]


def test_a_short_array_is_refused(classifier):
    with pytest.raises(UserError, match="lasts 20.0 ms, expected at least 25 ms"):
        classifier((babble(0.02), 16_000))


def test_an_accelerator_is_taken_where_torch_finds_one(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert choose_device() == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert [choose_device(name) for name in ("auto", "cpu", "cuda", "cuda:1")] == [
        torch.device(name) for name in ("cuda", "cpu", "cuda", "cuda:1")
    ]
    with pytest.raises(
        UserError, match="--device cuda:2: does not exist: it must be auto or one of cpu, cuda, cuda:0,"
    ):
        choose_device("cuda:2")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", ""])
def test_a_device_that_is_not_here_is_one_line(model_dir, device):
    with pytest.raises(UserError, match=f"^--device {device}: does not exist: it must be auto or one of cpu[^\n]*$"):
        EmotionClassifier(model_dir, device=device)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        (
            {"id2label": {"0": "angry", "1": "calm", "2": "angry"}},
            "id2label={.*'angry'.*} is not allowed: it must map",
        ),
        ({"id2label": ["angry", "calm", "sad"]}, "id2label="),
        ({"problem_type": "regression"}, "is a model for regression, expected a single-label classifier"),
    ],
)
def test_a_model_without_classes_is_one_line(model_dir, tmp_path, fields, wrong):
    folder = shutil.copytree(model_dir, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))
    with pytest.raises(UserError, match=rf"^{folder}: [^\n]*{wrong}[^\n]*$"):
        EmotionClassifier(folder)


def test_half_precision_of_the_encoder_changes_little(model_dir):
    samples = (babble(2), SAMPLING_RATE)
    (whole,), (half,) = (
        EmotionClassifier(model_dir, encoder_dtype=one)(samples) for one in (torch.float32, torch.bfloat16)
    )
    assert half == pytest.approx(whole, abs=0.03) and half != whole


def test_a_batch_on_a_processor_is_bounded(classifier, monkeypatch):
    monkeypatch.setattr("whisper_emotion.inference.MOST_MEL_FRAMES", 1000)
    lengths = [1, 2, 2, 3, 7, 7, 8, 20]  # seconds; each is encoded with 1 s of silence
    pieces = [
        Piece(Prediction("a", 0, length, -20.0, None), np.zeros(length * 16_000, np.float32), 1.0)
        for length in lengths
    ]
    found = [[len(piece.samples) // 16_000 for piece in batch] for batch in classifier._batches(pieces, 3)]
    assert found == [[1, 2, 2], [3], [7], [7], [8], [20]]


def test_called_on_files_it_gives_the_most_probable_first(classifier, tmp_path):
    file = write(tmp_path / "one.wav", babble(1))
    (result,) = classifier(file)
    assert list(result.values()) == sorted(result.values(), reverse=True)
    assert sum(result.values()) == pytest.approx(1)
    (one,) = classifier.predict([file])
    assert result == pytest.approx(one.probabilities)
    np.testing.assert_array_equal(read_audio(file), read_stretch(file, 0, 1))


def test_what_is_labelled_is_given_before_the_next_batch_is(classifier, tmp_path, monkeypatch):
    batches = []
    classify = classifier._classify
    monkeypatch.setattr(classifier, "_classify", lambda clips: (batches.append(len(clips)), classify(clips))[1])
    file = write(tmp_path / "long.wav", np.concatenate([babble(20), np.zeros(160_000, np.float32), babble(20)]))
    for number, _ in enumerate(classifier.predict([file], window=2, hop=2, batch_size=4)):
        assert sum(batches) <= 4 * (number // 4 + 1)
    assert batches == [4] * 5 and number == 24


def test_silence_of_minutes_is_not_kept_in_memory(classifier, monkeypatch):
    """A hundred windows of 1.9 MB wait for their turn, and 30 s of speech behind them."""
    blocks = [np.zeros(480_000, np.float32)] * 100 + [babble(30)]
    monkeypatch.setattr("whisper_emotion.pieces.stream_audio", lambda file: iter(blocks))
    monkeypatch.setattr("whisper_emotion.pieces.audio_seconds", lambda file: 3030.0)
    tracemalloc.start()
    try:
        labels = [one.label for one in classifier.predict(["silence.wav"], window=30, hop=30)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert labels[:-1] == [None] * 100 and labels[-1] is not None
    assert peak < 50e6


def test_adapting_takes_off_what_a_domain_s_recordings_have_in_common(model_dir, tmp_path):
    classify = EmotionClassifier(model_dir)
    files = [write(tmp_path / f"{place}.wav", babble(length, place)) for place, length in enumerate((0.5, 2.0, 1.0))]
    with pytest.raises(UserError, match="has no mean of its training speakers"):
        classify.adapt(files)
    plain = classify(files)
    with torch.no_grad():
        means = [classify.model.mean_frames(**classify._extract([read_audio(file)])) for file in files]
        classify.model.head.adaptation.population_mean.copy_(torch.cat(means).mean(0))
    classify.adapt(files)  # a domain like the population: nothing to take off
    assert all(one == pytest.approx(other, abs=1e-4) for one, other in zip(classify(files), plain, strict=True))
    classify.adapt(files[:1])
    with torch.no_grad():
        inputs = classify._extract([read_audio(files[2])])
        population = classify.model.head.adaptation.population_mean
        shrunk = (means[0] + PRIOR_RECORDINGS * population) / (1 + PRIOR_RECORDINGS)
        classify.model.config.adapted = False
        expected = classify.model(**inputs, domain_mean=shrunk).logits.softmax(-1)[0].tolist()
    classify.model.config.adapted = True
    by_label = dict(zip(classify.labels, expected, strict=True))
    adapted = classify(files)
    assert adapted[2] == pytest.approx(by_label, abs=1e-4) != pytest.approx(plain[2], abs=1e-3)
    classify.model.save_pretrained(tmp_path / "adapted")
    classify.extractor.save_pretrained(tmp_path / "adapted")
    saved = EmotionClassifier(tmp_path / "adapted")
    assert all(one == pytest.approx(other, abs=1e-5) for one, other in zip(saved(files), adapted, strict=True))
    for place, file in enumerate(files[:2]):  # a stream: the same as all at once
        classify.adapt(file, forget=place == 0)
    streamed = classify.model.head.adaptation.domain_mean.clone()
    with pytest.raises(UserError, match="missing.wav"):
        classify.adapt([files[2], "missing.wav"], forget=False)
    torch.testing.assert_close(classify.model.head.adaptation.domain_mean, streamed)  # a failure changes nothing
    classify.adapt(files[:2])
    torch.testing.assert_close(classify.model.head.adaptation.domain_mean, streamed)
    classify.adapt([])
    assert classify(files) == plain


def test_recordings_of_one_mood_are_warned_of(model_dir, tmp_path, caplog):
    classify = EmotionClassifier(model_dir)
    torch.nn.init.ones_(classify.model.head.adaptation.population_mean)
    clips = [(babble(0.3, seed), 16_000) for seed in range(10)]
    with torch.no_grad():
        classify.model.head.classifier.bias[1] = 100.0
    classify.adapt(clips[:9])
    assert not caplog.messages  # too few to judge by
    classify.adapt(clips[9:], forget=False)
    label = classify.labels[1]
    assert [line for line in caplog.messages if f"adapt: 10 of 10 recordings are labelled {label}. If they" in line]
    caplog.clear()
    with torch.no_grad():
        classify.model.head.classifier.bias[1] = 0.0
        classify.model.adapt(None)
        logits = [classify.model(**classify._extract([clip])).logits[0] for clip, _ in clips]
        classify.model.head.classifier.bias -= torch.stack(logits).median(dim=0).values
    classify.adapt(clips)
    assert not caplog.messages


def test_labels_are_unsure_by_the_models_own_limits(model_dir, tmp_path):
    classify = EmotionClassifier(model_dir)
    clips = [(babble(2.0, seed), SAMPLING_RATE) for seed in range(6)]
    assert {one.unsure for one in classify(clips)} == {None}  # this model knows no limits
    head, config = classify.model.head, classify.model.config
    means = torch.cat([classify.model.mean_frames(**classify._extract([clip])) for clip, _ in clips])
    head.adaptation.population_mean.copy_(means.mean(0))
    head.adaptation.population_deviation.copy_(means.std(0, correction=0))
    config.novelty_limit, config.sure_probability = 2.5, 0.0
    torch.testing.assert_close(head.novelty(means).mean(), torch.tensor(1.0))  # by definition
    assert {one.unsure for one in classify(clips)} == {None}
    tone = np.sin(np.arange(2 * SAMPLING_RATE) * 0.3).astype(np.float32)
    (strange,) = classify((tone, SAMPLING_RATE))
    assert strange.unsure == UNLIKE
    (window,) = classify.predict([write(tmp_path / "tone.wav", tone)])
    assert (window.unsure, window.label) == (UNLIKE, strange.label)
    config.sure_probability = 1.0
    assert {one.unsure for one in classify(clips)} == {IMPROBABLE}
    config.sure_probability, config.adapted_sure_probability = 0.0, 1.0
    classify.adapt(clips)
    assert {one.unsure for one in classify(clips)} == {IMPROBABLE}


def test_priors_multiply_the_probabilities(model_dir):
    clip = (babble(2.0), SAMPLING_RATE)
    (plain,), (moved,) = EmotionClassifier(model_dir)(clip), EmotionClassifier(model_dir, priors={"sad": 0.6})(clip)
    weighted = {label: share * (0.6 if label == "sad" else 0.2) for label, share in plain.items()}
    total = sum(weighted.values())
    assert moved == pytest.approx({label: share / total for label, share in weighted.items()}, abs=1e-6)
    even = dict.fromkeys(plain, 0.333)
    assert EmotionClassifier(model_dir, priors=even)(clip)[0] == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize(
    ("priors", "message"),
    [
        ({"joy": 0.5}, r"--priors joy=0\.5: unknown label, the model has angry, calm, sad"),
        ({"sad": -0.1}, r"--priors sad=-0\.1: must be a share from 0 to 1"),
        ({"sad": 0.7, "calm": 0.7}, r"--priors: sum to 1\.4, expected at most 1"),
        ({"sad": 0.2, "calm": 0.2, "angry": 0.2}, r"--priors: sum to 0\.6, expected 1$"),
    ],
)
def test_wrong_priors_are_named(model_dir, priors, message):
    with pytest.raises(UserError, match=message):
        EmotionClassifier(model_dir, priors=priors)
