"""Configuration of `WhisperForEmotionClassification`.

This file travels with every checkpoint: it imports torch, transformers, numpy and its siblings, nothing else.
"""

import math
from dataclasses import field, fields
from typing import Any

from transformers import WhisperConfig

from .pooling_whisper_emotion import POOLING_CLASSES

POOLINGS = tuple(POOLING_CLASSES)
POOLING_SCORES = ("paper", "released")
ENCODER_CONTEXTS = ("window", "utterance", "sparse_window")

MOST_LAYERS = 1024  # Whisper has 32 at most; building what a damaged file may claim would not end

AUTO_MAP = {
    "AutoConfig": "configuration_whisper_emotion.WhisperEmotionConfig",
    "AutoModel": "modeling_whisper_emotion.WhisperForEmotionClassification",
    "AutoModelForAudioClassification": "modeling_whisper_emotion.WhisperForEmotionClassification",
}


def _help(text: str, default: Any) -> Any:
    """Give a dataclass field its default and the one line that `--help` prints for it."""
    return field(default=default, metadata={"help": text})


class WhisperEmotionConfig(WhisperConfig):
    r"""Configuration of a Whisper encoder with a pooling over its frames and a linear classifier.

    All fields of `WhisperConfig` keep their meaning; `encoder_layers` stays the checkpoint's own number of layers.

    Args:
        encoder_layer: Hidden state that is pooled: 0 is the convolutions' output with positions, 1..`encoder_layers`
            the transformer layers; negative values count from the top (-1 is the last). Layers above are not built.
        use_weighted_layer_sum: Pool a learned, softmax-weighted mix of the hidden states 0..`encoder_layer`.
        concatenated_layers: Pool the frames of these layers, ascending, side by side: `len(concatenated_layers) *
            d_model` wide. `encoder_layer` is then the last of them. None pools `encoder_layer` alone.
        classifier_proj_size: Width of the projector (arXiv 2602.06000, section 3: `d_model` = 256).
        pooling: One of `mean`, `attentive`, `qkv`, `statistics`, `attentive_statistics`.
        pooling_heads: Attention heads of the attentive poolings.
        pooling_head_dim: Width of one head (`d_hidden`, `d_k`).
        pooling_dropout: Dropout probability inside the attentive poolings, active in training only.
        pooling_scores: `paper` follows the equations of arXiv 2602.06000, `released` the authors' code, where the two
            differ (see `pooling_whisper_emotion.py`).
        mask_padding: Pool the real frames only. False pools every encoded frame, silence too, as the paper does.
        encoder_context: What the encoder sees: `window` is the whole 30 s window, silence included, as Whisper was
            trained; `utterance` is the audio and `context_margin` seconds of silence after it; `sparse_window` is the
            audio, two silent frames, and every `silence_stride`-th silent position of the window behind them, which
            counts for all that it stands for: an approximation of the window at nearly the audio's cost, and no worse
            (`model_cards/README.md`).
        context_margin: Seconds of silence after the audio in `utterance` context.
        silence_stride: Silent positions that one stands for in `sparse_window` context.
        freeze_encoder: Train the head only. Holds after loading, too.
        class_weights: One positive weight a class for the cross-entropy, or None. As in PyTorch, a weighted loss is
            divided by the weights of its own batch, so it depends on how a batch is divided for accumulation.
        label_smoothing: Label smoothing of the cross-entropy, in [0, 1).
        temperature: What the logits are divided by, so that probabilities are as often right as they say.
        adapted_temperature: The same of clips that are adapted to their speakers, which it is easier to be sure of;
            None: no other.

    Raises:
        ValueError: A field's value is not allowed; the message lists what is.
    """

    model_type = "whisper_emotion"
    # Trainer would otherwise gather these for the whole evaluation set.
    keys_to_ignore_at_inference = ["embedding", "pooling_weights", "hidden_states", "attentions"]

    is_encoder_decoder: bool = False
    encoder_layer: int = _help("encoder layer that is pooled: 0 = convolutions, -1 = last", -1)
    use_weighted_layer_sum: bool = _help("pool a learned mix of the layers 0..encoder_layer", False)
    concatenated_layers: list | None = _help("encoder layers, such as 2,3,4, that are pooled side by side", None)
    classifier_proj_size: int = _help("width of the projector", 256)
    pooling: str = _help(f"one of {', '.join(POOLINGS)}", "mean")
    pooling_heads: int = _help("heads of the attentive poolings", 6)
    pooling_head_dim: int = _help("width of one head", 4)
    pooling_dropout: float = _help("dropout inside the attentive poolings", 0.3)
    pooling_scores: str = _help("paper (its equations) or released (its authors' code)", "paper")
    mask_padding: bool = _help("pool real frames only; false pools the silence too, as the paper does", True)
    encoder_context: str = _help(
        "window (30 s), utterance (the audio and context_margin seconds) or sparse_window", "sparse_window"
    )
    context_margin: float = _help("seconds of silence encoded after the audio in utterance context", 1.0)
    silence_stride: int = _help("silent positions that one stands for in sparse_window context", 32)
    freeze_encoder: bool = _help("train the head only", True)
    class_weights: list | None = _help("one positive weight a class, for the loss", None)
    label_smoothing: float = _help("label smoothing of the loss, in [0, 1)", 0.0)
    temperature: float = _help("what the logits are divided by", 1.0)
    adapted_temperature: float | None = _help("the same of clips adapted to their speakers", None)

    def __post_init__(self, **kwargs):
        """Resolve a negative `encoder_layer` and check all fields."""
        super().__post_init__(**kwargs)
        # A checkpoint from the Hub arrives with "namespace/name--module.Class" here; saved again, it must name the
        # files that are saved beside it.
        self.auto_map = dict(AUTO_MAP)
        self.resolve()

    def resolve(self) -> None:
        """Make `encoder_layer` non-negative and check every field of this class.

        The model calls this again, for what was set on the configuration since.
        """
        known = type(self.encoder_layers) is int and 0 <= self.encoder_layers <= MOST_LAYERS
        self._require("encoder_layers", known, f"a whole number from 0 to {MOST_LAYERS}")
        for name in ("encoder_layer", "classifier_proj_size", "pooling_heads", "pooling_head_dim", "silence_stride"):
            self._require(name, type(getattr(self, name)) is int, "a whole number")
        for name in ("use_weighted_layer_sum", "mask_padding", "freeze_encoder"):
            self._require(name, isinstance(getattr(self, name), bool), "true or false")
        numbers = ["pooling_dropout", "context_margin", "label_smoothing", "temperature"]
        if self.adapted_temperature is not None:
            numbers.append("adapted_temperature")
        for name in numbers:
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            self._require(name, number, "a number")

        if self.concatenated_layers is not None:
            several = self.concatenated_layers
            valid = (
                isinstance(several, (list, tuple))
                and len(several) > 0
                and all(type(layer) is int and layer >= 0 for layer in several)
                and list(several) == sorted(set(several))
            )
            self._require("concatenated_layers", valid, "None or ascending layers, such as [2, 3, 4]")
            if self.use_weighted_layer_sum:
                raise ValueError("concatenated_layers excludes use_weighted_layer_sum=True: leave one of them out")
            self.encoder_layer = several[-1]

        layers = self.encoder_layers
        if not -(layers + 1) <= self.encoder_layer <= layers:
            raise ValueError(
                f"encoder_layer={self.encoder_layer} is not allowed: this encoder has {layers} layers, so 0 "
                f"(convolutions) to {layers} and -1 (last) to -{layers + 1} are"
            )
        if self.encoder_layer < 0:
            self.encoder_layer += layers + 1

        for name in ("classifier_proj_size", "pooling_heads", "pooling_head_dim", "silence_stride"):
            self._require(name, getattr(self, name) >= 1, "1 or more")
        self._require("pooling", self.pooling in POOLINGS, f"one of {', '.join(POOLINGS)}")
        self._require("pooling_scores", self.pooling_scores in POOLING_SCORES, f"one of {', '.join(POOLING_SCORES)}")
        self._require(
            "encoder_context", self.encoder_context in ENCODER_CONTEXTS, f"one of {', '.join(ENCODER_CONTEXTS)}"
        )
        if self.encoder_context == "sparse_window" and not self.mask_padding:
            raise ValueError(
                "mask_padding=False is not allowed with encoder_context='sparse_window', which leaves most of the "
                "silence out: pool the real frames, or use window"
            )
        self._require("pooling_dropout", 0 <= self.pooling_dropout < 1, "in [0, 1)")
        self._require("label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)")
        self._require("temperature", self.temperature > 0, "more than 0")
        adapted = self.adapted_temperature
        self._require("adapted_temperature", adapted is None or adapted > 0, "None or more than 0")
        self._require("context_margin", self.context_margin >= 0, "0 seconds or more")
        if self.class_weights is not None:
            weights = self.class_weights
            valid = (
                isinstance(weights, (list, tuple))
                and len(weights) == self.num_labels
                and all(isinstance(weight, (int, float)) and 0 < weight < math.inf for weight in weights)
            )
            self._require("class_weights", valid, f"None or {self.num_labels} positive numbers, one a class")

    def temperature_of(self, adapted: bool) -> float:
        """What the logits are divided by, of clips that are adapted to their speakers or of others."""
        adapts = adapted and self.adapted_temperature is not None
        return self.adapted_temperature if adapts else self.temperature

    @property
    def frame_layers(self) -> list[int]:
        """The layers whose frames the head takes."""
        if self.use_weighted_layer_sum:
            return list(range(self.encoder_layer + 1))
        return [self.encoder_layer] if self.concatenated_layers is None else list(self.concatenated_layers)

    @property
    def frame_size(self) -> int:
        """Width of a frame as the projector takes it."""
        return self.d_model * (1 if self.concatenated_layers is None else len(self.concatenated_layers))

    @property
    def context(self) -> dict[str, Any]:
        """What the encoder sees: `encoder_context` and the field that belongs to it, by name."""
        own = {"utterance": "context_margin", "sparse_window": "silence_stride"}.get(self.encoder_context)
        return {"encoder_context": self.encoder_context, **({own: getattr(self, own)} if own else {})}

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise ValueError(f"{name}={getattr(self, name)!r} is not allowed: it must be {allowed}")

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        """Read a configuration file; a stock Whisper checkpoint's is taken over as an encoder's."""
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if config_dict.get("model_type") == WhisperConfig.model_type:
            # What a speech recogniser says of its task does not hold for the classifier: its type and class, two
            # placeholder labels, the weights' storage type, and the projector that WhisperConfig declares by default.
            for name in (
                "model_type", "architectures", "is_encoder_decoder", "id2label", "label2id", "dtype", "torch_dtype",
                "classifier_proj_size", "use_weighted_layer_sum",
            ):  # fmt: skip
                config_dict.pop(name, None)
        return config_dict, kwargs

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """Build a configuration; keyword arguments replace the fields before they are checked, not after."""
        own = {field.name for field in fields(cls) if "help" in field.metadata} & kwargs.keys()
        return super().from_dict({**config_dict, **{name: kwargs.pop(name) for name in own}}, **kwargs)


WhisperEmotionConfig.register_for_auto_class()

__all__ = ["WhisperEmotionConfig"]
