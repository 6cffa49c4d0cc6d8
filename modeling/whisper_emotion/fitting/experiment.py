"""Everything that decides what a model becomes, but for its training clips and its seed."""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from transformers import set_seed

from whisper_emotion.configuration_whisper_emotion import WhisperEmotionConfig
from whisper_emotion.corpora import load_corpus
from whisper_emotion.corpora.splits import check_held_out, speakers_known
from whisper_emotion.errors import UserError, not_loaded, one_line, reading, without_loading_report
from whisper_emotion.feature_extraction_whisper_emotion import WhisperEmotionFeatureExtractor
from whisper_emotion.feature_store import FeatureStore
from whisper_emotion.fitting.training_arguments import EmotionTrainingArguments
from whisper_emotion.modeling_whisper_emotion import EmotionHead, WhisperForEmotionClassification, initialise
from whisper_emotion.options import CorpusOptions, ModelOptions, ProtocolOptions

CHECKPOINT = "a Whisper checkpoint with safetensors weights, or one of ours"
LINEAR_POOLINGS = ("mean", "statistics")


@dataclass(frozen=True)
class Experiment:
    """What to train, and by which protocol.

    Args:
        corpus: Output of `load_corpus`.
        encoder: A Whisper checkpoint, or one of ours: a folder or a Hub name.
        overrides: Fields of `WhisperEmotionConfig` that differ from the checkpoint's.
        args: Hyper-parameters.
        select_on: Clips that select the epoch or the strength: speakers held out of the training clips (`dev`), none
            (`last`), or the test clips (`test`), as in the paper's released code.
        refit: Train again on all training clips with the epochs or the strength that `dev` chose.
        from_scratch: Take the encoder's configuration only, and train all weights from random ones.
        freeze_encoder: Train the head only, on stored frames.
        class_weights: `balanced` (inverse to the classes' frequencies among the training clips), one weight a class,
            or None.
        encoder_dtype: Precision of a frozen encoder; the head is trained in float32.
        adaptation: Whether test clips are adapted to the mean frame of all clips of their speaker, without labels:
            `none`, `speaker`, or `dev`: if it helps on held-out speakers. Training does not depend on it.
        temperature_scaling: Calibrate the probabilities on held-out speakers.
        store_dir: Folder of the feature store; None is its default.

    Raises:
        UserError: Options exclude one another.
    """

    corpus: Dataset
    encoder: str
    overrides: dict[str, Any]
    args: EmotionTrainingArguments
    select_on: str = "dev"
    refit: bool = True
    from_scratch: bool = False
    freeze_encoder: bool = True
    class_weights: Literal["balanced"] | Sequence[float] | None = None
    encoder_dtype: str = "float32"
    adaptation: str = "none"
    temperature_scaling: bool = False
    store_dir: str | None = None

    def __post_init__(self):
        """Refuse options that exclude one another."""
        weights = self.class_weights
        if weights not in (None, "balanced") and (
            len(weights) != len(self.labels) or not all(1e-6 <= weight <= 1e6 for weight in weights)
        ):
            raise UserError(
                f"--class_weights {weights}: must be balanced, or {len(self.labels)} numbers from 1e-6 to 1e6"
            )
        if self.from_scratch and self.freeze_encoder:
            raise UserError("--from_scratch: a random encoder must be trained, add --freeze_encoder false")
        if self.encoder_dtype != "float32" and not self.freeze_encoder:
            raise UserError(f"--encoder_dtype {self.encoder_dtype}: needs a frozen encoder, add --freeze_encoder true")
        if self.temperature_scaling and self.select_on != "dev":
            raise UserError("--temperature_scaling true: is fitted on held-out speakers, so it needs --select_on dev")
        if self.adaptation == "none":
            return
        option = f"--adaptation {self.adaptation}"
        if not self.freeze_encoder:
            raise UserError(f"{option}: needs the frames of a frozen encoder, add --freeze_encoder true")
        if self.overrides.get("use_weighted_layer_sum"):
            raise UserError(f"{option}: a learned sum of layers has no fixed mean, leave one of them out")
        if self.adaptation == "speaker" and not speakers_known(self.corpus):
            raise UserError(f"{option}: needs known speakers, give --speaker_pattern to find them in the file names")
        if self.adaptation == "dev" and self.select_on != "dev":
            raise UserError(f"{option}: is decided on held-out speakers, so it needs --select_on dev")

    @property
    def labels(self) -> list[str]:
        """Class names in the order of their ids."""
        return self.corpus.features["label"].names

    @cached_property
    def label_ids(self) -> np.ndarray:
        """Class ids `(clips,)`."""
        return np.asarray(self.corpus["label"][:], dtype=np.int64)

    @cached_property
    def speakers(self) -> np.ndarray:
        """Speaker of each clip, `(clips,)`."""
        return np.asarray(self.corpus["speaker"][:])

    @cached_property
    def adapts(self) -> bool:
        """Whether adapted predictions are asked for and possible."""
        return self.adaptation != "none" and speakers_known(self.corpus)

    @cached_property
    def is_linear(self) -> bool:
        """Whether the classifier is all that is learned, so that fitting it is a convex problem."""
        config = self.config()
        return (
            self.freeze_encoder
            and config.classifier_proj_size == 0
            and config.pooling in LINEAR_POOLINGS
            and not config.use_weighted_layer_sum
        )

    def config(self) -> WhisperEmotionConfig:
        """Build the configuration of a new model."""
        return load_config(self.encoder, self.labels, self.overrides)

    def model(self, seed: int) -> WhisperForEmotionClassification:
        """Build a model with the pretrained encoder and a new head."""
        return build_model(self.encoder, self.config(), seed, self.from_scratch)

    def class_weights_of(self, rows: Sequence[int]) -> torch.Tensor | None:
        """Return the weight of each class in the loss, `(labels,)`, for these training clips."""
        if self.class_weights == "balanced":
            counts = np.bincount(self.label_ids[list(rows)], minlength=len(self.labels))
            return torch.tensor(len(rows) / len(self.labels) / np.maximum(counts, 1), dtype=torch.float32)
        return None if self.class_weights is None else torch.tensor(self.class_weights, dtype=torch.float32)

    def check_speakers(self, rows: Sequence[int]) -> None:
        """Raise for training clips of which none can be held out, before the encoder has run over the corpus.

        Raises:
            UserError: There are not enough speakers to hold out.
        """
        if self.select_on == "dev":
            check_held_out(self.corpus, rows)

    def feature_store(self, layers: Sequence[int], kind: str = "frames") -> FeatureStore:
        """Return the store of the corpus's frames, or its pooled vectors, at some layers of the encoder."""
        fields = self.overrides | {
            "encoder_layer": max(layers), "concatenated_layers": None, "use_weighted_layer_sum": False,
        }  # fmt: skip
        wide = dataclasses.replace(self, overrides=fields, adaptation="none")
        model = wide.model(self.args.seed).to(self.args.device)
        model.encoder.to(getattr(torch, self.encoder_dtype))
        return FeatureStore(model, build_extractor(self.encoder), self.corpus, layers, self.store_dir, kind)


def load_experiment(
    corpus: CorpusOptions, protocol: ProtocolOptions, model: ModelOptions, training: Any
) -> Experiment:
    """Load the corpus that the options name, and put it together with them.

    Raises:
        UserError: The corpus cannot be read, or an option is not allowed.
    """
    options = {name: getattr(corpus, name) for name in ("classes", "improvised_only", "speaker_pattern")}
    loaded = load_corpus(corpus.corpus, corpus.corpus_dir, **options)
    if os.environ.get("RANK", "0") == "0":
        print(_describe_corpus(loaded))
    return Experiment(
        corpus=loaded,
        encoder=protocol.encoder,
        overrides=model.overrides(),
        args=training,
        select_on=protocol.select_on,
        refit=protocol.refit,
        from_scratch=protocol.from_scratch,
        freeze_encoder=protocol.freeze_encoder,
        class_weights=protocol.weights(),
        encoder_dtype=protocol.encoder_dtype,
        adaptation=protocol.adaptation,
        temperature_scaling=protocol.temperature_scaling,
        store_dir=protocol.store_dir,
    )


def _describe_corpus(corpus: Dataset) -> str:
    """The corpus in one line, so that a wrong folder or pattern shows before hours of training."""
    clips = Counter(corpus["label"][:])
    classes = ", ".join(f"{name} {clips[index]}" for index, name in enumerate(corpus.features["label"].names))
    speakers = f"{len(set(corpus['speaker'][:]))} speakers" if speakers_known(corpus) else "speakers not known"
    return f"{len(corpus)} utterances ({classes}), {speakers}"


def build_extractor(encoder: str) -> WhisperEmotionFeatureExtractor:
    """Load the feature extractor of an encoder, a folder or a Hub name.

    Raises:
        UserError: There is none.
    """
    with reading(f"--encoder {encoder}", CHECKPOINT):
        return WhisperEmotionFeatureExtractor.from_pretrained(encoder)


def load_config(encoder: str, labels: Sequence[str], overrides: dict[str, Any]) -> WhisperEmotionConfig:
    """Load an encoder's configuration for a new head.

    Args:
        encoder: A Whisper checkpoint, or one of ours: a folder or a Hub name.
        labels: Class names, in the order of their ids.
        overrides: Fields of `WhisperEmotionConfig` that differ from the checkpoint's.

    Raises:
        UserError: The configuration cannot be loaded, or a field's value is not allowed.
    """
    new = {"id2label": dict(enumerate(labels)), "logit_temperature": 1.0, "adapted_logit_temperature": None}
    try:
        with without_loading_report():
            return WhisperEmotionConfig.from_pretrained(encoder, **(new | overrides))
    except OSError as error:
        expected = "a folder with a Whisper checkpoint, or its name on the Hub"
        raise UserError(f"--encoder {encoder}: {not_loaded(encoder, error)}; expected {expected}") from error
    except Exception as error:  # of whatever class a configuration makes that others have written
        message = one_line(error)
        field = re.match(r"\w+", message)  # our own checks begin with its name
        if isinstance(error, ValueError) and field and field.group() in overrides:
            raise UserError(message) from error
        raise UserError(f"--encoder {encoder}: its configuration is not valid: {message}") from error


def build_model(
    encoder: str, config: WhisperEmotionConfig, seed: int, from_scratch: bool = False
) -> WhisperForEmotionClassification:
    """Load an encoder and put a new head on it.

    A head in the checkpoint is left out: its training may have included the test speakers.

    Args:
        encoder: A Whisper checkpoint, or one of ours: a folder or a Hub name.
        config: Output of `load_config`.
        seed: Seed of the random initialisation.
        from_scratch: Initialise the encoder's weights at random, too.

    Raises:
        UserError: The encoder cannot be loaded, or lacks a layer that is asked for.
    """
    if from_scratch:
        set_seed(seed)
        return WhisperForEmotionClassification(config)
    with reading(f"--encoder {encoder}", CHECKPOINT), without_loading_report():
        loaded: Any = WhisperForEmotionClassification.from_pretrained(
            encoder, config=config, output_loading_info=True, ignore_mismatched_sizes=True
        )
    model, report = loaded
    lacking = sorted(name for name in report["missing_keys"] if name.startswith("encoder."))
    lacking += sorted(name for name, *_ in report["mismatched_keys"] if name.startswith("encoder."))
    if lacking:
        raise UserError(
            f"--encoder {encoder}: lacks {lacking[0]} and {len(lacking) - 1} more weights: give a Whisper checkpoint "
            f"that holds encoder layer {config.encoder_layer}, or --from_scratch"
        )
    model.head = new_head(config, seed)
    return model


def new_head(config: WhisperEmotionConfig, seed: int) -> EmotionHead:
    """Initialise a head from a seed.

    Args:
        config: The model's; the head keeps it.
        seed: Seed of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return EmotionHead(config).apply(partial(initialise, std=config.init_std))
