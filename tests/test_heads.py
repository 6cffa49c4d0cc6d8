"""Heads on stored frames: the weights that the Trainer ends at, without its baggage."""

import numpy as np
import pytest
import torch
from transformers import set_seed

from whisper_emotion.errors import UserError
from whisper_emotion.heads import FrameBatches, check_arguments, choose_epoch, classify, train_head
from whisper_emotion.training import (
    EmotionTrainingArguments,
    best_epoch,
    build_model,
    build_trainer,
    collate_frames,
    train,
)

LABELS = ["angry", "happy", "sad"]


def frames(count, seed=0):
    """Stored frames of lengths 1 to 30 whose mean tells the class."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "encoder_outputs": (torch.randn(1 + (7 * index) % 30, 16, generator=generator) + index % 3).half(),
            "label": index % 3,
        }
        for index in range(count)
    ]


def setting(tiny_encoder, tmp_path, overrides=None, **options):
    model = build_model(str(tiny_encoder), LABELS, {"pooling_dropout": 0.3, **(overrides or {})}, 0, head_only=True)
    args = EmotionTrainingArguments(
        output_dir=str(tmp_path), disable_tqdm=True, use_cpu=True, per_device_eval_batch_size=5,
        **{"num_train_epochs": 3, **options},
    )  # fmt: skip
    return model, args


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith("encoder")}


@pytest.mark.parametrize(
    ("overrides", "options"),
    [
        ({"pooling": "qkv"}, {}),
        (
            {"pooling": "qkv", "pooling_scores": "released"},
            {"bf16": True, "train_sampling_strategy": "group_by_length"},
        ),
        ({"pooling": "attentive"}, {"train_sampling_strategy": "group_by_length", "weight_decay": 0.1}),
        ({"pooling": "mean", "class_weights": [1.0, 2.0, 3.0]}, {"metric_for_best_model": "loss", "bf16": True}),
        ({"pooling": "mean"}, {"max_grad_norm": -1.0, "num_train_epochs": 2.5}),
    ],
)
def test_both_roads_end_at_the_same_weights(tiny_encoder, tmp_path, overrides, options):
    utterances, selection = frames(50), frames(23, seed=1)
    model, args = setting(tiny_encoder, tmp_path, overrides, **options)
    short = build_trainer(model, utterances, None, collate_frames, args, tmp_path / "short")
    train_head(short)
    fast = state(model)
    model, _ = setting(tiny_encoder, tmp_path, overrides, **options)
    values = train_head(build_trainer(model, utterances, None, collate_frames, args, tmp_path / "short"), selection)
    fast_best = state(model)

    model, _ = setting(tiny_encoder, tmp_path, overrides, **options)
    set_seed(99)  # what was drawn before is of no consequence
    trainer = train(model, utterances, selection, collate_frames, args, tmp_path / "long")
    assert choose_epoch(values) == best_epoch(trainer)
    metric = args.metric_for_best_model
    logged = [entry[f"eval_{metric}"] for entry in trainer.state.log_history if f"eval_{metric}" in entry]
    assert [value if metric != "loss" else -value for value in values] == pytest.approx(logged, abs=1e-6)
    slow_best = state(model)

    model, _ = setting(tiny_encoder, tmp_path, overrides, **options)
    slow = state(train(model, utterances, None, collate_frames, args, tmp_path / "last").model)
    assert slow.keys() == fast.keys()
    for name, tensor in slow.items():
        torch.testing.assert_close(fast[name], tensor, atol=1e-6, rtol=1e-5, msg=name)
        torch.testing.assert_close(fast_best[name], slow_best[name], atol=1e-6, rtol=1e-5, msg=name)
    assert any(
        not torch.equal(fast[name], state(setting(tiny_encoder, tmp_path, overrides)[0])[name]) for name in fast
    )


def test_a_head_alone_starts_as_the_whole_model_s_does(tiny_encoder):
    whole, alone = (build_model(str(tiny_encoder), LABELS, {"pooling": "attentive"}, 7, head_only=h) for h in (0, 1))
    assert not list(alone.encoder.parameters())
    for name, tensor in state(alone).items():
        assert torch.equal(tensor, whole.state_dict()[name]), name
    other = build_model(str(tiny_encoder), LABELS, {"pooling": "attentive"}, 8, head_only=True)
    assert not torch.equal(other.classifier.weight, alone.classifier.weight)


def test_fewer_epochs_are_the_first_of_the_schedule(tiny_encoder, tmp_path):
    utterances, watched = frames(30), frames(9, seed=2)
    said = {}
    for epochs in (None, 2):
        model, args = setting(tiny_encoder, tmp_path, metric_for_best_model="loss")
        trainer = build_trainer(model, utterances, None, collate_frames, args, tmp_path)
        said[epochs] = train_head(trainer, watched, epochs)
    assert len(said[None]) == 3
    assert said[2] == said[None][:2]


def test_classes_do_not_depend_on_the_order_of_the_utterances(tiny_encoder, tmp_path):
    utterances = frames(30)
    model, args = setting(tiny_encoder, tmp_path)
    trainer = build_trainer(model, utterances, None, collate_frames, args, tmp_path)
    logits = classify(trainer, utterances)
    assert logits.shape == (30, 3)
    np.testing.assert_allclose(classify(trainer, utterances[::-1])[::-1], logits, atol=1e-6)


def test_a_batch_is_what_the_collator_makes_of_it(tiny_encoder, tmp_path):
    utterances = frames(8)
    model, args = setting(tiny_encoder, tmp_path)
    batches = FrameBatches(utterances, build_trainer(model, utterances, None, collate_frames, args, tmp_path), size=4)
    batches.take([4, 5])  # leaves its frames behind in the buffer
    for rows in ([0, 3, 1], [2], [7, 6, 5, 4]):
        expected = collate_frames([utterances[row] for row in rows])
        for name, tensor in batches.take(rows).items():
            assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("gradient_accumulation_steps", 2, "--gradient_accumulation_steps 2: heads on stored frames take 1 only"),
        ("max_steps", 5, "--max_steps 5"),
        ("label_smoothing_factor", 0.1, "--label_smoothing_factor 0.1"),
        ("greater_is_better", False, "--greater_is_better: follows from"),
        ("lr_scheduler_type", "reduce_lr_on_plateau", "--lr_scheduler_type reduce_lr_on_plateau"),
    ],
)
def test_options_that_this_road_lacks_are_refused(tiny_encoder, tmp_path, option, value, said):
    options = {option: value} | ({"eval_strategy": "epoch"} if option == "lr_scheduler_type" else {})
    _, args = setting(tiny_encoder, tmp_path, **options)
    with pytest.raises(UserError, match=said):
        check_arguments(args)


def test_an_epoch_without_a_value_is_never_the_best():
    assert choose_epoch([-1.2, float("nan"), -0.4, -0.4]) == 3
    assert choose_epoch([float("nan"), -2.0]) == 2
