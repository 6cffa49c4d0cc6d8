"""Heads of many folds and seeds trained side by side, for accelerators, which one head would leave idle.

A head's step is a hundred small kernels, whose launches take longer than they do. `train_heads` trains all heads of
one layer and pooling with the launches of one: their weights are stacked, and every kernel works on all of them
(`torch.func.vmap`). Optimiser, schedule, order, precision and choice of the epoch are those of
`heads.train_head`; a test holds the two together. Dropout draws other numbers, and products round otherwise.
"""

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, vmap
from transformers.training_args import OptimizerNames

from whisper_emotion.encoder_whisper_emotion import round_up
from whisper_emotion.errors import UserError
from whisper_emotion.features import StoredFrames
from whisper_emotion.heads import check_arguments, choose_epoch, selection_value
from whisper_emotion.modeling_whisper_emotion import WhisperForEmotionClassification
from whisper_emotion.training import EmotionTrainer, EmotionTrainingArguments, seed_step

IGNORED = -100  # the label of a place in a batch that no utterance takes, for `cross_entropy`
OPTIMIZERS = (OptimizerNames.ADAMW_TORCH, OptimizerNames.ADAMW_TORCH_FUSED)


def check_heads(args: EmotionTrainingArguments) -> None:
    """Refuse options that `train_head` does not have, or on an accelerator `train_heads`.

    Raises:
        UserError: There is one; the message names it and what it may be.
    """
    check_arguments(args)
    if args.device.type != "cpu" and args.optim not in OPTIMIZERS:
        allowed = " or ".join(optimizer.value for optimizer in OPTIMIZERS)
        raise UserError(f"--optim {args.optim.value}: heads on an accelerator take {allowed}")


def train_heads(
    trainers: Sequence[EmotionTrainer],
    frames: StoredFrames,
    train_rows: Sequence[Sequence[int]],
    watched_rows: Sequence[Sequence[int]] | None = None,
    epochs: Sequence[int] | None = None,
) -> list[list[float]]:
    """Train the heads of several trainers' models, which differ in utterances, seeds and class weights alone.

    Args:
        trainers: What `build_trainer` returned for stored frames; their models are trained in place.
        frames: The stored frames of one layer.
        train_rows: By trainer, the rows of `frames` that its training set holds, in the same order.
        watched_rows: By trainer, rows that choose the epoch whose weights its model has in the end; None keeps the
            last.
        epochs: By trainer, after how many epochs of the schedule it stops; None is after all of them.

    Returns:
        By trainer, what `heads.train_head` returns.

    Raises:
        UserError: The accelerator has not enough memory.
    """
    try:
        return _train_heads(trainers, frames, train_rows, watched_rows, epochs)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{len(trainers)} heads side by side do not fit into the accelerator's memory: give a smaller "
            "--per_device_eval_batch_size, fewer --seeds at a time, or --use_cpu true"
        ) from error


def _train_heads(trainers, frames, train_rows, watched_rows, epochs) -> list[list[float]]:
    args = trainers[0].args
    clips = _Clips(frames, args.device)
    stack = _Stack([trainer.model for trainer in trainers], trainers[0])
    plans = [_Plan(trainer, rows) for trainer, rows in zip(trainers, train_rows, strict=True)]
    optimizer = _AdamW(stack, trainers)
    ends = np.asarray([math.ceil(args.num_train_epochs)] * len(plans) if epochs is None else epochs)
    values: list[list[float]] = [[] for _ in plans]
    kept, step = stack.weights.detach().clone(), 0
    for epoch in range(ends.max()):
        rows, rates = _together([plan.epoch(epoch) for plan in plans], args.train_batch_size)
        on_device, rates = torch.from_numpy(rows).to(args.device), rates.to(args.device)
        stack.train()
        for number in range(len(rows)):
            seed_step(args.seed, step)
            loss = stack.loss(clips, on_device[number], clips.width(rows[number]))
            (gradient,) = torch.autograd.grad(loss, stack.weights)
            optimizer.step(gradient, rates[number])
            step += 1
        if watched_rows is None:
            keep = ends == epoch + 1
        else:
            found = stack.classify(clips, watched_rows, args.eval_batch_size)
            for trainer, seen, logits, watched in zip(trainers, values, found, watched_rows, strict=True):
                seen.append(selection_value(trainer, logits, clips.label_list[list(watched)]))
            keep = np.array([choose_epoch(seen) == len(seen) for seen in values])
        kept = torch.where(torch.from_numpy(keep).to(args.device)[:, None], stack.weights.detach(), kept)
    stack.give_back(kept)
    return values


class _Clips:
    """All stored frames of one layer, on the device."""

    def __init__(self, frames: StoredFrames, device: torch.device):
        self.frames = frames.packed().to(device)
        self.lengths = np.asarray(frames.lengths)
        self.label_list = torch.tensor(frames.labels)
        self._labels = self.label_list.to(device)
        self._ends = torch.from_numpy(self.lengths.cumsum()).to(device)
        self._lengths = torch.from_numpy(self.lengths).to(device)

    def width(self, rows: np.ndarray) -> int:
        """Frames of the longest utterance among the rows, rounded up."""
        return round_up(int(self.lengths[rows[rows >= 0]].max()))

    def take(self, rows: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of rows `(…, batch)`, -1 where there is none: frames `(…, batch, width, d_model)`, their mask, labels.

        What is beyond an utterance's frames, or in a place of none, is some other's: finite, and to be masked.
        """
        lengths = torch.where(rows >= 0, self._lengths[rows], 1)  # a place of none pools one frame, not nothing
        places = torch.arange(width, device=rows.device)
        mask = places < lengths[..., None]
        starts = self._ends[rows] - self._lengths[rows]
        frames = self.frames[(starts[..., None] + places).clamp(max=len(self.frames) - 1)]
        return frames, mask, torch.where(rows >= 0, self._labels[rows], IGNORED)


class _Plan:
    """The order and the learning rates of one head's training."""

    def __init__(self, trainer: EmotionTrainer, rows: Sequence[int]):
        self._rows, self._size = np.asarray(rows), trainer.args.train_batch_size
        self._sampler = trainer._get_train_sampler()
        self._steps_an_epoch = -(-len(rows) // self._size)
        self._steps = math.ceil(trainer.args.num_train_epochs * self._steps_an_epoch)
        trainer.create_optimizer_and_scheduler(self._steps)
        (self._factor, *_), (self._rate, *_) = trainer.lr_scheduler.lr_lambdas, trainer.lr_scheduler.base_lrs

    def epoch(self, number: int) -> list[tuple[np.ndarray, float]]:
        """The batches of an epoch, as rows, and their learning rates; a last epoch may be a partial one."""
        self._sampler.epoch = number
        order, first = self._rows[list(self._sampler)], number * self._steps_an_epoch
        batches = [order[start : start + self._size] for start in range(0, len(order), self._size)]
        rates = [self._rate * self._factor(first + place) for place in range(len(batches))]
        return list(zip(batches, rates, strict=True))[: self._steps - first]


def _together(epochs: Sequence[list[tuple[np.ndarray, float]]], size: int) -> tuple[np.ndarray, torch.Tensor]:
    """Rows `(steps, heads, size)`, -1 where there is none, and rates `(steps, heads)`, NaN for a head that rests."""
    rows = np.full((max(map(len, epochs)), len(epochs), size), -1)
    rates = torch.full(rows.shape[:2], torch.nan)
    for head, steps in enumerate(epochs):
        for number, (batch, rate) in enumerate(steps):
            rows[number, head, : len(batch)] = batch
            rates[number, head] = rate
    return rows, rates


class _Head(nn.Module):
    """From frames to logits: the model's `forward` in training, without what looks at values and cannot be mapped."""

    def __init__(self, model: WhisperForEmotionClassification):
        super().__init__()
        self.model = model

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        frames = self.model.projector_norm(self.model.projector(frames))
        return self.model.classifier(self.model.pooling(frames, mask)[0])


class _Slot(NamedTuple):
    """Where a trained parameter is among a head's weights."""

    name: str
    shape: torch.Size
    size: int


class _Stack:
    """Several models' heads as one.

    Args:
        models: Alike but for their weights.
        trainer: One of theirs: the device and the precision.
    """

    def __init__(self, models: Sequence[WhisperForEmotionClassification], trainer: EmotionTrainer):
        self._models, self._autocast, device = models, trainer.accelerator.autocast, trainer.args.device
        self._half = trainer.accelerator.mixed_precision == "bf16"
        self._head = copy.deepcopy(_Head(models[0])).to("meta")
        heads = [dict(_Head(model).named_parameters()) for model in models]
        self.slots = [
            _Slot(name, tensor.shape, tensor.numel()) for name, tensor in heads[0].items() if tensor.requires_grad
        ]
        trained = {slot.name for slot in self.slots}
        self._fixed = {
            name: torch.stack([head[name].detach() for head in heads]).to(device) for name in heads[0].keys() - trained
        }
        own = [torch.cat([head[slot.name].detach().flatten() for slot in self.slots]) for head in heads]
        self.weights = torch.stack(own).to(device).requires_grad_()  # (heads, trained parameters)
        config = models[0].config
        self._smoothing = config.label_smoothing
        alike = [1.0] * len(config.id2label)
        weights = [model.config.class_weights or alike for model in models]
        self._class_weights = torch.tensor(weights, device=device)

    def train(self) -> None:
        """Turn dropout on, as `classify` turns it off."""
        self._head.train()

    def loss(self, clips: _Clips, rows: torch.Tensor, width: int) -> torch.Tensor:
        """The sum of the heads' losses on their own batches, rows `(heads, batch)`."""
        frames, mask, labels = clips.take(rows, width)
        logits = self._logits(frames, mask).float()

        def loss(logits, labels, weights):
            return nn.functional.cross_entropy(logits, labels, weights, label_smoothing=self._smoothing)

        return vmap(loss)(logits, labels, self._class_weights).sum()

    @torch.no_grad()
    def classify(self, clips: _Clips, rows: Sequence[Sequence[int]], size: int) -> list[torch.Tensor]:
        """Each head's logits `(utterances, labels)` of its own rows, in their order."""
        self._head.eval()
        orders = [np.argsort(-clips.lengths[list(own)], kind="stable") for own in rows]  # the longest first
        together = np.full((len(rows), max(map(len, rows))), -1)
        for head, (own, order) in enumerate(zip(rows, orders, strict=True)):
            together[head, : len(own)] = np.asarray(own)[order]
        found = []
        for start in range(0, together.shape[1], size):
            batch = together[:, start : start + size]
            frames, mask, _ = clips.take(torch.from_numpy(batch).to(self.weights.device), clips.width(batch))
            found.append(self._logits(frames, mask).float().cpu())
        logits = torch.cat(found, dim=1)
        return [one[: len(order)][np.argsort(order)] for one, order in zip(logits, orders, strict=True)]

    def give_back(self, weights: torch.Tensor) -> None:
        """Put weights like `self.weights` into the models."""
        for model, own in zip(self._models, weights.split(1), strict=True):
            named = dict(_Head(model).named_parameters())
            for name, tensor in self._unflatten(own).items():
                with torch.no_grad():
                    named[name].copy_(tensor[0])

    def _unflatten(self, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        parts = weights.split([slot.size for slot in self.slots], dim=1)
        return {slot.name: part.unflatten(1, slot.shape) for slot, part in zip(self.slots, parts, strict=True)}

    def _logits(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        def logits(parameters, frames, mask):
            return functional_call(self._head, parameters, (frames, mask))

        parameters = self._unflatten(self.weights) | self._fixed
        with self._autocast():
            frames = frames.to(torch.bfloat16 if self._half else torch.float32)
            return vmap(logits, randomness="different")(parameters, frames, mask)


class _AdamW:
    """AdamW (arXiv 1711.05101, algorithm 2) with a learning rate and a number of steps a head, as torch's is a head.

    Args:
        stack: Its weights are changed in place.
        trainers: Theirs are the options, and which parameters decay.
    """

    def __init__(self, stack: _Stack, trainers: Sequence[EmotionTrainer]):
        args, weights = trainers[0].args, stack.weights
        self._weights, self._clip = weights, args.max_grad_norm
        self._betas, self._epsilon = (args.adam_beta1, args.adam_beta2), args.adam_epsilon
        decaying = trainers[0].get_decay_parameter_names(_Head(trainers[0].model))
        decay = [torch.full((slot.size,), args.weight_decay * (slot.name in decaying)) for slot in stack.slots]
        self._decay = torch.cat(decay).to(weights.device)
        self._steps = torch.zeros(len(weights), 1, device=weights.device)
        self._moments = [torch.zeros_like(weights, requires_grad=False) for _ in self._betas]

    @torch.no_grad()
    def step(self, gradient: torch.Tensor, rates: torch.Tensor) -> None:
        """Update every head that does not rest.

        Args:
            gradient: `(heads, trained parameters)`; of heads that rest anything.
            rates: `(heads,)` learning rates, NaN for a head that rests.
        """
        acts, rates = ~rates.isnan()[:, None], rates[:, None]
        if self._clip > 0:  # as torch.nn.utils.clip_grad_norm_
            gradient = gradient * (self._clip / (gradient.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1.0)
        self._steps += acts
        for number, moment, beta in zip((1, 2), self._moments, self._betas, strict=True):
            moment.copy_(torch.where(acts, moment.lerp(gradient**number, 1 - beta), moment))
        first, second = (
            moment / (1 - beta**self._steps) for moment, beta in zip(self._moments, self._betas, strict=True)
        )
        moved = self._weights * (1 - rates * self._decay) - rates * first / (second.sqrt() + self._epsilon)
        self._weights.copy_(torch.where(acts, moved, self._weights))
