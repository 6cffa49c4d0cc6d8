"""Options that several scripts share, each declared once.

A field's metadata holds its help text, whether the card shows it, and whether it matters for resuming. `option` sets
the metadata; `cli.parse_arguments` and the functions below read it.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field
from enum import Enum
from typing import Any

from whisper_emotion.errors import UserError

ENCODER_DTYPES = ("float32", "bfloat16")
ENCODER_HELP = "encoder of general, permissive or another head: folder or Hub name; default: named by the head"
MODEL_HELP = "general (default), permissive, a trained folder or a Hub name"
DEVICE_HELP = "auto (an accelerator if torch finds one), cpu, cuda, cuda:1, mps, …"
SELECTIONS = ("dev", "last", "test")
ADAPTATIONS = ("none", "speaker", "domain", "dev")
TRAIN_ADAPTATIONS = ("none", "speaker")
HELD_OUT = ("speakers", "corpora")
CORPUS_WEIGHTS = {"sqrt": 0.5, "equal": 0.0, "size": 1.0}  # exponents of a corpus's number of clips

# Options of transformers' TrainingArguments that the card shows, and all options that influence a result
CARD_TRAINING = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "per_device_train_batch_size",
    "gradient_accumulation_steps", "weight_decay", "max_grad_norm", "optim", "seed", "metric_for_best_model",
)  # fmt: skip
RESULT_TRAINING = (
    *CARD_TRAINING, "max_steps", "lr_scheduler_kwargs", "warmup_ratio", "optim_args", "optim_target_modules",
    "adam_beta1", "adam_beta2", "adam_epsilon", "label_smoothing_factor", "neftune_noise_alpha", "bf16", "fp16",
    "bf16_full_eval", "fp16_full_eval", "tf32", "torch_compile", "greater_is_better", "eval_delay", "data_seed",
    "train_sampling_strategy", "group_by_length", "length_column_name", "auto_find_batch_size", "accelerator_config",
    "deepspeed", "average_tokens_across_devices",
)  # fmt: skip


def option(
    default: Any = MISSING,
    *,
    help: str,
    choices: Sequence[str] | None = None,
    advanced: bool = False,
    positional: bool = False,
    card: bool = False,
    influences_results: bool = True,
) -> Any:
    """Declare an option as a dataclass field.

    Args:
        default: Default value; an option without one is required.
        help: One line for `--help`; the parser appends choices and default.
        choices: Allowed values.
        advanced: Show the option in `--help_all` only.
        positional: The option takes the arguments without a flag.
        card: The model card shows the option.
        influences_results: A run with another value cannot be resumed.
    """
    metadata = {
        "help": help, "choices": choices, "advanced": advanced, "positional": positional, "card": card,
        "influences_results": influences_results,
    }  # fmt: skip
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class RecordingOptions:
    """Recordings and their labels."""

    GROUP = "recordings"

    corpus: str = option(
        help="such as emodb, table, folder or hub:NAME (all: guides/corpora.md); several with commas", card=True
    )
    corpus_dir: str | None = option(None, help="folder or table of each; none with hub:")
    classes: str | None = option(None, help="comma-separated, or shared (by all corpora); default: all")
    merge: str | None = option(None, help="classes to merge, such as calm=neutral")
    labels: str = option(
        "vocabulary", help="the package's labels or the owners'", choices=("vocabulary", "original"), advanced=True
    )
    labels_map: str | None = option(None, help="names for the owners' labels, such as ang=angry", advanced=True)
    improvised_only: bool | None = option(None, help="iemocap: leave scripted speech out", advanced=True)
    speaker_pattern: str | None = option(None, help="folder: regular expression on file names; group 1 is the speaker")
    audio_dir: str | None = option(None, help="table: folder of its files", advanced=True)
    columns: str | None = option(None, help="table: its columns, such as label=mood,speaker=who", advanced=True)

    def reading(self) -> dict[str, Any]:
        """Return the options of `load_corpus` by name."""
        return {name: value for name, value in vars(self).items() if name not in ("corpus", "corpus_dir", "folds")}


@dataclass
class CorpusOptions(RecordingOptions):
    """Recordings, their labels and folds."""

    folds: str = option("loso", help="loso, speakers:K, paper, emobox, split, loco or cross")


@dataclass
class ProtocolOptions:
    """Encoder, training protocol and model selection."""

    GROUP = "encoder and protocol"

    encoder: str = option("", help="Whisper checkpoint: folder or Hub name", card=True)
    init: str | None = option(None, help="start from general, permissive or a folder")
    from_scratch: bool = option(
        False, help="start from random weights of the encoder's shape", advanced=True, card=True
    )
    freeze_encoder: bool = option(True, help="train the head only", card=True)
    normalize_speech: bool | None = option(
        None, help="cut silence at both ends of a clip and level its speech", advanced=True
    )
    encoder_dtype: str = option(
        "float32", help="precision of a frozen encoder", choices=ENCODER_DTYPES, advanced=True, card=True
    )
    class_weights: str | None = option(None, help="loss weights: balanced, none, or one per class", card=True)
    corpus_weights: str | None = option(
        None,
        help="loss weight by clips per corpus: sqrt (default), equal or size (linear heads)",
        choices=tuple(CORPUS_WEIGHTS),
        advanced=True,
    )
    select_on: str = option(
        "dev",
        help="select epoch or strength on: dev (held-out training speakers), last (nothing), test (optimistic)",
        choices=SELECTIONS,
        card=True,
    )
    held_out: str = option(
        "speakers", help="dev, several corpora: hold out speakers or whole corpora", choices=HELD_OUT, advanced=True
    )
    refit: bool = option(True, help="dev: retrain on all training speakers after selection", card=True)
    adaptation: str = option(
        "none",
        help="adapt test clips, without labels, to the mean frame of their speaker or domain (corpus); none; or dev "
        "(speaker, if it helps)",
        choices=ADAPTATIONS,
    )
    train_adaptation: str = option(
        "none",
        help="also adapt training clips to their speaker's mean frame (linear heads)",
        choices=TRAIN_ADAPTATIONS,
        advanced=True,
    )
    augmented_copies: int = option(
        0, help="also train on this many distorted copies per clip (linear heads)", advanced=True
    )
    clips_per_class: int | None = option(None, help="train on this many randomly drawn clips per class", advanced=True)
    temperature_scaling: bool = option(False, help="calibrate on held-out training speakers")
    store_dir: str | None = option(None, help="folder of the feature store", influences_results=False)

    def __post_init__(self):
        """Refuse to train without an encoder."""
        if not self.encoder and self.init is None:
            raise UserError("--encoder: missing: give a Whisper checkpoint, or --init to start from a trained model")

    def weights(self) -> str | list[float] | None:
        """Return `class_weights` as `"balanced"`, `"none"` or numbers; None if not given.

        Raises:
            UserError: The value is neither a keyword nor numbers.
        """
        if self.class_weights in (None, "balanced", "none"):
            return self.class_weights
        allowed = "balanced, none or one number per class, such as 1,2,1"
        return parse_numbers("class_weights", self.class_weights, float, allowed)


@dataclass
class ModelOptions:
    """Overrides of the checkpoint's configuration; None keeps its value."""

    GROUP = "model; default: the checkpoint's values"

    encoder_layer: int | None = option(None, help="layer to pool: 0 convolutions, -1 the last")
    concatenated_layers: str | None = option(None, help="layers to concatenate, such as 2,3,4")
    use_weighted_layer_sum: bool | None = option(
        None, help="pool a learned weighted sum of layers 0..encoder_layer", advanced=True
    )
    classifier_proj_size: int | None = option(None, help="width of the projector; 0: no projector")
    pooling: str | None = option(None, help="mean, attentive, qkv, statistics or attentive_statistics")
    pooling_heads: int | None = option(None, help="heads of the attentive poolings", advanced=True)
    pooling_head_dim: int | None = option(None, help="width of one pooling head", advanced=True)
    pooling_dropout: float | None = option(None, help="dropout inside the attentive poolings", advanced=True)
    pooling_scores: str | None = option(
        None, help="paper (the paper's equations) or released (its authors' code)", advanced=True
    )
    mask_padding: bool | None = option(None, help="pool real frames only, no padding")
    encoder_context: str | None = option(None, help="window (30 s), utterance or sparse_window")
    context_margin: float | None = option(
        None, help="utterance context: seconds of silence after the audio", advanced=True
    )
    silence_stride: int | None = option(
        None, help="sparse_window context: keep every n-th silent position", advanced=True
    )

    def overrides(self) -> dict[str, Any]:
        """Return the given options by name, as fields of `WhisperEmotionConfig`.

        Raises:
            UserError: `concatenated_layers` is not a list of layers.
        """
        given = {name: value for name, value in vars(self).items() if value is not None}
        if "concatenated_layers" in given:
            allowed = "comma-separated layers, such as 2,3,4"
            given["concatenated_layers"] = parse_numbers(
                "concatenated_layers", given["concatenated_layers"], int, allowed
            )
        return given


def parse_numbers(name: str, text: str, kind: Callable[[str], Any], allowed: str) -> list[Any]:
    """Parse an option's comma-separated numbers.

    Raises:
        UserError: A part is not a number; the message ends with `allowed`.
    """
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"--{name} {text}: give {allowed}") from error


def settings(*groups: Any) -> dict[str, Any]:
    """Return the options by name that influence results; a run resumes only if all of them are unchanged."""
    return _values(groups, lambda metadata: metadata.get("influences_results", True), RESULT_TRAINING)


def hyper_parameters(*groups: Any) -> dict[str, Any]:
    """Return the options by name that the model card shows."""
    return _values(groups, lambda metadata: metadata.get("card", False), CARD_TRAINING)


def _values(groups: Sequence[Any], wanted: Callable[[Any], bool], training: Sequence[str]) -> dict[str, Any]:
    """Return options by name: fields whose metadata is `wanted`, and the TrainingArguments named in `training`."""
    from transformers import TrainingArguments

    values = {}
    for group in groups:
        if isinstance(group, TrainingArguments):
            names = [name for name in training if hasattr(group, name)]
        else:
            names = [one.name for one in dataclasses.fields(group) if wanted(one.metadata)]
        values |= {name: getattr(group, name) for name in names}
    return {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}
