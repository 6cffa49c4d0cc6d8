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

# A frame is centred on its first sample and reaches half a window (200 of 160-sample hops) to the right, so up to two
# frames behind the last real one still hear its end. They are computed, not filled, to equal the stock extractor.
TAIL_FRAMES = 2

# What a configuration may say, from and to: more is a damaged file, and believing it would take all memory.
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

LOUDEST = 1e15  # beyond, the spectrogram is no longer finite in single precision


class WhisperEmotionFeatureExtractor(WhisperFeatureExtractor):
    """Whisper's log-mel spectrogram with the mask of its real frames, computed on the audio alone.

    Values equal those of `WhisperFeatureExtractor` on the same audio (1e-5): a clip of `n` samples has
    `ceil(n / hop_length)` real frames, and the rest of the window holds the value that silence has in that clip.

    With `normalize_speech`, the extractor first cuts each clip to its speech (`find_speech`) and brings it to one
    level. Gain, and silence at both ends, then change nothing.

    Other fields, arguments and defaults are the parent's. `padding_value` and `dither` must be 0.0, or the padding
    would not be silent. The argument `return_attention_mask` of a call decides whether the mask is returned. The field
    of that name has no effect, since stock checkpoints say False.

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

        Forked processes (`Dataset.map(num_proc=2)`) compute on one thread each once this process has extracted
        features: a fork inherits a thread pool without its threads, and would wait for them forever.

        Args:
            raw_speech: One clip `(samples,)` or a list of clips: arrays, tensors or lists of floats. A two-dimensional
                array is a batch `(clips, samples)`.
            truncation: Cut clips longer than `max_length`, with a warning that names the seconds dropped. False
                refuses such clips.
            pad_to_multiple_of: Samples; the width is rounded up to it, at most to the window.
            return_tensors: `pt` or `np`; numpy arrays where not given.
            return_attention_mask: False leaves the mask out.
            padding: `max_length` (default: all batches have one width, which keeps the pipeline's batching safe) or
                `longest` (the longest clip of this batch and two frames).
            max_length: Samples, at most the window of `chunk_length` seconds, which is the default.
            sampling_rate: Rate of `raw_speech` in Hz; anything but the extractor's own is refused.
            do_normalize: Scale each clip to zero mean and unit variance first.
            device: Where the spectrogram is computed.
            **kwargs: Refused by name, unless None or False.

        Returns:
            `input_features` `(batch, mel, frames)` float32 and `attention_mask` `(batch, frames)` int64, 1 on the
            clip's own frames.

        Raises:
            ValueError: An argument is not allowed, or a clip is too short, not finite, not mono or wrongly sampled;
                the message names the argument or the clip's place in the batch.
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
        """Make a batch of features of several widths, such as `Dataset.map` stores. Trainer's collator calls it.

        Args:
            processed_features: A dictionary a clip: this extractor's outputs without their batch dimension, and other
                keys, such as `label`.
            padding: `longest` (default) or `max_length`, the window.
            max_length: Not supported, as `truncation` and `pad_to_multiple_of`: give it to the extracting call.
            truncation: Not supported.
            pad_to_multiple_of: Not supported.
            return_attention_mask: Without effect: the mask is returned.
            return_tensors: `pt` or `np`; lists of arrays where not given.

        Returns:
            As of `__call__`, with the other keys. Zeros fill the features; the model ignores them.

        Raises:
            ValueError: An argument is not supported, features hold NaN or infinity, or a mask is not ones followed by
                zeros; the message names the clip's place in the batch.
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
                    f"input_features of clip {place} of the batch hold NaN or infinity. Extract them anew."
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
        power = self._frame_power(clip)
        if not self.normalize_speech or power.max() <= 0:
            return slice(0, len(clip))
        first, last = np.flatnonzero(power >= power.max() * 10 ** (PAUSE_DECIBELS / 10))[[0, -1]]
        margin = round(MARGIN_SECONDS * self.sampling_rate)
        start, end = first * self.hop_length - margin, last * self.hop_length + self.n_fft + margin
        return slice(max(0, int(start)), min(len(clip), int(end)))

    def count_samples(self, clip: np.ndarray) -> int:
        """Count the samples of a clip that become features: of its speech, up to the window."""
        speech = self.find_speech(clip[: self.n_samples])
        return speech.stop - speech.start

    def _normalize(self, clip: np.ndarray) -> np.ndarray:
        """Cut a clip to its speech, and bring its frames within 40 dB of the loudest one to one level."""
        power = self._frame_power(clip)
        if power.max() <= 0:
            return clip
        speech = power[power >= power.max() * 10 ** (PAUSE_DECIBELS / 10)].mean()
        return (clip[self.find_speech(clip)] * np.sqrt(10 ** (SPEECH_DECIBELS / 10) / speech)).astype(np.float32)

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
            logger.warning_once(f"sampling_rate is not given: the audio is taken to be at {rate} Hz")

    def _check_clip(self, clip, place: int, limit: int, truncation: bool) -> np.ndarray:
        """Return one clip as float32 `(samples,)`, or raise the ValueError that says what is wrong with it."""
        where, numbers = f"audio {place} of the batch", "it must hold floats in [-1, 1]"
        if isinstance(clip, torch.Tensor):
            clip = clip.detach().cpu()
            clip = clip.float() if clip.is_floating_point() else clip  # numpy knows no bfloat16
        try:
            clip = np.asarray(clip)
        except ValueError as error:  # lists of several lengths
            raise ValueError(f"{where} is no array of numbers ({error}): {numbers}") from error
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
        """Compute the features `(mel, width)` of one clip: its own frames, the tail, and silence behind them."""
        _compute_on_one_thread_after_fork()
        span = min(-(-len(clip) // self.hop_length) + TAIL_FRAMES, width)
        # As the stock extractor does: zeros behind the clip, and half a window reflected at either end.
        signal = np.pad(np.pad(clip, (0, span * self.hop_length - len(clip))), self.n_fft // 2, mode="reflect")
        frames = torch.from_numpy(signal).to(device).unfold(0, self.n_fft, self.hop_length)[:span]
        power = torch.fft.rfft(frames * torch.hann_window(self.n_fft, device=device)).abs() ** 2
        filters = torch.from_numpy(self.mel_filters).to(device, torch.float32)
        with torch.autocast(frames.device.type, enabled=False):  # half precision is too coarse for a spectrum
            log_mel = (power @ filters).clamp(min=1e-10).log10()
        # The stock extractor clamps at the clip's maximum less 8, and silence has the value of the clamp.
        floor = log_mel.max() - 8.0
        features = floor.clamp(min=-10.0).repeat(width, self.feature_size)
        features[:span] = torch.maximum(log_mel, floor)
        return ((features + 4.0) / 4.0).T.contiguous().cpu().numpy()


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
    """Make torch leave its thread pool alone in processes forked from now on: the pool's threads are not forked."""
    if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
        os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


WhisperEmotionFeatureExtractor.register_for_auto_class()

__all__ = ["WhisperEmotionFeatureExtractor"]
