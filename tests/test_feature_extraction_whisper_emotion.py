"""The extractor against transformers' own, and its refusals."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from whisper_emotion import WhisperEmotionFeatureExtractor
from whisper_emotion.audio import read_audio

RATE = 16_000
STOCK, OURS = WhisperFeatureExtractor(), WhisperEmotionFeatureExtractor()


def noise(samples, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def stock(clip, extractor=STOCK):
    return extractor(clip, sampling_rate=RATE, return_attention_mask=True, return_tensors="pt")


@settings(max_examples=30)
@given(samples=st.integers(400, 480_000), seed=st.integers(0, 9))
@example(samples=400, seed=0)
@example(samples=479_520, seed=0)  # the reflected end of a full window reaches into the audio
@example(samples=479_999, seed=0)
@example(samples=480_000, seed=0)
def test_equals_the_stock_extractor(samples, seed):
    clip = noise(samples, seed)
    ours, theirs = OURS(clip, sampling_rate=RATE, return_tensors="pt"), stock(clip)
    torch.testing.assert_close(ours.input_features, theirs.input_features, atol=1e-5, rtol=0)
    assert ours.attention_mask.dtype == torch.int64
    assert torch.equal(ours.attention_mask, theirs.attention_mask.long())
    assert ours.attention_mask.sum() == -(-samples // 160)


@pytest.mark.parametrize(
    "clip", [np.zeros(5000, np.float32), np.full(5000, 1e-6, np.float32), np.ones(400, np.float32)]
)
def test_equals_the_stock_extractor_on_silence(clip):
    torch.testing.assert_close(
        OURS(clip, sampling_rate=RATE, return_tensors="pt").input_features,
        stock(clip).input_features,
        atol=1e-5,
        rtol=0,
    )


def test_equals_the_stock_extractor_on_speech_with_128_bins(shared_dir):
    extractor = WhisperFeatureExtractor(feature_size=128)
    ours = WhisperEmotionFeatureExtractor(feature_size=128)
    for path in sorted((shared_dir / "corpora/emodb/wav").glob("*.flac"))[::100]:
        clip = read_audio(path)
        features = ours(clip, sampling_rate=RATE, return_tensors="pt").input_features
        torch.testing.assert_close(features, stock(clip, extractor).input_features, atol=1e-5, rtol=0)


def test_a_batch_holds_each_clip_as_it_is_alone():
    clips = [noise(samples, samples) for samples in (400, 16_001, 47_999, 120_000)]
    batch = OURS(clips, sampling_rate=RATE)
    for index, clip in enumerate(clips):
        alone = OURS(clip, sampling_rate=RATE)
        np.testing.assert_array_equal(batch["input_features"][index], alone["input_features"][0])
        np.testing.assert_array_equal(batch["attention_mask"][index], alone["attention_mask"][0])


def test_longest_is_as_wide_as_the_longest_clip_and_its_tail():
    clips = [noise(16_000), noise(32_000)]
    batch = OURS(clips, sampling_rate=RATE, padding="longest", return_tensors="pt")
    window = OURS(clips, sampling_rate=RATE, return_tensors="pt")
    assert batch.input_features.shape == (2, 80, 202)
    assert batch.attention_mask.sum(1).tolist() == [100, 200]
    assert torch.equal(batch.input_features, window.input_features[..., :202])


def test_the_mask_comes_without_being_asked_for_and_after_loading_a_stock_configuration(tmp_path):
    STOCK.save_pretrained(tmp_path)
    extractor = WhisperEmotionFeatureExtractor.from_pretrained(tmp_path)
    assert extractor(noise(1600), sampling_rate=RATE)["attention_mask"].sum() == 10


def test_a_clip_alone_may_be_a_list_a_tensor_or_a_batch_of_one():
    clip = noise(1600)
    expected = OURS(clip, sampling_rate=RATE)["input_features"]
    for form in (clip.tolist(), torch.from_numpy(clip), clip[None], [clip], [torch.from_numpy(clip)]):
        np.testing.assert_array_equal(OURS(form, sampling_rate=RATE)["input_features"], expected)


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        (np.zeros(0, np.float32), "audio 1 of the batch is empty"),
        (noise(399), "audio 1 of the batch has 399 samples: at least one window of 400 (25 ms)"),
        (np.array([0.0] * 999 + [np.nan], np.float32), "audio 1 of the batch contains NaN or infinite"),
        (np.array([np.inf] + [0.0] * 999, np.float32), "audio 1 of the batch contains NaN or infinite"),
        (np.zeros((2, 1600), np.float32), "audio 1 of the batch has shape (2, 1600): mix multi-channel"),
        (np.zeros(1600, np.int16), "audio 1 of the batch holds integers"),
        (np.zeros(1600, np.complex64), "audio 1 of the batch holds complex64"),
        (np.array(["x"] * 1600), "audio 1 of the batch holds <U1"),
        (np.full(1600, 1e30, np.float32), "audio 1 of the batch contains samples beyond all measure"),
        (np.full(1600, 1e300), "audio 1 of the batch contains samples beyond all measure"),
        ([[0.1, 0.2], [0.3]], "audio 1 of the batch is no array of numbers"),
    ],
)
def test_unusable_audio_is_named_by_its_place(clip, reason):
    with pytest.raises(ValueError, match="^" + reason.replace("(", r"\(").replace(")", r"\)")):
        OURS([noise(1600), clip], sampling_rate=RATE)


def test_stereo_as_soundfile_reads_it_is_refused_as_such():
    with pytest.raises(ValueError, match=r"audio 0 of the batch has shape \(1600, 2\): mix multi-channel"):
        OURS(np.zeros((1600, 2), np.float32), sampling_rate=RATE)


@pytest.mark.parametrize("nothing", [[], np.zeros(0, np.float32)])
def test_nothing_is_refused(nothing):
    with pytest.raises(ValueError, match="audio 0 of the batch is empty"):
        OURS(nothing, sampling_rate=RATE)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"sampling_rate": 44_100}, "sampling_rate=44100: the features need audio at 16000 Hz"),
        ({"sampling_rate": RATE, "max_length": 100}, "max_length=100: it must be 400 samples or more"),
        (
            {"sampling_rate": RATE, "max_length": 10**12},
            "max_length=1000000000000: it must be 400 samples or more, up to",
        ),
        ({"sampling_rate": RATE, "pad_to_multiple_of": 10**12}, "pad_to_multiple_of=1000000000000: it must be 1 to"),
        ({"sampling_rate": RATE, "pad_to_multiple_of": 0}, "pad_to_multiple_of=0: it must be 1 to"),
        ({"sampling_rate": RATE, "padding": "shortest"}, "padding='shortest' is not allowed"),
        ({"sampling_rate": RATE, "truncation": False, "max_length": 800}, "lasts 0.10 s: more than 0.05 s"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        OURS(noise(1600), **options)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_fft", 10**9),
        ("n_fft", {}),
        ("hop_length", 0),
        ("chunk_length", 10**12),
        ("feature_size", "80"),
        ("sampling_rate", -1),
        ("sampling_rate", True),
    ],
)
def test_a_configuration_that_no_extractor_has_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}=.* is not allowed: it must be a whole number from"):
        WhisperEmotionFeatureExtractor(**{field: value})


def test_dither_is_refused():
    with pytest.raises(ValueError, match="dither=0.1 is not supported"):
        WhisperEmotionFeatureExtractor(dither=0.1)


def test_audio_over_30_s_is_cut_with_a_warning_that_names_the_seconds(caplog):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        clip = noise(31 * RATE)
        batch = OURS([noise(1600), clip], sampling_rate=RATE)
    finally:
        logger.removeHandler(caplog.handler)
    assert "audio 1 of the batch lasts 31.00 s: the last 1.00 s are dropped" in caplog.text
    assert "windows" in caplog.text
    np.testing.assert_array_equal(
        batch["input_features"][1], OURS(clip[: 30 * RATE], sampling_rate=RATE)["input_features"][0]
    )


def test_do_normalize_makes_loudness_of_no_consequence():
    clip = noise(16_000)
    one, other = (OURS(gain * clip, sampling_rate=RATE, do_normalize=True)["input_features"] for gain in (1.0, 0.1))
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_pad_to_multiple_of_rounds_the_width_up():
    batch = OURS(noise(16_000), sampling_rate=RATE, padding="longest", pad_to_multiple_of=160 * 64)
    assert batch["input_features"].shape[-1] == batch["attention_mask"].shape[-1] == 128
