"""A Whisper encoder up to one layer, which encodes the audio and only as much silence as its context asks for.

    input_features  (batch, mel, frames)             log-mel, 10 ms a frame, at most the window of 30 s

          |  crop to the longest clip, write silence after each clip

    features        (batch, mel, width)              the longest clip and its margin of silence

          |  two convolutions, the second with stride 2

    audio frames    (batch, width / 2, d_model)      20 ms a frame

          |  Tokens: gather `sources`, add the embeddings of `positions`

    hidden state 0  (batch, tokens, d_model)

          |  layers 1..encoder_layer; a key with count n gets log(n) added to its scores, padding has count 0

    hidden states   (batch, tokens, d_model)         a clip's own frames first, then silence, then padding

The stock encoder always encodes the whole window. Here a clip's frames do not depend on the other clips or the width
of its batch. Parameter names equal the stock encoder's, so its checkpoints load.

This file travels with every checkpoint: it imports torch, transformers, numpy and its siblings, nothing else.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from transformers.activations import ACT2FN

from .configuration_whisper_emotion import WhisperEmotionConfig
from .feature_extraction_whisper_emotion import TAIL_FRAMES

MEL_FRAMES_PER_SECOND = 100
# Encoder frames after a clip that still depend on it: the spectrogram's window adds two mel frames (TAIL_FRAMES), the
# two convolutions three more, and an encoder frame spans two.
SILENT_NEIGHBOURS = 2
SILENT_MEL_FRAMES = 2 * SILENT_NEIGHBOURS + 4  # keeps the last silent encoder frame clear of the input's border


def encoder_frames(mel_frames):
    """Return the number of encoder frames of `mel_frames`, ints or tensors: the second convolution has stride 2."""
    return (mel_frames - 1) // 2 + 1


class Tokens(NamedTuple):
    """The frames that go through the layers; each field is `(batch, tokens)`.

    Args:
        sources: Index of the token's audio frame.
        positions: The token's position in the window.
        counts: Number of positions that the token stands for; 0 is padding.
    """

    sources: torch.Tensor
    positions: torch.Tensor
    counts: torch.Tensor


class Encoded(NamedTuple):
    """Output of the encoder.

    Args:
        frames: `(batch, tokens, layers, d_model)`, the frames of the requested layers.
        mask: `(batch, tokens)` bool, true on the frames to pool.
        hidden_states: All hidden states `(batch, tokens, d_model)`, on request.
        attentions: The layers' attention maps `(batch, heads, tokens, tokens)`, on request.
    """

    frames: torch.Tensor
    mask: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...] | None
    attentions: tuple[torch.Tensor, ...] | None


class WhisperEmotionAttention(nn.Module):
    """Whisper's self-attention with a bias on the keys."""

    def __init__(self, config: WhisperEmotionConfig):
        super().__init__()
        self.heads, self.dropout = config.encoder_attention_heads, config.attention_dropout
        self.k_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.out_proj = nn.Linear(config.d_model, config.d_model)

    def forward(self, hidden: torch.Tensor, bias: torch.Tensor, eager: bool):
        """Attend `(batch, tokens, d_model)` to itself; `bias` `(batch, 1, 1, tokens)` is added to the scores.

        Returns:
            The attended tokens, and with `eager` the attention map `(batch, heads, tokens, tokens)`, otherwise None.
        """
        query, key, value = (
            projection(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout, weights = self.dropout if self.training else 0.0, None
        if eager:
            scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + bias
            weights = scores.softmax(dim=-1)
            attended = nn.functional.dropout(weights, dropout) @ value
        else:
            attended = nn.functional.scaled_dot_product_attention(query, key, value, bias, dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), weights


class WhisperEmotionEncoderLayer(nn.Module):
    """Whisper's encoder layer: attention and a feed-forward network, each normalised before and added after."""

    def __init__(self, config: WhisperEmotionConfig):
        super().__init__()
        self.self_attn = WhisperEmotionAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.activation = ACT2FN[config.activation_function]
        self.dropout, self.activation_dropout = nn.Dropout(config.dropout), nn.Dropout(config.activation_dropout)

    def forward(self, hidden: torch.Tensor, bias: torch.Tensor, eager: bool):
        """Transform `(batch, tokens, d_model)`; arguments and returned pair as in `WhisperEmotionAttention`."""
        attended, weights = self.self_attn(self.self_attn_layer_norm(hidden), bias, eager)
        hidden = hidden + self.dropout(attended)
        inner = self.activation_dropout(self.activation(self.fc1(self.final_layer_norm(hidden))))
        hidden = hidden + self.dropout(self.fc2(inner))
        if hidden.dtype == torch.float16:  # the upper layers of large checkpoints overflow
            hidden = hidden.clamp(-65_000, 65_000)
        return hidden, weights


class SinusoidalPositions(nn.Module):
    """Whisper's fixed position embeddings, stored as a buffer so that training never changes them."""

    weight: torch.Tensor

    def __init__(self, positions: int, dim: int):
        super().__init__()
        self.register_buffer("weight", torch.empty(positions, dim))

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """Look up the embeddings of `positions`."""
        return nn.functional.embedding(positions, self.weight)


class WhisperEmotionEncoder(nn.Module):
    """The stock Whisper encoder's parts up to `encoder_layer`, for clips of any length up to the window."""

    def __init__(self, config: WhisperEmotionConfig):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False  # `gradient_checkpointing_enable` looks for the attribute
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.d_model, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, kernel_size=3, stride=2, padding=1)
        self.embed_positions = SinusoidalPositions(config.max_source_positions, config.d_model)
        self.layers = nn.ModuleList(WhisperEmotionEncoderLayer(config) for _ in range(config.encoder_layer))
        # The stock model normalises the output of its last layer, and of no other.
        is_whole = config.encoder_layer == config.encoder_layers
        self.layer_norm = nn.LayerNorm(config.d_model) if is_whole else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        layers: Sequence[int] | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> Encoded:
        """Encode each clip in its context.

        Args:
            input_features: Log-mel `(batch, mel, frames)`, at most the window wide.
            attention_mask: `(batch, frames)`, 1 on each clip's own mel frames, from its start. None detects the
                extractor's padding, and counts digital silence at a clip's end as padding, too. Features after a clip
                have no influence, except the two frames that contain its end.
            layers: Layers to return; None returns the layers that the head takes.
            output_hidden_states: Return all hidden states.
            output_attentions: Return the attention maps, computed without the fused kernel.

        Raises:
            ValueError: The inputs have a shape or a type that is not allowed.
        """
        self._check(input_features, attention_mask)
        lengths = self._lengths(input_features, attention_mask)
        # The only wait for the device in the forward pass; encoding the batch's padding would cost more
        compiling = torch.compiler.is_compiling()
        longest = input_features.shape[-1] if compiling else int(lengths.max())
        hidden = self._convolve(input_features, lengths, longest + self._margin())
        tokens = self._tokens(lengths, longest)
        hidden = hidden.gather(1, tokens.sources[..., None].expand(-1, -1, hidden.shape[2]))
        hidden = self.dropout(hidden + self.embed_positions(tokens.positions))
        # Proportional attention: a key that stands for n positions weighs n times as much (Bolya et al. 2023, arXiv
        # 2210.09461, equation 1). The bias of padding is log(0).
        bias = tokens.counts.to(hidden.dtype).log()[:, None, None]
        states, attentions = self._run_layers(hidden, bias, output_attentions)
        kept = self.config.frame_layers if layers is None else layers
        own = encoder_frames(lengths) if self.config.mask_padding else (tokens.counts > 0).sum(dim=1)
        return Encoded(
            torch.stack([states[layer] for layer in kept], dim=2),
            prefix_mask(own, hidden.shape[1]),
            tuple(states) if output_hidden_states else None,
            tuple(attentions) if output_attentions else None,
        )

    def encoded_mel_frames(self, lengths: torch.Tensor) -> torch.Tensor:
        """Return the number of encoded mel frames, silence included, for clips of `lengths` `(clips,)`."""
        return (lengths + self._margin()).clamp(max=2 * self.config.max_source_positions)

    def pooled_frames(self, lengths: torch.Tensor) -> torch.Tensor:
        """Return the number of pooled encoder frames `(clips,)` for clips of `lengths` `(clips,)` mel frames."""
        return encoder_frames(lengths if self.config.mask_padding else self.encoded_mel_frames(lengths))

    def _check(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None) -> None:
        """Raise for inputs of a wrong shape or type; read no values, which would wait for the device."""
        shape, window = tuple(input_features.shape), 2 * self.config.max_source_positions
        tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        if tracing and not torch.compiler.is_compiling():
            raise ValueError("torch.jit.trace would fix the clips' lengths: use torch.export, torch.compile or ONNX")
        if len(shape) != 3 or shape[1] != self.config.num_mel_bins or 0 in shape:
            raise ValueError(
                f"input_features has shape {shape}: it must be (batch, {self.config.num_mel_bins}, frames)"
            )
        if shape[-1] > window:
            raise ValueError(f"input_features has {shape[-1]} frames: it may have at most {window}; predict windows")
        if not input_features.is_floating_point():
            raise ValueError(f"input_features has type {input_features.dtype}: it must be floating point")
        if attention_mask is not None and attention_mask.shape != (shape[0], shape[2]):
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}: it must have one value for each of the "
                f"{shape[2]} mel frames of each of the {shape[0]} clips"
            )

    def _lengths(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return the number of mel frames of each clip, `(batch,)`, at least 1."""
        if attention_mask is not None:
            return attention_mask.long().sum(dim=1).clamp(min=1)
        # Padding is one value in all bands, up to the last frame
        last = input_features[..., -1:]
        padded = ((input_features == last) & (last == last[:, :1])).all(dim=1)
        place = torch.arange(1, padded.shape[1] + 1, device=padded.device)
        return torch.where(padded, 0, place).amax(dim=1).clamp(min=1)

    def _margin(self) -> int:
        """Return the number of silent mel frames that the convolutions process after a clip."""
        return {
            "window": 2 * self.config.max_source_positions,
            "utterance": round(self.config.context_margin * MEL_FRAMES_PER_SECOND),
            "sparse_window": SILENT_MEL_FRAMES,
        }[self.config.encoder_context]

    def _convolve(self, input_features: torch.Tensor, lengths: torch.Tensor, width: int) -> torch.Tensor:
        """Turn mel frames into audio frames `(batch, width / 2, d_model)`, silent after each clip."""
        window, dtype = 2 * self.config.max_source_positions, self.conv1.weight.dtype
        if self.config.encoder_context == "window" or not torch.compiler.is_compiling():
            width = min(width, window)
        features = _extend_with_silence(input_features, lengths, width).to(dtype)
        # A convolution zero-pads its input's end; zeros after each clip make this independent of the batch's width
        own = prefix_mask(self.encoded_mel_frames(lengths), width)[:, None]
        hidden = nn.functional.gelu(self.conv1(features.masked_fill(~own, 0.0)))
        return nn.functional.gelu(self.conv2(hidden.masked_fill(~own, 0.0))).transpose(1, 2)

    def _tokens(self, lengths: torch.Tensor, longest: int) -> Tokens:
        """Choose the frames that go through the layers; `longest` is the longest clip's number of mel frames."""
        window, sparse = self.config.max_source_positions, self.config.encoder_context == "sparse_window"
        if sparse:
            return sparse_tokens(encoder_frames(lengths), encoder_frames(longest), window, self.config.silence_stride)
        width = longest + self._margin()
        if self.config.encoder_context == "window" or not torch.compiler.is_compiling():
            width = min(width, 2 * window)
        place = torch.arange(encoder_frames(width), device=lengths.device).expand(lengths.shape[0], -1)
        counts = (place < encoder_frames(self.encoded_mel_frames(lengths))[:, None]).long()
        return Tokens(place, place.clamp(max=window - 1), counts)

    def _run_layers(self, hidden: torch.Tensor, bias: torch.Tensor, output_attentions: bool):
        """Run the layers on hidden state 0; return all hidden states and the attention maps."""
        eager = output_attentions or self.config._attn_implementation == "eager"
        states, attentions = [hidden], []
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                hidden, weights = self._gradient_checkpointing_func(layer.__call__, hidden, bias, eager)
            else:
                hidden, weights = layer(hidden, bias, eager)
            states.append(hidden)
            attentions.append(weights)
        states[-1] = self.layer_norm(states[-1])
        return states, attentions


def sparse_tokens(own: torch.Tensor, longest: int, window: int, stride: int) -> Tokens:
    """Choose the tokens of the sparse window: the audio, two silent frames, then every `stride`-th position.

    Args:
        own: `(batch,)` audio frames of each clip.
        longest: Audio frames of the longest clip.
        window: Positions in the whole window.
        stride: Silent positions per token; the last token stands for the rest.
    """
    audible = (own + SILENT_NEIGHBOURS).clamp(max=window)[:, None]
    longest = longest + SILENT_NEIGHBOURS
    if torch.compiler.is_compiling():
        width = longest + -(-window // stride)
    else:  # a + ceil((window - a) / stride) grows with a, so the longest clip has the most tokens
        width = min(longest, window) + -(-max(window - longest, 0) // stride)
    place = torch.arange(width, device=own.device).expand(own.shape[0], -1)
    first = audible + (place - audible).clamp(min=0) * stride
    counts = torch.where(place < audible, 1, (window - first).clamp(0, stride))
    positions = torch.where(place < audible, place, first).clamp(max=window - 1)
    return Tokens(torch.minimum(positions, audible), positions, counts)


def prefix_mask(lengths: torch.Tensor, width: int) -> torch.Tensor:
    """Turn lengths `(batch,)` into a mask `(batch, width)` bool, true before each length."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def _extend_with_silence(input_features: torch.Tensor, lengths: torch.Tensor, width: int) -> torch.Tensor:
    """Make features `width` frames wide, silent after each clip and the two frames that contain its end.

    Silence has the extractor's padding value: log10(1e-10), clamped at the clip's maximum minus 8, then scaled by
    (x + 4) / 4. The maximum is over the clip's own frames and the next two, as in the stock extractor.
    """
    reached = (lengths + TAIL_FRAMES).clamp(max=input_features.shape[-1])
    heard = prefix_mask(reached, input_features.shape[-1])[:, None]
    loudest = input_features.masked_fill(~heard, -torch.inf).amax(dim=(1, 2), keepdim=True)
    silence = (loudest - 2.0).clamp(min=-1.5)
    features = nn.functional.pad(input_features, (0, width - input_features.shape[-1]))
    return torch.where(prefix_mask(reached, width)[:, None], features, silence)


__all__ = ["WhisperEmotionEncoder", "encoder_frames"]
