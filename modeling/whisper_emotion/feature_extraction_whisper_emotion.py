"""Log-mel features and frame masks for `WhisperForEmotionClassification`.

This file travels with every checkpoint: it imports torch, transformers, numpy and its siblings, nothing else.
"""

import os
from functools import cache, partial

import numpy as np
import torch
from transformers import BatchFeature, WhisperFeatureExtractor
from transformers.utils import logging

logger = logging.get_logger(__name__)

# A frame reaches half a window (200 samples) right of its centre, more than a hop (160 samples). So up to two frames
# after the last real frame contain audio; they are computed, as in the stock extractor.
TAIL_FRAMES = 2

# Allowed ranges: larger values in a damaged file would exhaust the memory
LIMITS = {
    "feature_size": (1, 1024),
    "sampling_rate": (1_000, 1_000_000),
    "hop_length": (1, 65_536),
    "chunk_length": (1, 3_600),
    "n_fft": (16, 65_536),
}
# Of `normalize_speech`: speech is every frame within 40 dB of the loudest one
PAUSE_DECIBELS = -40.0
MARGIN_SECONDS = 0.1  # kept before and behind the speech
SPEECH_DECIBELS = -26.0  # of full scale: the level of speech in ITU-T P.56's tests

LOUDEST = 1e15  # above it, the spectrogram overflows single precision


class WhisperEmotionFeatureExtractor(WhisperFeatureExtractor):
    """Whisper's log-mel spectrogram and the mask of its real frames; only the audio itself is transformed.

    Values equal those of `WhisperFeatureExtractor` on the same audio (1e-5). A clip of `n` samples has
    `ceil(n / hop_length)` real frames. The rest of the window holds the value of silence in that clip.

    With `normalize_speech`, the extractor first cuts each clip to its speech (`find_speech`) and brings it to one
    level. Gain, and silence at both ends, then change nothing.

    Other fields, arguments and defaults equal the parent's. `padding_value` and `dither` must be 0.0, because padding
    must be silent. The field `return_attention_mask` has no effect, because stock checkpoints set it to False; the
    argument of the same name decides.

    Raises:
        ValueError: A field has a value that is not allowed.
    """

    model_input_names = ["input_features", "attention_mask"]

    def __init__(
        self,
        feature_size=80,
        sampling_rate=16000,
        hop_length=160,
        chunk_length=30,
        n_fft=400,
        padding_value=0.0,
        dither=0.0,
        return_attention_mask=False,
        normalize_speech=False,
        **kwargs,
    ):
        given = locals()
        for name, (low, high) in LIMITS.items():
            if type(value := given[name]) is not int or not low <= value <= high:
                raise ValueError(f"{name}={value!r} is not allowed: it must be a whole number from {low} to {high}")
        for name in ("padding_value", "dither"):
            if (value := given[name]) != 0:
                raise ValueError(f"{name}={value!r} is not allowed: it must be 0.0")
        if type(normalize_speech) is not bool:
            raise ValueError(f"normalize_speech={normalize_speech!r} is not allowed: it must be true or false")
        self.normalize_speech = normalize_speech
        super().__init__(
            feature_size, sampling_rate, hop_length, chunk_length, n_fft, padding_value, dither, True, **kwargs
        )

    def __call__(
        self,
        raw_speech,
        truncation: bool = True,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = None,
        padding: bool | str | None = "max_length",
        max_length: int | None = None,
        sampling_rate: int | None = None,
        do_normalize: bool | None = None,
        device: str | None = "cpu",
        **kwargs,
    ) -> BatchFeature:
        """Turn mono audio into log-mel features and their mask.

        After the first call, forked processes (`Dataset.map(num_proc=2)`) use one thread each: a fork inherits the
        thread pool without its threads, and would wait for them forever.

        Args:
            raw_speech: One clip `(samples,)` or a list of clips: arrays, tensors or lists of floats. A two-dimensional
                array is a batch `(clips, samples)`.
            truncation: Cut clips longer than `max_length`, with a warning that names the seconds dropped. False
                refuses such clips.
            pad_to_multiple_of: Samples; the width is rounded up to a multiple, at most to the window.
            return_tensors: `pt` or `np`; default: numpy arrays.
            return_attention_mask: False omits the mask.
            padding: `max_length` (default; all batches have the same width, so the pipeline can batch them) or
                `longest` (the longest clip of the batch and two frames).
            max_length: Samples, at most the window of `chunk_length` seconds (default).
            sampling_rate: Rate of `raw_speech` in Hz; must equal the extractor's.
            do_normalize: First scale each clip to zero mean and unit variance.
            device: Device that computes the spectrogram.
            **kwargs: Refused by name, unless None or False.

        Returns:
            `input_features` `(batch, mel, frames)` float32 and `attention_mask` `(batch, frames)` int64, 1 on the
            clip's own frames.

        Raises:
            ValueError: An argument is not allowed, or a clip is too short, not finite, not mono or wrongly sampled.
                The message names the argument or the clip's place in the batch.
        """
        limit = self.n_samples if max_length is None else max_length
        self._check_call(limit, padding, pad_to_multiple_of, sampling_rate, kwargs)
        clips = [self._check_clip(clip, place, limit, truncation) for place, clip in enumerate(_as_clips(raw_speech))]
        if self.normalize_speech:
            clips = [self._normalize(clip) for clip in clips]
        if do_normalize:
            clips = [(clip - clip.mean()) / np.sqrt(clip.var() + 1e-7) for clip in clips]

        lengths = [-(-len(clip) // self.hop_length) for clip in clips]
        window, width = self.n_samples // self.hop_length, limit // self.hop_length
        if padding != "max_length":
            width = min(max(lengths) + TAIL_FRAMES, width)
        if pad_to_multiple_of:
            samples = -(-width * self.hop_length // pad_to_multiple_of) * pad_to_multiple_of
            width = min(samples // self.hop_length, window)

        features = np.stack([self._log_mel(clip, width, device or "cpu") for clip in clips])
        batch = BatchFeature({"input_features": features})
        if return_attention_mask is not False:
            batch["attention_mask"] = (np.arange(width) < np.asarray(lengths)[:, None]).astype(np.int64)
        return batch.convert_to_tensors(return_tensors) if return_tensors else batch

    def pad(
        self,
        processed_features,
        padding: bool | str = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Pad features of several widths, as `Dataset.map` stores them, into a batch; Trainer's collator calls this.

        Args:
            processed_features: One dictionary per clip: this extractor's output without the batch dimension, and other
                keys, such as `label`.
            padding: `longest` (default) or `max_length`, the window.
            max_length: Not supported: give it when the features are extracted.
            truncation: Not supported: give it when the features are extracted.
            pad_to_multiple_of: Not supported: give it when the features are extracted.
            return_attention_mask: No effect: the mask is always returned.
            return_tensors: `pt` or `np`; default: lists of arrays.

        Returns:
            The output of `__call__` and the other keys. The features are padded with zeros, which the model ignores.

        Raises:
            ValueError: An argument is not supported, features hold NaN or infinity, or a mask is not ones followed by
                zeros. The message names the clip's place in the batch.
        """
        unsupported = {"max_length": max_length, "truncation": truncation, "pad_to_multiple_of": pad_to_multiple_of}
        for name, value in unsupported.items():
            if value:
                raise ValueError(f"{name}={value!r} is not allowed in pad. Give it when the features are extracted.")
        batch = {name: [clip[name] for clip in processed_features] for name in processed_features[0]}
        features = [np.asarray(clip, np.float32) for clip in batch["input_features"]]
        masks = [np.asarray(mask, np.int64) for mask in batch["attention_mask"]]
        for place, (clip, mask) in enumerate(zip(features, masks, strict=True)):
            if not np.array_equal(mask, np.arange(clip.shape[-1]) < max(mask.sum(), 1)):
                raise ValueError(
                    f"attention_mask of clip {place} of the batch is not allowed: it must be ones followed by zeros, "
                    "one value for each frame"
                )
            if not np.isfinite(clip).all():
                raise ValueError(
                    f"input_features of clip {place} of the batch hold NaN or infinity. Extract them again."
                )
        width = self.nb_max_frames if padding == "max_length" else max(map(len, masks))
        batch["input_features"] = [np.pad(clip, ((0, 0), (0, width - clip.shape[-1]))) for clip in features]
        batch["attention_mask"] = [np.pad(mask, (0, width - len(mask))) for mask in masks]
        return BatchFeature(batch, tensor_type=return_tensors)

    def find_speech(self, clip: np.ndarray) -> slice:
        """Find the part of a clip that `normalize_speech` keeps.

        Args:
            clip: `(samples,)` at `sampling_rate`, at least `n_fft` samples.

        Returns:
            The samples from the first to the last frame within 40 dB of the loudest one, with a margin of 0.1 s.
            Without `normalize_speech`, and for digital silence, all samples.
        """
        return self._cut(clip, self._frame_power(clip)) if self.normalize_speech else slice(0, len(clip))

    def count_samples(self, clip: np.ndarray) -> int:
        """Count the samples of a clip that become features: of its speech, up to the window."""
        speech = self.find_speech(clip[: self.n_samples])
        return speech.stop - speech.start

    def _normalize(self, clip: np.ndarray) -> np.ndarray:
        """Cut a clip to its speech, and bring its frames within 40 dB of the loudest one to one level."""
        power = self._frame_power(clip)
        if power.max() <= 0:
            return clip
        speech = power[_is_speech(power)].mean()
        return (clip[self._cut(clip, power)] * np.sqrt(10 ** (SPEECH_DECIBELS / 10) / speech)).astype(np.float32)

    def _cut(self, clip: np.ndarray, power: np.ndarray) -> slice:
        """Find the speech of a clip, with its margin, by the power of its frames."""
        if power.max() <= 0:
            return slice(0, len(clip))
        first, last = np.flatnonzero(_is_speech(power))[[0, -1]]
        margin = round(MARGIN_SECONDS * self.sampling_rate)
        start, end = first * self.hop_length - margin, last * self.hop_length + self.n_fft + margin
        return slice(max(0, int(start)), min(len(clip), int(end)))

    def _frame_power(self, clip: np.ndarray) -> np.ndarray:
        """Compute the mean square of each whole frame, `(frames,)`."""
        squares = np.square(clip, dtype=np.float64)
        return np.lib.stride_tricks.sliding_window_view(squares, self.n_fft)[:: self.hop_length].mean(axis=1)

    def _check_call(self, limit, padding, multiple, sampling_rate, others: dict) -> None:
        """Raise a ValueError for the first argument that is not allowed; the message names the allowed values."""
        rate, longest = self.sampling_rate, self.n_samples
        fits = type(limit) is int and self.n_fft <= limit <= longest and limit % self.hop_length == 0
        rounds = multiple is None or (type(multiple) is int and 0 < multiple <= longest)
        rules = [
            ("sampling_rate", sampling_rate, sampling_rate in (None, rate), f"{rate} Hz. Resample the audio."),
            ("padding", padding, padding in ("max_length", "longest", True), "'max_length' or 'longest'"),
            ("max_length", limit, fits, f"{self.n_fft} to {longest} samples, in steps of {self.hop_length}"),
            ("pad_to_multiple_of", multiple, rounds, f"1 to {longest} samples"),
            *((name, value, value is None or value is False, "left out") for name, value in others.items()),
        ]
        for name, value, holds, allowed in rules:
            if not holds:
                raise ValueError(f"{name}={value!r} is not allowed: it must be {allowed}")
        if sampling_rate is None:
            logger.warning_once(f"sampling_rate is not given: {rate} Hz is assumed")

    def _check_clip(self, clip, place: int, limit: int, truncation: bool) -> np.ndarray:
        """Return one clip as float32 `(samples,)`; raise ValueError if the clip is not allowed."""
        where, numbers = f"audio {place} of the batch", "it must hold floats in [-1, 1]"
        if isinstance(clip, torch.Tensor):
            clip = clip.detach().cpu()
            clip = clip.float() if clip.is_floating_point() else clip  # numpy knows no bfloat16
        try:
            clip = np.asarray(clip)
        except ValueError as error:  # lists of several lengths
            raise ValueError(f"{where} is not an array of numbers ({error}): {numbers}") from error
        if clip.ndim != 1:
            raise ValueError(f"{where} has shape {clip.shape}: it must be `(samples,)`. Mix channels down to mono.")
        if len(clip) < self.n_fft:
            raise ValueError(
                f"{where} has {len(clip)} samples: it must have at least {self.n_fft}. A two-dimensional array is a "
                "batch `(clips, samples)`."
            )
        if clip.dtype.kind != "f":
            raise ValueError(f"{where} holds {clip.dtype}: {numbers}. Divide integers by their full scale.")
        with np.errstate(over="ignore"):  # infinity is refused below
            clip = clip.astype(np.float32, copy=False)
        if not np.abs(clip).max() <= LOUDEST:
            raise ValueError(f"{where} contains NaN, infinite or huge samples: {numbers}")
        if len(clip) > limit:
            length = f"{where} lasts {len(clip) / self.sampling_rate:.2f} s ({len(clip):,} samples)"
            if not truncation:
                raise ValueError(f"{length}: at most {limit:,} samples are allowed. Cut it into windows.")
            logger.warning(
                f"{length}: all after {limit / self.sampling_rate:g} s is dropped. Predict long recordings in windows."
            )
        return clip[:limit]

    def _log_mel(self, clip: np.ndarray, width: int, device: str) -> np.ndarray:
        """Compute the features `(mel, width)` of one clip: its own frames, the tail, then silence."""
        _compute_on_one_thread_after_fork()
        span = min(-(-len(clip) // self.hop_length) + TAIL_FRAMES, width)
        # As in the stock extractor: zeros after the clip, and half a window reflected at either end
        signal = np.pad(np.pad(clip, (0, span * self.hop_length - len(clip))), self.n_fft // 2, mode="reflect")
        frames = torch.from_numpy(signal).to(device).unfold(0, self.n_fft, self.hop_length)[:span]
        power = torch.fft.rfft(frames * torch.hann_window(self.n_fft, device=device)).abs() ** 2
        filters = torch.from_numpy(self.mel_filters).to(device, torch.float32)
        with torch.autocast(frames.device.type, enabled=False):  # half precision is too coarse for a spectrum
            log_mel = (power @ filters).clamp(min=1e-10).log10()
        # The stock extractor clamps at the clip's maximum minus 8, and silence has the value of the clamp
        floor = log_mel.max() - 8.0
        features = floor.clamp(min=-10.0).repeat(width, self.feature_size)
        features[:span] = torch.maximum(log_mel, floor)
        return ((features + 4.0) / 4.0).T.contiguous().cpu().numpy()


def _is_speech(power: np.ndarray) -> np.ndarray:
    """Whether each frame is within 40 dB of the loudest one, `(frames,)`."""
    return power >= power.max() * 10 ** (PAUSE_DECIBELS / 10)


def _as_clips(raw_speech) -> list:
    """Split a batch into its clips; a single clip is a batch of one."""
    if isinstance(raw_speech, (list, tuple)):
        first = raw_speech[0] if raw_speech else 0.0
        is_batch = isinstance(first, (list, tuple)) or np.ndim(first) > 0
    else:
        is_batch = np.ndim(raw_speech) > 1
    return list(raw_speech) if is_batch else [raw_speech]


@cache
def _compute_on_one_thread_after_fork() -> None:
    """Limit torch to one thread in processes forked from now on: a fork lacks the threads of the pool."""
    if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
        os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


WhisperEmotionFeatureExtractor.register_for_auto_class()

__all__ = ["WhisperEmotionFeatureExtractor"]
