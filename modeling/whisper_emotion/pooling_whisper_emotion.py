"""Poolings over the frames of a clip: frames `(batch, frames, dim)` and a mask become one vector per clip.

Equations: arXiv 2602.06000, section 3. The argument `scores` chooses between the paper's equations (`paper`) and the
authors' released code (`released`). They differ as follows.

Attentive scores:
    `paper`: `w2_i . tanh(h_t W1_i + b_i) + k_i`, one `w2` per head.

    `released`: one layer over all heads, divided by `sqrt(d)`.

Attentive dropout:
    `paper`: on the scores. `released`: before `tanh`, and on the values.

QKV scores:
    `paper`: dot product divided by `sqrt(d)`. `released`: `tanh` of the same.

QKV dropout:
    `paper`: on the scores. `released`: on queries, keys and values.

After the heads:
    `paper`: add the mean of the frames, then LayerNorm ("Add and Norm"). `released`: LayerNorm only.

The released code keeps dropout active at test time. Here dropout is active in training only.

This file travels with every checkpoint: it imports torch, transformers, numpy and its siblings, nothing else.
"""

import torch
from torch import nn


class MeanPooling(nn.Module):
    """Average the real frames; the paper's baseline.

    All poolings share this signature and ignore the arguments that their formula does not use.

    Args:
        dim: Width of a frame.
        heads: Number of attention heads.
        head_dim: Width of one head's values, keys and hidden units.
        dropout: Dropout probability, active in training only.
        scores: `paper` or `released`.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, dropout: float, scores: str):
        super().__init__()
        self.output_dim = dim

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pool each clip.

        Args:
            frames: `(batch, frames, dim)`.
            mask: `(batch, frames)` bool, true on real frames. Masked frames have no influence, not even NaN.

        Returns:
            The pooled vectors `(batch, output_dim)` and the weights `(batch, heads, frames)`. The weights of a head
            sum to 1 over the real frames and are 0 elsewhere.
        """
        return self.pool(frames.masked_fill(~mask[..., None], 0.0), mask)

    def pool(self, frames: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pool frames whose masked positions are zero; shapes as in `forward`."""
        return _mean(frames, mask), _uniform_weights(frames, mask)


class StatisticsPooling(MeanPooling):
    """Mean and standard deviation of the real frames (Snyder et al. 2018, x-vectors, section 2.1)."""

    def __init__(self, dim: int, heads: int, head_dim: int, dropout: float, scores: str):
        super().__init__(dim, heads, head_dim, dropout, scores)
        self.output_dim = 2 * dim

    def pool(self, frames: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pool frames whose masked positions are zero; shapes as in `forward`."""
        weights = _uniform_weights(frames, mask)
        return _mean_and_deviation(weights, frames).squeeze(1), weights


class AttentivePooling(MeanPooling):
    """Multi-head attentive average (arXiv 2602.06000, section 3.2.1)."""

    statistics_per_head = 1  # the weighted mean

    def __init__(self, dim: int, heads: int, head_dim: int, dropout: float, scores: str):
        super().__init__(dim, heads, head_dim, dropout, scores)
        self.heads, self.head_dim, self.released = heads, head_dim, scores == "released"
        width = heads * head_dim
        self.hidden = nn.Linear(dim, width)  # W1, b
        # One group mixes the heads (released); one group per head keeps them apart (paper: w2_i, k_i)
        self.score = nn.Conv1d(width, heads, kernel_size=1, groups=1 if self.released else heads)
        self.value = nn.Linear(dim, width, bias=False)  # W^V
        self.combine = _Combine(self.statistics_per_head * width, dim, residual=not self.released)
        self.dropout = nn.Dropout(dropout)

    def pool(self, frames: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pool frames whose masked positions are zero; shapes as in `forward`."""
        hidden, value = self.hidden(frames), self.value(frames)
        if self.released:
            hidden, value = self.dropout(hidden), self.dropout(value)
        scores = self.score(torch.tanh(hidden).transpose(1, 2))
        scores = scores / self.head_dim**0.5 if self.released else self.dropout(scores)
        weights = _softmax_over_real_frames(scores, mask)
        return self.combine(self.summarise(weights, _split_heads(value, self.heads)), _mean(frames, mask)), weights

    def summarise(self, weights: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Reduce values `(batch, heads, frames, d)` by weights `(batch, heads, frames)` to `(batch, heads, width)`."""
        return _weighted_mean(weights, value)


class AttentiveStatisticsPooling(AttentivePooling):
    """Multi-head attentive mean and standard deviation (Okabe et al. 2018, arXiv 1803.10963, equations 5 and 6)."""

    statistics_per_head = 2

    def summarise(self, weights: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Reduce values `(batch, heads, frames, d)` by weights `(batch, heads, frames)` to `(batch, heads, width)`."""
        return _mean_and_deviation(weights[:, :, None], value).squeeze(2)


class QKVPooling(MeanPooling):
    """Multi-head attention with one query, the mean of the frames (arXiv 2602.06000, section 3.2.2)."""

    def __init__(self, dim: int, heads: int, head_dim: int, dropout: float, scores: str):
        super().__init__(dim, heads, head_dim, dropout, scores)
        self.heads, self.head_dim, self.released = heads, head_dim, scores == "released"
        width = heads * head_dim
        self.query = nn.Linear(dim, width, bias=False)
        self.key = nn.Linear(dim, width, bias=False)
        self.value = nn.Linear(dim, width, bias=False)
        self.combine = _Combine(width, dim, residual=not self.released)
        self.dropout = nn.Dropout(dropout)

    def pool(self, frames: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pool frames whose masked positions are zero; shapes as in `forward`."""
        mean = _mean(frames, mask)
        query, key, value = self.query(mean[:, None]), self.key(frames), self.value(frames)
        if self.released:
            query, key, value = self.dropout(query), self.dropout(key), self.dropout(value)
        query, key, value = (_split_heads(projected, self.heads) for projected in (query, key, value))
        scores = (query.float() * key.float()).sum(dim=-1) / self.head_dim**0.5  # half precision would overflow
        scores = torch.tanh(scores) if self.released else self.dropout(scores)
        weights = _softmax_over_real_frames(scores, mask).to(value.dtype)
        return self.combine(_weighted_mean(weights, value), mean), weights


class _Combine(nn.Module):
    """Concatenate the heads, project them to `dim` (`W_out`), optionally add the mean, and normalise."""

    def __init__(self, width: int, dim: int, residual: bool):
        super().__init__()
        self.residual = residual
        self.output = nn.Linear(width, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, heads: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        pooled = self.output(heads.flatten(1))
        return self.norm(pooled + mean if self.residual else pooled)


def _mean(frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average the real frames to `(batch, dim)`; masked frames must be zero. Half precision would overflow."""
    return (frames.sum(dim=1, dtype=torch.float32) / mask.sum(dim=1, keepdim=True)).to(frames.dtype)


def _uniform_weights(frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Give each real frame the same weight: `(batch, 1, frames)`."""
    return (mask / mask.sum(dim=1, keepdim=True)).to(frames.dtype)[:, None]


def _softmax_over_real_frames(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Softmax of `(batch, heads, frames)` over the frames, exactly 0 on masked ones."""
    return scores.masked_fill(~mask[:, None], -torch.inf).softmax(dim=-1)


def _weighted_mean(weights: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Average values `(batch, heads, frames, d)` with weights `(batch, heads, frames)`: `(batch, heads, d)`."""
    return (weights[:, :, None] @ value).squeeze(2)


def _split_heads(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """`(batch, frames, heads * d)` -> `(batch, heads, frames, d)`."""
    return tensor.unflatten(-1, (heads, -1)).transpose(1, 2)


def _mean_and_deviation(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Weighted mean and standard deviation side by side: `(…, 1, frames)` and `(…, frames, d)` -> `(…, 1, 2 d)`."""
    weights, wide = weights.float(), values.float()
    mean = weights @ wide
    variance = weights @ (wide - mean) ** 2
    # The root's gradient is infinite at 0, the variance of a clip of one frame
    return torch.cat([mean, variance.clamp(min=1e-7).sqrt()], dim=-1).to(values.dtype)


POOLING_CLASSES = {
    "mean": MeanPooling,
    "attentive": AttentivePooling,
    "qkv": QKVPooling,
    "statistics": StatisticsPooling,
    "attentive_statistics": AttentiveStatisticsPooling,
}

__all__ = ["POOLING_CLASSES"]
