"""Log-mel features and frame masks for `WhisperForEmotionClassification`.

This file travels with every checkpoint: it imports torch, transformers, numpy and its siblings, nothing else.
"""

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
LOUDEST = 1e15  # beyond, the spectrogram is no longer finite in single precision


class WhisperEmotionFeatureExtractor(WhisperFeatureExtractor):
    """Whisper's log-mel spectrogram with the mask of its real frames, computed on the audio alone.

    Values equal those of `WhisperFeatureExtractor` on the same audio (1e-5): a clip of `n` samples has
    `ceil(n / hop_length)` real frames, the rest of the window holds the value that silence has in that clip. All clips
    of a batch go through one Fourier transform, which sees no padding.

    The arguments are those of `WhisperFeatureExtractor`; `dither` is not supported.
    """

    model_input_names = ["input_features", "attention_mask"]

    def __init__(self, feature_size=80, dither=0.0, return_attention_mask=True, **kwargs):
        if dither:
            raise ValueError(f"dither={dither!r} is not supported: it must be 0.0, or silence would not be silent")
        for name, (low, high) in LIMITS.items():
            value = {"feature_size": feature_size, **kwargs}.get(name, low)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{name}={value!r} is not allowed: it must be a whole number from {low} to {high}")
        # The parent's default, False, stands in every stock checkpoint; here the mask is always returned.
        super().__init__(feature_size=feature_size, dither=dither, return_attention_mask=True, **kwargs)

    def __call__(
        self,
        raw_speech,
        truncation: bool = True,
        padding: bool | str = "max_length",
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        sampling_rate: int | None = None,
        do_normalize: bool = False,
        device: str = "cpu",
        **kwargs,
    ) -> BatchFeature:
        """Turn mono audio into log-mel features and their mask.

        Args:
            raw_speech: One clip `(samples,)` or a list of clips: arrays, tensors or lists of floats. A two-dimensional
                array is a batch `(clips, samples)`.
            truncation: Cut clips longer than `max_length`, with a warning that names the seconds dropped. False
                refuses such clips.
            padding: `max_length` (default: all batches have one width, which keeps the pipeline's batching safe) or
                `longest` (the longest clip of this batch and two frames).
            max_length: Samples, at most the window of `chunk_length` seconds, which is the default.
            pad_to_multiple_of: Samples; the width is rounded up to it, at most to the window.
            return_tensors: `pt` or `np`; numpy arrays where not given.
            sampling_rate: Rate of `raw_speech` in Hz; anything but the extractor's own is refused.
            do_normalize: Scale each clip to zero mean and unit variance first.
            device: Where the spectrogram is computed.
            **kwargs: Accepted for the stock extractor's callers (`return_attention_mask`); the mask always comes.

        Returns:
            `input_features` `(batch, mel, frames)` float32 and `attention_mask` `(batch, frames)` int64, 1 on the
            clip's own frames.

        Raises:
            ValueError: A clip is empty, shorter than one window, not finite, not mono, or wrongly sampled; the message
                names its place in the batch.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"sampling_rate={sampling_rate}: the features need audio at {self.sampling_rate} Hz; resample it first"
            )
        if padding not in ("max_length", "longest", True):
            raise ValueError(f"padding={padding!r} is not allowed: it must be 'max_length' or 'longest'")
        limit = self.n_samples if max_length is None else max_length
        if type(limit) is not int or not self.n_fft <= limit <= self.n_samples or limit % self.hop_length:
            raise ValueError(
                f"max_length={max_length!r}: it must be {self.n_fft} samples or more, up to {self.n_samples}, in "
                f"steps of {self.hop_length}"
            )
        if pad_to_multiple_of is not None and (
            type(pad_to_multiple_of) is not int or not 0 < pad_to_multiple_of <= self.n_samples
        ):
            raise ValueError(f"pad_to_multiple_of={pad_to_multiple_of!r}: it must be 1 to {self.n_samples} samples")
        clips = [self._check(clip, index, limit, truncation) for index, clip in enumerate(self._as_list(raw_speech))]
        if do_normalize:
            clips = [(clip - clip.mean()) / np.sqrt(clip.var() + 1e-7) for clip in clips]

        lengths = [-(-len(clip) // self.hop_length) for clip in clips]
        full_width = limit // self.hop_length
        width = full_width if padding == "max_length" else min(max(lengths) + TAIL_FRAMES, full_width)
        if pad_to_multiple_of:
            width = -(-width * self.hop_length // pad_to_multiple_of) * pad_to_multiple_of // self.hop_length

        features = self._log_mel(clips, lengths, width, device)
        mask = (np.arange(width) < np.asarray(lengths)[:, None]).astype(np.int64)
        batch = BatchFeature({"input_features": features, "attention_mask": mask})
        return batch.convert_to_tensors(return_tensors) if return_tensors else batch

    def pad(
        self,
        processed_features,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Make a batch of features of several widths, such as `Dataset.map` stores. Trainer's collator calls it.

        Args:
            processed_features: A dictionary a clip: this extractor's outputs without their batch dimension, and other
                keys, such as `label`.
            padding: `longest` (default) or `max_length`, the window.
            max_length: Not supported: give it when the features are extracted.
            pad_to_multiple_of: Not supported: give it when the features are extracted.
            return_tensors: `pt` or `np`; lists of arrays where not given.
            **kwargs: Accepted for the stock extractor's callers.

        Returns:
            As of `__call__`, with the other keys. Zeros fill the features; the model ignores them.

        Raises:
            ValueError: An argument is not supported.
        """
        if max_length is not None or pad_to_multiple_of is not None:
            raise ValueError(
                f"max_length={max_length!r}, pad_to_multiple_of={pad_to_multiple_of!r}: pad supports neither; give "
                "them when the features are extracted"
            )
        batch = {name: [clip[name] for clip in processed_features] for name in processed_features[0]}
        longest = max(len(mask) for mask in batch["attention_mask"])
        width = self.nb_max_frames if padding == "max_length" else longest
        for name, dtype in (("input_features", np.float32), ("attention_mask", np.int64)):
            rows = [np.asarray(row, dtype) for row in batch[name]]
            batch[name] = [np.pad(row, [(0, 0)] * (row.ndim - 1) + [(0, width - row.shape[-1])]) for row in rows]
        return BatchFeature(batch, tensor_type=return_tensors)

    @staticmethod
    def _as_list(raw_speech) -> list:
        """Split a batch into its clips; a single clip is a batch of one."""
        if isinstance(raw_speech, (np.ndarray, torch.Tensor)):
            if raw_speech.ndim == 2 and 0 < raw_speech.shape[1] < 16 <= raw_speech.shape[0]:
                raise ValueError(
                    f"audio 0 of the batch has shape {tuple(raw_speech.shape)}: mix multi-channel audio down to mono "
                    "`(samples,)`; a two-dimensional array is a batch `(clips, samples)`"
                )
            return list(raw_speech) if raw_speech.ndim > 1 else [raw_speech]
        if not hasattr(raw_speech, "__len__"):
            return [raw_speech]
        if len(raw_speech) == 0:
            raise ValueError("audio 0 of the batch is empty: there is nothing to extract features from")
        first = raw_speech[0]
        return list(raw_speech) if isinstance(first, (list, tuple)) or np.ndim(first) > 0 else [raw_speech]

    def _check(self, clip, index: int, limit: int, truncation: bool) -> np.ndarray:
        """Return one clip as float32 `(samples,)`, or raise the ValueError that says what is wrong with it."""
        where = f"audio {index} of the batch"
        if isinstance(clip, torch.Tensor):
            clip = clip.detach().cpu().float()  # numpy knows no bfloat16
        try:
            clip = np.asarray(clip)
        except ValueError as error:  # lists of several lengths
            raise ValueError(f"{where} is no array of numbers: {error}") from error
        if clip.dtype.kind in "iu":
            raise ValueError(f"{where} holds integers: scale it to floats in [-1, 1]")
        if clip.dtype.kind != "f":
            raise ValueError(f"{where} holds {clip.dtype}: expected floats in [-1, 1]")
        if clip.ndim != 1:
            raise ValueError(f"{where} has shape {clip.shape}: mix multi-channel audio down to mono `(samples,)`")
        if len(clip) == 0:
            raise ValueError(f"{where} is empty: there is nothing to extract features from")
        if len(clip) < self.n_fft:
            raise ValueError(
                f"{where} has {len(clip)} samples: at least one window of {self.n_fft} "
                f"({1000 * self.n_fft / self.sampling_rate:g} ms) is needed"
            )
        if not np.isfinite(clip).all():
            raise ValueError(f"{where} contains NaN or infinite samples")
        if np.abs(clip).max() > LOUDEST:
            raise ValueError(f"{where} contains samples beyond all measure: scale it to floats in [-1, 1]")
        clip = clip.astype(np.float32, copy=False)
        if len(clip) > limit:
            seconds, kept = len(clip) / self.sampling_rate, limit / self.sampling_rate
            if not truncation:
                raise ValueError(f"{where} lasts {seconds:.2f} s: more than {kept:g} s needs truncation or windows")
            logger.warning(
                f"{where} lasts {seconds:.2f} s: the last {seconds - kept:.2f} s are dropped, only the first {kept:g} "
                "s are used. Predict long recordings in windows instead."
            )
            clip = clip[:limit]
        return clip

    def _log_mel(self, clips: list[np.ndarray], lengths: list[int], width: int, device: str) -> np.ndarray:
        """Compute the log-mel features `(batch, mel, width)` of clips with `lengths` real frames each."""
        hop, half = self.hop_length, self.n_fft // 2
        spans = [min(length + TAIL_FRAMES, max(width, length)) for length in lengths]
        # All clips lie behind one another in one signal, each as the stock extractor would centre it (reflected at its
        # start; at its end, too, where it fills the window) and beginning on a hop: one strided view frames them all.
        gap = -(-self.n_fft // hop)
        starts = np.cumsum([0] + [span + gap for span in spans])
        signal = np.zeros(int(starts[-1]) * hop + self.n_fft, np.float32)
        for clip, span, start in zip(clips, spans, starts[:-1], strict=True):
            padded = clip if len(clip) >= span * hop else np.pad(clip, (0, span * hop - len(clip)))
            begin = start * hop
            signal[begin : begin + half] = padded[half:0:-1]
            signal[begin + half : begin + half + len(padded)] = padded
            signal[begin + half + len(padded) : begin + 2 * half + len(padded)] = padded[-2 : -half - 2 : -1]

        rows = np.concatenate([np.arange(span) + start for span, start in zip(spans, starts[:-1], strict=True)])
        frames = torch.from_numpy(signal).to(device).unfold(0, self.n_fft, hop)[torch.from_numpy(rows).to(device)]
        power = torch.fft.rfft(frames * torch.hann_window(self.n_fft, dtype=torch.float32, device=device)).abs() ** 2
        filters = torch.from_numpy(self.mel_filters).to(device, torch.float32)
        log_mel = (power @ filters).clamp(min=1e-10).log10()

        features = torch.empty(len(clips), width, self.feature_size, dtype=torch.float32, device=device)
        for row, clip_frames in zip(features, log_mel.split(spans), strict=True):
            # The stock extractor clamps at the clip's maximum less 8; silence is 1e-10, so 10 below 1.
            floor = clip_frames.max() - 8.0
            span = min(len(clip_frames), width)
            row[:span] = torch.maximum(clip_frames[:span], floor)
            row[span:] = floor.clamp(min=-10.0)
        return ((features + 4.0) / 4.0).transpose(1, 2).contiguous().cpu().numpy()


WhisperEmotionFeatureExtractor.register_for_auto_class()

__all__ = ["WhisperEmotionFeatureExtractor"]
