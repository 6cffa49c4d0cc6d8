"""`WhisperForEmotionClassification`: a Whisper encoder up to one layer, and a head: projector, pooling, classifier.

This file travels with every checkpoint: it imports torch, transformers, numpy and its siblings, nothing else.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from .configuration_whisper_emotion import WhisperEmotionConfig
from .encoder_whisper_emotion import SinusoidalPositions, WhisperEmotionEncoder

# The encoder needs this file, but transformers before 5.1 only copies files that this module imports directly
from .feature_extraction_whisper_emotion import TAIL_FRAMES  # noqa: F401
from .pooling_whisper_emotion import POOLING_CLASSES


@dataclass
class WhisperEmotionOutput(ModelOutput):
    """Output of `WhisperForEmotionClassification`.

    Args:
        loss: Scalar, if labels were given.
        logits: `(batch, labels)`.
        embedding: `(batch, pooling's output_dim)`, the pooled vectors.
        pooling_weights: `(batch, heads, tokens)`; they sum to 1 over a clip's pooled frames and are 0 elsewhere.
        hidden_states: `encoder_layer + 1` tensors `(batch, tokens, d_model)`, on request.
        attentions: `encoder_layer` tensors `(batch, heads, tokens, tokens)`, on request.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    embedding: torch.FloatTensor | None = None
    pooling_weights: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class HeadOutput(NamedTuple):
    """Output of `EmotionHead`; shapes as in `WhisperEmotionOutput`."""

    logits: torch.Tensor
    embedding: torch.Tensor
    pooling_weights: torch.Tensor


class LayerMerge(nn.Module):
    """Merge the frames of several layers, `(…, layers, d_model)`, into one, `(…, frame_size)`."""

    def __init__(self, config: WhisperEmotionConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.encoder_layer + 1)) if config.use_weighted_layer_sum else None

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Concatenate the layers, or sum them with softmax weights."""
        if self.weight is None:
            return frames.flatten(-2)
        return torch.einsum("l,...ld->...d", self.weight.softmax(dim=0).to(frames.dtype), frames)


class DomainAdaptation(nn.Module):
    """Shift frames by the difference between the training population's mean frame and a domain's mean frame.

    A domain is a set of recordings with the same speaker, microphone or language, for example.
    """

    population_mean: torch.Tensor
    population_deviation: torch.Tensor
    domain_mean: torch.Tensor

    def __init__(self, frame_size: int):
        super().__init__()
        self.register_buffer("population_mean", torch.zeros(frame_size))  # 0 until training sets it
        self.register_buffer("population_deviation", torch.zeros(frame_size))  # of the clips' mean frames
        self.register_buffer("domain_mean", torch.zeros(frame_size))  # used if `config.adapted`

    def forward(self, frames: torch.Tensor, domain_mean: torch.Tensor | None = None) -> torch.Tensor:
        """Adapt frames `(batch, frames, frame_size)` to domains `(batch, frame_size)`, or to the stored domain."""
        if domain_mean is None:
            domain_mean = self.domain_mean[None]
        elif domain_mean.shape != (frames.shape[0], frames.shape[-1]):
            needed = (frames.shape[0], frames.shape[-1])
            raise ValueError(f"domain_mean has shape {tuple(domain_mean.shape)}: it must be {needed}, one per clip")
        return frames + (self.population_mean - domain_mean).to(frames.dtype)[:, None]


class EmotionHead(nn.Module):
    """Everything above the encoder: layer merge, projector, LayerNorm, pooling, classifier (arXiv 2602.06000, 3).

    Training on stored frames trains this module alone.
    """

    def __init__(self, config: WhisperEmotionConfig):
        super().__init__()
        self.config = config
        self.merge = LayerMerge(config)
        self.adaptation = DomainAdaptation(config.frame_size)
        width = config.classifier_proj_size
        if width == 0:
            self.projector, self.projector_norm, width = nn.Identity(), nn.Identity(), config.frame_size
        else:
            self.projector, self.projector_norm = nn.Linear(config.frame_size, width), nn.LayerNorm(width)
        self.pooling = POOLING_CLASSES[config.pooling](
            width, config.pooling_heads, config.pooling_head_dim, config.pooling_dropout, config.pooling_scores
        )
        self.classifier = nn.Linear(self.pooling.output_dim, config.num_labels)

    def forward(self, frames: torch.Tensor, mask: torch.Tensor, domain_mean: torch.Tensor | None = None) -> HeadOutput:
        """Classify clips by their encoder frames.

        Args:
            frames: `(batch, frames, layers, d_model)` of the layers in `config.frame_layers`.
            mask: `(batch, frames)` bool, true on the frames to pool; masked frames have no influence.
            domain_mean: `(batch, frame_size)`, see `WhisperForEmotionClassification.forward`.
        """
        merged = self.merge(frames)
        adapted = self.config.adapted or domain_mean is not None
        if adapted:
            merged = self.adaptation(merged, domain_mean)
        embedding, pooling_weights = self.pooling(self.project(merged), mask)
        temperature = self.config.temperature_of(adapted)
        return HeadOutput(self.classifier(embedding) / temperature, embedding, pooling_weights)

    def project(self, merged: torch.Tensor) -> torch.Tensor:
        """Project and normalise merged frames `(…, frame_size)`; any leading dimensions."""
        return self.projector_norm(self.projector(merged))

    def mean_frames(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Average each clip's merged frames to `(batch, frame_size)`; arguments as in `forward`."""
        merged = self.merge(frames).masked_fill(~mask[..., None], 0.0)
        return merged.sum(dim=1, dtype=torch.float32) / mask.sum(dim=1, keepdim=True)

    def novelty(self, means: torch.Tensor) -> torch.Tensor:
        """Measure how far clips lie from the training clips, whose average is 1.

        Args:
            means: `(batch, frame_size)`, the unadapted clips' `mean_frames`.

        Returns:
            `(batch,)`: squared distance from the population mean in units of the training clips' standard deviation,
            averaged over the dimensions.
        """
        known = self.adaptation.population_deviation > 0  # a constant dimension carries no information
        scaled = (means - self.adaptation.population_mean)[:, known] / self.adaptation.population_deviation[known]
        return scaled.square().mean(dim=1)


class WhisperForEmotionClassification(PreTrainedModel):
    """Whisper encoder up to `encoder_layer`, then `EmotionHead`; source: arXiv 2602.06000, section 3.

    `from_pretrained` loads this class's checkpoints and OpenAI's Whisper checkpoints. From a Whisper checkpoint it
    drops the decoder and the upper layers, and initialises the head.

    Example:
        `from_pretrained("openai/whisper-small", encoder_layer=8, pooling="qkv", num_labels=4)`
    """

    config_class = WhisperEmotionConfig
    base_model_prefix = "model"  # OpenAI's keys begin with it
    main_input_name = "input_features"
    input_modalities = "audio"
    supports_gradient_checkpointing = True
    # The loss is a mean over the batch, so Trainer must divide it by the accumulation steps
    accepts_loss_kwargs = False
    _no_split_modules = ["WhisperEmotionEncoderLayer", "EmotionHead"]
    _supports_sdpa = True
    # These kernels accept no bias on the keys
    _supports_flash_attn = _supports_flash_attn_2 = _supports_flex_attn = False
    # Parts of a Whisper checkpoint that this model does not use
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
        self.head = EmotionHead(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        initialise(module, self.config.init_std)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """Load a checkpoint from safetensors, in float32 unless `dtype` is given."""
        if kwargs.get("dtype") is None and kwargs.get("torch_dtype") is None:
            kwargs["dtype"] = torch.float32
        kwargs.setdefault("use_safetensors", True)  # a pickle could run code
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)

    def freeze_encoder(self) -> None:
        """Exclude the encoder from training; call it again after loading, as with other transformers models."""
        self.encoder.requires_grad_(False)

    def get_input_embeddings(self) -> nn.Module:
        """Return the first convolution."""
        return self.encoder.conv1

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        domain_mean: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> WhisperEmotionOutput | tuple:
        """Classify a batch of clips.

        Args:
            input_features: Log-mel `(batch, mel, frames)`, at most the window (3,000 frames) wide.
            attention_mask: `(batch, frames)`, 1 on each clip's own mel frames, from its start. None detects padding in
                the features, to within two frames, and counts digital silence at a clip's end as padding, too. Keep
                the two frames after a clip in the features: they contain its end.
            labels: Class ids `(batch,)` or distributions over the classes `(batch, labels)`; with
                `problem_type="multi_label_classification"` or `"regression"`, numbers `(batch, labels)`.
            domain_mean: `(batch, frame_size)`, adapts each clip to its speaker or another domain. A domain's mean is
                the average of `mean_frames` over recordings in varied moods. None uses the stored domain of `adapt`,
                if any.
            output_hidden_states: Return the encoder's hidden states.
            output_attentions: Return the encoder's attention maps.
            return_dict: False returns a tuple.

        Raises:
            ValueError: The inputs have the wrong shape.
        """
        config = self.config
        encoded = self.encoder(
            input_features,
            attention_mask,
            output_hidden_states=config.output_hidden_states if output_hidden_states is None else output_hidden_states,
            output_attentions=config.output_attentions if output_attentions is None else output_attentions,
        )
        scored = self.head(self._to_head(encoded.frames), encoded.mask, domain_mean)
        output = WhisperEmotionOutput(
            loss=None if labels is None else self.compute_loss(scored.logits, labels),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            **scored._asdict(),
        )
        return output.to_tuple() if return_dict is False else output

    def mean_frames(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Average the frames of each clip; the average over a domain's clips is its `domain_mean`.

        Args:
            input_features: As in `forward`.
            attention_mask: As in `forward`.

        Returns:
            `(batch, frame_size)`, float32.
        """
        encoded = self.encoder(input_features, attention_mask)
        return self.head.mean_frames(self._to_head(encoded.frames), encoded.mask)

    @torch.no_grad()
    def adapt(self, domain_mean: torch.Tensor | None) -> None:
        """Store a domain in the model; the model adapts every later clip to it, also after saving or exporting.

        Args:
            domain_mean: `(frame_size,)`, as in `forward`. None removes the domain.

        Raises:
            ValueError: `domain_mean` has another shape, or is not finite.
        """
        stored = self.head.adaptation.domain_mean
        if domain_mean is None:
            stored.zero_()
        elif domain_mean.shape != stored.shape or not domain_mean.isfinite().all():
            needed = tuple(stored.shape)
            raise ValueError(f"domain_mean has shape {tuple(domain_mean.shape)}: it must be finite numbers {needed}")
        else:
            stored.copy_(domain_mean)
        self.config.adapted = domain_mean is not None

    def _to_head(self, frames: torch.Tensor) -> torch.Tensor:
        """Cast frames to the head's precision: the encoder may be in half precision, the head is not."""
        return frames.to(self.head.adaptation.population_mean.dtype)

    def compute_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the loss of logits `(batch, labels)` in float32, by `config.problem_type` as in transformers.

        `single_label_classification` uses cross-entropy; its labels may be distributions. `multi_label_classification`
        uses binary cross-entropy, and `regression` mean squared error. If `problem_type` is None, one label means
        regression, and several mean single-label classification.
        """
        logits, labels = logits.float(), labels.to(logits.device)
        kind = self.config.problem_type or ("regression" if self.config.num_labels == 1 else None)
        if kind in ("regression", "multi_label_classification"):
            if labels.shape[:1] != logits.shape[:1] or labels.numel() != logits.numel():
                raise ValueError(f"labels has shape {tuple(labels.shape)}: it must be {tuple(logits.shape)} numbers")
            loss = nn.functional.mse_loss if kind == "regression" else nn.functional.binary_cross_entropy_with_logits
            return loss(logits, labels.float().view_as(logits))
        shape = logits.shape if labels.is_floating_point() else logits.shape[:1]
        if labels.shape != shape:
            raise ValueError(
                f"labels has shape {tuple(labels.shape)} and type {labels.dtype}: it must be ({len(logits)},) class "
                f"ids of a type such as int64, or {tuple(logits.shape)} probabilities of a type such as float32"
            )
        return nn.functional.cross_entropy(logits, labels.float() if labels.is_floating_point() else labels.long())


@torch.no_grad()
def initialise(module: nn.Module, std: float) -> None:
    """Initialise a module's own parameters and buffers, without its children's.

    Args:
        module: Any module of the model.
        std: Standard deviation of the weights.
    """
    if isinstance(module, (nn.Linear, nn.Conv1d)):
        nn.init.normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, LayerMerge) and module.weight is not None:
        nn.init.zeros_(module.weight)
    elif isinstance(module, DomainAdaptation):
        nn.init.zeros_(module.population_mean)
        nn.init.zeros_(module.population_deviation)
        nn.init.zeros_(module.domain_mean)
    elif isinstance(module, SinusoidalPositions) and not getattr(module.weight, "_is_hf_initialized", False):
        module.weight.copy_(_sinusoids(*module.weight.shape))


def _sinusoids(positions: int, dim: int) -> torch.Tensor:
    """Whisper's position embeddings `(positions, dim)`: sines, then cosines, of wavelengths up to 10,000 * 2 pi."""
    rates = 10_000.0 ** -(torch.arange(dim // 2) / max(dim // 2 - 1, 1))
    angles = torch.arange(positions)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


WhisperForEmotionClassification.register_for_auto_class("AutoModelForAudioClassification")

__all__ = ["WhisperEmotionOutput", "WhisperForEmotionClassification"]
