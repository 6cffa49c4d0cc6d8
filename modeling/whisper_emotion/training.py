"""What the Hugging Face `Trainer` needs to train `WhisperForEmotionClassification`, and no more."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors import SafetensorError
from transformers import EvalPrediction, PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

from whisper_emotion.audio import SAMPLING_RATE, read_audio
from whisper_emotion.configuration_whisper_emotion import WhisperEmotionConfig
from whisper_emotion.errors import UserError, one_line
from whisper_emotion.feature_extraction_whisper_emotion import WhisperEmotionFeatureExtractor
from whisper_emotion.metrics import compute_scores
from whisper_emotion.modeling_whisper_emotion import WhisperForEmotionClassification

SELECTION_METRICS = ("loss", "weighted_accuracy", "unweighted_accuracy", "macro_f1")
# Utterances as a collator takes them: rows of a corpus, or stored frames with their labels.
Utterances = Dataset | list[dict[str, Any]]


@dataclass
class EmotionTrainingArguments(TrainingArguments):
    """`TrainingArguments` whose defaults are the hyper-parameters of arXiv 2602.06000, section 4."""

    learning_rate: float = field(default=1e-3, metadata={"help": "peak learning rate"})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "learning rate schedule"})
    warmup_steps: float = field(default=0.1, metadata={"help": "warm-up steps, or their share where below 1"})
    num_train_epochs: float = field(default=30, metadata={"help": "epochs of the schedule"})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "utterances in a training batch"})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "utterances in an evaluation batch"})
    metric_for_best_model: str | None = field(
        default="unweighted_accuracy",
        metadata={"help": "what chooses the epoch: loss, weighted_accuracy, unweighted_accuracy or macro_f1"},
    )
    logging_strategy: str = field(default="epoch", metadata={"help": "when the training loss is logged"})
    report_to: None | str | list[str] = field(default="none", metadata={"help": "trackers that get the logs"})
    # The columns are audio files or stored frames; the collators turn them into what `forward` takes.
    remove_unused_columns: bool = field(default=False, metadata={"help": "must stay false"})

    def __post_init__(self):
        """Refuse values that would fail, or train nothing, hours from now."""
        for name in ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"--{name} {getattr(self, name)}: must be more than 0")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed {self.seed}: must be 0 or more, and less than 2**32")
        if self.metric_for_best_model not in SELECTION_METRICS:
            raise ValueError(
                f"--metric_for_best_model {self.metric_for_best_model}: must be one of {', '.join(SELECTION_METRICS)}"
            )
        if self.train_sampling_strategy == "group_by_length":
            raise ValueError("--train_sampling_strategy group_by_length: is not supported, use random or sequential")
        super().__post_init__()


@dataclass
class AudioCollator:
    """Rows `{audio, label}` of a corpus -> `input_features`, `attention_mask` and `labels`, as wide as the longest.

    Args:
        extractor: Computes the features.
    """

    extractor: WhisperEmotionFeatureExtractor

    def __call__(self, utterances: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Read, extract and pad a batch."""
        clips = [read_audio(utterance["audio"]) for utterance in utterances]
        batch = dict(self.extractor(clips, sampling_rate=SAMPLING_RATE, padding="longest", return_tensors="pt"))
        batch["labels"] = torch.tensor([utterance["label"] for utterance in utterances])
        return batch


def collate_frames(utterances: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stored frames `(…, frames, d_model)` with labels -> a float32 batch padded to its longest, with its mask."""
    frames = [utterance["encoder_outputs"] for utterance in utterances]
    lengths = torch.tensor([clip.shape[-2] for clip in frames])
    batch = torch.zeros(len(frames), *frames[0].shape[:-2], int(lengths.max()), frames[0].shape[-1])
    for row, clip in zip(batch, frames, strict=True):
        row[..., : clip.shape[-2], :] = clip
    return {
        "encoder_outputs": batch,
        "attention_mask": torch.arange(batch.shape[-2]) < lengths[:, None],
        "labels": torch.tensor([utterance["label"] for utterance in utterances]),
    }


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Weighted and unweighted accuracy and macro F1 of logits `(clips, labels)`, for the `Trainer`."""
    logits = np.asarray(prediction.predictions)
    scores = compute_scores(logits.argmax(axis=-1), prediction.label_ids, num_classes=logits.shape[-1])
    return {name: scores[name] for name in ("weighted_accuracy", "unweighted_accuracy", "macro_f1")}


def build_extractor(encoder: str) -> WhisperEmotionFeatureExtractor:
    """Load the feature extractor that belongs to an encoder, a folder or a Hub name.

    Raises:
        UserError: There is none.
    """
    try:
        return WhisperEmotionFeatureExtractor.from_pretrained(encoder)
    except (ValueError, OSError) as error:
        raise UserError(f"--encoder {encoder}: {one_line(error)}") from error


def build_model(
    encoder: str, labels: Sequence[str], overrides: dict[str, Any], seed: int, from_scratch: bool = False
) -> WhisperForEmotionClassification:
    """Load an encoder and put a new head on it, initialised from `seed`.

    A head that the checkpoint may have is left out: it has heard the speakers it was trained on.

    Args:
        encoder: A Whisper checkpoint, or one of ours: a folder or a Hub name.
        labels: Class names, in the order of their ids.
        overrides: Fields of `WhisperEmotionConfig` that differ from the checkpoint's.
        seed: Seed of the random initialisation.
        from_scratch: Take the encoder's configuration only, and initialise its weights at random.

    Raises:
        UserError: The encoder cannot be loaded or lacks a layer that is asked for, or a field's value is not allowed.
    """
    fields = {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "class_weights": None,
        **overrides,
    }
    try:
        config = WhisperEmotionConfig.from_pretrained(encoder, **fields)
    except OSError as error:
        found = Path(encoder).is_dir()
        where = "holds no configuration" if found else "is no folder here, and was not found on the Hub"
        raise UserError(f"--encoder {encoder}: {where}: {one_line(error)}") from error
    except ValueError as error:
        raise UserError(one_line(error)) from error
    set_seed(seed)
    model = WhisperForEmotionClassification(config)
    if not from_scratch:
        model.encoder.load_state_dict(_encoder_weights(encoder, config))
    return model


def _encoder_weights(encoder: str, config: WhisperEmotionConfig) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint's encoder, all of them."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # the report of what is missing is judged here, and not a user's to read
    try:
        loaded, report = WhisperForEmotionClassification.from_pretrained(
            encoder, config=config, ignore_mismatched_sizes=True, output_loading_info=True
        )
    except (ValueError, OSError, RuntimeError, SafetensorError) as error:
        raise UserError(f"--encoder {encoder}: {one_line(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
    lacking = sorted(name for name in report["missing_keys"] if name.startswith("encoder."))
    lacking += sorted(name for name, *_ in report["mismatched_keys"] if name.startswith("encoder."))
    if lacking:
        raise UserError(
            f"--encoder {encoder}: lacks {lacking[0]} and {len(lacking) - 1} more weights: give a Whisper checkpoint "
            f"that holds encoder layer {config.encoder_layer}, or --from_scratch"
        )
    return loaded.encoder.state_dict()


@torch.no_grad()
def fit_pca_projector(model: WhisperForEmotionClassification, utterances: list[dict[str, Any]]) -> None:
    """Make the projector the principal components of stored frames, and freeze it and its norm.

    The components are those of the frames with each of the encoder's dimensions scaled to unit variance: a few of
    Whisper's dimensions are many times as large as the others. A projector that is learned from few utterances hears
    little else, and learns its speakers by heart. The classifier starts at zero: what is learned with mean pooling is
    then a logistic regression, which owes nothing to random initial weights.

    Args:
        model: Its projector and classifier are set; the rest of the head stays as it is.
        utterances: Stored frames `(frames, d_model)`, of training utterances only.
    """
    count, width = 0, model.config.d_model
    total, products = torch.zeros(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64)
    for utterance in utterances:
        frames = utterance["encoder_outputs"].double()
        count += len(frames)
        total += frames.sum(0)
        products += frames.T @ frames
    mean = total / count
    covariance = products / count - mean[:, None] * mean
    deviation = covariance.diagonal().sqrt()
    _, components = torch.linalg.eigh(covariance / deviation[:, None] / deviation)
    strongest = slice(-model.config.classifier_proj_size, None)  # eigh sorts ascending
    weight = components[:, strongest].T / deviation
    model.projector.weight.copy_(weight)
    model.projector.bias.copy_(-weight @ mean)
    model.projector.requires_grad_(False)
    model.projector_norm.requires_grad_(False)
    torch.nn.init.zeros_(model.classifier.weight)


class StopAfterEpoch(TrainerCallback):
    """Ends the training after some epochs, without shortening the learning rate's schedule.

    Args:
        epochs: Number of epochs to train.
    """

    def __init__(self, epochs: int):
        self.epochs = epochs

    def on_epoch_end(self, args, state, control, **kwargs):
        """Ask the Trainer to stop once enough epochs are done."""
        control.should_training_stop = control.should_training_stop or round(state.epoch) >= self.epochs


def train(
    model: WhisperForEmotionClassification,
    train_set: Utterances,
    selection_set: Utterances | None,
    collator,
    args: EmotionTrainingArguments,
    output_dir: Path,
    epochs: int | None = None,
) -> Trainer:
    """Train with the stock `Trainer`, from the last checkpoint in `output_dir` on where there is one.

    Args:
        model: Trained in place.
        train_set: Utterances as the collator takes them.
        selection_set: Utterances that choose the epoch; None keeps the last one.
        collator: `AudioCollator`, or `collate_frames` for stored frames.
        args: Hyper-parameters.
        output_dir: Folder of the checkpoints.
        epochs: Stop after so many of the schedule's epochs.

    Returns:
        The trainer; its model has the chosen epoch's weights.
    """
    args = dataclasses.replace(
        args,
        output_dir=str(output_dir),
        eval_strategy="no" if selection_set is None else "epoch",
        load_best_model_at_end=selection_set is not None,
        save_strategy="epoch",
        save_total_limit=1,
        dataloader_pin_memory=args.dataloader_pin_memory and torch.accelerator.is_available(),
    )
    try:
        trainer = Trainer(
            model=model,
            args=args,
            train_dataset=train_set,
            eval_dataset=selection_set,
            data_collator=collator,
            compute_metrics=compute_metrics,
            callbacks=[] if epochs is None else [StopAfterEpoch(epochs)],
        )
    except (ImportError, RuntimeError, ValueError) as error:  # a tracker or an optimiser that is not installed
        raise UserError(f"options: {one_line(error)}") from error
    if args.disable_tqdm:
        trainer.remove_callback(PrinterCallback)  # who wants no bars wants no log lines in their place
    # A frozen encoder is the same in every checkpoint: leave it out of those that only serve to go on.
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    always_ignored, model._keys_to_ignore_on_save = model._keys_to_ignore_on_save, frozen
    try:
        trainer.train(resume_from_checkpoint=get_last_checkpoint(output_dir) if output_dir.is_dir() else None)
    finally:
        model._keys_to_ignore_on_save = always_ignored
    return trainer


def best_epoch(trainer: Trainer) -> int:
    """Number of the epoch, from 1, whose weights a trainer with a selection set has kept."""
    step = trainer.state.best_global_step
    return next(round(entry["epoch"]) for entry in trainer.state.log_history if entry["step"] == step)
