"""Heads trained on stored frames at the cost of their arithmetic: the Trainer's road without the Trainer's baggage.

`train_head` takes the optimiser, the schedule, the order of the utterances, the step seeds and the precision from an
`EmotionTrainer`, and the loss from the model, so it ends at the weights that `training.train` ends at (the Trainer with
the same arguments; tested). What it leaves out: checkpoints, logs, callbacks, worker processes, and padding a batch
anew in float32.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers import EvalPrediction

from whisper_emotion.errors import UserError
from whisper_emotion.training import EmotionTrainer, Utterances, compute_metrics, seed_step


class Epoch(NamedTuple):
    """What a watched set says after an epoch.

    Args:
        logits: `(utterances, labels)` float32.
        value: The metric that chooses the epoch; higher is better, so a loss has its sign changed.
    """

    logits: np.ndarray
    value: float


def train_head(
    trainer: EmotionTrainer, watched: Sequence[Utterances] = (), epochs: int | None = None
) -> list[list[Epoch]]:
    """Train the head of a trainer's model on its training set of stored frames.

    Args:
        trainer: What `build_trainer` returned for stored frames; its model is trained in place.
        watched: Sets of stored frames that are classified after every epoch.
        epochs: Stop after so many of the schedule's epochs.

    Returns:
        For each watched set, what it says after every epoch.

    Raises:
        UserError: An option asks for what this road does not have.
    """
    args, model = trainer.args, trainer.model
    for name, expected in (("gradient_accumulation_steps", 1), ("max_steps", -1)):
        if getattr(args, name) != expected:
            raise UserError(f"--{name} {getattr(args, name)}: heads on stored frames take {expected} only")
    batches = FrameBatches(trainer.train_dataset, trainer)
    watched_batches = [FrameBatches(utterances, trainer) for utterances in watched]
    sampler = trainer._get_train_sampler()
    size = args.train_batch_size
    steps = -(-len(sampler) // size)
    trainer.create_optimizer_and_scheduler(int(np.ceil(args.num_train_epochs * steps)))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    history: list[list[Epoch]] = [[] for _ in watched]
    step = 0
    for epoch in range(int(np.ceil(args.num_train_epochs)) if epochs is None else epochs):
        model.train()
        sampler.epoch = epoch
        order = list(sampler)
        for start in range(0, len(order), size):
            seed_step(args.seed, step)
            batch = batches.take(order[start : start + size])
            with trainer.accelerator.autocast():
                loss = model(**batch).loss
            loss.backward()
            if args.max_grad_norm:
                torch.nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)
            trainer.optimizer.step()
            trainer.lr_scheduler.step()
            trainer.optimizer.zero_grad()
            step += 1
        for said, utterances in zip(history, watched_batches, strict=True):
            said.append(_evaluate(trainer, utterances))
    return history


def classify(trainer: EmotionTrainer, utterances: Utterances) -> np.ndarray:
    """Logits `(utterances, labels)` of stored frames."""
    return _evaluate(trainer, FrameBatches(utterances, trainer)).logits


def choose_epoch(history: Sequence[Epoch]) -> int:
    """Number of the best epoch, from 1; the first of equals, as the Trainer chooses."""
    return 1 + int(np.argmax([epoch.value for epoch in history]))


class FrameBatches:
    """Batches of stored frames, each padded to its longest in one buffer that is used again and again.

    Args:
        utterances: Stored frames with labels.
        trainer: Says how large batches get, in which precision, and where.
    """

    def __init__(self, utterances: Utterances, trainer: EmotionTrainer):
        rows = [utterances[row] for row in range(len(utterances))]
        self.frames = [row["encoder_outputs"] for row in rows]
        self.labels = torch.tensor([row["label"] for row in rows])
        self.lengths = torch.tensor([len(frames) for frames in self.frames])
        self.device = trainer.args.device
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}
        dtype = half.get(trainer.accelerator.mixed_precision, torch.float32)
        width = self.frames[0].shape[-1]
        largest = max(trainer.args.train_batch_size, trainer.args.eval_batch_size)
        self._buffer = torch.empty(min(largest, len(rows)) * int(self.lengths.max()) * width, dtype=dtype)

    def __len__(self) -> int:
        return len(self.frames)

    def take(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """The rows as `forward` takes them; valid until the next call."""
        lengths = self.lengths[rows]
        shape = (len(rows), int(lengths.max()), self.frames[rows[0]].shape[-1])
        batch = self._buffer[: shape[0] * shape[1] * shape[2]].view(shape)
        for place, row in zip(batch, rows, strict=True):
            length = len(self.frames[row])
            place[:length] = self.frames[row].float()  # half to bfloat16 in one step is five times slower on a CPU
            place[length:] = 0
        mask = torch.arange(shape[1]) < lengths[:, None]
        inputs = {"encoder_outputs": batch, "attention_mask": mask, "labels": self.labels[rows]}
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}


@torch.inference_mode()
def _evaluate(trainer: EmotionTrainer, batches: FrameBatches) -> Epoch:
    """Classify in the batches that the Trainer's evaluation has, whose mean loss depends on them."""
    trainer.model.eval()
    logits, loss, size = [], 0.0, trainer.args.eval_batch_size
    for start in range(0, len(batches), size):
        rows = range(start, min(start + size, len(batches)))
        with trainer.accelerator.autocast():
            output = trainer.model(**batches.take(list(rows)))
        logits.append(output.logits.float().cpu().numpy())
        loss += float(output.loss) * len(rows)
    together = np.concatenate(logits)
    metric = trainer.args.metric_for_best_model
    if metric == "loss":
        return Epoch(together, -loss / len(batches))
    return Epoch(together, compute_metrics(EvalPrediction(together, batches.labels.numpy()))[metric])
