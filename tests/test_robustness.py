"""Distorted conditions: levels, bands, lengths and bit rates as their names state, and the losses they lead to."""

import io

import numpy as np
import pytest
import soundfile
from test_distortion import energy, tones

from whisper_emotion.audio import SAMPLING_RATE
from whisper_emotion.corpora import load_corpus
from whisper_emotion.inference import EmotionClassifier
from whisper_emotion.robustness import CLEAN, CONDITIONS, MP3_32, OPUS_12, _distort, draw_clips, measure_robustness

RNG = np.random.default_rng(0)
SPEECH = (0.1 * RNG.standard_normal(4 * SAMPLING_RATE) * np.repeat([1, 0.1, 1, 0.3], SAMPLING_RATE)).astype(np.float32)


def distorted(name, clip=SPEECH, row=0):
    return _distort(CONDITIONS[name], np.arange(10), clip, row)


@pytest.mark.parametrize("decibels", [20, 10, 0])
def test_noise_has_the_stated_level_and_is_pink(decibels):
    noise = distorted(f"pink noise at {decibels} dB SNR").astype(float) - SPEECH
    assert 10 * np.log10((SPEECH.astype(float) ** 2).mean() / (noise**2).mean()) == pytest.approx(decibels, abs=0.01)
    octaves = [energy(noise, low, 2 * low) for low in (250, 500, 1000, 2000, 4000)]
    assert max(octaves) < 1.3 * min(octaves)  # equal energy in each octave


def test_all_levels_of_noise_share_the_noise_of_a_clip():
    loud, quiet = (distorted(f"pink noise at {decibels} dB SNR").astype(float) - SPEECH for decibels in (0, 20))
    np.testing.assert_allclose(loud, 10 * quiet, atol=1e-5)
    other = distorted("pink noise at 0 dB SNR", row=1) - SPEECH
    assert abs(np.corrcoef(other, loud)[0, 1]) < 0.1


@pytest.mark.parametrize("name", CONDITIONS)
def test_condition_is_deterministic_finite_and_changes_the_clip(name):
    changed = distorted(name)
    assert changed.dtype == np.float32 and np.isfinite(changed).all()
    assert np.array_equal(changed, distorted(name)) and not np.array_equal(changed, SPEECH)


@pytest.mark.parametrize("name", CONDITIONS)
def test_condition_leaves_silence_alone(name):
    silence = np.zeros(1600, np.float32)
    assert distorted(name, silence) is silence


def test_telephone_cuts_the_band_and_keeps_the_peak():
    clip = tones(1000, 6000).astype(np.float32)
    changed = distorted("telephone (8 kHz, mu-law)", clip)
    assert energy(changed, 4100, 8000) < 1e-4 * energy(changed, 0, 4000)
    assert np.abs(changed).max() == pytest.approx(np.abs(clip).max(), rel=1e-5)


@pytest.mark.parametrize("codec, kilobits", [(MP3_32, 32), (OPUS_12, 12)])
def test_codec_has_the_stated_bit_rate(codec, kilobits):
    level, form = codec["level"][0], codec["codec"]
    file, seconds = io.BytesIO(), 20
    noise = RNG.standard_normal(seconds * SAMPLING_RATE) * 0.1
    voiced = np.sin(2 * np.pi * 200 * np.arange(len(noise)) / SAMPLING_RATE) * 0.3 + noise
    soundfile.write(file, voiced, SAMPLING_RATE, compression_level=level, **form)
    assert 8 * len(file.getvalue()) / seconds / 1000 == pytest.approx(kilobits, rel=0.15)


def test_gain_changes_the_level_beyond_full_scale():
    np.testing.assert_allclose(distorted("gain of +20 dB"), 10 * SPEECH, rtol=1e-5)
    np.testing.assert_allclose(distorted("gain of -20 dB"), 0.1 * SPEECH, rtol=1e-5)
    assert np.abs(distorted("gain of +20 dB")).max() > 1


def test_clipping_cuts_a_tenth_of_the_samples():
    changed = distorted("clipping (10 % of samples)")
    assert (changed != SPEECH).mean() == pytest.approx(0.1, abs=0.001)
    assert np.abs(changed).max() == pytest.approx(np.quantile(np.abs(SPEECH), 0.9), rel=1e-4)


def test_reverberation_rings_for_half_a_second():
    click = np.zeros(SAMPLING_RATE, np.float32)
    click[100] = 1
    wet = distorted("reverberation (0.5 s)", click)
    tail = wet[101 : 100 + SAMPLING_RATE // 2]
    assert 10 * np.log10((tail**2).sum()) == pytest.approx(-3, abs=0.5)
    assert np.abs(wet[101 + SAMPLING_RATE // 2 :]).max() < 1e-6


def test_lengths_are_the_stated_ones():
    padded = distorted("1 s of silence around")
    assert len(padded) == len(SPEECH) + 2 * SAMPLING_RATE
    assert not padded[:SAMPLING_RATE].any() and not padded[-SAMPLING_RATE:].any()
    assert np.array_equal(padded[SAMPLING_RATE:-SAMPLING_RATE], SPEECH)
    for seconds in (1, 2, 3):
        assert np.array_equal(distorted(f"first {seconds} s only"), SPEECH[: seconds * SAMPLING_RATE])


def test_drawn_clips_keep_the_classes_shares_and_are_the_same_ones(synthetic_dir):
    corpus = load_corpus("synthetic", synthetic_dir)
    rows = draw_clips(corpus, 16)
    assert np.array_equal(rows, draw_clips(corpus, 16)) and len(set(rows)) == 16
    assert np.bincount(np.array(corpus["label"])[rows]).tolist() == [4] * 4
    assert draw_clips(corpus, 500).tolist() == list(range(48))


def test_losses_are_the_differences_from_the_clean_clips(trained_dir, synthetic_dir):
    corpus = load_corpus("synthetic", synthetic_dir)
    found = measure_robustness(EmotionClassifier(trained_dir), corpus, "none", 8)
    conditions = found["robustness"]
    assert list(conditions) == [CLEAN, *CONDITIONS] and found["robustness_clips"] == 8
    assert conditions[CLEAN]["loss"] == 0 and conditions[CLEAN]["interval"] == [0, 0]
    for figures in conditions.values():
        lost = conditions[CLEAN]["unweighted_accuracy"] - figures["unweighted_accuracy"]
        assert figures["loss"] == pytest.approx(lost)
        assert figures["interval"][0] <= figures["loss"] <= figures["interval"][1]
        assert set(figures) == {"unweighted_accuracy", "loss", "interval", "ece", "mean_confidence"}
