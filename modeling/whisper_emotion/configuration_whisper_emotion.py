"""Configuration of `WhisperForEmotionClassification`.

This file travels with every checkpoint: it imports torch, transformers, numpy and its siblings, nothing else.
"""

import inspect
import math

from transformers import PretrainedConfig

from .pooling_whisper_emotion import POOLING_CLASSES

POOLING_SCORES = ("paper", "released")
ENCODER_CONTEXTS = ("window", "utterance", "sparse_window")
PROBLEMS = (None, "single_label_classification", "multi_label_classification", "regression")
MAX_LAYERS = 1024  # Whisper has at most 32; a damaged file may claim millions

# Fields that a stock Whisper checkpoint and this model share.
WHISPER_FIELDS = (
    "num_mel_bins", "d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "activation_function",
    "dropout", "attention_dropout", "activation_dropout", "init_std", "max_source_positions",
)  # fmt: skip
LABEL_FIELDS = ("num_labels", "id2label", "label2id")
CALIBRATION = ("logit_temperature", "adapted_logit_temperature", "sure_probability", "adapted_sure_probability")
LAYER_FIELDS = ("encoder_layer", "concatenated_layers", "use_weighted_layer_sum")

AUTO_MAP = {
    "AutoConfig": "configuration_whisper_emotion.WhisperEmotionConfig",
    "AutoModel": "modeling_whisper_emotion.WhisperForEmotionClassification",
    "AutoModelForAudioClassification": "modeling_whisper_emotion.WhisperForEmotionClassification",
}


def _whole(low: int, high: float = math.inf):
    return lambda value: type(value) is int and low <= value <= high


def _number(low: float, high: float = math.inf, exclusive: bool = False):
    def holds(value):
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30
        return number and (low < value if exclusive else low <= value) and value < high

    return holds


def _probability(value):
    return _number(0)(value) and value <= 1


def _one_of(names):
    return lambda value: isinstance(value, str) and value in names


def _activation(value):
    from transformers.activations import ACT2FN  # imports torch, which most configurations do not need

    return isinstance(value, str) and value in ACT2FN


def _ascending_layers(value):
    layers = isinstance(value, (list, tuple)) and len(value) > 0 and all(_whole(0)(layer) for layer in value)
    return value is None or (layers and list(value) == sorted(set(value)))


# The allowed values of each field: a test, and its description for the error message
ALLOWED = {
    "num_mel_bins": (_whole(1, 1024), "a whole number from 1 to 1024"),
    "d_model": (lambda value: _whole(2, 65_536)(value) and value % 2 == 0, "an even number from 2 to 65536"),
    "encoder_layers": (_whole(0, MAX_LAYERS), f"a whole number from 0 to {MAX_LAYERS}"),
    "encoder_attention_heads": (_whole(1, 1024), "a whole number from 1 to 1024"),
    "encoder_ffn_dim": (_whole(1, 1_000_000), "a whole number from 1 to 1000000"),
    "max_source_positions": (_whole(1, 1_000_000), "a whole number from 1 to 1000000"),
    "activation_function": (_activation, "an activation that transformers knows, such as gelu"),
    "dropout": (_number(0, 1), "a number in [0, 1)"),
    "attention_dropout": (_number(0, 1), "a number in [0, 1)"),
    "activation_dropout": (_number(0, 1), "a number in [0, 1)"),
    "init_std": (_number(0), "a number, 0 or more"),
    "encoder_layer": (lambda value: type(value) is int, "a whole number"),
    "concatenated_layers": (_ascending_layers, "None or ascending layers, such as [2, 3, 4]"),
    "use_weighted_layer_sum": (lambda value: isinstance(value, bool), "true or false"),
    "classifier_proj_size": (_whole(0), "a whole number, 0 (no projector) or more"),
    "pooling": (_one_of(POOLING_CLASSES), f"one of {', '.join(POOLING_CLASSES)}"),
    "pooling_heads": (_whole(1), "a whole number, 1 or more"),
    "pooling_head_dim": (_whole(1), "a whole number, 1 or more"),
    "pooling_dropout": (_number(0, 1), "a number in [0, 1)"),
    "pooling_scores": (_one_of(POOLING_SCORES), f"one of {', '.join(POOLING_SCORES)}"),
    "mask_padding": (lambda value: isinstance(value, bool), "true or false"),
    "encoder_context": (_one_of(ENCODER_CONTEXTS), f"one of {', '.join(ENCODER_CONTEXTS)}"),
    "context_margin": (_number(0, 1000), "a number of seconds in [0, 1000)"),
    "silence_stride": (_whole(1, 1_000_000), "a whole number from 1 to 1000000"),
    "logit_temperature": (_number(0, exclusive=True), "a number above 0"),
    "adapted_logit_temperature": (
        lambda value: value is None or _number(0, exclusive=True)(value),
        "None or a number above 0",
    ),
    "sure_probability": (lambda value: value is None or _probability(value), "None or a number from 0 to 1"),
    "adapted_sure_probability": (lambda value: value is None or _probability(value), "None or a number from 0 to 1"),
    "novelty_limit": (lambda value: value is None or _number(0, exclusive=True)(value), "None or a number above 0"),
    "adapted": (lambda value: isinstance(value, bool), "true or false"),
    "problem_type": (lambda value: value in PROBLEMS, f"one of {', '.join(map(str, PROBLEMS))}"),
}


class WhisperEmotionConfig(PretrainedConfig):
    r"""Configuration of a Whisper encoder with a pooling over its frames and a linear classifier.

    The first eleven fields describe the encoder, with the names and meanings of `WhisperConfig`. A stock Whisper
    checkpoint fills them. `PretrainedConfig` adds `id2label`, `problem_type` and its other fields.

    Args:
        num_mel_bins: Mel bands of the features (80; 128 for large-v3).
        d_model: Width of an encoder frame.
        encoder_layers: Number of transformer layers in the whole checkpoint, built or not.
        encoder_attention_heads: Attention heads of a layer.
        encoder_ffn_dim: Width of a layer's feed-forward network.
        activation_function: Activation of the feed-forward networks, a name that transformers knows.
        dropout: Dropout probability after the embedding, the attention and the feed-forward network.
        attention_dropout: Dropout probability on the attention weights.
        activation_dropout: Dropout probability inside the feed-forward network.
        init_std: Standard deviation of newly initialised weights.
        max_source_positions: Encoder frames of the window (1,500 for 30 s).
        encoder_layer: Layer to pool: 0 is the convolutions' output with positions, 1..`encoder_layers` are the
            transformer layers, -1 is the last. Higher layers are not built.
        concatenated_layers: Concatenate the frames of these ascending layers, `len(concatenated_layers) * d_model`
            wide, and pool them. `encoder_layer` becomes the last one. None pools `encoder_layer` alone.
        use_weighted_layer_sum: Pool a learned, softmax-weighted sum of the hidden states 0..`encoder_layer`.
        classifier_proj_size: Width of the projector (arXiv 2602.06000, section 3: `d_model` = 256). 0 omits the
            projector and its LayerNorm; the pooling then takes the encoder's frames.
        pooling: One of `mean`, `attentive`, `qkv`, `statistics`, `attentive_statistics`.
        pooling_heads: Attention heads of the attentive poolings.
        pooling_head_dim: Width of one head (`d_hidden`, `d_k`).
        pooling_dropout: Dropout probability inside the attentive poolings, active in training only.
        pooling_scores: `paper` follows the equations of arXiv 2602.06000, `released` follows the authors' code;
            `pooling_whisper_emotion.py` lists the differences.
        mask_padding: Pool the real frames only. False pools every encoded frame, silence too, as the paper does.
        encoder_context: Audio and silence that the encoder processes. `window`: the whole 30 s window, as in Whisper's
            training. `utterance`: the audio and `context_margin` seconds of silence. `sparse_window`: the audio and
            every `silence_stride`-th silent position, weighted by the number of positions it replaces. It
            approximates `window` at little more than the cost of the audio.
        context_margin: Seconds of silence after the audio in `utterance` context.
        silence_stride: Silent positions that one position replaces in `sparse_window` context.
        logit_temperature: Divisor of the logits that calibrates the probabilities (arXiv 1706.04599, section 4.2).
        adapted_logit_temperature: Divisor for clips adapted to a domain; None uses `logit_temperature`.
        sure_probability: Least probability of a sure label. On held-out speakers, four in five labels with at least
            this probability are right. 1 if no probability reaches that; None without held-out speakers.
        adapted_sure_probability: `sure_probability` of clips adapted to a domain; None uses `sure_probability`.
        novelty_limit: `EmotionHead.novelty` above which a clip is unlike the training clips; None if unknown.
        adapted: Whether the model stores a domain and adapts every clip to it; see the model's `adapt`.
        **kwargs: Fields of `PretrainedConfig`. `label2id` always follows from `id2label`.

    Raises:
        ValueError: A field has a value that is not allowed; the message lists the allowed ones.
    """

    model_type = "whisper_emotion"
    attribute_map = {"hidden_size": "d_model", "num_attention_heads": "encoder_attention_heads"}
    # Trainer would otherwise gather these for the whole evaluation set.
    keys_to_ignore_at_inference = ["embedding", "pooling_weights", "hidden_states", "attentions"]

    def __init__(
        self,
        num_mel_bins=80,
        d_model=384,
        encoder_layers=4,
        encoder_attention_heads=6,
        encoder_ffn_dim=1536,
        activation_function="gelu",
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        init_std=0.02,
        max_source_positions=1500,
        encoder_layer=-1,
        concatenated_layers=None,
        use_weighted_layer_sum=False,
        classifier_proj_size=256,
        pooling="mean",
        pooling_heads=6,
        pooling_head_dim=4,
        pooling_dropout=0.3,
        pooling_scores="paper",
        mask_padding=True,
        encoder_context="sparse_window",
        context_margin=1.0,
        silence_stride=32,
        logit_temperature=1.0,
        adapted_logit_temperature=None,
        sure_probability=None,
        adapted_sure_probability=None,
        novelty_limit=None,
        adapted=False,
        **kwargs,
    ):
        for name, value in list(locals().items()):
            if name in FIELDS:
                setattr(self, name, value)
        kwargs.pop("label2id", None)
        kwargs.pop("auto_map", None)
        if kwargs.get("id2label") is not None:
            kwargs["id2label"] = _checked_labels(kwargs["id2label"])
            labels = len(kwargs["id2label"])
            if kwargs.get("num_labels") not in (None, labels):
                raise ValueError(
                    f"num_labels={kwargs['num_labels']!r} does not fit id2label, which has {labels} labels: give one "
                    "of the two"
                )
        super().__init__(**kwargs)
        # From the Hub this holds "namespace/name--module.Class"; a copy of the checkpoint must name its own files
        self.auto_map = dict(AUTO_MAP)
        self.resolve()

    def resolve(self) -> None:
        """Make `encoder_layer` non-negative, and check `problem_type` and every field of this class.

        The model calls this method again, because fields may change after construction.
        """
        for name, (holds, allowed) in ALLOWED.items():
            if not holds(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r} is not allowed: it must be {allowed}")
        self.id2label = _checked_labels(self.id2label)
        self.label2id = {label: index for index, label in self.id2label.items()}
        if self.d_model % self.encoder_attention_heads:
            raise ValueError(
                f"encoder_attention_heads={self.encoder_attention_heads} is not allowed: it must divide "
                f"d_model={self.d_model}"
            )
        if self.concatenated_layers is not None:
            if self.use_weighted_layer_sum:
                raise ValueError("concatenated_layers excludes use_weighted_layer_sum=True: give one of the two")
            self.encoder_layer = self.concatenated_layers[-1]
        layers = self.encoder_layers
        if not -(layers + 1) <= self.encoder_layer <= layers:
            raise ValueError(
                f"encoder_layer={self.encoder_layer} is not allowed: this encoder has {layers} layers, so it must be "
                f"0 (convolutions) to {layers}, or -1 (last) to -{layers + 1}"
            )
        if self.encoder_layer < 0:
            self.encoder_layer += layers + 1
        if self.encoder_context == "sparse_window" and not self.mask_padding:
            raise ValueError(
                "mask_padding=False is not allowed with encoder_context='sparse_window', which drops most of the "
                "silence: use mask_padding=True or encoder_context='window'"
            )

    def temperature_of(self, adapted: bool) -> float:
        """Return the divisor of the logits, for adapted or for unadapted clips."""
        if adapted and self.adapted_logit_temperature is not None:
            return self.adapted_logit_temperature
        return self.logit_temperature

    def sure_probability_of(self, adapted: bool) -> float | None:
        """Return the least probability of a sure label, for adapted or for unadapted clips."""
        if adapted and self.adapted_sure_probability is not None:
            return self.adapted_sure_probability
        return self.sure_probability

    @property
    def frame_layers(self) -> list[int]:
        """The layers that the head takes, ascending."""
        if self.use_weighted_layer_sum:
            return list(range(self.encoder_layer + 1))
        return [self.encoder_layer] if self.concatenated_layers is None else list(self.concatenated_layers)

    @property
    def frame_size(self) -> int:
        """Width of a frame after its layers are merged."""
        return self.d_model * (1 if self.use_weighted_layer_sum else len(self.frame_layers))

    @property
    def context(self) -> dict:
        """`encoder_context` and the field that belongs to it, by name."""
        own = {"utterance": "context_margin", "sparse_window": "silence_stride"}.get(self.encoder_context)
        return {"encoder_context": self.encoder_context, **({own: getattr(self, own)} if own else {})}

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        """Read a configuration file; from a stock Whisper checkpoint, keep the encoder's fields only."""
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if config_dict.get("model_type") == "whisper":
            config_dict = {name: config_dict[name] for name in WHISPER_FIELDS if name in config_dict}
        return config_dict, kwargs

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """Build a configuration; keyword arguments replace fields before the check.

        Another number of labels means a new classifier, so the old label names and calibration are dropped. Other
        layers mean other frames, so the stored domain and the novelty limit are dropped.
        """
        given = {name: kwargs.pop(name) for name in (*FIELDS, *LABEL_FIELDS, "problem_type") if name in kwargs}
        config_dict = dict(config_dict)
        stored = len(config_dict.get("id2label") or range(config_dict.get("num_labels") or 2))
        named = len(given.get("id2label") or range(given.get("num_labels") or stored))
        if named != stored:
            for name in (*LABEL_FIELDS, *CALIBRATION):
                config_dict.pop(name, None)
        if any(name in given and given[name] != config_dict.get(name) for name in LAYER_FIELDS):
            config_dict |= {"adapted": False, "novelty_limit": None}
        return super().from_dict({**config_dict, **given}, **kwargs)


def _checked_labels(id2label) -> dict[int, str]:
    """Return `id2label` sorted by int keys; raise ValueError unless every id from 0 has a unique name."""
    try:
        if isinstance(id2label, dict) and all(isinstance(name, str) and name.strip() for name in id2label.values()):
            named = {int(str(key)): name for key, name in id2label.items()}  # int(str()) rejects 0.5
            if (
                len(named) == len(id2label)
                and sorted(named) == list(range(len(id2label)))
                and len(set(named.values())) == len(named) > 0
            ):
                return dict(sorted(named.items()))
    except (TypeError, ValueError):
        pass  # a key is not a number
    raise ValueError(
        f"id2label={id2label!r} is not allowed: it must map each id from 0 on to a unique name, such as "
        "{0: 'angry', 1: 'sad'}"
    )


FIELDS = tuple(
    name for name in inspect.signature(WhisperEmotionConfig.__init__).parameters if name not in ("self", "kwargs")
)

WhisperEmotionConfig.register_for_auto_class()

__all__ = ["WhisperEmotionConfig"]
