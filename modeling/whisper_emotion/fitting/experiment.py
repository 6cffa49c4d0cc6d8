"""The experiment: everything that determines a model except its training clips and its seed."""

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from datasets import Dataset

from whisper_emotion.configuration_whisper_emotion import WhisperEmotionConfig
from whisper_emotion.corpora import load_corpus
from whisper_emotion.corpora.held_out import check_held_out
from whisper_emotion.corpora.splits import Fold, speaker_groups, speakers_known
from whisper_emotion.errors import UserError
from whisper_emotion.feature_extraction_whisper_emotion import WhisperEmotionFeatureExtractor
from whisper_emotion.feature_store import FeatureStore
from whisper_emotion.fitting.initial_head import LINEAR_POOLINGS, InitialHead, encoder_of, load_initial_head
from whisper_emotion.fitting.new_models import build_extractor, build_model, load_config
from whisper_emotion.fitting.regression import INNER_FOLDS
from whisper_emotion.fitting.training_arguments import EmotionTrainingArguments
from whisper_emotion.modeling_whisper_emotion import WhisperForEmotionClassification
from whisper_emotion.options import CORPUS_WEIGHTS, CorpusOptions, ModelOptions, ProtocolOptions


@dataclass(frozen=True)
class Experiment:
    """A model to train, and the training protocol.

    Args:
        corpus: Output of `load_corpus`.
        encoder: Folder or Hub name of a Whisper checkpoint or of a model of this package.
        overrides: Fields of `WhisperEmotionConfig` that differ from the checkpoint's.
        args: Hyper-parameters.
        select_on: Clips that select the epoch or the strength: held-out training speakers (`dev`), none (`last`), or
            the test clips (`test`), as in the paper's released code.
        refit: Retrain on all training clips with the epoch or the strength that `dev` selected.
        from_scratch: Take only the encoder's configuration, and start from random weights.
        freeze_encoder: Train the head only, on stored frames.
        class_weights: `balanced` (inverse class frequency among the training clips, per corpus), `none`, or one weight
            per class. None means `balanced` with several corpora and `none` with one.
        corpus_weights: Weight of each corpus in a linear head's loss. `sqrt` (default): square root of its number of
            training clips. `equal`: the same for all. `size`: its number of training clips.
        held_out: Clips that `dev` holds out: `speakers`, or each training corpus in turn (`corpora`).
        normalize_speech: Whether the extractor cuts silence at both ends and levels the speech; None keeps the
            checkpoint's value.
        encoder_dtype: Precision of a frozen encoder; the head is trained in float32.
        adaptation: Mean frame that test clips are adapted to, without labels: of their `speaker`, of their corpus
            (`domain`), or `none`. `dev` adapts to the speaker if that helps on held-out speakers.
        train_adaptation: Whether a linear head's training clips are adapted to their `speaker`, or `none`.
        augmented_copies: Number of distorted copies per clip that a linear head also trains on.
        temperature_scaling: Calibrate the probabilities on held-out speakers.
        store_dir: Folder of the feature store; None: its default.
        initial: The head that a linear head starts from.
        clips_per_class: Number of training clips per class, see `draw_clips`; None: all.

    Raises:
        UserError: Options exclude each other.
    """

    corpus: Dataset
    encoder: str
    overrides: dict[str, Any]
    args: EmotionTrainingArguments
    select_on: str = "dev"
    refit: bool = True
    from_scratch: bool = False
    freeze_encoder: bool = True
    class_weights: Literal["balanced", "none"] | Sequence[float] | None = None
    corpus_weights: str | None = None
    held_out: str = "speakers"
    normalize_speech: bool | None = None
    encoder_dtype: str = "float32"
    adaptation: str = "none"
    train_adaptation: str = "none"
    augmented_copies: int = 0
    temperature_scaling: bool = False
    store_dir: str | None = None
    initial: InitialHead | None = None
    clips_per_class: int | None = None

    def __post_init__(self):
        """Refuse options that exclude each other."""
        weights = self.class_weights
        if weights not in (None, "balanced", "none") and (
            len(weights) != len(self.labels) or not all(1e-6 <= weight <= 1e6 for weight in weights)
        ):
            raise UserError(
                f"--class_weights {weights}: must be balanced, none, or {len(self.labels)} numbers from 1e-6 to 1e6"
            )
        if self.from_scratch and self.freeze_encoder:
            raise UserError("--from_scratch: needs --freeze_encoder false, because a random encoder must be trained")
        if self.encoder_dtype != "float32" and not self.freeze_encoder:
            raise UserError(f"--encoder_dtype {self.encoder_dtype}: needs a frozen encoder, add --freeze_encoder true")
        if self.temperature_scaling and self.select_on != "dev":
            raise UserError("--temperature_scaling true: needs held-out speakers, use --select_on dev")
        if weights not in (None, "balanced", "none") and len(self.corpora) > 1:
            raise UserError("--class_weights: must be balanced or none with several corpora")
        if self.corpus_weights is not None and not (self.is_linear and len(self.corpora) > 1):
            raise UserError("--corpus_weights: needs several corpora and a linear head, leave it out")
        if self.held_out == "corpora" and not (self.is_linear and self.select_on == "dev"):
            raise UserError("--held_out corpora: needs a linear head and --select_on dev")
        if self.train_adaptation != "none" and not (speakers_known(self.corpus) and self.is_linear):
            raise UserError("--train_adaptation speaker: needs known speakers and a linear head")
        if self.augmented_copies < 0 or (self.augmented_copies and not self.is_linear):
            raise UserError(
                f"--augmented_copies {self.augmented_copies}: must be 0, or 1 or more with a linear head (--pooling "
                "mean --classifier_proj_size 0)"
            )
        if self.initial is not None and (not self.is_linear or self.select_on == "test"):
            raise UserError(
                "--init: needs a linear head on a frozen encoder; use --freeze_encoder true, --select_on dev"
            )
        if self.clips_per_class is not None and self.clips_per_class < 1:
            raise UserError(f"--clips_per_class {self.clips_per_class}: must be 1 or more")
        if self.adaptation == "none":
            return
        option = f"--adaptation {self.adaptation}"
        if not self.freeze_encoder:
            raise UserError(f"{option}: needs the frames of a frozen encoder, add --freeze_encoder true")
        if self.overrides.get("use_weighted_layer_sum"):
            raise UserError(f"{option}: excludes --use_weighted_layer_sum, whose frames have no fixed mean")
        if self.adaptation == "speaker" and not speakers_known(self.corpus):
            raise UserError(f"{option}: needs known speakers, give --speaker_pattern to find them in the file names")
        if self.adaptation == "dev" and self.select_on != "dev":
            raise UserError(f"{option}: needs held-out speakers, use --select_on dev")

    @property
    def labels(self) -> list[str]:
        """Class names, ordered by id."""
        return self.corpus.features["label"].names

    @cached_property
    def label_ids(self) -> np.ndarray:
        """Class ids `(clips,)`."""
        return np.asarray(self.corpus["label"][:], dtype=np.int64)

    @cached_property
    def speakers(self) -> np.ndarray:
        """Speaker of each clip, `(clips,)`; see `speaker_groups`."""
        return speaker_groups(self.corpus)

    @cached_property
    def adapts(self) -> bool:
        """Whether adapted predictions are requested and possible."""
        return self.adaptation == "domain" or (self.adaptation != "none" and speakers_known(self.corpus))

    @property
    def adaptation_groups(self) -> np.ndarray:
        """Domain of each clip, `(clips,)`: its corpus or its speaker."""
        return self.corpus_of if self.adaptation == "domain" else self.speakers

    @cached_property
    def is_linear(self) -> bool:
        """Whether only a linear classifier is trained, which is a convex problem."""
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

    @cached_property
    def corpora(self) -> list[str]:
        """Names of the corpora, in order."""
        return list(dict.fromkeys(self.corpus_of.tolist()))

    @cached_property
    def corpus_of(self) -> np.ndarray:
        """Corpus of each clip, `(clips,)`."""
        return np.asarray(self.corpus["corpus"][:])

    def classes_of(self, rows: Sequence[int]) -> np.ndarray:
        """Return the classes in each clip's corpus, `(rows, labels)` bool."""
        has = {
            name: np.isin(np.arange(len(self.labels)), self.label_ids[self.corpus_of == name]) for name in self.corpora
        }
        return np.stack([has[name] for name in self.corpus_of[list(rows)]])

    def allowed_classes(self, rows: Sequence[int]) -> np.ndarray | None:
        """Return the possible classes of each clip, as in `classes_of`; None with one corpus: all classes."""
        return self.classes_of(rows) if len(self.corpora) > 1 else None

    def restrict(self, logits: np.ndarray | torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """Set the logits `(rows, labels)` of classes that a clip's corpus lacks to minus infinity."""
        allowed, found = self.allowed_classes(rows), torch.as_tensor(logits)
        return found if allowed is None else found.masked_fill(~torch.from_numpy(allowed), -torch.inf)

    def held_out_weights(self, rows: Sequence[int]) -> torch.Tensor | None:
        """Return each held-out clip's weight in the temperatures, `(rows,)`, so that all corpora weigh the same.

        None if speakers are held out: all clips weigh the same.
        """
        if self.held_out == "speakers":
            return None
        _, places, counts = np.unique(self.corpus_of[list(rows)], return_inverse=True, return_counts=True)
        return torch.from_numpy(1 / counts[places])

    def class_weights_of(self, rows: Sequence[int]) -> torch.Tensor | None:
        """Return the weight of each class in the loss, `(labels,)`, for some training clips."""
        if self.class_weights == "balanced" or (self.class_weights is None and len(self.corpora) > 1):
            counts = np.bincount(self.label_ids[list(rows)], minlength=len(self.labels))
            return torch.tensor(len(rows) / len(self.labels) / np.maximum(counts, 1), dtype=torch.float32)
        return None if self.class_weights in (None, "none") else torch.tensor(self.class_weights, dtype=torch.float32)

    def clip_weights_of(self, rows: Sequence[int]) -> np.ndarray | None:
        """Return the weight of each training clip in the loss, `(rows,)`; None with one corpus.

        The weights of a corpus sum to its number of clips raised to the exponent of `corpus_weights`. The classes of a
        corpus get equal parts of that sum, unless `class_weights` is `none`.
        """
        if len(self.corpora) < 2:
            return None
        corpora, labels = self.corpus_of[list(rows)], self.label_ids[list(rows)]
        weights = np.empty(len(labels))
        for name in np.unique(corpora):
            own = corpora == name
            counts = np.bincount(labels[own]) if self.class_weights != "none" else np.full(len(self.labels), own.sum())
            weights[own] = own.sum() ** CORPUS_WEIGHTS[self.corpus_weights or "sqrt"] / counts[labels[own]]
            weights[own] /= (counts > 0).sum() if self.class_weights != "none" else 1
        return weights / weights.mean()

    def draw_clips(self, rows: Sequence[int], seed: int) -> list[int]:
        """Draw `clips_per_class` clips of each class, spread over as many speakers as possible; ascending rows."""
        if self.clips_per_class is None:
            return list(rows)
        order = pd.Series(np.random.default_rng(seed).permutation(np.asarray(rows)))
        labels, speakers = self.label_ids[order], self.speakers[order]
        turn = (
            order.groupby([labels, speakers]).cumcount().sort_values(kind="stable")
        )  # every speaker's first clip, then every second clip
        drawn = order[turn.index].groupby(labels[turn.index], sort=False).head(self.clips_per_class)
        return sorted(drawn.tolist())

    def one_voice(self, rows: Sequence[int]) -> bool:
        """Whether no speaker can be held out: there is only one, or the speakers are unknown."""
        return not speakers_known(self.corpus) or len(set(self.speakers[list(rows)])) < 2

    def inner_folds(self, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]] | None:
        """Return pairs of (places to train on, places to select on) among training clips; each leaves one corpus out.

        None if speakers are left out instead. A class of a single corpus is left out together with that corpus. With
        an initial head and only one speaker, clips of every class are left out.
        """
        own = self.corpus_of[rows]
        if self.held_out == "speakers":
            if self.initial is None or not self.one_voice(rows):
                return None
            own = np.empty(len(rows), int)
            own[np.argsort(self.label_ids[rows], kind="stable")] = np.arange(len(rows)) % INNER_FOLDS
        return [(np.flatnonzero(own != name), np.flatnonzero(own == name)) for name in dict.fromkeys(own.tolist())]

    def check_speakers(self, fold: Fold) -> None:
        """Check, before the corpus is encoded, that there are training clips to hold out.

        Raises:
            UserError: There are too few speakers or corpora to hold out.
        """
        if self.select_on != "dev" or fold.dev is not None:
            return
        if self.held_out == "speakers":
            if self.initial is None:
                check_held_out(self.corpus, fold.train)
        elif len(set(self.corpus_of[fold.train])) < 2:
            raise UserError("--held_out corpora: needs two or more training corpora, found one; use speakers")

    def extractor(self) -> WhisperEmotionFeatureExtractor:
        """Load the encoder's feature extractor."""
        return build_extractor(self.encoder, self.normalize_speech)

    def feature_store(self, layers: Sequence[int], kind: str = "frames", copy: int = 0) -> FeatureStore:
        """Return the store of the corpus's frames or pooled vectors at some encoder layers.

        Args:
            layers: Encoder layers.
            kind: As in `FeatureStore`.
            copy: As in `FeatureStore`.
        """
        fields = self.overrides | {
            "encoder_layer": max(layers), "concatenated_layers": None, "use_weighted_layer_sum": False,
        }  # fmt: skip
        plain = {"adaptation": "none", "train_adaptation": "none", "augmented_copies": 0, "initial": None}
        wide = dataclasses.replace(self, overrides=fields, held_out="speakers", **plain)
        model = wide.model(self.args.seed).to(self.args.device)
        model.encoder.to(getattr(torch, self.encoder_dtype))
        return FeatureStore(model, self.extractor(), self.corpus, layers, self.store_dir, kind, copy)


def load_experiment(
    corpus: CorpusOptions, protocol: ProtocolOptions, model: ModelOptions, training: Any
) -> Experiment:
    """Load the corpus and combine it with the options.

    Raises:
        UserError: The corpus cannot be read, or an option is not allowed.
    """
    loaded = load_corpus(corpus.corpus, corpus.corpus_dir, **corpus.reading())
    if os.environ.get("RANK", "0") == "0":
        print(_describe_corpus(loaded))
    overrides, initial, encoder = model.overrides(), None, protocol.encoder
    normalize_speech = protocol.normalize_speech
    if protocol.init is not None:
        encoder = encoder or encoder_of(protocol.init)
        initial = load_initial_head(protocol.init, encoder, loaded.features["label"].names)
        overrides = initial.overrides(overrides)
        if normalize_speech not in (None, initial.normalize_speech):
            raise UserError(
                f"--init {initial.name}: has normalize_speech={initial.normalize_speech}; leave --normalize_speech out"
            )
        normalize_speech = initial.normalize_speech
        training = dataclasses.replace(training, metric_for_best_model="loss")  # accuracy is too coarse on few clips
    return Experiment(
        corpus=loaded,
        encoder=encoder,
        overrides=overrides,
        args=training,
        select_on=protocol.select_on,
        refit=protocol.refit,
        from_scratch=protocol.from_scratch,
        freeze_encoder=protocol.freeze_encoder,
        class_weights=protocol.weights(),
        corpus_weights=protocol.corpus_weights,
        held_out=protocol.held_out,
        normalize_speech=normalize_speech,
        encoder_dtype=protocol.encoder_dtype,
        adaptation=protocol.adaptation,
        train_adaptation=protocol.train_adaptation,
        augmented_copies=protocol.augmented_copies,
        temperature_scaling=protocol.temperature_scaling,
        store_dir=protocol.store_dir,
        initial=initial,
        clips_per_class=protocol.clips_per_class,
    )


def _describe_corpus(corpus: Dataset) -> str:
    """Describe the corpus in one line, so that a wrong folder or pattern shows before training."""
    clips = Counter(corpus["label"][:])
    classes = ", ".join(f"{name} {clips[index]}" for index, name in enumerate(corpus.features["label"].names))
    speakers = f"{len(set(corpus['speaker'][:]))} speakers" if speakers_known(corpus) else "speakers unknown"
    return f"{len(corpus)} utterances ({classes}), {speakers}"
