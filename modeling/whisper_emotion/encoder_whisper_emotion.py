"""A Whisper encoder up to one layer that works on the audio it is given, and on as much silence as it is asked for.

The stock encoder always sees a window of 30 s. This one takes clips of any length up to that, in one of three contexts
(`encoder_context`), and a clip's frames do not depend on what else is in its batch.

This file travels with every checkpoint: it imports torch, transformers, numpy and its siblings, nothing else.
"""

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperAttention, WhisperEncoderLayer

from .configuration_whisper_emotion import WhisperEmotionConfig
from .feature_extraction_whisper_emotion import TAIL_FRAMES

MEL_FRAMES_PER_SECOND = 100
# Encoder frames behind a clip's own that still hear its end: a mel frame reaches two hops (TAIL_FRAMES) and the two
# convolutions three more mel frames to the right, and an encoder frame spans two.
SILENT_NEIGHBOURS = 2
SILENT_MEL_FRAMES = 2 * SILENT_NEIGHBOURS + 4  # with one frame of silence behind them that no border reaches
PACKED_ROWS = 4096  # frames that go through the layers together, at most: more would not stay in the cache
CACHED_ROW = 1024  # bytes of a clip's row of the attention map, up to which two products beat the fused kernel


def encoder_frames(mel_frames):
    """Number of encoder frames of a clip of `mel_frames`: the second convolution has stride 2. Ints or tensors."""
    return (mel_frames - 1) // 2 + 1


class SinusoidalPositions(nn.Embedding):
    """Whisper's fixed positions. A class of its own, since only a module that holds parameters is initialised."""


class PackedAttention(WhisperAttention):
    """Whisper's self-attention that also takes clips lying behind one another, without padding between them.

    All of a layer but its attention treats each frame by itself, so padding there is work for nothing.
    """

    def __init__(self, config: WhisperEmotionConfig):
        super().__init__(config.d_model, config.encoder_attention_heads, config.attention_dropout, config=config)

    def forward(self, hidden_states, attention_mask=None, clips: list[int] | None = None, **kwargs):
        """Attend within each clip.

        Args:
            hidden_states: `(1, frames, d_model)`, or, as the stock class takes them, `(batch, frames, d_model)`.
            attention_mask: `(1, 1, 1, frames)`, added to the scores of each frame as a key; None adds nothing.
                Without `clips`, the stock class's.
            clips: Frames of each clip. None: the frames are not packed.
            **kwargs: The stock class's.
        """
        if clips is None:
            return super().forward(hidden_states, attention_mask=attention_mask, **kwargs)
        query, key, value = (
            projected.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2).split(clips, dim=2)
            for projected in (
                self.q_proj(hidden_states) * self.scaling,
                self.k_proj(hidden_states),
                self.v_proj(hidden_states),
            )
        )
        bias = [None] * len(clips) if attention_mask is None else attention_mask.split(clips, dim=-1)
        heads = [self._attend(*clip) for clip in zip(query, key, value, bias, strict=True)]
        return self.out_proj(torch.cat(heads, dim=2).transpose(1, 2).flatten(2)), None

    def _attend(self, query, key, value, bias):
        """One clip: `(1, heads, frames, head_dim)` each, the query scaled."""
        if self.training or query.requires_grad or query.shape[2] * query.element_size() > CACHED_ROW:
            return nn.functional.scaled_dot_product_attention(
                query, key, value, bias, self.dropout if self.training else 0.0, scale=1.0
            )
        scores = query @ key.transpose(2, 3)
        return (scores if bias is None else scores + bias).softmax(dim=-1) @ value


class WhisperEmotionEncoder(nn.Module):
    """The stock Whisper encoder's parts up to `encoder_layer`, for clips of any length up to the window."""

    def __init__(self, config: WhisperEmotionConfig):
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.d_model, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, kernel_size=3, stride=2, padding=1)
        self.embed_positions = SinusoidalPositions(config.max_source_positions, config.d_model)
        self.layers = nn.ModuleList(WhisperEncoderLayer(config) for _ in range(config.encoder_layer))
        for layer in self.layers:
            layer.self_attn = PackedAttention(config)
        # In the stock model the last layer's output is normalised, and no other's.
        if config.encoder_layer == config.encoder_layers:
            self.layer_norm = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        input_features: torch.Tensor,
        lengths: torch.Tensor,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> BaseModelOutput:
        """Encode each clip in its context.

        Args:
            input_features: Log-mel `(batch, mel, frames)`, at most the window wide.
            lengths: `(batch,)`, mel frames of each clip. What lies behind them and the two that still hear a clip's
                end has no influence.
            output_hidden_states: Return all hidden states.
            output_attentions: Return the attention maps; needs `set_attn_implementation("eager")`.

        Returns:
            `last_hidden_state` `(batch, frames, d_model)`: each clip's own frames, the silent ones that were encoded
            with it, then padding; where asked for `hidden_states` (from the convolutions' to `encoder_layer`'s) and
            `attentions`.

        Raises:
            ValueError: Attention maps are asked of an implementation that has none.
        """
        if output_attentions and self.config._attn_implementation != "eager":
            raise ValueError("output_attentions=True: only set_attn_implementation('eager') returns attention maps")
        encoded = self.encoded_frames(lengths)
        if not torch.compiler.is_exporting():
            widest = int(encoded.max())
        else:  # a graph cannot look at the lengths: all batches of a width are encoded as wide as any may need
            whole = self.config.encoder_context == "window"
            widest = 2 * self.config.max_source_positions if whole else input_features.shape[-1] + self._margin()
        features = _extend_with_silence(input_features, lengths, widest).to(self.conv1.weight.dtype)

        sources, positions, counts = self._frames_to_run(lengths, encoded, encoder_frames(widest))
        # A key that stands for n equal ones weighs n times as much: proportional attention (Bolya et al. 2023,
        # arXiv 2210.09461, equation 1). One that stands for none, padding, has no weight.
        bias = counts.to(features.dtype).log() if self.config.encoder_context == "sparse_window" else None
        attentions: list[torch.Tensor] = []
        if self._packs(features):
            real = counts > 0
            frames = real.sum(dim=1).tolist()
            packs = [
                self._encode_packed(
                    features[pack],
                    encoded[pack],
                    [part[pack][real[pack]] for part in (sources, positions)],
                    None if bias is None else bias[pack][real[pack]],
                    frames[pack],
                    output_hidden_states,
                )
                for pack in _split_batch(frames)
            ]
            states = [unpack(torch.cat(parts), real) for parts in zip(*packs, strict=True)]
        else:
            hidden = self._convolve(features, prefix_mask(encoded, widest)[:, None])
            if bias is None:
                mask = create_bidirectional_mask(self.config, hidden, counts > 0)
            else:
                hidden = hidden.gather(1, sources[..., None].expand(-1, -1, hidden.shape[2]))
                mask = bias[:, None, None]
            hidden = hidden + self.embed_positions.weight[positions]
            # The stock layer keeps its map to itself; `self_attn` returns (output, map).
            watched = [layer.self_attn for layer in self.layers] if output_attentions else []
            hooks = [part.register_forward_hook(lambda *call: attentions.append(call[-1][1])) for part in watched]
            try:
                states = self._run_layers(hidden, mask, output_hidden_states)
            finally:
                for hook in hooks:
                    hook.remove()
        return BaseModelOutput(
            last_hidden_state=states[-1],
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )

    def encoded_frames(self, lengths: torch.Tensor) -> torch.Tensor:
        """Number of mel frames that are encoded of clips of `lengths` `(clips,)`: their own and the silence behind."""
        return (lengths + self._margin()).clamp(max=2 * self.config.max_source_positions)

    def _margin(self) -> int:
        """Silent mel frames that the convolutions see behind a clip, as far as the window reaches."""
        return {
            "window": 2 * self.config.max_source_positions,
            "utterance": round(self.config.context_margin * MEL_FRAMES_PER_SECOND),
            "sparse_window": SILENT_MEL_FRAMES,
        }[self.config.encoder_context]

    def _frames_to_run(
        self, lengths: torch.Tensor, encoded: torch.Tensor, widest: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Which frames go through the layers, each `(batch, frames)`.

        Returns:
            The convolutions' frame that each is, its position, and for how many it stands; 0 is padding.
        """
        window = self.config.max_source_positions
        if self.config.encoder_context != "sparse_window":
            places = torch.arange(widest, device=lengths.device).expand(lengths.shape[0], -1)
            # An exported graph may be wider than the window; what lies behind it is masked.
            return places, places.clamp(max=window - 1), (places < encoder_frames(encoded)[:, None]).long()
        audible = encoder_frames(lengths) + SILENT_NEIGHBOURS
        positions, counts = sparse_positions(audible, widest, window, self.config.silence_stride)
        return torch.minimum(positions, audible[:, None]), positions, counts

    def _packs(self, features: torch.Tensor) -> bool:
        """Whether clips are encoded without padding: on a processor, where padding costs what it adds to the work.

        An accelerator would wait for the many small attentions, a graph cannot depend on the lengths, and who asks for
        the eager implementation wants its maps.
        """
        return (
            features.device.type == "cpu"
            and not torch.compiler.is_compiling()
            and self.config._attn_implementation == "sdpa"
        )

    def _encode_packed(
        self,
        features: torch.Tensor,
        encoded: torch.Tensor,
        frames_to_run: list[torch.Tensor],
        bias: torch.Tensor | None,
        clips: list[int],
        every_layer: bool,
    ) -> list[torch.Tensor]:
        """Some clips of a batch; returns the last hidden state or all, each `(frames of these clips, d_model)`."""
        line, own, starts = _line_up(features, encoded)
        sources, positions = frames_to_run
        rows = sources + starts.repeat_interleave(torch.tensor(clips))
        filling = round_up(len(rows), 16) - len(rows)  # a clip of its own
        rows, positions = (nn.functional.pad(part, (0, filling)) for part in (rows, positions))
        hidden = self._convolve(line, own)[:, rows] + self.embed_positions.weight[positions]
        mask = None if bias is None else nn.functional.pad(bias, (0, filling))[None, None, None]
        states = self._run_layers(hidden, mask, every_layer, clips=clips + [filling] * (filling > 0))
        return [state[0, : len(rows) - filling] for state in states]

    def _convolve(self, features: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Both convolutions: `(batch, mel, frames)` and the clips' own frames `(batch, 1, frames)` -> half as many."""
        # A convolution pads with zeros where its input ends. A clip's input ends at its own length, whatever the
        # width of the batch, so it must be zero from there on before each of the two.
        hidden = nn.functional.gelu(self.conv1(features.masked_fill(~own, 0.0)))
        return nn.functional.gelu(self.conv2(hidden.masked_fill(~own, 0.0))).transpose(1, 2)

    def _run_layers(self, hidden: torch.Tensor, mask: torch.Tensor | None, every_layer: bool, **options):
        """The layers, from `(batch, frames, d_model)` with positions; returns the last hidden state or all of them."""
        states = [self.dropout(hidden)]
        for layer in self.layers:
            states = (
                [*states, layer(states[-1], mask, **options)] if every_layer else [layer(states[-1], mask, **options)]
            )
        if hasattr(self, "layer_norm"):
            states[-1] = self.layer_norm(states[-1])
        return states


def sparse_positions(
    audible: torch.Tensor, widest: int, window: int, stride: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of the sparse window's frames, and how many each stands for.

    Args:
        audible: `(batch,)` frames that hear anything, and stand for themselves.
        widest: No clip has more of them.
        window: Positions in the whole window.
        stride: Silent positions that one stands for: the last of them for those that are left.

    Returns:
        Positions and counts, `(batch, frames)`; a count of 0 is padding, behind the others.
    """
    audible = audible.clamp(max=window)
    if torch.compiler.is_exporting():
        frames = widest + -(-window // stride)
    else:
        frames = int((audible - (audible - window) // stride).max())
    place = torch.arange(frames, device=audible.device)
    behind = (place - audible[:, None]).clamp(min=0)
    first = audible[:, None] + behind * stride
    counts = torch.where(place < audible[:, None], 1, (window - first).clamp(0, stride))
    positions = torch.where(place < audible[:, None], place, first)
    return positions.clamp(max=window - 1), counts


def prefix_mask(lengths: torch.Tensor, width: int) -> torch.Tensor:
    """`(batch,)` lengths -> `(batch, width)` mask, true before each length."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def unpack(frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Frames `(ones in the mask or more, dim)` -> `(batch, frames, dim)`, zero where the mask is."""
    places = mask.flatten().nonzero().squeeze(1)
    padded = frames.new_zeros(mask.numel(), frames.shape[-1]).index_copy(0, places, frames[: len(places)])
    return padded.unflatten(0, mask.shape)


def round_up(frames: int, step: int = 32) -> int:
    """A number of frames that few batches do not share: CPU kernels are made anew for every shape of a product."""
    return -(-frames // step) * step


def _split_batch(frames: list[int]) -> list[slice]:
    """Divide a batch of clips of so many frames into runs of neighbours with at most `PACKED_ROWS`, or of one clip."""
    packs, start, rows = [], 0, 0
    for clip, own in enumerate(frames):
        if clip > start and rows + own > PACKED_ROWS:
            packs.append(slice(start, clip))
            start, rows = clip, 0
        rows += own
    return [*packs, slice(start, len(frames))]


def _line_up(features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Put clips of `lengths` frames, `(batch, mel, frames)`, behind one another.

    Between two lies a frame of nothing, or two, so that all start on an even one, where the second convolution's
    frames do.

    Returns:
        The line `(1, mel, frames)`; which of its frames are a clip's, `(1, 1, frames)`; and the encoder frame that
        each clip starts at.
    """
    spans = lengths // 2 * 2 + 2
    starts = spans.cumsum(0) - spans
    line = features.new_zeros(features.shape[1], round_up(int(spans.sum())))
    own = torch.zeros(line.shape[-1], dtype=torch.bool)
    for clip, start, length in zip(features, starts.tolist(), lengths.tolist(), strict=True):
        line[:, start : start + length] = clip[:, :length]
        own[start : start + length] = True
    return line[None], own[None, None], starts // 2


def _extend_with_silence(input_features: torch.Tensor, lengths: torch.Tensor, width: int) -> torch.Tensor:
    """Make features `width` frames wide, silent behind each clip's own frames and the two that still hear its end.

    Silence is what the extractor pads a clip with: log10(1e-10), raised to the clip's maximum less 8, then scaled by
    (x + 4) / 4. What stood there before (a batch's padding) is of no consequence.
    """
    real = prefix_mask(lengths, input_features.shape[-1])[:, None]
    loudest = input_features.masked_fill(~real, -torch.inf).amax(dim=(1, 2))
    silence = (loudest - 2.0).clamp(min=-1.5)[:, None, None]
    features = nn.functional.pad(input_features, (0, max(0, width - input_features.shape[-1])))[..., :width]
    heard = (lengths + TAIL_FRAMES).clamp(max=input_features.shape[-1])
    return torch.where(prefix_mask(heard, width)[:, None], features, silence)


__all__ = ["WhisperEmotionEncoder", "encoder_frames"]
