"""Heads trained on stored frames at the cost of their arithmetic: the Trainer's road without the Trainer's baggage.

`train_head` takes the optimiser, the schedule, the order of the utterances, the step seeds and the precision from an
`EmotionTrainer`, and the loss from the model, so it ends at the weights that `training.train` ends at with the same
arguments. What it leaves out: checkpoints, logs, callbacks, worker processes, and padding.
"""

import math
import os
from collections.abc import Sequence

import numpy as np
import torch
from transformers import EvalPrediction

from whisper_emotion.encoder_whisper_emotion import round_up
from whisper_emotion.errors import UserError
from whisper_emotion.training import (
    EmotionTrainer,
    EmotionTrainingArguments,
    Utterances,
    compute_metrics,
    frame_mask,
    seed_step,
)

# Options of the Trainer that change a training, with the values that this road has.
ARGUMENTS = {
    "gradient_accumulation_steps": (1,),
    "max_steps": (-1,),
    "label_smoothing_factor": (0.0,),
    "neftune_noise_alpha": (None,),
    "eval_delay": (0, None),
    "fp16": (False,),
    "auto_find_batch_size": (False,),
}

# Bytes of frames that are converted to a training's precision once, and not in every epoch: 4 GiB, if a process a
# core trains
CONVERTED = 2**32 // (os.cpu_count() or 1)


def train_head(trainer: EmotionTrainer, watched: Utterances | None = None, epochs: int | None = None) -> list[float]:
    """Train the head of a trainer's model on its training set of stored frames.

    Args:
        trainer: What `build_trainer` returned for stored frames; its model is trained in place.
        watched: Stored frames that choose the epoch whose weights the model has in the end; None keeps the last.
        epochs: Stop after so many of the schedule's epochs.

    Returns:
        Where a set is watched, the metric that chooses after every epoch; higher is better, so a loss has its sign
        changed.

    Raises:
        UserError: An option asks for what this road does not have.
    """
    args, model = trainer.args, trainer.model
    check_arguments(args)
    size = args.train_batch_size
    batches = FrameBatches(trainer.train_dataset, trainer, size)
    watched_batches = None if watched is None else FrameBatches(watched, trainer, args.eval_batch_size)
    sampler = trainer._get_train_sampler()
    steps = math.ceil(args.num_train_epochs * -(-len(sampler) // size))
    trainer.create_optimizer_and_scheduler(steps)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    values: list[float] = []
    best: dict[str, torch.Tensor] = {}
    step = 0
    for epoch in range(math.ceil(args.num_train_epochs) if epochs is None else epochs):
        model.train()
        sampler.epoch = epoch
        order = list(sampler)
        for start in range(0, len(order), size):
            if step == steps:  # in the middle of a last, partial epoch
                break
            seed_step(args.seed, step)
            batch = batches.take(order[start : start + size])
            with trainer.accelerator.autocast():
                loss = model(**batch).loss
            loss.backward()
            if args.max_grad_norm > 0:
                torch.nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)
            trainer.optimizer.step()
            trainer.lr_scheduler.step()
            trainer.optimizer.zero_grad()
            step += 1
        if watched_batches is not None:
            values.append(selection_value(trainer, _classify(trainer, watched_batches), watched_batches.labels))
            if choose_epoch(values) == len(values):
                best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if best:
        model.load_state_dict(best)
    return values


def check_arguments(args: EmotionTrainingArguments) -> None:
    """Refuse options of the Trainer that `train_head` does not have.

    Raises:
        UserError: There is one; the message names it and what it may be.
    """
    for name, allowed in ARGUMENTS.items():
        if getattr(args, name) not in allowed:
            raise UserError(f"--{name} {getattr(args, name)}: heads on stored frames take {allowed[0]} only")
    if args.greater_is_better != (args.metric_for_best_model != "loss"):
        raise UserError("--greater_is_better: follows from --metric_for_best_model, leave it out")
    if args.lr_scheduler_type == "reduce_lr_on_plateau":
        raise UserError("--lr_scheduler_type reduce_lr_on_plateau: heads on stored frames take a schedule by steps")


def classify(trainer: EmotionTrainer, utterances: Utterances) -> np.ndarray:
    """Logits `(utterances, labels)` float32 of stored frames."""
    return _classify(trainer, FrameBatches(utterances, trainer, trainer.args.eval_batch_size)).numpy()


def choose_epoch(values: Sequence[float]) -> int:
    """Number of the best epoch, from 1; the first of equals, as the Trainer chooses, and never one without a value."""
    return 1 + int(np.argmax(np.nan_to_num(values, nan=-np.inf)))


class FrameBatches:
    """Batches of stored frames, each packed into one buffer that is used again and again.

    Args:
        utterances: Stored frames of one layer, with labels.
        trainer: Says in which precision they are, and where.
        size: Utterances in a batch, at most.
    """

    def __init__(self, utterances: Utterances, trainer: EmotionTrainer, size: int):
        rows = [utterances[row] for row in range(len(utterances))]
        self.frames = [row["encoder_outputs"] for row in rows]
        self.labels = torch.tensor([row["label"] for row in rows])
        self.lengths = torch.tensor([len(frames) for frames in self.frames])
        self.device = trainer.args.device
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}
        dtype = half.get(trainer.accelerator.mixed_precision, torch.float32)
        most, width = round_up(int(self.lengths.sort().values[-size:].sum())), self.frames[0].shape[-1]
        self._buffer = torch.empty(most, width, dtype=dtype)
        if int(self.lengths.sum()) * width * dtype.itemsize <= CONVERTED:
            self.frames = [_convert(frames, dtype) for frames in self.frames]

    def __len__(self) -> int:
        return len(self.frames)

    def take(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """`collate_frames` of the rows, in the trainer's precision and on its device; valid until the next call."""
        end = 0
        for row in rows:
            start, end = end, end + len(self.frames[row])
            self._buffer[start:end] = _convert(self.frames[row], self._buffer.dtype)
        self._buffer[end : round_up(end)] = 0
        inputs = {
            "labels": self.labels[rows],
            "attention_mask": frame_mask(self.lengths[rows]),
            "encoder_outputs": self._buffer[: round_up(end)],
        }
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}


def _convert(frames: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Frames in another precision; half to bfloat16 in one step is five times slower on a CPU."""
    return frames if frames.dtype == dtype else frames.float().to(dtype)


@torch.inference_mode()
def _classify(trainer: EmotionTrainer, batches: FrameBatches) -> torch.Tensor:
    """Logits in the order of the utterances, computed in batches of like length."""
    trainer.model.eval()
    order = batches.lengths.argsort()
    with trainer.accelerator.autocast():
        logits = [
            trainer.model(**batches.take(rows.tolist())).logits.float().cpu()
            for rows in order.split(trainer.args.eval_batch_size)
        ]
    return torch.cat(logits)[order.argsort()]


def selection_value(trainer: EmotionTrainer, logits: torch.Tensor, labels: torch.Tensor) -> float:
    """What chooses the epoch, of logits `(clips, labels)`; higher is better, so a loss has its sign changed."""
    metric = trainer.args.metric_for_best_model
    if metric != "loss":
        return compute_metrics(EvalPrediction(logits.numpy(), labels.numpy()))[metric]
    # The Trainer's: the mean of its batches' losses, each of which weighs its classes for itself.
    sizes = trainer.args.eval_batch_size
    pairs = zip(logits.split(sizes), labels.split(sizes), strict=True)
    total = sum(float(trainer.model.compute_loss(said, right)) * len(right) for said, right in pairs)
    return -total / len(labels)
