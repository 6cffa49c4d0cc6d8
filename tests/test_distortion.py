"""Distorted copies: what each change does to a recording, and what no change may do."""

import numpy as np
import pytest

from whisper_emotion import distortion
from whisper_emotion.audio import SAMPLING_RATE, SHORTEST
from whisper_emotion.distortion import CHANGES, distort

SECONDS = np.arange(2 * SAMPLING_RATE) / SAMPLING_RATE


def draws(seed=0):
    return np.random.default_rng(seed)


def tones(*frequencies):
    return sum(0.1 * np.sin(2 * np.pi * frequency * SECONDS) for frequency in frequencies)


def energy(samples, low, high):
    spectrum = np.abs(np.fft.rfft(samples)) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / SAMPLING_RATE)
    return spectrum[(frequencies >= low) & (frequencies < high)].sum()


@pytest.mark.parametrize("length", [SHORTEST, SHORTEST + 20, 1600, 40_000])
def test_distorted_recordings_are_finite_and_within_one(length):
    samples = draws().standard_normal(length).astype(np.float32) * 0.1
    for seed in range(60):
        changed = distort(samples, [1, seed])
        assert changed.dtype == np.float32 and np.isfinite(changed).all() and 0 < np.abs(changed).max() <= 1
        assert len(changed) >= SHORTEST


def test_the_same_seed_distorts_the_same_way():
    samples = tones(200, 1000)
    assert np.array_equal(distort(samples, [1, 5]), distort(samples, [1, 5]))
    assert len({distort(samples, [1, seed]).tobytes() for seed in range(20)}) == 20


def test_silence_stays_silence():
    assert not distort(np.zeros(1600, np.float32), 0).any()


def test_recording_itself_is_not_changed():
    samples = tones(300).astype(np.float32)
    before = samples.copy()
    for seed in range(20):
        distort(samples, seed)
    assert np.array_equal(samples, before)


def test_changes_are_those_of_the_stored_copies():
    """Other samples or other draws need a new `VERSION`, or the feature store would mix old and new copies."""
    samples, found = draws(0).standard_normal(8000) * 0.1, {}
    for _, change in CHANGES:
        draw = draws(7)
        changed = change(samples, draw)
        found[change.__name__] = len(changed), changed[500], np.sqrt((changed**2).mean()), draw.random()
    compressed = found.pop("compress")  # its samples depend on the encoder's version
    assert compressed[3] == 0.8972138009695755
    expected = {
        "change_voice": (7786, 0.12693649530410767, 0.09618573908624986, 0.8972138009695755),
        "add_room": (8000, 0.07984987468770746, 0.11069510539883456, 0.1321585510861979),
        "change_microphone": (8000, 0.08101483045380235, 0.08392997409673018, 0.7970694287520462),
        "limit_band": (8000, 0.17432152106097779, 0.09206586333807686, 0.7756856902451935),
        "add_noise": (8000, 0.06394995294509861, 0.11086145603251932, 0.21601856157789012),
        "pass_telephone": (8000, 0.22351035475730896, 0.2998851782914431, 0.625095466604667),
        "add_silence": (22613, -0.0002498758160795132, 0.059641892540014, 0.7438594981443529),
    }
    assert found.keys() == expected.keys()
    for name, figures in expected.items():
        assert found[name] == pytest.approx(figures, rel=1e-9), name


def test_every_change_happens_as_often_as_stated(monkeypatch):
    counts = dict.fromkeys(range(len(CHANGES)), 0)

    def counting(number):
        def change(samples, draw):
            counts[number] += 1
            return samples

        return change

    monkeypatch.setattr(
        distortion, "CHANGES", [(chance, counting(number)) for number, (chance, _) in enumerate(CHANGES)]
    )
    for seed in range(1000):
        distort(np.ones(10), seed)
    assert [counts[number] / 1000 for number in counts] == pytest.approx([chance for chance, _ in CHANGES], abs=0.05)


def test_changed_voice_moves_pitch_and_length_together():
    changed = distortion.change_voice(tones(440), draws(3))
    factor = len(SECONDS) / len(changed)
    peak = np.abs(np.fft.rfft(changed)).argmax() * SAMPLING_RATE / len(changed)
    assert 0.88 < factor < 1.12 and abs(factor - 1) > 0.01
    assert peak == pytest.approx(440 * factor, abs=1)


def test_room_keeps_length_and_rings_on():
    click = np.zeros(SAMPLING_RATE)
    click[100] = 1
    wet = distortion.add_room(click, draws())
    assert len(wet) == len(click) and np.abs(wet[:100]).max() < 1e-12
    early, late = np.abs(wet[101:500]).mean(), np.abs(wet[2000:2400]).mean()
    assert early > late > 0
    assert np.abs(wet[101 + int(0.7 * SAMPLING_RATE) :]).max() < 1e-12  # the longest tail


def test_microphone_changes_levels_and_adds_no_frequencies():
    samples = tones(200, 7000)
    changed = distortion.change_microphone(samples, draws())
    gains = [np.sqrt(energy(changed, f - 5, f + 5) / energy(samples, f - 5, f + 5)) for f in (200, 7000)]
    assert abs(20 * np.log10(gains[0] / gains[1])) > 0.5
    assert energy(changed, 1000, 2000) < 1e-12 * energy(changed, 0, 8000)


def test_band_takes_what_lies_outside():
    changed = distortion.limit_band(tones(20, 1000, 7900), draws())
    assert energy(changed, 900, 1100) > 0.9 * energy(tones(1000), 900, 1100)
    for outside in (20, 7900):
        assert energy(changed, outside - 10, outside + 10) < 0.1 * energy(tones(outside), outside - 10, outside + 10)


def test_noise_is_5_to_35_decibels_below_the_speech():
    samples = tones(500)
    for seed in range(10):
        noise = distortion.add_noise(samples, draws(seed)) - samples
        assert 5 <= 10 * np.log10((samples**2).mean() / (noise**2).mean()) <= 35


def test_telephone_has_no_frequencies_above_4_khz():
    changed = distortion.pass_telephone(tones(1000, 6000), draws())
    assert len(changed) == len(SECONDS)
    assert energy(changed, 4100, 8000) < 1e-4 * energy(changed, 0, 4000)


def test_compression_keeps_the_sound():
    samples = tones(300, 1000)
    changed = distortion.compress(samples, draws())
    assert energy(changed, 250, 1100) > 0.9 * energy(changed, 0, 8000)


def test_silence_stands_before_and_after():
    samples = tones(300)
    changed = distortion.add_silence(samples, draws())
    added = len(changed) - len(samples)
    assert 0 < added <= 1.2 * SAMPLING_RATE
    shift = np.correlate(changed, samples, "valid").argmax()
    assert np.corrcoef(changed[shift : shift + len(samples)], samples)[0, 1] > 0.99
