"""What the Hugging Face `Trainer` needs to train `WhisperForEmotionClassification`, and no more."""

import dataclasses
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import DynamoBackend, gather_object, reduce
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import (
    EvalPrediction,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.trainer_utils import EvalLoopOutput, get_last_checkpoint

from whisper_emotion.audio import SAMPLING_RATE, read_audio
from whisper_emotion.configuration_whisper_emotion import WhisperEmotionConfig
from whisper_emotion.encoder_whisper_emotion import round_up
from whisper_emotion.errors import UserError, not_loaded, one_line, reading, without_loading_report
from whisper_emotion.feature_extraction_whisper_emotion import WhisperEmotionFeatureExtractor
from whisper_emotion.metrics import compute_scores
from whisper_emotion.modeling_whisper_emotion import WhisperForEmotionClassification
from whisper_emotion.options import option
from whisper_emotion.run_folder import writing_to
from whisper_emotion.termination import Terminated, termination

SELECTION_METRICS = ("loss", "weighted_accuracy", "unweighted_accuracy", "macro_f1")
CHECKPOINT = "a Whisper checkpoint with safetensors weights, or one of ours"
WHOLE = "a whole checkpoint of this run: delete the folder to go on without it"
SAMPLING_STRATEGIES = ("random", "sequential", "group_by_length")
# Utterances as a collator takes them: rows of a corpus, or stored frames with their labels.
Utterances = Dataset | Sequence[dict[str, Any]]


@dataclass
class EmotionTrainingArguments(TrainingArguments):
    """`TrainingArguments` whose defaults are the hyper-parameters of arXiv 2602.06000, section 4."""

    GROUP = "training, by transformers' Trainer"

    output_dir: str | None = option(None, help="folder of the results")
    learning_rate: float = option(1e-3, help="peak learning rate")
    lr_scheduler_type: str = option("cosine", help="learning rate schedule", advanced=True)
    warmup_steps: float = option(0.1, help="warm-up steps, or their share where below 1", advanced=True)
    num_train_epochs: float = option(30, help="epochs of the schedule")
    per_device_train_batch_size: int = option(16, help="utterances in a training batch")
    per_device_eval_batch_size: int = option(64, help="utterances in an evaluation batch", advanced=True)
    weight_decay: float = option(0.0, help="weight decay")
    metric_for_best_model: str | None = option(
        "unweighted_accuracy", help="loss, weighted_accuracy, unweighted_accuracy or macro_f1"
    )
    seed: int = option(42, help="of weights, batches and held-out speakers")
    bf16: bool = option(False, help="train in bfloat16")
    use_cpu: bool = option(False, help="leave an accelerator unused")
    disable_tqdm: bool | None = option(None, help="show no progress bars")
    logging_strategy: str = option("epoch", help="when the training loss is logged", advanced=True)
    report_to: None | str | list[str] = option("none", help="trackers that get the logs", advanced=True)
    # The columns are audio files or stored frames; the collators turn them into what `forward` takes.
    remove_unused_columns: bool = option(False, help="must stay false", advanced=True)

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
        if self.train_sampling_strategy not in SAMPLING_STRATEGIES:
            raise ValueError(
                f"--train_sampling_strategy {self.train_sampling_strategy}: must be one of "
                + ", ".join(SAMPLING_STRATEGIES)
            )
        backend = self.torch_compile_backend
        if backend is not None and str(backend).upper() not in DynamoBackend.list():  # accelerate refuses it, later
            raise ValueError(f"--torch_compile_backend {backend}: must be one of {', '.join(DynamoBackend.list())}")
        if self.push_to_hub or self.hub_token is not None:
            # The Trainer would upload its checkpoints as they are, and write the token into them
            raise ValueError("--push_to_hub, --hub_token: scripts/push_to_hub.py uploads, with the token of HF_TOKEN")
        if self.dataloader_drop_last:
            raise ValueError("--dataloader_drop_last true: would leave utterances out of the tests, too")
        if not torch.accelerator.is_available():
            self.use_cpu = True  # or transformers takes bf16 for a mistake
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
    """Stored frames `(…, frames, d_model)` with labels -> a packed float32 batch, as `forward` takes it."""
    frames = [utterance["encoder_outputs"] for utterance in utterances]
    lengths = torch.tensor([clip.shape[-2] for clip in frames])
    packed = torch.cat([clip.float() for clip in frames], dim=-2)
    batch = {
        # First: the Trainer takes the size of a batch from its first tensor.
        "labels": torch.tensor([utterance["label"] for utterance in utterances]),
        "attention_mask": frame_mask(lengths),
        "encoder_outputs": torch.nn.functional.pad(packed, (0, 0, 0, round_up(packed.shape[-2]) - packed.shape[-2])),
    }
    if "speaker_mean" in utterances[0]:
        batch["speaker_mean"] = torch.stack([utterance["speaker_mean"] for utterance in utterances])
    return batch


@torch.inference_mode()
def embed(
    model: WhisperForEmotionClassification, utterances: Utterances, collator, batch_size: int = 64
) -> list[dict[str, Any]]:
    """Utterances as the classifier sees them, for models that `has_fixed_embedding`: what `collate_embeddings` takes.

    Args:
        model: Ready but for its classifier.
        utterances: As the collator takes them.
        collator: The same.
        batch_size: Utterances at a time; without influence.
    """
    model.eval()
    rows: list[dict[str, Any]] = []
    for start in range(0, len(utterances), batch_size):
        batch = collator([utterances[row] for row in range(start, min(start + batch_size, len(utterances)))])
        vectors = model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).embedding.cpu()
        kept = {"label": batch["labels"].tolist(), "embedding": vectors}
        if "speaker_mean" in batch:
            kept["speaker_mean"] = batch["speaker_mean"]
        rows += [dict(zip(kept, row, strict=True)) for row in zip(*kept.values(), strict=True)]
    return rows


def collate_embeddings(utterances: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Rows of `embed` -> a batch, as `forward` takes it."""
    return {
        "labels": torch.tensor([utterance["label"] for utterance in utterances]),
        **{
            name: torch.stack([utterance[name] for utterance in utterances])
            for name in ("embedding", "speaker_mean")
            if name in utterances[0]
        },
    }


def frame_mask(lengths: torch.Tensor) -> torch.Tensor:
    """`(batch,)` numbers of frames -> `(batch, width)`, true on each clip's own."""
    return torch.arange(round_up(int(lengths.max()))) < lengths[:, None]


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
    with reading(f"--encoder {encoder}", CHECKPOINT):
        return WhisperEmotionFeatureExtractor.from_pretrained(encoder)


def build_model(
    encoder: str,
    labels: Sequence[str],
    overrides: dict[str, Any],
    seed: int,
    from_scratch: bool = False,
    head_only: bool = False,
) -> WhisperForEmotionClassification:
    """Load an encoder and put a new head on it, initialised from `seed`.

    A head that the checkpoint may have is left out: it has heard the speakers it was trained on.

    Args:
        encoder: A Whisper checkpoint, or one of ours: a folder or a Hub name.
        labels: Class names, in the order of their ids.
        overrides: Fields of `WhisperEmotionConfig` that differ from the checkpoint's.
        seed: Seed of the random initialisation.
        from_scratch: Take the encoder's configuration only, and initialise its weights at random.
        head_only: Leave the encoder out: a model that knows stored frames only, and is built in no time.

    Raises:
        UserError: The encoder cannot be loaded or lacks a layer that is asked for, or a field's value is not allowed.
    """
    fields = {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "class_weights": None,
        "temperature": 1.0,
        "adapted_temperature": None,
        **overrides,
    }
    try:
        with without_loading_report():
            config = WhisperEmotionConfig.from_pretrained(encoder, **fields)
    except OSError as error:
        expected = "a folder with a Whisper checkpoint, or its name on the Hub"
        raise UserError(f"--encoder {encoder}: {not_loaded(encoder, error)}; expected {expected}") from error
    except Exception as error:  # of whatever class a configuration makes that others have written
        message = one_line(error)
        field = re.match(r"\w+", message)  # our own checks begin with its name
        if isinstance(error, ValueError) and field and hasattr(WhisperEmotionConfig, field.group()):
            raise UserError(message) from error
        raise UserError(f"--encoder {encoder}: its configuration is not valid: {message}") from error
    if from_scratch:
        set_seed(seed)
        return WhisperForEmotionClassification(config)
    if head_only:
        with torch.device("meta"):
            model = WhisperForEmotionClassification(config)
        model.encoder = torch.nn.Identity()
    else:
        model = _load_encoder(encoder, config)
    _renew_head(model, seed)
    return model


def _renew_head(model: WhisperForEmotionClassification, seed: int) -> None:
    """Initialise everything but the encoder from `seed`, whatever was there before."""
    set_seed(seed)
    model.population_mean = torch.zeros(model.config.frame_size)
    if model.config.use_weighted_layer_sum:
        model.layer_weights = torch.nn.Parameter(torch.zeros(model.config.encoder_layer + 1))
    for name, part in model.named_children():
        if name != "encoder":
            part.to_empty(device="cpu")
            for parameter in part.parameters():
                parameter._is_hf_initialized = False  # which transformers would leave as it is
            part.apply(model._init_weights)


def _load_encoder(encoder: str, config: WhisperEmotionConfig) -> WhisperForEmotionClassification:
    """A model with all the weights of a checkpoint's encoder, and with some head."""
    with reading(f"--encoder {encoder}", CHECKPOINT), without_loading_report():
        loaded, report = WhisperForEmotionClassification.from_pretrained(
            encoder, config=config, ignore_mismatched_sizes=True, output_loading_info=True
        )
    lacking = sorted(name for name in report["missing_keys"] if name.startswith("encoder."))
    lacking += sorted(name for name, *_ in report["mismatched_keys"] if name.startswith("encoder."))
    if lacking:
        raise UserError(
            f"--encoder {encoder}: lacks {lacking[0]} and {len(lacking) - 1} more weights: give a Whisper checkpoint "
            f"that holds encoder layer {config.encoder_layer}, or --from_scratch"
        )
    return loaded


@torch.no_grad()
def fit_pca_projector(model: WhisperForEmotionClassification, utterances: list[dict[str, Any]]) -> None:
    """Make the projector the principal components of stored frames, and freeze it and its norm.

    The components are those of the frames with each of the encoder's dimensions scaled to unit variance: a few of
    Whisper's dimensions are many times as large as the others. A projector that is learned from few utterances hears
    little else, and learns its speakers by heart. The classifier starts at zero: what is learned with mean pooling is
    then a logistic regression, which owes nothing to random initial weights.

    Args:
        model: Its projector and classifier are set; the rest of the head stays as it is.
        utterances: Stored frames of training utterances only, as `collate_frames` takes them.
    """
    count, width = 0, model.config.frame_size
    origin = _side_by_side(utterances[0]).mean(0)  # near all frames, so that single precision is enough
    total, products = torch.zeros(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64)
    for utterance in utterances:
        frames = _side_by_side(utterance) - origin
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
    model.projector.bias.copy_(-weight @ (mean + origin))
    model.projector.requires_grad_(False)
    model.projector_norm.requires_grad_(False)
    torch.nn.init.zeros_(model.classifier.weight)


def _side_by_side(utterance: dict[str, Any]) -> torch.Tensor:
    """Stored frames of one layer or several as the projector takes them, `(frames, frame_size)` float32."""
    frames = utterance["encoder_outputs"].float()
    return frames if frames.ndim == 2 else frames.transpose(0, 1).flatten(1)


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


class UtteranceSampler(Sampler[int]):
    """The order of the utterances in an epoch, which depends on the seed and the epoch and on nothing else.

    Args:
        lengths: Length of each utterance, in any unit.
        batch_size: Utterances in a batch.
        strategy: `random`, `sequential`, or `group_by_length`: shuffled, then sorted within large groups of batches,
            as transformers does it, so that a batch holds utterances of like length and little padding.
        seed: Seed of the order.
    """

    def __init__(self, lengths: Sequence[float], batch_size: int, strategy: str, seed: int):
        self.lengths, self.batch_size, self.strategy, self.seed = list(lengths), batch_size, strategy, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(_mix(self.seed, self.epoch))
        if self.strategy == "sequential":
            order = range(len(self))
        elif self.strategy == "random":
            order = torch.randperm(len(self), generator=generator).tolist()
        else:
            order = get_length_grouped_indices(self.lengths, self.batch_size, generator=generator)
        return iter(order)


class EmotionTrainer(Trainer):
    """The `Trainer` with `UtteranceSampler`'s order, and with a seed of its own for each step.

    Two roads to the same weights: what else draws random numbers (evaluation, loaders, an interruption) has no
    influence, and `heads.train_head` trains the same head without the Trainer's overhead.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.add_callback(_Repeat(self))

    # A checkpoint to go on from has optimizer, schedule and random state as pickles, of which transformers takes
    # tensors and numbers only (`weights_only`), and its training_args.bin is not read. One that asks for more, or is
    # damaged, is named.

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        with reading(resume_from_checkpoint, WHOLE):
            if not list(Path(resume_from_checkpoint).glob("model*.safetensors")):
                raise UserError(f"{resume_from_checkpoint}: has no weights in model.safetensors, expected {WHOLE}")
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint):
        with reading(checkpoint, WHOLE):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint):
        with reading(checkpoint, WHOLE):
            super()._load_rng_state(checkpoint)

    def _get_train_sampler(self, train_dataset=None) -> UtteranceSampler:
        utterances, args = train_dataset or self.train_dataset, self.args
        if isinstance(utterances, Dataset):
            lengths = utterances["seconds"][:]
        elif "embedding" in utterances[0]:
            lengths = [1] * len(utterances)
        else:
            lengths = [utterance["encoder_outputs"].shape[-2] for utterance in utterances]
        seed = args.seed if args.data_seed is None else args.data_seed
        batch_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self.sampler = UtteranceSampler(lengths, batch_size, args.train_sampling_strategy, seed)
        return self.sampler

    def _get_eval_sampler(self, eval_dataset) -> Sampler:
        return SequentialSampler(eval_dataset)

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """The Trainer's, but several processes take whole batches, those of one process, and pad none of them.

        A batch that is filled up to be shared gives its utterances other roundings.
        """
        if self.args.world_size == 1:
            return super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        utterances, size = dataloader.dataset, self.args.eval_batch_size
        batches = [range(start, min(start + size, len(utterances))) for start in range(0, len(utterances), size)]
        own = range(self.args.process_index, len(batches), self.args.world_size)
        loader = DataLoader(
            utterances,
            batch_sampler=[batches[number] for number in own],
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
        )
        self.model.to(self.args.device).eval()
        found = []
        for number, inputs in zip(own, loader, strict=True):
            loss, logits, labels = self.prediction_step(self.model, inputs, False, ignore_keys)
            found.append((number, loss.item(), logits.float().cpu().numpy(), labels.cpu().numpy()))
        _, losses, logits, labels = zip(*sorted(gather_object(found), key=itemgetter(0)), strict=True)
        logits, labels = np.concatenate(logits), np.concatenate(labels)
        metrics = {
            "loss": float(np.average(losses, weights=[len(batch) for batch in batches])),
            **self.compute_metrics(EvalPrediction(logits, labels)),
        }
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(logits, labels, named, len(utterances))


class _Repeat(TrainerCallback):
    """Sets the sampler's epoch and each step's seed."""

    def __init__(self, trainer: EmotionTrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer.sampler.epoch = int(state.epoch)

    def on_step_begin(self, args, state, control, **kwargs):
        seed_step(args.seed, state.global_step)


def seed_step(seed: int, step: int) -> None:
    """Seed what a training step draws (dropout) from the run's seed and the step's number, from 0."""
    number = _mix(seed, step)
    # torch.manual_seed notes the call, with a stack trace, for every kind of accelerator that is not in use
    torch.default_generator.manual_seed(number)
    if torch.accelerator.is_available():
        module = torch.get_device_module()
        getattr(module, "manual_seed_all", module.manual_seed)(number)  # Apple's has one device


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


class _Progress(ProgressCallback):
    """The Trainer's bar, with what matters of an epoch in a line above it."""

    SHOWN = {
        "loss": "loss {:.3f}",
        "eval_loss": "on held-out clips loss {:.3f}",
        "eval_unweighted_accuracy": "UA {:.1%}",
    }

    def on_log(self, args, state, control, logs=None, **kwargs):
        logs = logs or {}
        said = [text.format(logs[name]) for name, text in self.SHOWN.items() if name in logs]
        if self.training_bar is not None and said:
            self.training_bar.write(f"epoch {state.epoch:g}: {', '.join(said)}")


class _KeepWhenTerminated(TrainerCallback):
    """On SIGTERM, has what the step under way has trained saved, and then ends the process.

    At the end of an epoch the Trainer saves anyway, after the evaluation that may choose it.
    """

    asked = False

    def on_step_end(self, args, state, control, **kwargs):
        self.asked = termination.asked
        if args.world_size > 1:  # all processes stop after the same step, whenever each of them was told
            self.asked = bool(reduce(torch.tensor(float(self.asked), device=args.device)))
        if self.asked and state.epoch % 1:
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        if self.asked:
            raise Terminated


def build_trainer(
    model: WhisperForEmotionClassification,
    train_set: Utterances,
    selection_set: Utterances | None,
    collator,
    args: EmotionTrainingArguments,
    output_dir: Path,
    epochs: int | None = None,
) -> EmotionTrainer:
    """Make a trainer; the arguments are those of `train`.

    Raises:
        UserError: An option needs what is not installed.
    """
    try:
        args = dataclasses.replace(
            args,
            output_dir=str(output_dir.resolve()),  # checkpoints name one another by it
            eval_strategy="no" if selection_set is None else "epoch",
            load_best_model_at_end=selection_set is not None,
            save_strategy="epoch",
            save_total_limit=1 if selection_set is None else 2,  # the best one, and the one to go on from
            dataloader_pin_memory=args.dataloader_pin_memory and torch.accelerator.is_available(),
        )
        if collator is collate_frames and args.n_gpu > 1:
            args._n_gpu = 1  # a packed batch cannot be split, and a head is too small to be
        trainer = EmotionTrainer(
            model=model,
            args=args,
            train_dataset=train_set,
            eval_dataset=selection_set,
            data_collator=collator,
            compute_metrics=compute_metrics,
            callbacks=[_KeepWhenTerminated(), *([] if epochs is None else [StopAfterEpoch(epochs)])],
        )
    except (ImportError, RuntimeError, ValueError) as error:  # a tracker or an optimiser that is not installed
        raise UserError(f"options: {one_line(error)}") from error
    if args.disable_tqdm:
        trainer.remove_callback(PrinterCallback)  # who wants no bars wants no log lines in their place
    elif trainer.pop_callback(ProgressCallback):
        trainer.add_callback(_Progress())
    return trainer


def train(
    model: WhisperForEmotionClassification,
    train_set: Utterances,
    selection_set: Utterances | None,
    collator,
    args: EmotionTrainingArguments,
    output_dir: Path,
    epochs: int | None = None,
) -> EmotionTrainer:
    """Train with the `Trainer`, from the last checkpoint in `output_dir` on where there is one.

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
    trainer = build_trainer(model, train_set, selection_set, collator, args, output_dir, epochs)
    # A frozen encoder is the same in every checkpoint: leave it out of those that only serve to go on.
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    always_ignored, model._keys_to_ignore_on_save = model._keys_to_ignore_on_save, frozen
    try:
        with termination.held(), writing_to(output_dir):
            checkpoint, trained = last_checkpoint(output_dir)
            if epochs is not None and trained >= epochs:  # it only has to be loaded
                trainer._load_from_checkpoint(checkpoint)
            else:
                trainer.train(resume_from_checkpoint=checkpoint)
    finally:
        model._keys_to_ignore_on_save = always_ignored
    return trainer


def last_checkpoint(folder: Path) -> tuple[str | None, float]:
    """The newest checkpoint in a folder and the number of epochs that it has been trained for; `None, 0` of none.

    Its state is the last thing to be written: a checkpoint whose state cannot be read was cut off, and is removed.
    """
    with PartialState().main_process_first():
        while folder.is_dir() and (newest := get_last_checkpoint(folder)) is not None:
            try:
                return newest, TrainerState.load_from_json(os.path.join(newest, TRAINER_STATE_NAME)).epoch
            except (OSError, ValueError):
                shutil.rmtree(newest)
    return None, 0.0


def best_epoch(trainer: Trainer) -> int:
    """Number of the epoch, from 1, whose weights a trainer with a selection set has kept."""
    step = trainer.state.best_global_step
    return next(round(entry["epoch"]) for entry in trainer.state.log_history if entry["step"] == step)
