"""Source-filter speech with an emotion: glottal pulses and breath through the formants of random syllables.

Source: a polynomial glottal pulse (Klatt and Klatt, JASA 1990, KLGLOTT88) with jitter, shimmer, tilt and aspiration.
Filter: a cascade of resonators at a vowel's formants (Peterson and Barney, JASA 1952). Emotions change pitch, pitch
range, loudness, tempo and voice quality as reported for acted speech (Scherer, Speech Communication 2003).

Speakers, utterances, recording levels, channels and noise vary at random, so no single measure separates the emotions.
The speech is babble for testing pipelines; it says nothing about real speakers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # loads `scipy.signal`, which takes two seconds, on first use

SAMPLING_RATE = 16_000

# Formants of an adult man in Hz; F4 and F5 are nearly constant across vowels
VOWELS = np.array([(730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240)])
UPPER_FORMANTS = np.array([3500.0, 4500.0])
BANDWIDTHS = np.array([70.0, 100.0, 140.0, 220.0, 280.0])


@dataclass(frozen=True)
class Voice:
    """A speaker.

    Args:
        pitch: Habitual fundamental frequency in Hz.
        tract: Factor on all formants (shorter vocal tracts have higher ones).
        brightness: Cutoff of the source's spectral tilt in Hz.
        breath: Level of aspiration relative to voicing.
        tempo: Syllables per second.
    """

    pitch: float
    tract: float
    brightness: float
    breath: float
    tempo: float


@dataclass(frozen=True)
class Style:
    """The average effect of an emotion on a voice.

    Args:
        level: Pitch above the habitual pitch, in semitones.
        span: Standard deviation of the syllables' pitch accents, in semitones.
        slope: Pitch change from the utterance's start to its end, in semitones.
        loudness: Level in dB.
        tempo: Factor on the tempo.
        open_quotient: Share of a glottal cycle in which the glottis is open: small is pressed, large is lax voice.
        brightness: Factor on the cutoff of the spectral tilt.
        breath: Factor on the aspiration.
        jitter: Relative standard deviation of the cycles' lengths; their amplitudes vary four times as much.
        attack: Rise time of a syllable in seconds.
        smile: Factor on the formants (spread lips raise them).
    """

    level: float
    span: float
    slope: float
    loudness: float
    tempo: float
    open_quotient: float
    brightness: float
    breath: float
    jitter: float
    attack: float
    smile: float


STYLES = {
    "angry": Style(2.5, 2.6, -2.0, 4.0, 1.20, 0.34, 4.0, 0.3, 0.060, 0.006, 0.94),
    "happy": Style(6.0, 6.5, 3.0, 2.0, 1.30, 0.66, 2.2, 1.0, 0.004, 0.030, 1.14),
    "neutral": Style(0.0, 1.0, -1.5, 0.0, 1.00, 0.50, 0.7, 0.4, 0.010, 0.040, 1.00),
    "sad": Style(-1.5, 0.8, -3.0, -4.0, 0.60, 0.80, 0.15, 8.0, 0.016, 0.110, 0.95),
}


def draw_voice(gender: str, rng: np.random.Generator) -> Voice:
    """Draw a random speaker, `female` or `male`."""
    pitch, tract = (205.0, 1.16) if gender == "female" else (118.0, 1.0)
    return Voice(
        pitch=pitch * np.exp(rng.normal(0, 0.08)),
        tract=tract * np.exp(rng.normal(0, 0.02)),
        brightness=1500 * np.exp(rng.normal(0, 0.05)),
        breath=0.05 * np.exp(rng.normal(0, 0.15)),
        tempo=4.6 * np.exp(rng.normal(0, 0.06)),
    )


def synthesise(voice: Voice, emotion: str, rng: np.random.Generator) -> np.ndarray:
    """Synthesise an utterance of 1.5 to 3 seconds.

    Args:
        voice: The speaker.
        emotion: One of `STYLES`.
        rng: Generator for the variation between utterances.

    Returns:
        `np.ndarray` of shape `(samples,)`, float64, within -1 to 1, at 16 kHz.
    """
    style = STYLES[emotion]
    seconds, before = rng.uniform(1.5, 3.0), rng.uniform(0.08, 0.2)
    spoken = seconds - before - rng.uniform(0.08, 0.2)
    tempo = voice.tempo * style.tempo * np.exp(rng.normal(0, 0.10))
    lengths = np.exp(rng.normal(0, 0.25, max(3, round(spoken * tempo))))
    bounds = np.round((before + np.append(0, np.cumsum(lengths / lengths.sum())) * spoken) * SAMPLING_RATE).astype(int)

    source = _source(voice, style, bounds, round(seconds * SAMPLING_RATE), rng)
    speech = np.zeros(len(source) + SAMPLING_RATE)
    formants = voice.tract * style.smile * np.exp(rng.normal(0, 0.012))
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        syllable = _syllable(source[start:end], style, formants, rng)
        speech[start : start + len(syllable)] += syllable
    return _record(speech[: len(source)], style.loudness, rng)


def _source(voice: Voice, style: Style, bounds: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Make the glottal source of an utterance, `(samples,)`: pulses and breath, with a pitch accent per syllable."""
    time = np.linspace(0, 1, samples)
    accents = rng.normal(0, style.span * np.exp(rng.normal(0, 0.2)), len(bounds) - 1)
    semitones = style.level + rng.normal(0, 1.0) + (style.slope + rng.normal(0, 1.0)) * (time - 0.5)
    semitones += np.interp(np.arange(samples), (bounds[:-1] + bounds[1:]) / 2, accents)
    pitch = voice.pitch * 2 ** (semitones / 12)

    # Jitter is constant within a cycle, so the cycles are counted before it is applied
    cycles = np.cumsum(pitch / SAMPLING_RATE).astype(int)
    jitter = style.jitter * np.exp(rng.normal(0, 0.3))
    phase = np.cumsum(pitch * (1 + jitter * rng.normal(size=cycles[-1] + 1))[cycles] / SAMPLING_RATE)
    cycles = phase.astype(int)
    strength = 1 + 4 * jitter * rng.normal(size=cycles[-1] + 1)[cycles]
    quotient = np.clip(style.open_quotient + rng.normal(0, 0.03), 0.3, 0.85)
    position = (phase - cycles) / quotient
    # Derivative of the flow `x**2 - x**3` over the open phase; the jump at its end is the excitation
    pulses = np.where(position < 1, 2 * position - 3 * position**2, 0) * strength
    breath = voice.breath * style.breath * np.exp(rng.normal(0, 0.15))
    pulses += breath * rng.normal(size=samples) * np.where(position < 1, 1.0, 0.3)
    cutoff = voice.brightness * style.brightness * np.exp(rng.normal(0, 0.07))
    pole = np.exp(-2 * np.pi * min(cutoff, 6000.0) / SAMPLING_RATE)
    return np.asarray(scipy.signal.lfilter([1 - pole], [1, -pole], pulses))


def _syllable(source: np.ndarray, style: Style, formants: float, rng: np.random.Generator) -> np.ndarray:
    """Make a consonant and a vowel, `(samples,)`, a little longer than the source, because formants ring on."""
    vowel = VOWELS[rng.integers(len(VOWELS))] * np.exp(rng.normal(0, 0.04, 3))
    onset = int(min(0.06, 0.3 * len(source) / SAMPLING_RATE) * SAMPLING_RATE)
    rise = max(int(style.attack * np.exp(rng.normal(0, 0.2)) * SAMPLING_RATE), 16)
    position = np.arange(len(source))
    envelope = np.clip((position - onset) / rise, 0, 1) * np.clip(
        (len(source) - position) / (0.25 * len(source)), 0, 1
    )
    envelope = np.sin(np.pi / 2 * envelope) ** 2 * np.exp(rng.normal(0, 0.25))
    voiced = np.concatenate([source * envelope, np.zeros(int(0.03 * SAMPLING_RATE))])
    speech = np.asarray(scipy.signal.sosfilt(_resonators(np.append(vowel, UPPER_FORMANTS) * formants), voiced))
    if rng.random() < 0.5:
        # A fricative: differenced noise with strong high frequencies; without it, the onset is a stop's silence
        noise = np.diff(rng.normal(size=onset + 1)) * np.hanning(onset)
        speech[:onset] += noise * 0.03 * np.exp(rng.normal(0, 0.2))
    return speech


def _resonators(frequencies: np.ndarray) -> np.ndarray:
    """Return second-order sections `(formants, 6)` of resonators at frequencies in Hz, with gain 1 at 0 Hz."""
    radius = np.exp(-np.pi * BANDWIDTHS / SAMPLING_RATE)
    first = -2 * radius * np.cos(2 * np.pi * np.minimum(frequencies, 7500) / SAMPLING_RATE)
    zeros, ones = np.zeros_like(radius), np.ones_like(radius)
    return np.stack([1 + first + radius**2, zeros, zeros, ones, first, radius**2], axis=1)


def _record(speech: np.ndarray, loudness: float, rng: np.random.Generator) -> np.ndarray:
    """Apply a random channel, level and noise; return `(samples,)` within -1 to 1."""
    speech = np.asarray(scipy.signal.lfilter([1, rng.uniform(-0.1, 0.1)], [1], speech))
    noise = np.asarray(scipy.signal.lfilter([1], [1, -rng.uniform(0.5, 0.95)], rng.normal(size=len(speech))))
    level = 10 ** ((-26 + loudness + rng.normal(0, 2.0)) / 20)
    snr = 10 ** (rng.uniform(25, 40) / 20)
    mixed = speech / np.sqrt(np.mean(speech**2)) + noise / np.sqrt(np.mean(noise**2)) / snr
    return mixed * min(level, 0.98 / np.abs(mixed).max())
