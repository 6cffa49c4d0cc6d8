"""Data augmentation: random changes of voice, room, microphone and channel."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy  # loads `scipy.signal`, which takes two seconds, on first use
import soundfile
import soxr

from whisper_emotion.audio import SAMPLING_RATE, SHORTEST

VERSION = 1  # of `distort`; part of the feature store's key
QUIETEST = 1e-9  # RMS below which a recording counts as silent
MP3 = {"format": "MP3"}  # arguments of soundfile
RESPONSE_FREQUENCIES = (0, 100, 300, 800, 2000, 4000, 6000, 8000)  # Hz; a microphone's gain is drawn at each


def distort(samples: np.ndarray, seed: Any) -> np.ndarray:
    """Apply random changes of voice, room, microphone and channel to a recording; see `CHANGES`.

    Args:
        samples: `(samples,)` at 16 kHz, within -1 to 1.
        seed: Seed of `numpy.random.default_rng`; equal seeds give equal distortions.

    Returns:
        `(samples,)` float32 at 16 kHz, within -1 to 1; the length may change.
    """
    draw = np.random.default_rng(seed)
    changed = np.asarray(samples, np.float64)
    if _level(changed) < QUIETEST:
        return changed.astype(np.float32)
    for chance, change in CHANGES:
        if draw.random() < chance:
            changed = change(changed, draw)
    changed = np.pad(changed, (0, max(0, min(len(samples), SHORTEST) - len(changed))))
    peak = 10 ** (-draw.uniform(0, 20) / 20)
    return (changed * (peak / np.abs(changed).max())).astype(np.float32)


def change_voice(samples: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Play a recording up to 11 % slower or faster: pitch, formants and tempo move together."""
    return soxr.resample(samples, SAMPLING_RATE, SAMPLING_RATE / draw.uniform(0.89, 1.11))


def add_room(
    samples: np.ndarray,
    draw: np.random.Generator,
    seconds: tuple[float, float] = (0.1, 0.7),
    decibels: tuple[float, float] = (0, 12),
) -> np.ndarray:
    """Add reverberation: noise that decays by 60 dB in `seconds` and starts `decibels` below the direct sound."""
    length = int(draw.uniform(*seconds) * SAMPLING_RATE)
    tail = draw.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    tail *= 10 ** (-draw.uniform(*decibels) / 20) / np.linalg.norm(tail)
    tail[0] += 1
    return scipy.signal.fftconvolve(samples, tail)[: len(samples)]


def change_microphone(samples: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Filter a recording by a smooth random response: a random walk with 3 dB steps over eight frequencies."""
    gains = np.cumsum(draw.normal(0, 3, len(RESPONSE_FREQUENCIES)))
    frequencies = np.fft.rfftfreq(len(samples), 1 / SAMPLING_RATE)
    decibels = np.interp(np.log1p(frequencies), np.log1p(RESPONSE_FREQUENCIES), gains - gains.mean())
    return np.fft.irfft(np.fft.rfft(samples) * 10 ** (decibels / 20), len(samples))


def limit_band(samples: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Keep a random band: lower limit 50 to 350 Hz, upper limit 3.2 to 7.5 kHz."""
    band = draw.uniform(50, 350), draw.uniform(3200, 7500)
    filters = scipy.signal.butter(4, band, "bandpass", fs=SAMPLING_RATE, output="sos")
    return scipy.signal.sosfilt(filters, samples)


def add_noise(
    samples: np.ndarray,
    draw: np.random.Generator,
    decibels: tuple[float, float] = (5, 35),
    slope: tuple[float, float] = (0, 0.6),
) -> np.ndarray:
    """Add noise `decibels` below the speech; a `slope` of 0 is white noise, 0.5 pink noise."""
    spectrum = np.fft.rfft(draw.standard_normal(len(samples)))
    spectrum /= np.maximum(np.arange(len(spectrum)), 1) ** draw.uniform(*slope)
    noise = np.fft.irfft(spectrum, len(samples))
    return samples + noise * (_level(samples) / _level(noise) * 10 ** (-draw.uniform(*decibels) / 20))


def pass_telephone(samples: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Encode a recording at 8 kHz with 8-bit mu-law (ITU-T G.711), and decode it."""
    narrow = soxr.resample(samples, SAMPLING_RATE, 8000)
    narrow /= np.abs(narrow).max()
    bits = np.round(np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log(256) * 127) / 127
    return soxr.resample(np.sign(bits) * (256 ** np.abs(bits) - 1) / 255, 8000, SAMPLING_RATE)


def compress(
    samples: np.ndarray,
    draw: np.random.Generator,
    level: tuple[float, float] = (0.7, 0.99),
    codec: Mapping[str, Any] = MP3,
) -> np.ndarray:
    """Compress a recording and decode it, by default MP3 at a low bit rate; `level` 1 is soundfile's lowest rate."""
    file = io.BytesIO()
    scaled = samples * (0.9 / np.abs(samples).max())
    soundfile.write(file, scaled, SAMPLING_RATE, compression_level=draw.uniform(*level), **codec)
    file.seek(0)
    return soundfile.read(file)[0]


def add_silence(samples: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Add up to 0.6 s of silence before and after a recording, and faint noise everywhere."""
    before, after = (int(draw.uniform(0, 0.6) * SAMPLING_RATE) for _ in range(2))
    padded = np.pad(samples, (before, after))
    return padded + draw.standard_normal(len(padded)) * (_level(samples) * 10 ** (-draw.uniform(30, 60) / 20))


def _level(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(samples**2)))


# The probability of each change, in the order of the changes
CHANGES: tuple[tuple[float, Callable[[np.ndarray, np.random.Generator], np.ndarray]], ...] = (
    (0.4, change_voice),
    (0.4, add_room),
    (0.7, change_microphone),
    (0.25, limit_band),
    (0.5, add_noise),
    (0.15, pass_telephone),
    (0.2, compress),
    (0.3, add_silence),
)
