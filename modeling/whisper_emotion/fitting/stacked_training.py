"""Train the heads of many folds and seeds in parallel on stored frames.

A head's training step consists of about a hundred small kernels, which take longer to launch than to run. With stacked
weights every kernel works on all heads at once (`torch.func.vmap`), on CPUs and accelerators. Clips are packed for the
projector, so padding costs nothing there, and padded for the pooling.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, vmap
from transformers import get_scheduler
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.training_args import OptimizerNames

from whisper_emotion.errors import UserError
from whisper_emotion.fitting.losses import classification_loss
from whisper_emotion.fitting.selection import choose_best, selection_value
from whisper_emotion.fitting.training_arguments import EmotionTrainingArguments
from whisper_emotion.modeling_whisper_emotion import EmotionHead
from whisper_emotion.stored_frames import StoredFrames

OPTIMIZERS = (OptimizerNames.ADAMW_TORCH, OptimizerNames.ADAMW_TORCH_FUSED)
# Options of the Trainer that change results, with the values that this loop supports
ARGUMENTS = {
    "gradient_accumulation_steps": (1,),
    "max_steps": (-1,),
    "neftune_noise_alpha": (None,),
    "eval_delay": (0, None),
    "fp16": (False,),
    "auto_find_batch_size": (False,),
    "optim": OPTIMIZERS,
}
IGNORED = -100  # label of an empty place in a batch


def check_arguments(args: EmotionTrainingArguments) -> None:
    """Refuse options of the Trainer that this loop does not support.

    Raises:
        UserError: The message names the option and its allowed values.
    """
    for name, allowed in ARGUMENTS.items():
        value = getattr(args, name)
        if value not in allowed:
            names = " or ".join(str(getattr(one, "value", one)) for one in allowed if one is not None)
            raise UserError(f"--{name} {getattr(value, 'value', value)}: must be {names} for heads on stored frames")
    if args.greater_is_better != (args.metric_for_best_model != "loss"):
        raise UserError("--greater_is_better: follows from --metric_for_best_model, leave it out")
    if args.lr_scheduler_type == "reduce_lr_on_plateau":
        raise UserError("--lr_scheduler_type reduce_lr_on_plateau: not supported for heads on stored frames")


def train_heads(
    heads: Sequence[EmotionHead],
    frames: StoredFrames,
    labels: torch.Tensor,
    train_rows: Sequence[Sequence[int]],
    args: EmotionTrainingArguments,
    seeds: Sequence[int],
    class_weights: Sequence[torch.Tensor | None],
    watched_rows: Sequence[Sequence[int]] | None = None,
    epochs: Sequence[int] | None = None,
    progress: Callable[[], object] = lambda: None,
) -> list[list[float]]:
    """Train heads that differ only in clips, seeds and class weights, in place.

    Args:
        heads: Heads with the same configuration.
        frames: The stored frames of the corpus.
        labels: Class ids `(clips,)` of the corpus.
        train_rows: For each head, the clips to train on.
        args: Hyper-parameters.
        seeds: For each head, the seed of the order of its clips.
        class_weights: For each head, `(labels,)` or None.
        watched_rows: For each head, the clips that select the epoch of its final weights; None keeps the last epoch.
        epochs: For each head, the number of epochs after which it stops, without a shorter schedule; None: all.
        progress: Called after each epoch.

    Returns:
        For each head, the selection metric after every epoch, higher is better; empty without `watched_rows`.

    Raises:
        UserError: The accelerator has too little memory.
    """
    check_arguments(args)
    try:
        return _train(heads, frames, labels, train_rows, args, seeds, class_weights, watched_rows, epochs, progress)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{len(heads)} heads in parallel do not fit into the accelerator's memory: use a smaller "
            "--per_device_train_batch_size, or --use_cpu true"
        ) from error


def _train(heads, frames, labels, train_rows, args, seeds, class_weights, watched_rows, epochs, progress):
    stack = _Stack(heads, frames, labels, args, class_weights)
    plans = [_Plan(frames, rows, args, seed) for rows, seed in zip(train_rows, seeds, strict=True)]
    optimizer = torch.optim.AdamW(
        [{"params": [one], "weight_decay": decay} for one, decay in stack.parameters(args.weight_decay)],
        lr=args.learning_rate, betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon,
    )  # fmt: skip
    ends = np.asarray([math.ceil(args.num_train_epochs)] * len(plans) if epochs is None else epochs)
    values: list[list[float]] = [[] for _ in plans]
    kept, step = stack.copy(), 0
    for epoch in range(ends.max()):
        batches = [plan.epoch(epoch) if epoch < end else [] for plan, end in zip(plans, ends, strict=True)]
        stack.train()
        for number in range(max(map(len, batches))):
            seed_step(seeds[0], step)
            active = [head for head, own in enumerate(batches) if number < len(own)]
            rows, rates = zip(*(batches[head][number] for head in active), strict=True)
            stack.step(optimizer, active, rows, rates, args.max_grad_norm)
            step += 1
        if watched_rows is not None:
            for head, logits in enumerate(stack.classify(watched_rows, args.per_device_eval_batch_size)):
                own = labels[list(watched_rows[head])]
                metric, weights = args.metric_for_best_model, class_weights[head]
                values[head].append(selection_value(logits, own, metric, weights))
        for head in range(len(plans)):
            chosen = ends[head] == epoch + 1 if watched_rows is None else choose_best(values[head]) == epoch
            if chosen:
                kept[head] = stack.copy(head)
        progress()
    stack.give_back(kept)
    return values


class _Plan:
    """The order of one head's clips, and its learning rates."""

    def __init__(self, frames: StoredFrames, rows: Sequence[int], args: EmotionTrainingArguments, seed: int):
        self._rows, self._size, self._seed = np.asarray(rows), args.train_batch_size, seed
        self._lengths, self._strategy = frames.lengths[self._rows].tolist(), args.train_sampling_strategy
        self._steps_per_epoch = -(-len(rows) // self._size)
        steps = math.ceil(args.num_train_epochs * self._steps_per_epoch)
        dummy = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
        schedule = get_scheduler(
            args.lr_scheduler_type, dummy, args.get_warmup_steps(steps), steps, args.lr_scheduler_kwargs or {}
        )
        self._rates = []
        for _ in range(steps):
            self._rates.append(schedule.get_last_lr()[0])
            dummy.step()
            schedule.step()

    def epoch(self, number: int) -> list[tuple[np.ndarray, float]]:
        """Return the batches of an epoch as rows, with their learning rates; the last epoch may be partial."""
        order = sample_order(self._lengths, self._size, self._strategy, self._seed, number)
        first, rows = number * self._steps_per_epoch, self._rows[order]
        batches = [rows[start : start + self._size] for start in range(0, len(rows), self._size)]
        return list(zip(batches, self._rates[first : first + len(batches)], strict=False))


def sample_order(lengths: Sequence[int], batch_size: int, strategy: str, seed: int, epoch: int) -> list[int]:
    """Order the clips of an epoch; the order depends only on the seed and the epoch.

    Args:
        lengths: Length of each clip, in any unit.
        batch_size: Clips per batch.
        strategy: `random`, `sequential`, or `group_by_length`: shuffled, then sorted within groups of batches.
        seed: Seed of the order.
        epoch: From 0.
    """
    generator = torch.Generator().manual_seed(_mix(seed, epoch))
    if strategy == "sequential":
        return list(range(len(lengths)))
    if strategy == "random":
        return torch.randperm(len(lengths), generator=generator).tolist()
    return get_length_grouped_indices(list(lengths), batch_size, generator=generator)


def seed_step(seed: int, step: int) -> None:
    """Seed a training step's dropout from the run's seed and the number of the step, from 0."""
    number = _mix(seed, step)
    # torch.manual_seed is slow: it records a stack trace for every kind of accelerator that is not in use
    torch.default_generator.manual_seed(number)
    if torch.accelerator.is_available():
        module = torch.get_device_module()
        getattr(module, "manual_seed_all", module.manual_seed)(number)  # torch.mps lacks manual_seed_all


def _mix(*numbers: int) -> int:
    """Combine numbers into one seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class _Stage(nn.Module):
    """A part of a head as a module, for `functional_call`."""

    def __init__(self, head: EmotionHead, run: Callable[..., torch.Tensor]):
        super().__init__()
        self.head, self.run = head, run

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.run(self.head, *inputs)


class _Stack:
    """Several heads with stacked weights, and their training frames."""

    def __init__(self, heads, frames: StoredFrames, labels: torch.Tensor, args, class_weights):
        self._heads, self._device, self._bf16 = heads, args.device, args.bf16
        self._layers = [layer.to(args.device) for layer in frames.layers]
        self._starts, self._lengths, self._labels = frames.starts, frames.lengths, labels
        self._smoothing = args.label_smoothing_factor
        alike = torch.ones(heads[0].config.num_labels)
        weights = [alike if one is None else one for one in class_weights]
        self._class_weights = torch.stack(weights).float().to(args.device)
        named = list(heads[0].named_parameters())
        # Weight decay applies to matrices, not to biases and normalisations, as in the Trainer
        self._groups = [[name for name, tensor in named if (tensor.ndim > 1) == decays] for decays in (True, False)]
        self._shapes = {name: tensor.shape for name, tensor in named}
        self._weights = [
            [self._flatten(head, names).to(args.device).requires_grad_() for head in heads] for names in self._groups
        ]
        module = EmotionHead(heads[0].config).to("meta")
        self._project = _Stage(module, lambda head, packed: head.project(head.merge(packed)))
        self._classify = _Stage(module, lambda head, padded, mask: head.classifier(head.pooling.pool(padded, mask)[0]))

    @staticmethod
    def _flatten(head: EmotionHead, names: Sequence[str]) -> torch.Tensor:
        own = dict(head.named_parameters())
        return torch.cat([torch.zeros(0), *(own[name].detach().flatten() for name in names)])

    def parameters(self, decay: float):
        """Yield the decayed weights of each head, then the other weights of each head, with their decay."""
        for group, own in zip(self._weights, (decay, 0.0), strict=True):
            yield from ((tensor, own) for tensor in group)

    def copy(self, head: int | None = None):
        """Copy the weights of one head, or of all."""
        if head is None:
            return [self.copy(one) for one in range(len(self._heads))]
        return [group[head].detach().clone() for group in self._weights]

    def give_back(self, kept) -> None:
        """Write weights from `copy` into the heads."""
        for head, flat in zip(self._heads, kept, strict=True):
            own = dict(head.named_parameters())
            for names, weights in zip(self._groups, flat, strict=True):
                parts = weights.split([self._shapes[name].numel() for name in names]) if names else ()
                for name, part in zip(names, parts, strict=True):
                    own[name].data.copy_(part.view(self._shapes[name]))

    def train(self) -> None:
        """Enable dropout, which `classify` disables."""
        self._project.train()
        self._classify.train()

    def step(self, optimizer, active: list[int], rows, rates, max_grad_norm: float) -> None:
        """Train the active heads for one step on their rows with their learning rates."""
        logits = self._logits(active, rows)
        targets = torch.full(logits.shape[:2], IGNORED)
        for place, own in enumerate(rows):
            targets[place, : len(own)] = self._labels[own]
        loss = vmap(partial(classification_loss, label_smoothing=self._smoothing))(
            logits, targets.to(self._device), self._class_weights[active]
        )
        optimizer.zero_grad()
        loss.sum().backward()
        if max_grad_norm > 0:
            for head in active:
                nn.utils.clip_grad_norm_([group[head] for group in self._weights], max_grad_norm)
        rate_of = dict(zip(active, rates, strict=True))
        for number, group in enumerate(optimizer.param_groups):
            group["lr"] = rate_of.get(number % len(self._heads), 0.0)
        optimizer.step()

    @torch.no_grad()
    def classify(self, rows: Sequence[Sequence[int]], size: int) -> list[torch.Tensor]:
        """Return each head's logits `(clips, labels)` for its rows, in order."""
        self._project.eval()
        self._classify.eval()
        orders = [np.asarray(own)[np.argsort(self._lengths[list(own)], kind="stable")] for own in rows]
        places = [np.argsort(np.argsort(self._lengths[list(own)], kind="stable")) for own in rows]
        found: list[list[torch.Tensor]] = [[] for _ in rows]
        for start in range(0, max(map(len, rows)), size):
            active = [head for head, own in enumerate(orders) if start < len(own)]
            batch = [orders[head][start : start + size] for head in active]
            for head, own, logits in zip(active, batch, self._logits(active, batch).float().cpu(), strict=True):
                found[head].append(logits[: len(own)])
        return [torch.cat(parts)[place] for parts, place in zip(found, places, strict=True)]

    def _logits(self, active: list[int], rows: Sequence[np.ndarray]) -> torch.Tensor:
        """Compute the logits `(active heads, batch, labels)` of each head's rows."""
        parameters = {}
        for names, group in zip(self._groups, self._weights, strict=True):
            if names:
                parts = torch.stack([group[head] for head in active])
                sizes = [self._shapes[name].numel() for name in names]
                for name, part in zip(names, parts.split(sizes, dim=1), strict=True):
                    parameters[f"head.{name}"] = part.unflatten(1, self._shapes[name])
        gathered, places, mask = self._gather(rows)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            projected = self._call(self._project, parameters, gathered)
            padded = projected.new_zeros(mask.numel() + 1, projected.shape[-1])  # the last row collects the padding
            padded = padded.index_copy(0, places, projected.flatten(0, 1))[:-1].unflatten(0, mask.shape)
            return self._call(self._classify, parameters, padded, mask)

    @staticmethod
    def _call(stage: _Stage, parameters: dict[str, torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
        def run(own, *one):
            return functional_call(stage, own, one)

        return vmap(run, randomness="different")(parameters, *inputs)

    def _gather(self, rows: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pack each head's clips.

        Returns:
            Frames `(heads, most frames, layers, d_model)` float32, their places in the padded layout (flat over the
            heads), and the mask `(heads, batch, width)` of the padded layout.
        """
        lengths = [self._lengths[own] for own in rows]
        batch, width, most = max(map(len, rows)), max(one.max() for one in lengths), max(one.sum() for one in lengths)
        width, most = round_up(int(width)), round_up(int(most))
        mask = np.zeros((len(rows), batch, width), dtype=bool)
        sources = np.zeros((len(rows), most), dtype=np.int64)
        places = np.full((len(rows), most), mask.size)
        for head, (own, sizes) in enumerate(zip(rows, lengths, strict=True)):
            mask[head, : len(own)] = np.arange(width) < sizes[:, None]
            mask[head, len(own) :, 0] = True  # an empty place pools one frame, to avoid a division by zero
            within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            sources[head, : sizes.sum()] = np.repeat(self._starts[own], sizes) + within
            places[head, : sizes.sum()] = np.repeat((head * batch + np.arange(len(own))) * width, sizes) + within
        index = torch.from_numpy(sources.ravel()).to(self._device)
        packed = torch.stack([layer.index_select(0, index).float() for layer in self._layers], dim=1)
        return (
            packed.unflatten(0, sources.shape),
            torch.from_numpy(places.ravel()).to(self._device),
            torch.from_numpy(mask).to(self._device),
        )


def round_up(frames: int, step: int = 32) -> int:
    """Round up a number of frames, because CPU kernels are compiled again for every new shape."""
    return -(-frames // step) * step
