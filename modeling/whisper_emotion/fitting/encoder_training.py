"""Train whole models, encoder included, with the Hugging Face `Trainer`."""

import dataclasses
import os
import shutil
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import EvalPrediction, PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import EvalLoopOutput, get_last_checkpoint

from whisper_emotion.collator import AudioCollator
from whisper_emotion.errors import UserError, one_line, reading
from whisper_emotion.fitting.losses import classification_loss
from whisper_emotion.fitting.selection import scores_of
from whisper_emotion.fitting.stacked_training import sample_order, seed_step
from whisper_emotion.fitting.training_arguments import EmotionTrainingArguments
from whisper_emotion.modeling_whisper_emotion import WhisperForEmotionClassification
from whisper_emotion.run_folder import writing_to
from whisper_emotion.termination import Terminated, termination

WHOLE = "a complete checkpoint of this run: delete the folder to continue without it"


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Score logits `(clips, labels)`, for the `Trainer`."""
    return scores_of(prediction.predictions, prediction.label_ids)


class StopAfterEpoch(TrainerCallback):
    """Stop training after some epochs, without shortening the learning rate schedule.

    Args:
        epochs: Number of epochs to train.
    """

    def __init__(self, epochs: int):
        self.epochs = epochs

    def on_epoch_end(self, args, state, control, **kwargs):
        """Ask the Trainer to stop after the last epoch."""
        control.should_training_stop = control.should_training_stop or round(state.epoch) >= self.epochs


class EpochSampler(Sampler[int]):
    """Sample the clips of an epoch in the order of `sample_order`."""

    def __init__(self, lengths, batch_size: int, strategy: str, seed: int):
        self.lengths, self.batch_size, self.strategy, self.seed = list(lengths), batch_size, strategy, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self):
        return iter(sample_order(self.lengths, self.batch_size, self.strategy, self.seed, self.epoch))


class EmotionTrainer(Trainer):
    """The `Trainer` with `EpochSampler`'s order and a separate seed for each step.

    So random numbers drawn by evaluation, data loaders or interruptions do not change the training.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.add_callback(_Repeat(self))

    # Checkpoints hold pickles, from which transformers loads tensors and numbers only (`weights_only`). The overrides
    # name a checkpoint that is damaged or contains anything else.

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

    def _get_train_sampler(self, train_dataset=None) -> EpochSampler:
        clips: Any = train_dataset or self.train_dataset
        args = self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        batch_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self.sampler = EpochSampler(clips["seconds"][:], batch_size, args.train_sampling_strategy, seed)
        return self.sampler

    def _get_eval_sampler(self, eval_dataset) -> Sampler:
        return SequentialSampler(eval_dataset)

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """Evaluate in whole batches, shared among processes, with the results of a single process.

        The Trainer's own loop pads batches to share them, which changes the rounding.
        """
        clips, size = dataloader.dataset, self.args.eval_batch_size
        batches = [range(start, min(start + size, len(clips))) for start in range(0, len(clips), size)]
        own = range(self.args.process_index, len(batches), self.args.world_size)
        loader = DataLoader(
            clips,
            batch_sampler=[batches[number] for number in own],
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
        )
        self.model.to(self.args.device).eval()
        found = []
        for number, inputs in zip(own, loader, strict=True):
            # `prediction_step` gathers across processes, which may have different numbers of batches
            inputs = self._prepare_inputs(inputs)
            labels = inputs["labels"].cpu().numpy()
            with torch.no_grad(), self.compute_loss_context_manager():
                loss, outputs = self.compute_loss(self.model, inputs, return_outputs=True)
            found.append((number, loss.item(), outputs.logits.float().cpu().numpy(), labels))
        _, losses, logits, labels = zip(*sorted(gather_object(found), key=itemgetter(0)), strict=True)
        logits, labels = np.concatenate(logits), np.concatenate(labels)
        metrics = {
            "loss": float(np.average(losses, weights=[len(batch) for batch in batches])),
            **compute_metrics(EvalPrediction(logits, labels)),
        }
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(logits, labels, named, len(clips))


class _Repeat(TrainerCallback):
    """Set the sampler's epoch and each step's seed."""

    def __init__(self, trainer: EmotionTrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer.sampler.epoch = int(state.epoch)

    def on_step_begin(self, args, state, control, **kwargs):
        seed_step(args.seed, state.global_step)


class _Progress(ProgressCallback):
    """The Trainer's progress bar, with one line of scores per epoch."""

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
    """On SIGTERM, save a checkpoint after the current step, then end the process.

    At the end of an epoch the Trainer saves anyway, after the evaluation.
    """

    asked = False

    def on_step_end(self, args, state, control, **kwargs):
        self.asked = termination.asked
        if args.world_size > 1:  # all processes must stop after the same step
            self.asked = bool(reduce(torch.tensor(float(self.asked), device=args.device)))
        if self.asked and state.epoch % 1:
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        if self.asked:
            raise Terminated


def build_trainer(
    model: WhisperForEmotionClassification,
    train_set: Dataset,
    selection_set: Dataset | None,
    collator: AudioCollator,
    args: EmotionTrainingArguments,
    output_dir: Path,
    class_weights: torch.Tensor | None = None,
) -> EmotionTrainer:
    """Build the trainer of a whole model.

    Args:
        model: Trained in place.
        train_set: Rows of a corpus.
        selection_set: Rows that select the epoch; None keeps the last epoch.
        collator: Reads the recordings.
        args: Hyper-parameters.
        output_dir: Folder of the checkpoints.
        class_weights: Weight of each class in the loss, `(labels,)`.

    Raises:
        UserError: An option needs a package that is not installed.
    """
    try:
        args = dataclasses.replace(
            args,
            output_dir=str(output_dir.resolve()),  # checkpoints refer to each other by this path
            eval_strategy="no" if selection_set is None else "epoch",
            load_best_model_at_end=selection_set is not None,
            save_strategy="epoch",
            save_total_limit=1 if selection_set is None else 2,  # the best and the latest
            dataloader_pin_memory=args.dataloader_pin_memory and torch.accelerator.is_available(),
        )
        trainer = EmotionTrainer(
            model=model,
            args=args,
            train_dataset=train_set,
            eval_dataset=selection_set,
            data_collator=collator,
            # Replaces the model's loss and the Trainer's label smoother by one loss with class weights and smoothing
            compute_loss_func=partial(_loss, class_weights=class_weights, smoothing=args.label_smoothing_factor),
            callbacks=[_KeepWhenTerminated()],
        )
    except (ImportError, RuntimeError, ValueError) as error:  # a tracker or an optimizer that is not installed
        raise UserError(f"options: {one_line(error)}") from error
    if args.disable_tqdm:
        trainer.remove_callback(PrinterCallback)  # the Trainer would print log lines instead of bars
    elif trainer.pop_callback(ProgressCallback):
        trainer.add_callback(_Progress())
    return trainer


def _loss(outputs, labels, num_items_in_batch=None, *, class_weights, smoothing) -> torch.Tensor:
    """Compute the shared loss, scaled by the batch's share of the accumulated clips."""
    weights = None if class_weights is None else class_weights.to(outputs.logits.device)
    loss = classification_loss(outputs.logits, labels, weights, smoothing)
    return loss if num_items_in_batch is None else loss * (len(labels) / num_items_in_batch)


def train_encoder(trainer: EmotionTrainer, epochs: int | None = None) -> EmotionTrainer:
    """Train, resuming from the last checkpoint; the trainer's model ends with the selected epoch's weights.

    Args:
        trainer: Output of `build_trainer`.
        epochs: Stop after this number of epochs, without a shorter schedule.
    """
    model, output_dir = trainer.model, Path(trainer.args.output_dir)
    if epochs is not None:
        trainer.add_callback(StopAfterEpoch(epochs))
    # A frozen encoder is the same in every checkpoint, so intermediate checkpoints omit it
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    always_ignored, model._keys_to_ignore_on_save = model._keys_to_ignore_on_save, frozen
    try:
        with termination.held(), writing_to(output_dir):
            checkpoint, trained = last_checkpoint(output_dir)
            if epochs is not None and trained >= epochs:  # already trained, only load it
                trainer._load_from_checkpoint(checkpoint)
            else:
                trainer.train(resume_from_checkpoint=checkpoint)
    finally:
        model._keys_to_ignore_on_save = always_ignored
    return trainer


def last_checkpoint(folder: Path) -> tuple[str | None, float]:
    """Return the newest checkpoint in a folder and its number of trained epochs; `None, 0` without a checkpoint.

    The state is written last, so a checkpoint with an unreadable state is incomplete and is deleted.
    """
    with PartialState().main_process_first():
        while folder.is_dir() and (newest := get_last_checkpoint(folder)) is not None:
            try:
                return newest, TrainerState.load_from_json(os.path.join(newest, TRAINER_STATE_NAME)).epoch
            except (OSError, ValueError):
                shutil.rmtree(newest)
    return None, 0.0


def best_epoch(trainer: Trainer) -> int:
    """Return the epoch, from 1, that a trainer with a selection set selected."""
    step = trainer.state.best_global_step
    return next(round(entry["epoch"]) for entry in trainer.state.log_history if entry["step"] == step)
