"""`WhisperForEmotionClassification`: a Whisper encoder up to one layer, a pooling of its frames, a classifier.

This file travels with every checkpoint: it imports torch, transformers, numpy and its siblings, nothing else.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperPreTrainedModel, sinusoids
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_whisper_emotion import WhisperEmotionConfig
from .encoder_whisper_emotion import (
    SinusoidalPositions,
    WhisperEmotionEncoder,
    encoder_frames,
    prefix_mask,
    unpack,
)
from .feature_extraction_whisper_emotion import TAIL_FRAMES
from .pooling_whisper_emotion import POOLING_CLASSES

LARGEST = 1e4  # of log-mel features, which lie between -2 and 3
IGNORED = -100  # a label that the loss passes over, as everywhere in transformers


@dataclass
class WhisperEmotionOutput(ModelOutput):
    """Output of `WhisperForEmotionClassification`.

    Args:
        loss: Scalar, where labels were given.
        logits: `(batch, labels)`.
        embedding: The pooled vector `(batch, pooling's output_dim)` that the classifier sees.
        pooling_weights: `(batch, heads, frames)`; sum to 1 over the pooled frames of a clip, 0 elsewhere.
        hidden_states: `encoder_layer + 1` tensors `(batch, frames, d_model)`, on request.
        attentions: `encoder_layer` tensors `(batch, heads, frames, frames)`, on request.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    embedding: torch.FloatTensor | None = None
    pooling_weights: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class WhisperForEmotionClassification(WhisperPreTrainedModel):
    """Whisper encoder up to `encoder_layer` -> linear projector, LayerNorm -> pooling -> linear classifier.

    Source: arXiv 2602.06000, section 3. Loads from its own checkpoints and straight from OpenAI's Whisper checkpoints
    (`from_pretrained("openai/whisper-small", encoder_layer=8, pooling="qkv", num_labels=4)`), whose decoder and upper
    layers are left out and whose head is then new.
    """

    config_class = WhisperEmotionConfig
    input_modalities = ("audio",)
    _input_embed_layer = "conv1"
    # The loss is a mean over the batch, so Trainer must divide it by its accumulation steps itself.
    accepts_loss_kwargs = False
    population_mean: torch.Tensor
    # Parts of a Whisper checkpoint that are left out on purpose.
    _keys_to_ignore_on_load_unexpected = [
        r"decoder\.",
        r"proj_out\.",
        r"encoder\.layers\.\d+\.",
        r"encoder\.layer_norm\.",
    ]

    def __init__(self, config: WhisperEmotionConfig):
        super().__init__(config)
        config.resolve()
        self.encoder = WhisperEmotionEncoder(config)
        if config.use_weighted_layer_sum:
            self.layer_weights = nn.Parameter(torch.zeros(config.encoder_layer + 1))
        # The mean frame of the training speakers, from which a speaker's own may differ; 0 where it is not known
        self.register_buffer("population_mean", torch.zeros(config.frame_size))
        self.projector = nn.Linear(config.frame_size, config.classifier_proj_size)
        self.projector_norm = nn.LayerNorm(config.classifier_proj_size)
        self.pooling = POOLING_CLASSES[config.pooling](
            config.classifier_proj_size,
            config.pooling_heads,
            config.pooling_head_dim,
            config.pooling_dropout,
            config.pooling_scores,
        )
        self.classifier = nn.Linear(self.pooling.output_dim, config.num_labels)
        self.post_init()
        self._freeze()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, SinusoidalPositions):
            init.copy_(module.weight, sinusoids(*module.weight.shape))
        elif isinstance(module, WhisperForEmotionClassification):
            init.zeros_(module.population_mean)
            if module.config.use_weighted_layer_sum:
                init.zeros_(module.layer_weights)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """Load a checkpoint, in float32 unless `dtype` says otherwise, and freeze what the config says is frozen."""
        if kwargs.get("dtype") is None and kwargs.get("torch_dtype") is None:
            kwargs["dtype"] = torch.float32
        kwargs.setdefault("use_safetensors", True)  # weights as a pickle are not read
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # output_loading_info=True
        model._freeze()  # loading replaces the parameters, and with them requires_grad
        return loaded

    def _freeze(self) -> None:
        self.encoder.requires_grad_(not self.config.freeze_encoder)
        self.encoder.embed_positions.requires_grad_(False)

    def train(self, mode: bool = True):
        """Set training mode; a frozen encoder stays in evaluation mode, so its frames are always the same."""
        super().train(mode)
        if self.config.freeze_encoder:
            self.encoder.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """Return the first convolution."""
        return self.encoder.conv1

    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        speaker_mean: torch.Tensor | None = None,
        embedding: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> WhisperEmotionOutput:
        """Classify a batch of utterances.

        Args:
            input_features: Log-mel `(batch, mel, frames)`, at most the window (3,000 frames) wide, in any dtype.
            attention_mask: `(batch, frames)`, 1 on each clip's own mel frames, from its start. None: all are. The two
                frames behind a clip's own still hear its end; the extractor returns them, so do not crop by the mask.
            encoder_outputs: In place of `input_features`: the frames that `encode` returns, and as `attention_mask`
                then the mask that it returns with them, `(batch, encoder frames)`. None: all are pooled. Or packed,
                `(frames, d_model)`: only those that the mask says are pooled, clip behind clip; more behind them are
                ignored.
            labels: Class ids `(batch,)`, or soft labels `(batch, labels)` that sum to 1.
            speaker_mean: Adapts to each clip's speaker: `(batch, frame_size)`, the mean of what `mean_frames` returns
                of recordings of that speaker in many moods. By how much it differs from the training speakers' mean is
                taken off the clip's frames. None: the clips are taken as they are.
            embedding: What the classifier sees, as an earlier output had it, in place of what it was computed from; a
                `speaker_mean` beside it only says that it is adapted.
            output_hidden_states: Return the encoder's hidden states.
            output_attentions: Return the encoder's attention maps.

        Raises:
            ValueError: The inputs have the wrong shape, a clip has no frame, or the model cannot adapt to speakers.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if embedding is not None:
            return self._classify(embedding, labels, speaker_mean is not None)
        if encoder_outputs is None:
            if input_features is None:
                raise ValueError("forward needs input_features, encoder_outputs or embedding")
            encoder_outputs, mask = self._run_encoder(
                input_features, attention_mask, output_hidden_states, output_attentions
            )
        else:
            if isinstance(encoder_outputs, torch.Tensor):
                encoder_outputs = BaseModelOutput(last_hidden_state=encoder_outputs)
            mask = attention_mask
            self._check_stored(encoder_outputs)
            if mask is None and self._is_packed(encoder_outputs):
                raise ValueError("packed encoder_outputs need an attention_mask that says which frames are whose")
            if mask is not None:
                _check_stored_mask(mask, encoder_outputs.last_hidden_state, self._is_packed(encoder_outputs))
            if not self.training and not _are_finite(
                encoder_outputs.last_hidden_state, mask, self._is_packed(encoder_outputs)
            ):
                raise ValueError("encoder_outputs: holds NaN or infinity among the frames that are pooled")

        frames = self._select_layers(encoder_outputs)
        if not torch.is_autocast_enabled(frames.device.type):  # which casts by itself
            frames = frames.to(self.projector.weight.dtype)
        frames = self.projector(frames)
        if speaker_mean is not None:
            frames = frames + self._speaker_shift(speaker_mean, frames, mask)
        frames = self.projector_norm(frames)
        if self._is_packed(encoder_outputs):
            # Unpacked into zeros: what the poolings otherwise make of their input first
            embedding, pooling_weights = self.pooling.pool(unpack(frames, mask), mask.bool())
        else:
            embedding, pooling_weights = self.pooling(frames, mask)
        return self._classify(
            embedding,
            labels,
            speaker_mean is not None,
            pooling_weights=pooling_weights,
            hidden_states=encoder_outputs.hidden_states if output_hidden_states else None,
            attentions=encoder_outputs.attentions if output_attentions else None,
        )

    def _classify(
        self, embedding: torch.Tensor, labels: torch.Tensor | None, adapted: bool, **seen
    ) -> WhisperEmotionOutput:
        """The end of `forward`, from the pooled vectors on."""
        logits = self.classifier(embedding) / self.config.temperature_of(adapted)
        loss = None if labels is None else self.compute_loss(logits, labels.to(logits.device))
        return WhisperEmotionOutput(loss=loss, logits=logits, embedding=embedding, **seen)

    def has_fixed_embedding(self) -> bool:
        """Whether training changes nothing below the classifier, so that `embedding` can be computed once."""
        return not any(
            parameter.requires_grad
            for name, parameter in self.named_parameters()
            if not name.startswith("classifier.")
        )

    def mean_frames(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Mean frame of each clip, `(batch, frame_size)`; the mean over a speaker's clips is `speaker_mean`.

        Args:
            input_features: As `forward` takes them.
            attention_mask: The same.
        """
        outputs, _ = self._run_encoder(input_features, attention_mask, False, False)
        frames = self._select_layers(outputs).to(self.population_mean.dtype)
        lengths = encoder_frames(_lengths(attention_mask, input_features))  # a clip's own, whatever is pooled
        own = prefix_mask(lengths, frames.shape[1])[..., None]
        return frames.masked_fill(~own, 0.0).sum(1) / lengths[:, None]

    def _speaker_shift(
        self, speaker_mean: torch.Tensor, frames: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """What the projector makes of the difference to the mean speaker, for projected frames in either layout."""
        if self.config.use_weighted_layer_sum or not self.population_mean.any():
            raise ValueError("speaker_mean: this model does not know its training speakers' mean, so it cannot adapt")
        shift = nn.functional.linear(self.population_mean - speaker_mean, self.projector.weight)
        if frames.ndim == 3:
            return shift[:, None]
        lengths = mask.long().sum(1)
        rows = shift.repeat_interleave(lengths, dim=0)
        return nn.functional.pad(rows, (0, 0, 0, len(frames) - len(rows)))  # those behind are ignored

    def encode(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        all_layers: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the encoder alone, for frames that are computed once and trained on many times.

        Args:
            input_features: As `forward` takes them.
            attention_mask: The same.
            all_layers: Return the frames of the layers 0..`encoder_layer`, and not of those that the head takes.

        Returns:
            What `forward` takes as `encoder_outputs`: frames `(batch, frames, d_model)` of the layer that the head
            takes, or of several `(batch, layers, frames, d_model)`; and the mask `(batch, frames)` of those that are
            pooled.
        """
        outputs, mask = self._run_encoder(input_features, attention_mask, all_layers, False)
        layers = range(self.config.encoder_layer + 1) if all_layers else self.config.frame_layers
        if not all_layers and len(layers) == 1:
            return outputs.last_hidden_state, mask
        return torch.stack([outputs.hidden_states[layer] for layer in layers], dim=1), mask

    def pooled_frames(self, mel_frames: torch.Tensor) -> torch.Tensor:
        """Number of encoder frames `(clips,)` that are pooled of clips with `mel_frames` `(clips,)` frames."""
        return encoder_frames(mel_frames if self.config.mask_padding else self.encoder.encoded_frames(mel_frames))

    def _run_encoder(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None,
        output_hidden_states: bool,
        output_attentions: bool,
    ) -> tuple[BaseModelOutput, torch.Tensor]:
        """Encode each clip in its context; return the encoder's output and the mask of the frames to pool."""
        config, window = self.config, 2 * self.config.max_source_positions
        shape = tuple(input_features.shape)
        if len(shape) != 3 or shape[1] != config.num_mel_bins or 0 in shape:
            raise ValueError(
                f"input_features has shape {shape}: this model takes (batch, {config.num_mel_bins}, frames)"
            )
        width = input_features.shape[-1]
        if width > window:
            raise ValueError(f"input_features has {width} frames: the encoder takes at most {window} (30 s)")
        if not input_features.is_floating_point():
            raise ValueError(f"input_features has the type {input_features.dtype}: this model takes floating point")
        lengths = _lengths(attention_mask, input_features)
        if not torch.compiler.is_exporting():  # a graph does not look at values
            _require_finite(input_features, lengths)

        several = output_hidden_states or len(config.frame_layers) > 1
        outputs = self.encoder(input_features, lengths, several, output_attentions)
        return outputs, prefix_mask(self.pooled_frames(lengths), outputs.last_hidden_state.shape[1])

    def _select_layers(self, outputs: BaseModelOutput) -> torch.Tensor:
        """Return the frames to pool, `(batch, frames, frame_size)` or packed `(frames, frame_size)`."""
        if len(self.config.frame_layers) == 1:
            return outputs.last_hidden_state
        layers = outputs.last_hidden_state  # stored: (batch, layers, frames, d_model), or packed without the batch
        if outputs.hidden_states is not None:
            layers = torch.stack([outputs.hidden_states[layer] for layer in self.config.frame_layers], dim=1)
        if not self.config.use_weighted_layer_sum:
            return layers.transpose(-3, -2).flatten(-2)
        return torch.einsum("l,...ltd->...td", self.layer_weights.softmax(dim=0), layers.to(self.layer_weights.dtype))

    def _check_stored(self, outputs: BaseModelOutput) -> None:
        """Raise unless stored frames have this model's dimensions."""
        frames, shape = outputs.last_hidden_state, tuple(outputs.last_hidden_state.shape)
        layers = 1 if outputs.hidden_states is not None else len(self.config.frame_layers)
        own = (shape[-3:-2] == (layers,) and len(shape) in (3, 4)) if layers > 1 else len(shape) in (2, 3)
        if not own or shape[-1] != self.config.d_model or 0 in shape or not frames.is_floating_point():
            several = f"{layers} layers, " if layers > 1 else ""
            raise ValueError(
                f"encoder_outputs has shape {shape} and type {frames.dtype}: this model takes floating "
                f"point (batch, {several}frames, {self.config.d_model}), or packed without the batch"
            )

    def _is_packed(self, outputs: BaseModelOutput) -> bool:
        """Whether stored frames have no batch dimension."""
        several = len(self.config.frame_layers) > 1 and outputs.hidden_states is None
        return outputs.last_hidden_state.ndim == (3 if several else 2)

    def compute_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of logits `(batch, labels)`, with the config's class weights and smoothing, in float32."""
        _check_labels(labels, logits)
        weights = self.config.class_weights
        return nn.functional.cross_entropy(
            logits.float(),
            labels.float() if labels.ndim == 2 else labels,
            weight=None if weights is None else torch.tensor(weights, dtype=torch.float32, device=logits.device),
            label_smoothing=self.config.label_smoothing,
        )


def _check_stored_mask(mask: torch.Tensor, frames: torch.Tensor, packed: bool) -> None:
    """Raise unless a mask belongs to stored frames `(batch, …, frames, d_model)` or packed ones."""
    if packed and (mask.ndim != 2 or int(mask.sum()) > frames.shape[-2]):
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}: with packed encoder_outputs it must be (batch, frames) "
            f"and have at most {frames.shape[-2]} ones, the number of frames"
        )
    if not packed and mask.shape != (frames.shape[0], frames.shape[-2]):
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}: with encoder_outputs it must have one value for each of "
            f"the {frames.shape[-2]} encoder frames of each of the {frames.shape[0]} clips"
        )
    empty = ~mask.bool().any(dim=1)
    if empty.any():
        raise ValueError(f"clip {int(empty.nonzero()[0])} of the batch has no frame in attention_mask")


def _require_finite(input_features: torch.Tensor, lengths: torch.Tensor) -> None:
    """Raise for a clip whose own frames, or the two that still hear its end, are no log-mel features."""
    heard = prefix_mask(lengths + TAIL_FRAMES, input_features.shape[-1])
    wrong = (~(input_features.abs() <= LARGEST).all(dim=1) & heard).any(dim=1)
    if wrong.any():
        raise ValueError(
            f"clip {int(wrong.nonzero()[0])} of the batch has NaN, infinity or more than {LARGEST:g} in input_features"
        )


def _check_labels(labels: torch.Tensor, logits: torch.Tensor) -> None:
    """Raise unless labels are class ids or distributions over the classes, one a clip."""
    if labels.ndim == 2:
        fits = labels.shape == logits.shape
    else:
        fits = labels.shape == logits.shape[:1] and labels.dtype in (torch.int64, torch.uint8)
        fits = fits and ((labels >= 0) & (labels < logits.shape[1]) | (labels == IGNORED)).all()
    if not fits:
        raise ValueError(
            f"labels has shape {tuple(labels.shape)} and type {labels.dtype}: it must be class ids from 0 to "
            f"{logits.shape[1] - 1}, one a clip, or soft labels {tuple(logits.shape)}"
        )


def _are_finite(frames: torch.Tensor, mask: torch.Tensor | None, packed: bool) -> bool:
    """Whether the pooled ones of stored frames `(batch, …, frames, d_model)`, or packed ones, are numbers."""
    finite = frames.isfinite().all(dim=-1)
    if mask is None:
        return bool(finite.all())
    if packed:
        return bool(finite[..., : int(mask.sum())].all())
    return bool((finite | ~mask.bool().reshape(len(mask), *[1] * (finite.ndim - 2), -1)).all())


def _lengths(attention_mask: torch.Tensor | None, input_features: torch.Tensor) -> torch.Tensor:
    """Number of real mel frames `(batch,)` of a mask, which must fit the features."""
    if attention_mask is None:
        batch, _, width = input_features.shape
        return torch.full((batch,), width, device=input_features.device)
    if attention_mask.shape != (input_features.shape[0], input_features.shape[2]):
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}: it must have one value for each of the "
            f"{input_features.shape[2]} mel frames of each of the {input_features.shape[0]} clips"
        )
    lengths = attention_mask.long().sum(dim=1)
    if torch.compiler.is_exporting():
        return lengths  # what follows looks at values, which a graph does not
    if (attention_mask.bool() != prefix_mask(lengths, attention_mask.shape[1])).any():
        raise ValueError("attention_mask must be ones followed by zeros: a clip's frames come first, its padding last")
    if (lengths == 0).any():
        raise ValueError(f"clip {int((lengths == 0).nonzero()[0])} of the batch has no frame in attention_mask")
    return lengths


WhisperForEmotionClassification.register_for_auto_class("AutoModelForAudioClassification")

__all__ = ["WhisperEmotionOutput", "WhisperForEmotionClassification"]
