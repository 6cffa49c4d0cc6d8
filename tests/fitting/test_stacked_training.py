"""Heads trained side by side end at the weights of heads trained alone, and of a plain loop."""

import math

import numpy as np
import pytest
import torch
from hand_made_frames import arguments, labels_of, tiny_heads, write_frames
from transformers import get_scheduler

from whisper_emotion.errors import UserError
from whisper_emotion.fitting.losses import classification_loss
from whisper_emotion.fitting.selection import choose_best, scores_of
from whisper_emotion.fitting.stacked_training import _Stack, check_arguments, sample_order, train_heads

CLIPS = 60
LABELS = labels_of(CLIPS)
ROWS = [list(range(33)), list(range(10, 60)), list(range(0, 60, 2))]  # 3, 4 and 2 batches an epoch
WATCHED = [list(range(40, 60)), list(range(10)), list(range(1, 60, 4))]
SEEDS = [0, 1, 2]
WEIGHTS = [None, torch.tensor([1.0, 2.0, 2.0]), torch.tensor([1.0, 3.0, 0.5])]


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    return write_frames(tmp_path_factory.mktemp("frames"), CLIPS)


def state(head):
    """Copy a head's weights, but for one that the softmax cancels: Adam enlarges its gradient's rounding errors."""
    return {name: one.detach().clone() for name, one in head.named_parameters() if name != "pooling.score.bias"}


def assert_equal_heads(head, expected, atol=2e-4, rtol=1e-3):
    for name, tensor in state(expected).items():
        torch.testing.assert_close(state(head)[name], tensor, atol=atol, rtol=rtol, msg=name)


def train(heads, frames, args, numbers=(0, 1, 2), watched=None, epochs=None):
    """Train the heads of these numbers."""

    def own(values):
        return None if values is None else [values[number] for number in numbers]

    return train_heads(heads, frames, LABELS, own(ROWS), args, own(SEEDS), own(WEIGHTS), own(watched), own(epochs))


def train_plainly(head, frames, rows, args, seed, weights, watched=None):
    """Train one head as any PyTorch tutorial would; return the watched logits of each epoch."""
    decaying = [one for one in head.parameters() if one.ndim > 1]
    others = [one for one in head.parameters() if one.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decaying, "weight_decay": args.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=args.learning_rate,
    )
    size, clip_rows = args.train_batch_size, np.asarray(rows)
    steps = math.ceil(args.num_train_epochs * math.ceil(len(rows) / size))
    schedule = get_scheduler(args.lr_scheduler_type, optimizer, args.get_warmup_steps(steps), steps)
    seen, step = [], 0
    for epoch in range(math.ceil(args.num_train_epochs)):
        head.train()
        strategy = args.train_sampling_strategy
        order = sample_order(frames.lengths[clip_rows].tolist(), size, strategy, seed, epoch)
        for start in range(0, len(rows), size):
            if step == steps:
                break
            batch = clip_rows[order[start : start + size]].tolist()
            logits = head(*frames.batch(batch)).logits
            loss = torch.nn.functional.cross_entropy(
                logits, LABELS[batch], weights, label_smoothing=args.label_smoothing_factor
            )
            optimizer.zero_grad()
            loss.backward()
            if args.max_grad_norm > 0:
                torch.nn.utils.clip_grad_norm_(head.parameters(), args.max_grad_norm)
            optimizer.step()
            schedule.step()
            step += 1
        if watched is not None:
            with torch.no_grad():
                seen.append(head.eval()(*frames.batch(watched)).logits)
    return seen


SETTINGS = [
    ({"pooling": "qkv"}, {"train_sampling_strategy": "group_by_length", "weight_decay": 0.3}),
    ({"pooling": "qkv", "pooling_scores": "released"}, {"metric_for_best_model": "loss"}),
    ({"pooling": "attentive"}, {"num_train_epochs": 2.5, "max_grad_norm": 0.1}),
    ({"pooling": "attentive", "pooling_scores": "released"}, {"max_grad_norm": -1.0}),
    ({"pooling": "attentive_statistics"}, {"lr_scheduler_type": "linear", "label_smoothing_factor": 0.1}),
    ({"pooling": "mean"}, {"train_sampling_strategy": "sequential"}),
    ({"pooling": "statistics"}, {"num_train_epochs": 1, "bf16": True}),
]


@pytest.mark.parametrize(("fields", "options"), SETTINGS)
@pytest.mark.parametrize("watched", [None, WATCHED], ids=["last", "watched"])
def test_train_heads_trains_each_head_as_it_is_trained_alone(tmp_path, frames, fields, options, watched):
    args = arguments(tmp_path, per_device_eval_batch_size=5, **options)
    together, before = tiny_heads(SEEDS, **fields), tiny_heads(SEEDS, **fields)
    values = train(together, frames, args, watched=watched)
    for number, alone in enumerate(tiny_heads(SEEDS, **fields)):
        (own,) = train([alone], frames, args, [number], watched)
        assert values[number] == pytest.approx(own, abs=0.1 if args.bf16 else 1e-4)
        assert_equal_heads(together[number], alone, *((1e-2, 0.1) if args.bf16 else ()))
        assert not torch.equal(alone.classifier.weight, before[number].classifier.weight)


@pytest.mark.parametrize(("fields", "options"), [one for one in SETTINGS if not one[1].get("bf16")])
def test_train_heads_ends_at_the_weights_of_a_plain_loop(tmp_path, frames, fields, options):
    args = arguments(tmp_path, **options)
    for number, (fast, plain) in enumerate(zip(tiny_heads(SEEDS, **fields), tiny_heads(SEEDS, **fields), strict=True)):
        if number == 0:
            continue  # the others have class weights, too
        train([fast], frames, args, [number])
        train_plainly(plain, frames, ROWS[number], args, SEEDS[number], WEIGHTS[number])
        assert_equal_heads(fast, plain)


def test_train_heads_keeps_the_best_watched_epoch(tmp_path, frames):
    args = arguments(tmp_path, learning_rate=0.1, num_train_epochs=6, lr_scheduler_type="constant")
    heads, plain = tiny_heads(SEEDS, pooling="mean"), tiny_heads(SEEDS, pooling="mean")
    values = train(heads, frames, args, watched=WATCHED)
    for number in SEEDS:
        seen = train_plainly(plain[number], frames, ROWS[number], args, number, WEIGHTS[number], WATCHED[number])
        expected = [scores_of(one, LABELS[WATCHED[number]])["unweighted_accuracy"] for one in seen]
        assert values[number] == pytest.approx(expected)
        with torch.no_grad():
            kept = heads[number].eval()(*frames.batch(WATCHED[number])).logits
        torch.testing.assert_close(kept, seen[choose_best(values[number])], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("pooling", ["mean", "qkv"])
def test_train_heads_stops_each_head_after_its_own_epochs(tmp_path, frames, pooling):
    args, epochs = arguments(tmp_path), [3, 1, 2]
    together = tiny_heads(SEEDS, pooling=pooling)
    train(together, frames, args, epochs=epochs)
    for number, alone in enumerate(tiny_heads(SEEDS, pooling=pooling)):
        train([alone], frames, args, [number], epochs=epochs)
        assert_equal_heads(together[number], alone)


def test_fewer_epochs_are_the_first_of_the_schedule(tmp_path, frames):
    args, values = arguments(tmp_path, metric_for_best_model="loss"), {}
    for epochs in (None, [2] * 3):
        values[epochs is None] = train(tiny_heads(SEEDS), frames, args, watched=WATCHED, epochs=epochs)
    assert [len(own) for own in values[True]] == [4] * 3
    assert [own[:2] for own in values[True]] == values[False]


def test_dropout_differs_between_heads_and_not_between_runs(tmp_path, frames):
    ends = []
    for _ in range(2):
        pair = tiny_heads([0, 0], pooling="attentive", pooling_dropout=0.5)
        train_heads(pair, frames, LABELS, [ROWS[0]] * 2, arguments(tmp_path), [0, 0], [None] * 2)
        ends.append([head.classifier.weight.detach().clone() for head in pair])
    assert not torch.equal(ends[0][0], ends[0][1])
    assert torch.equal(ends[0][0], ends[1][0]) and torch.equal(ends[0][1], ends[1][1])


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        ({"use_weighted_layer_sum": True, "encoder_layer": 2, "pooling": "qkv"}, "merge.weight"),
        ({"concatenated_layers": [0, 1, 3], "encoder_layer": 3, "pooling": "mean"}, "projector.weight"),
    ],
)
def test_several_layers_train_as_in_a_plain_loop(tmp_path, fields, changed):
    frames, args = write_frames(tmp_path / "frames", CLIPS, layers=3), arguments(tmp_path)
    together, plain = tiny_heads(SEEDS, **fields), tiny_heads(SEEDS, **fields)
    before = state(plain[1])
    train(together, frames, args)
    train_plainly(plain[1], frames, ROWS[1], args, 1, WEIGHTS[1])
    assert_equal_heads(together[1], plain[1])
    assert not torch.allclose(state(together[1])[changed], before[changed], atol=1e-3)


def test_training_loss_is_the_shared_loss(tmp_path, frames, monkeypatch):
    """Batches of different sizes side by side: padded places have no influence."""
    losses, args = [], arguments(tmp_path, label_smoothing_factor=0.2, num_train_epochs=1, max_grad_norm=0.0)
    backward = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: (losses.append(loss.item()), backward(loss))[1])
    heads = tiny_heads(SEEDS, pooling="attentive")
    stack = _Stack(heads, frames, LABELS, args, WEIGHTS)
    optimizer = torch.optim.AdamW([{"params": [one]} for one, _ in stack.parameters(0.0)])
    batches = [np.arange(16), np.arange(3), np.arange(5, 12)]
    stack.step(optimizer, SEEDS, batches, [0.0] * 3, 0.0)
    expected = 0.0
    for head, rows, weights in zip(heads, batches, WEIGHTS, strict=True):
        logits = head(*frames.batch(rows.tolist())).logits
        expected += float(classification_loss(logits, LABELS[rows], weights, 0.2))
    assert losses == [pytest.approx(expected, rel=1e-5)]


def test_classify_keeps_the_order_of_the_clips(tmp_path, frames):
    head = tiny_heads([0], pooling="qkv")[0]
    stack = _Stack([head], frames, LABELS, arguments(tmp_path), [None])
    rows = [7, 3, 50, 1, 22, 8]
    with torch.no_grad():
        expected = head.eval()(*frames.batch(rows)).logits
    torch.testing.assert_close(stack.classify([rows], 4)[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("gradient_accumulation_steps", 2, "--gradient_accumulation_steps 2: must be 1 for heads on stored frames"),
        ("max_steps", 5, "--max_steps 5"),
        ("optim", "sgd", "--optim sgd: must be adamw_torch or adamw_torch_fused for heads on stored frames"),
        ("greater_is_better", False, "--greater_is_better: follows from"),
        ("lr_scheduler_type", "reduce_lr_on_plateau", "--lr_scheduler_type reduce_lr_on_plateau"),
    ],
)
def test_check_arguments_refuses_options_that_the_loop_lacks(tmp_path, option, value, message):
    options = {option: value} | ({"eval_strategy": "epoch"} if option == "lr_scheduler_type" else {})
    with pytest.raises(UserError, match=message):
        check_arguments(arguments(tmp_path, **options))


def test_too_little_memory_is_one_line(tmp_path, frames, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("whisper_emotion.fitting.stacked_training._Stack", full)
    with pytest.raises(UserError, match="^3 heads in parallel do not fit .* --per_device_train_batch_size"):
        train(tiny_heads(SEEDS), frames, arguments(tmp_path))


@pytest.mark.parametrize("strategy", ["random", "group_by_length", "sequential"])
def test_sample_order_depends_on_seed_and_epoch_alone(strategy):
    lengths = np.random.default_rng(0).integers(1, 100, size=203).tolist()
    orders = {}
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0)):
        torch.rand(3)  # other draws have no influence
        order = sample_order(lengths, 8, strategy, seed, epoch)
        assert sorted(order) == list(range(203))
        assert orders.setdefault((seed, epoch), order) == order
    assert len(set(map(tuple, orders.values()))) == (1 if strategy == "sequential" else 3)
    width = sum(max(lengths[row] for row in order[start : start + 8]) * 8 for start in range(0, 203, 8))
    assert (sum(lengths) / width > 0.75) == (strategy == "group_by_length")
