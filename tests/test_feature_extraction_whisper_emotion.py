"""The extractor against transformers' own, its refusals, and its use in forked processes."""

import inspect
import logging
import multiprocessing
import re

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from whisper_emotion import WhisperEmotionFeatureExtractor

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
def test_features_equal_the_stock_extractors(samples, seed):
    clip = noise(samples, seed)
    ours, theirs = OURS(clip, sampling_rate=RATE, return_tensors="pt"), stock(clip)
    torch.testing.assert_close(ours.input_features, theirs.input_features, atol=1e-5, rtol=0)
    assert ours.attention_mask.dtype == torch.int64
    assert torch.equal(ours.attention_mask, theirs.attention_mask.long())
    assert ours.attention_mask.sum() == -(-samples // 160)


@pytest.mark.parametrize(
    "clip", [np.zeros(5000, np.float32), np.full(5000, 1e-6, np.float32), np.ones(400, np.float32)]
)
def test_features_equal_the_stock_extractors_on_silence(clip):
    torch.testing.assert_close(
        OURS(clip, sampling_rate=RATE, return_tensors="pt").input_features,
        stock(clip).input_features,
        atol=1e-5,
        rtol=0,
    )


NORMALIZING = WhisperEmotionFeatureExtractor(normalize_speech=True)


def tone(start, end, seconds=1.0):
    """A tone of full scale between two samples of a clip of silence."""
    clip = np.zeros(round(seconds * RATE), np.float32)
    clip[start:end] = np.sin(0.3 * np.arange(end - start))
    return clip


def test_find_speech_keeps_a_margin_of_a_tenth_of_a_second():
    # Frame k has the samples 160 k to 160 k + 400. The first one that reaches into the tone is 48 (7,680 to 8,080),
    # the last one 62 (9,920 to 10,320); the margin has 1,600 samples.
    assert NORMALIZING.find_speech(tone(8000, 10_000)) == slice(7680 - 1600, 10_320 + 1600)
    assert NORMALIZING.find_speech(tone(0, 16_000)) == slice(0, 16_000)
    assert NORMALIZING.find_speech(np.zeros(5000, np.float32)) == slice(0, 5000)
    assert OURS.find_speech(tone(8000, 10_000)) == slice(0, 16_000)


def test_find_speech_leaves_out_frames_forty_decibels_below_the_loudest():
    clip = tone(8000, 10_000)
    for decibels, start in ((-39, 0), (-45, 7680 - 1600)):
        before = tone(0, 4000) * np.float32(10 ** (decibels / 20))
        assert NORMALIZING.find_speech(clip + before).start == start


@settings(max_examples=30)
@given(gain=st.floats(-60, 60), before=st.integers(0, 100), behind=st.integers(0, 16_000), seed=st.integers(0, 9))
def test_normalized_features_do_not_change_with_gain_and_silence(gain, before, behind, seed):
    speech = np.concatenate([tone(1600, 4000, 0.25), noise(8000, seed), tone(0, 2400, 0.25)])
    changed = np.pad(speech * np.float32(10 ** (gain / 20)), (160 * before, behind))
    extract = {"sampling_rate": RATE, "padding": "longest", "return_tensors": "pt"}
    first, second = NORMALIZING(np.pad(speech, 1600), **extract), NORMALIZING(np.pad(changed, 1600), **extract)
    assert torch.equal(first.attention_mask, second.attention_mask)
    torch.testing.assert_close(first.input_features, second.input_features, atol=1e-4, rtol=0)


def test_normalized_speech_has_the_level_of_p56():
    normalized = NORMALIZING._normalize(noise(16_000))  # of the same level everywhere
    assert 20 * np.log10(np.sqrt(np.mean(normalized**2))) == pytest.approx(-26, abs=0.05)


def test_normalize_speech_is_saved_and_its_kind_is_checked(tmp_path):
    NORMALIZING.save_pretrained(tmp_path)
    assert WhisperEmotionFeatureExtractor.from_pretrained(tmp_path).normalize_speech is True
    assert NORMALIZING.count_samples(tone(8000, 10_000, 40)) == 10_320 - 7680 + 3200
    with pytest.raises(ValueError, match="normalize_speech='yes' is not allowed: it must be true or false"):
        WhisperEmotionFeatureExtractor(normalize_speech="yes")


@pytest.mark.parametrize("voices", ["generated", "real"])
def test_features_equal_the_stock_extractors_with_128_bands_on_speech(voices, request):
    from whisper_emotion.audio import read_audio

    if voices == "generated":
        paths = sorted(request.getfixturevalue("synthetic_dir").rglob("*.wav"))[::10]
    else:
        paths = sorted((request.getfixturevalue("shared_dir") / "corpora/emodb/wav").glob("*.flac"))[::100]
    extractor = WhisperFeatureExtractor(feature_size=128)
    ours = WhisperEmotionFeatureExtractor(feature_size=128)
    for path in paths:
        clip = read_audio(path)
        features = ours(clip, sampling_rate=RATE, return_tensors="pt").input_features
        torch.testing.assert_close(features, stock(clip, extractor).input_features, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["__init__", "__call__", "pad"])
def test_signature_and_defaults_are_the_parents(method):
    def parameters(cls):
        given = inspect.signature(getattr(cls, method)).parameters.values()
        # `return_token_timestamps` is deprecated in 4.57 and gone in 5.0; `normalize_speech` is ours.
        others = ("return_token_timestamps", "normalize_speech")
        return [(p.name, p.kind, p.default) for p in given if p.name not in others]

    assert parameters(WhisperEmotionFeatureExtractor) == parameters(WhisperFeatureExtractor)


def test_features_of_a_clip_are_the_same_alone_and_in_a_batch():
    clips = [noise(samples, samples) for samples in (400, 16_001, 47_999, 120_000)]
    batch = OURS(clips, sampling_rate=RATE)
    for index, clip in enumerate(clips):
        alone = OURS(clip, sampling_rate=RATE)
        np.testing.assert_array_equal(batch["input_features"][index], alone["input_features"][0])
        np.testing.assert_array_equal(batch["attention_mask"][index], alone["attention_mask"][0])


def test_longest_padding_is_as_wide_as_the_longest_clip_and_its_tail():
    clips = [noise(16_000), noise(32_000)]
    batch = OURS(clips, sampling_rate=RATE, padding="longest", return_tensors="pt")
    window = OURS(clips, sampling_rate=RATE, return_tensors="pt")
    assert batch.input_features.shape == (2, 80, 202)
    assert batch.attention_mask.sum(1).tolist() == [100, 200]
    assert torch.equal(batch.input_features, window.input_features[..., :202])


def test_mask_is_returned_unless_the_call_declines_it(tmp_path):
    STOCK.save_pretrained(tmp_path)  # says return_attention_mask=False
    extractor = WhisperEmotionFeatureExtractor.from_pretrained(tmp_path)
    for option in (None, True):
        mask = extractor(noise(1600), sampling_rate=RATE, return_attention_mask=option)["attention_mask"]
        assert mask.tolist() == [[1] * 10 + [0] * 2990]
    assert set(extractor(noise(1600), sampling_rate=RATE, return_attention_mask=False)) == {"input_features"}


def test_extractor_survives_a_round_trip(tmp_path):
    WhisperEmotionFeatureExtractor(feature_size=128, chunk_length=5).save_pretrained(tmp_path)
    extractor = WhisperEmotionFeatureExtractor.from_pretrained(tmp_path)
    assert extractor(noise(1600), sampling_rate=RATE)["input_features"].shape == (1, 128, 500)


def test_single_clip_may_be_a_list_a_tensor_or_a_batch_of_one():
    clip = noise(1600)
    expected = OURS(clip, sampling_rate=RATE)["input_features"]
    for form in (clip.tolist(), torch.from_numpy(clip), clip[None], [clip], [torch.from_numpy(clip)]):
        np.testing.assert_array_equal(OURS(form, sampling_rate=RATE)["input_features"], expected)


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        (np.zeros(0, np.float32), "has 0 samples: it must have at least 400"),
        (noise(399), "has 399 samples: it must have at least 400"),
        (np.array([0.0] * 999 + [np.nan], np.float32), "contains NaN, infinite or huge samples"),
        (np.array([np.inf] + [0.0] * 999, np.float32), "contains NaN, infinite or huge samples"),
        (np.full(1600, 1e30, np.float32), "contains NaN, infinite or huge samples"),
        (np.array([np.inf] + [0.0] * 999, np.float16), "contains NaN, infinite or huge samples"),
        (np.full(1600, 1e300), "contains NaN, infinite or huge samples"),
        (np.zeros((2, 1600), np.float32), "has shape (2, 1600): it must be `(samples,)`"),
        (np.zeros(1600, np.int16), "holds int16: it must hold floats in [-1, 1]"),
        (torch.zeros(1600, dtype=torch.int16), "holds int16: it must hold floats in [-1, 1]"),
        (np.zeros(1600, np.complex64), "holds complex64"),
        (np.array(["x"] * 1600), "holds <U1"),
        ([[0.1, 0.2], [0.3]], "is not an array of numbers"),
    ],
)
def test_unusable_clip_is_refused_by_its_place(clip, reason):
    with pytest.raises(ValueError, match=re.escape("audio 1 of the batch " + reason)):
        OURS([noise(1600), clip], sampling_rate=RATE)


@pytest.mark.parametrize("nothing", [[], np.zeros(0, np.float32), np.zeros((1600, 2), np.float32), [[[0.1], [0.2]]]])
def test_empty_or_stereo_input_is_refused(nothing):
    with pytest.raises(ValueError, match="audio 0 of the batch has (0 samples|2 samples|shape)"):
        OURS(nothing, sampling_rate=RATE)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"sampling_rate": 44_100}, "sampling_rate=44100 is not allowed: it must be 16000 Hz"),
        ({"max_length": 100}, "max_length=100 is not allowed: it must be 400 to 480000 samples, in steps of 160"),
        ({"max_length": 1000}, "max_length=1000 is not allowed"),
        ({"max_length": 10**12}, "max_length=1000000000000 is not allowed"),
        ({"pad_to_multiple_of": 10**12}, "pad_to_multiple_of=1000000000000 is not allowed: it must be 1 to 480000"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of=0 is not allowed"),
        ({"padding": "do_not_pad"}, "padding='do_not_pad' is not allowed: it must be 'max_length' or 'longest'"),
        ({"return_token_timestamps": True}, "return_token_timestamps=True is not allowed: it must be left out"),
        ({"attention_mask": np.ones(9)}, "attention_mask=array.* is not allowed: it must be left out"),
        (
            {"truncation": False, "max_length": 800},
            r"audio 0 of the batch lasts 0.10 s \(1,600 samples\): at most 800",
        ),
    ],
)
def test_unusable_argument_is_refused_by_name(options, reason):
    with pytest.raises(ValueError, match=reason):
        OURS(noise(1600), **{"sampling_rate": RATE, **options})


def test_extra_arguments_of_the_stock_extractor_may_be_off():
    batch = OURS(noise(1600), sampling_rate=RATE, return_token_timestamps=None, num_frames=False)
    np.testing.assert_array_equal(batch["input_features"], OURS(noise(1600), sampling_rate=RATE)["input_features"])


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
def test_field_out_of_range_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}=.* is not allowed: it must be a whole number from"):
        WhisperEmotionFeatureExtractor(**{field: value})


@pytest.mark.parametrize("field", ["dither", "padding_value"])
def test_padding_that_is_not_silent_is_refused(field):
    with pytest.raises(ValueError, match=f"{field}=0.1 is not allowed: it must be 0.0"):
        WhisperEmotionFeatureExtractor(**{field: 0.1})


def test_clip_over_30_s_is_cut_with_a_warning_that_names_the_seconds(caplog):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        clip = noise(31 * RATE)
        batch = OURS([noise(1600), clip], sampling_rate=RATE)
    finally:
        logger.removeHandler(caplog.handler)
    assert "audio 1 of the batch lasts 31.00 s (496,000 samples): all after 30 s is dropped" in caplog.text
    assert "windows" in caplog.text
    np.testing.assert_array_equal(
        batch["input_features"][1], OURS(clip[: 30 * RATE], sampling_rate=RATE)["input_features"][0]
    )


def test_do_normalize_removes_loudness():
    clip = noise(16_000)
    one, other = (OURS(gain * clip, sampling_rate=RATE, do_normalize=True)["input_features"] for gain in (1.0, 0.1))
    np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.mark.parametrize(
    ("samples", "padding", "multiple", "width"),
    [
        (16_000, "longest", 160 * 64, 128),
        (16_000, "longest", 480_000, 3000),
        (16_000, "max_length", 160 * 64, 3000),  # 3008 is more than the model takes
        (479_000, "longest", 160 * 128, 3000),
        (16_000, "longest", 1, 102),
    ],
)
def test_pad_to_multiple_of_rounds_the_width_up_to_the_window(samples, padding, multiple, width):
    batch = OURS(noise(samples), sampling_rate=RATE, padding=padding, pad_to_multiple_of=multiple)
    assert batch["input_features"].shape[-1] == batch["attention_mask"].shape[-1] == width
    plain = OURS(noise(samples), sampling_rate=RATE)["input_features"]
    np.testing.assert_array_equal(batch["input_features"], plain[..., :width])


def stored(*samples, label=1):
    """Features of clips as `Dataset.map` stores them: lists, each as wide as its clip."""
    rows = [OURS(noise(length), sampling_rate=RATE, padding="longest") for length in samples]
    return [{**{name: row[name][0].tolist() for name in row}, "label": label} for row in rows]


@pytest.mark.parametrize(("padding", "width"), [(True, 202), ("longest", 202), ("max_length", 3000)])
def test_pad_makes_a_batch_of_stored_features(padding, width):
    batch = OURS.pad(stored(16_000, 32_000), padding=padding, return_tensors="pt")
    assert batch["input_features"].shape == (2, 80, width)
    assert batch["attention_mask"].sum(1).tolist() == [100, 200]
    assert batch["label"].tolist() == [1, 1]
    alone = OURS(noise(16_000), sampling_rate=RATE, padding="longest", return_tensors="pt")
    assert torch.equal(batch["input_features"][0, :, :102], alone["input_features"][0])
    assert (batch["input_features"][0, :, 102:] == 0).all()


@pytest.mark.parametrize(
    "mask",
    [[0] * 12, [0] + [1] * 11, [1, 0] * 6, [1] * 11, [2] * 6 + [0] * 6],
    ids=lambda mask: "".join(map(str, mask)),
)
def test_pad_refuses_a_mask_that_is_not_ones_followed_by_zeros(mask):
    rows = stored(1600, 1600)
    rows[1]["attention_mask"] = mask
    with pytest.raises(ValueError, match="attention_mask of clip 1 of the batch .* ones followed by zeros"):
        OURS.pad(rows)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pad_refuses_features_that_are_not_finite(value):
    rows = stored(1600, 1600)
    rows[1]["input_features"][3][5] = value
    with pytest.raises(ValueError, match="input_features of clip 1 of the batch hold NaN or infinity"):
        OURS.pad(rows)


@pytest.mark.parametrize("option", [{"max_length": 1600}, {"truncation": True}, {"pad_to_multiple_of": 128}])
def test_pad_refuses_options_of_the_extracting_call(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))}=.* is not allowed in pad"):
        OURS.pad(stored(1600), **option)


def test_features_do_not_change_under_autocast():
    expected = OURS(noise(16_000), sampling_rate=RATE)["input_features"]
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(OURS(noise(16_000), sampling_rate=RATE)["input_features"], expected)


def extract_in_child(clips):
    return torch.get_num_threads(), OURS(clips, sampling_rate=RATE)["input_features"]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_forked_process_extracts_after_its_parent_has():
    """A pool of two threads is started here; the child hangs if it waits for them."""
    clips, threads = [noise(160_000, seed) for seed in range(4)], torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = OURS(clips, sampling_rate=RATE)["input_features"]
        with multiprocessing.get_context("fork").Pool(1) as pool:
            child_threads, features = pool.apply_async(extract_in_child, (clips,)).get(timeout=60)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert child_threads == 1
    np.testing.assert_allclose(features, expected, atol=1e-5)
