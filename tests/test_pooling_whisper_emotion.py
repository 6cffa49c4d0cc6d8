"""Poolings against hand-computed tensors, and their invariances."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from whisper_emotion.pooling_whisper_emotion import POOLING_CLASSES

VARIANTS = [(name, scores) for name in POOLING_CLASSES for scores in ("paper", "released")]


def build(name, dim=8, heads=2, head_dim=3, dropout=0.5, scores="paper", seed=0):
    torch.manual_seed(seed)
    pooling = POOLING_CLASSES[name](dim, heads, head_dim, dropout, scores).eval()
    for parameter in pooling.parameters():  # larger than an initialisation, so that attention is far from uniform
        torch.nn.init.normal_(parameter, std=0.7)
    return pooling


def set_weights(pooling, **tensors):
    with torch.no_grad():
        for name, values in tensors.items():
            module, parameter = name.split("__")
            target = getattr(pooling.get_submodule(module.replace("_in_", ".")), parameter)
            target.copy_(torch.tensor(values, dtype=torch.float32).reshape(target.shape))


FRAMES = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, -100.0]]])
MASK = torch.tensor([[True, True, False]])


def pool(pooling, frames):
    """Pool clips that have no padding."""
    return pooling(frames, torch.ones(frames.shape[:2], dtype=torch.bool))


def test_mean_equals_hand_computation():
    pooled, weights = build("mean", dim=2)(FRAMES, MASK)
    torch.testing.assert_close(pooled, torch.tensor([[2.0, 4.0]]))
    torch.testing.assert_close(weights, torch.tensor([[[0.5, 0.5, 0.0]]]))


def test_statistics_equal_hand_computation():
    pooled, _ = build("statistics", dim=2)(FRAMES, MASK)
    torch.testing.assert_close(pooled, torch.tensor([[2.0, 4.0, 1.0, 2.0]]))


def test_attentive_paper_scores_equal_hand_computation():
    """Two heads of one hidden unit: each scores its own unit (arXiv 2602.06000, section 3.2.1)."""
    pooling = build("attentive", dim=2, heads=2, head_dim=1, scores="paper")
    set_weights(
        pooling,
        hidden__weight=[[1.0, 0.0], [0.0, 0.5]],
        hidden__bias=[0.0, 0.1],
        score__weight=[2.0, -1.0],
        score__bias=[0.3, 0.4],
        value__weight=[[1.0, 1.0], [0.0, 1.0]],
        combine_in_output__weight=[[1.0, 0.0], [0.0, 1.0]],
        combine_in_output__bias=[0.0, 0.0],
        combine_in_norm__weight=[1.0, 1.0],
        combine_in_norm__bias=[0.0, 0.0],
    )
    scores = [
        [2 * math.tanh(1.0) + 0.3, 2 * math.tanh(3.0) + 0.3],
        [-math.tanh(0.5 * 2 + 0.1) + 0.4, -math.tanh(0.5 * 6 + 0.1) + 0.4],
    ]
    expected = [[math.exp(score) / sum(map(math.exp, head)) for score in head] + [0.0] for head in scores]
    heads = [expected[0][0] * 3 + expected[0][1] * 9, expected[1][0] * 2 + expected[1][1] * 6]
    added = torch.tensor([heads[0] + 2.0, heads[1] + 4.0])  # Add: the mean of the frames

    pooled, weights = pooling(FRAMES, MASK)
    torch.testing.assert_close(weights, torch.tensor([expected]))
    torch.testing.assert_close(pooled[0], torch.nn.functional.layer_norm(added, (2,)))


def test_attentive_released_scores_mix_heads():
    """The released score layer sees all hidden units, divides by the root of the width, and adds no residual."""
    pooling = build("attentive", dim=2, heads=2, head_dim=1, scores="released")
    set_weights(
        pooling,
        hidden__weight=[[1.0, 0.0], [0.0, 1.0]],
        hidden__bias=[0.0, 0.0],
        score__weight=[[0.0, 1.0], [1.0, 1.0]],
        score__bias=[0.0, 0.0],
        value__weight=[[1.0, 0.0], [0.0, 1.0]],
        combine_in_output__weight=[[1.0, 0.0], [0.0, 1.0]],
        combine_in_output__bias=[0.0, 0.0],
        combine_in_norm__weight=[1.0, 1.0],
        combine_in_norm__bias=[0.0, 0.0],
    )
    scores = torch.tensor(
        [[math.tanh(2.0), math.tanh(6.0)], [math.tanh(1.0) + math.tanh(2.0), math.tanh(3.0) + math.tanh(6.0)]]
    )
    expected = scores.softmax(-1)
    heads = torch.tensor([expected[0] @ torch.tensor([1.0, 3.0]), expected[1] @ torch.tensor([2.0, 6.0])])
    pooled, weights = pooling(FRAMES, MASK)
    torch.testing.assert_close(weights[0, :, :2], expected)
    torch.testing.assert_close(pooled[0], torch.nn.functional.layer_norm(heads, (2,)))


def test_attentive_released_scores_are_divided_by_the_root_of_the_head_width():
    wide = build("attentive", dim=4, heads=1, head_dim=4, scores="released")
    frames = torch.randn(1, 5, 4)
    scores = wide.score(torch.tanh(wide.hidden(frames)).transpose(1, 2)) / 2.0
    torch.testing.assert_close(pool(wide, frames)[1], scores.softmax(-1))


@pytest.mark.parametrize("scores", ["paper", "released"])
def test_qkv_equals_hand_computation(scores):
    """One head, identity projections: the query is the mean of the real frames (section 3.2.2)."""
    pooling = build("qkv", dim=2, heads=1, head_dim=2, scores=scores)
    identity = [[1.0, 0.0], [0.0, 1.0]]
    set_weights(
        pooling,
        query__weight=[[0.1, 0.0], [0.0, 0.1]],
        key__weight=identity,
        value__weight=identity,
        combine_in_output__weight=identity,
        combine_in_output__bias=[0.0, 0.0],
        combine_in_norm__weight=[1.0, 1.0],
        combine_in_norm__bias=[0.0, 0.0],
    )
    products = [(0.2 * 1 + 0.4 * 2) / math.sqrt(2), (0.2 * 3 + 0.4 * 6) / math.sqrt(2)]
    if scores == "released":
        products = [math.tanh(product) for product in products]
    expected = torch.tensor(products).softmax(-1)
    pooled, weights = pooling(FRAMES, MASK)
    torch.testing.assert_close(weights[0, 0], torch.tensor([*expected, 0.0]))
    head = expected @ FRAMES[0, :2] + (torch.tensor([2.0, 4.0]) if scores == "paper" else 0.0)
    torch.testing.assert_close(pooled[0], torch.nn.functional.layer_norm(head, (2,)))


def test_attentive_statistics_equal_hand_computation():
    """Constant scores: each head's mean and standard deviation of its values."""
    pooling = build("attentive_statistics", dim=2, heads=1, head_dim=2, scores="released")
    set_weights(
        pooling,
        score__weight=[[0.0, 0.0]],
        value__weight=[[1.0, 0.0], [0.0, 1.0]],
        combine_in_output__weight=[[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]],
        combine_in_output__bias=[0.0, 0.0],
        combine_in_norm__weight=[1.0, 1.0],
        combine_in_norm__bias=[0.0, 0.0],
    )
    pooled, _ = pooling(FRAMES, MASK)
    # the mean of the first value, 2, and the deviation of the second, 2: alike, so LayerNorm gives zeros
    torch.testing.assert_close(pooled, torch.zeros(1, 2), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("name", "scores"), VARIANTS)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), extra=st.integers(0, 5), seed=st.integers(0, 99))
def test_masked_frames_do_not_change_the_vector(name, scores, lengths, extra, seed):
    """A clip's pooled vector is the same alone and in a batch, whatever stands in the padding, NaN too."""
    pooling = build(name, scores=scores)
    generator = torch.Generator().manual_seed(seed)
    clips = [torch.randn(length, 8, generator=generator) for length in lengths]
    width = max(lengths) + extra
    batch = torch.full((len(clips), width, 8), torch.nan)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]

    pooled, weights = pooling(batch, mask)
    assert pooled.shape == (len(clips), pooling.output_dim)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    assert (weights[~mask[:, None].expand_as(weights)] == 0).all()
    for row, clip in zip(pooled, clips, strict=True):
        torch.testing.assert_close(row, pool(pooling, clip[None])[0][0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "scores"), VARIANTS)
def test_order_of_frames_does_not_change_the_vector(name, scores):
    pooling = build(name, scores=scores)
    frames = torch.randn(2, 7, 8)
    order = torch.randperm(7)
    torch.testing.assert_close(pool(pooling, frames)[0], pool(pooling, frames[:, order])[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "scores"), VARIANTS)
def test_gradients_are_finite_on_one_constant_frame(name, scores):
    pooling = build(name, scores=scores)
    frames = torch.ones(1, 1, 8, requires_grad=True)
    pool(pooling, frames)[0].sum().backward()
    assert torch.isfinite(frames.grad).all()


@pytest.mark.parametrize(("name", "scores"), [v for v in VARIANTS if v[0] not in ("mean", "statistics")])
def test_dropout_acts_in_training_only(name, scores):
    pooling = build(name, scores=scores)
    frames = torch.randn(2, 7, 8)
    assert torch.equal(pool(pooling, frames)[0], pool(pooling, frames)[0])
    pooling.train()
    assert not torch.equal(pool(pooling, frames)[0], pool(pooling, frames)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "scores"), VARIANTS)
def test_half_precision_is_close_and_does_not_overflow(name, scores, dtype):
    """1,500 frames of 100 sum to 150,000, and their squares to more: float16 ends at 65,504."""
    pooling = build(name, scores=scores)
    frames = torch.randn(2, 1500, 8, generator=torch.Generator().manual_seed(0)) + 100
    expected = pool(pooling, frames)[0]
    pooled, weights = pool(pooling.to(dtype), frames.to(dtype))
    assert pooled.dtype == weights.dtype == dtype
    assert torch.isfinite(pooled).all()
    if name in ("mean", "statistics"):  # the others divide a difference of nearby numbers by its deviation
        torch.testing.assert_close(pooled.float(), expected, atol=0.3, rtol=0.01)


@pytest.mark.parametrize(("name", "scores"), VARIANTS)
def test_repeating_every_frame_does_not_change_the_vector(name, scores):
    pooling = build(name, scores=scores)
    frames = torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(0))
    repeated = pool(pooling, frames.repeat_interleave(3, dim=1))[0]
    torch.testing.assert_close(pool(pooling, frames)[0], repeated, atol=1e-5, rtol=1e-5)
