"""Heads trained side by side: the weights of heads that are trained one after the other."""

import json

import pytest
import torch

from whisper_emotion.errors import UserError
from whisper_emotion.features import DONE, FRAMES, INDEX, StoredFrames
from whisper_emotion.heads import train_head
from whisper_emotion.run_folder import write_whole
from whisper_emotion.stacked_heads import check_heads, train_heads
from whisper_emotion.training import (
    EmotionTrainingArguments,
    build_model,
    build_trainer,
    collate_frames,
    fit_pca_projector,
)

LABELS = ["angry", "happy", "sad"]


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """A store of 60 utterances of 1 to 40 frames whose mean tells the class."""
    folder, generator = tmp_path_factory.mktemp("frames"), torch.Generator().manual_seed(0)
    lengths = [1 + (7 * row) % 40 for row in range(60)]
    clips = [torch.randn(length, 16, generator=generator) + row % 3 for row, length in enumerate(lengths)]
    (folder / FRAMES).write_bytes(torch.cat(clips).half().numpy().tobytes())
    (folder / DONE).write_bytes(b"\1")
    index = {"d_model": 16, "frames": lengths, "own_frames": lengths}
    write_whole(folder / INDEX, json.dumps(index))
    return StoredFrames([folder], [row % 3 for row in range(60)])


def trainers(tiny_encoder, tmp_path, frames, rows, overrides=None, pca=False, **options):
    made = []
    for seed, own in enumerate(rows):
        weights = [1.0, 1.0 + seed, 2.0] if seed else None  # heads of balanced classes have weights of their own
        fields = {"pooling_dropout": 0.0, "class_weights": weights, "classifier_proj_size": 8, **(overrides or {})}
        model = build_model(str(tiny_encoder), LABELS, fields, seed, head_only=True)
        if pca:
            fit_pca_projector(model, [frames[row] for row in own])
        args = EmotionTrainingArguments(
            output_dir=str(tmp_path), disable_tqdm=True, use_cpu=True, per_device_eval_batch_size=5, seed=seed,
            learning_rate=0.01, **{"num_train_epochs": 4, **options},
        )  # fmt: skip
        utterances = [frames[row] for row in own]
        made.append(build_trainer(model, utterances, None, collate_frames, args, tmp_path))
    return made


def state(trainer):
    """A head's weights, but for one that the softmax takes no note of: Adam makes steps of its gradient's rounding."""
    named = trainer.model.state_dict().items()
    return {name: one for name, one in named if not name.startswith("encoder") and name != "pooling.score.bias"}


ROWS = [list(range(33)), list(range(10, 60)), list(range(0, 60, 2))]  # 3, 4 and 2 batches an epoch
WATCHED = [list(range(40, 60)), list(range(10)), list(range(1, 60, 4))]


@pytest.mark.parametrize(
    ("overrides", "options"),
    [
        ({"pooling": "qkv"}, {"train_sampling_strategy": "group_by_length", "weight_decay": 0.3}),
        ({"pooling": "qkv", "pooling_scores": "released"}, {"metric_for_best_model": "loss"}),
        ({"pooling": "attentive"}, {"num_train_epochs": 2.5, "max_grad_norm": 0.1}),
        ({"pooling": "attentive", "pooling_scores": "released"}, {"max_grad_norm": -1.0}),
        ({"pooling": "attentive_statistics", "label_smoothing": 0.1}, {"lr_scheduler_type": "linear"}),
        ({"pooling": "mean"}, {"pca": True, "adam_beta1": 0.8}),
        ({"pooling": "statistics"}, {"num_train_epochs": 1, "bf16": True}),
    ],
)
@pytest.mark.parametrize("watched", [None, WATCHED])
def test_each_head_ends_where_it_ends_alone(tiny_encoder, tmp_path, frames, overrides, options, watched):
    together = trainers(tiny_encoder, tmp_path, frames, ROWS, overrides, **options)
    before = [{name: tensor.clone() for name, tensor in state(one).items()} for one in together]
    found = train_heads(together, frames, ROWS, watched)
    alone = trainers(tiny_encoder, tmp_path, frames, ROWS, overrides, **options)
    for head, one in enumerate(alone):
        seen = train_head(one, None if watched is None else [frames[row] for row in watched[head]])
        assert found[head] == pytest.approx(seen, abs=0.1 if options.get("bf16") else 1e-4)
        for name, tensor in state(one).items():
            near = {"atol": 1e-2, "rtol": 0.1} if options.get("bf16") else {"atol": 2e-4, "rtol": 1e-3}
            torch.testing.assert_close(state(together[head])[name], tensor, msg=name, **near)
        assert not torch.equal(state(one)["classifier.weight"], before[head]["classifier.weight"])


def test_each_head_stops_after_its_own_epochs(tiny_encoder, tmp_path, frames):
    epochs = [3, 1, 2]
    together = trainers(tiny_encoder, tmp_path, frames, ROWS)
    train_heads(together, frames, ROWS, None, epochs)
    for head, one in enumerate(trainers(tiny_encoder, tmp_path, frames, ROWS)):
        train_head(one, None, epochs[head])
        for name, tensor in state(one).items():
            torch.testing.assert_close(state(together[head])[name], tensor, atol=2e-4, rtol=1e-3, msg=name)


def test_dropout_is_another_for_every_head_and_the_same_every_time(tiny_encoder, tmp_path, frames):
    rows, ends = [ROWS[0]] * 2, []
    for _ in range(2):
        pair = trainers(tiny_encoder, tmp_path, frames, rows, {"pooling": "attentive", "pooling_dropout": 0.5})
        pair[1].model.load_state_dict(pair[0].model.state_dict())
        pair[1].model.config.class_weights = None
        pair[1].args.seed = pair[1].args.data_seed = 0
        train_heads(pair, frames, rows)
        ends.append([state(one)["classifier.weight"].clone() for one in pair])
    assert not torch.equal(ends[0][0], ends[0][1])
    assert torch.equal(ends[0][0], ends[1][0]) and torch.equal(ends[0][1], ends[1][1])


def test_other_optimisers_are_refused_where_there_is_an_accelerator(tmp_path, monkeypatch):
    args = EmotionTrainingArguments(output_dir=str(tmp_path), optim="sgd", use_cpu=True)
    check_heads(args)
    monkeypatch.setattr(EmotionTrainingArguments, "device", torch.device("cuda"))
    with pytest.raises(UserError, match="--optim sgd: heads on an accelerator take adamw_torch or adamw_torch_fused"):
        check_heads(args)


def test_too_little_memory_is_said_in_one_line(tiny_encoder, tmp_path, frames, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("whisper_emotion.stacked_heads._Stack", full)
    with pytest.raises(UserError, match="^3 heads side by side do not fit .* --per_device_eval_batch_size"):
        train_heads(trainers(tiny_encoder, tmp_path, frames, ROWS), frames, ROWS)
