"""Poolings over the frames of an utterance: `(batch, frames, dim)` and a mask -> one vector an utterance.

Equations: arXiv 2602.06000, section 3 (multi-head attentive average and multi-head QKV pooling). The paper's equations
and its authors' released code differ; `scores` chooses:

| | `paper` | `released` |
|---|---|---|
| attentive | `w2_i . tanh(h_t W1_i + b_i) + k_i`, a `w2` for each head; dropout on the scores | one linear layer over all heads' hidden units, so heads mix; divided by `sqrt(d)`; dropout before `tanh` and on the values |
| qkv | dot product over `sqrt(d)`; dropout on the scores | `tanh` of it; dropout on queries, keys and values |
| after the heads | add the mean of the frames, then LayerNorm ("Add and Norm" of the paper's figure) | LayerNorm only |

The released code leaves its dropout on at test time; here it is active in training only.

This file travels with every checkpoint: it imports torch, transformers, numpy and its siblings, nothing else.
"""  # noqa: E501

import torch
from torch import nn


class MeanPooling(nn.Module):
    """Mean over the real frames; the paper's baseline.

    All poolings share this signature, and ignore the arguments that their formula does not have.

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

    def forward(self, frames: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Pool each utterance.

        Args:
            frames: `(batch, frames, dim)`.
            mask: `(batch, frames)`, true (or 1) on real frames; None where all are real. What stands in the other
                frames has no influence at all, not even if it is NaN.

        Returns:
            The pooled vectors `(batch, output_dim)` and the weights `(batch, heads, frames)`: those of a head sum to 1
            over the real frames and are 0 elsewhere.
        """
        if mask is None:
            mask = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
        mask = mask.bool()
        return self.pool(frames.masked_fill(~mask[..., None], 0.0), mask)

    def pool(self, frames: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pool frames whose masked positions are zero."""
        return _mean(frames, mask), _uniform_weights(frames, mask)


class StatisticsPooling(MeanPooling):
    """Mean and standard deviation over the real frames (Snyder et al. 2018, x-vectors, section 2.1)."""

    def __init__(self, dim: int, heads: int, head_dim: int, dropout: float, scores: str):
        super().__init__(dim, heads, head_dim, dropout, scores)
        self.output_dim = 2 * dim

    def pool(self, frames: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pool frames whose masked positions are zero."""
        weights = _uniform_weights(frames, mask)
        mean, deviation = _statistics(weights, frames)
        return torch.cat([mean, deviation], dim=-1).squeeze(1), weights


class AttentivePooling(MeanPooling):
    """Multi-head attentive average (arXiv 2602.06000, section 3.2.1)."""

    statistics_per_head = 1  # the weighted mean

    def __init__(self, dim: int, heads: int, head_dim: int, dropout: float, scores: str):
        super().__init__(dim, heads, head_dim, dropout, scores)
        self.heads, self.head_dim, self.released = heads, head_dim, scores == "released"
        width = heads * head_dim
        self.hidden = nn.Linear(dim, width)  # W1, b
        # A linear layer over all hidden units (released) or over each head's own (paper: w2_i, k_i), as a convolution
        # of one frame, which has both as its number of groups.
        self.score = nn.Conv1d(width, heads, kernel_size=1, groups=1 if self.released else heads)
        self.value = nn.Linear(dim, width, bias=False)  # W^V
        self.combine = _Combine(self.statistics_per_head * width, dim, residual=not self.released)
        self.dropout = nn.Dropout(dropout)

    def pool(self, frames: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pool frames whose masked positions are zero."""
        hidden = self.hidden(frames)
        if self.released:
            hidden = self.dropout(hidden)
        scores = self.score(torch.tanh(hidden).transpose(1, 2))
        scores = scores / self.head_dim**0.5 if self.released else self.dropout(scores)
        weights = _softmax_over_real_frames(scores, mask)
        return self.combine(self.summarise(weights, frames), _mean(frames, mask)), weights

    def summarise(self, weights: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Values `(batch, heads, statistics_per_head * head_dim)` of frames with weights `(batch, heads, frames)`."""
        if self.released:
            return _weighted_mean(weights, self.dropout(self.value(frames)))
        return _value_of_weighted_mean(weights, frames, self.value)


class AttentiveStatisticsPooling(AttentivePooling):
    """Multi-head attentive mean and standard deviation (Okabe et al. 2018, arXiv 1803.10963, equations 5 and 6)."""

    statistics_per_head = 2

    def summarise(self, weights: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Values `(batch, heads, statistics_per_head * head_dim)` of frames with weights `(batch, heads, frames)`."""
        value = self.value(frames)
        value = _split_heads(self.dropout(value) if self.released else value, self.heads)
        return torch.cat(_statistics(weights[:, :, None], value), dim=-1).squeeze(2)


class QKVPooling(MeanPooling):
    """Multi-head attention whose one query is the mean of the frames (arXiv 2602.06000, section 3.2.2)."""

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
        """Pool frames whose masked positions are zero."""
        mean = _mean(frames, mask)
        query = self.query(mean)[:, None]
        if self.released:
            query, key, value = (self.dropout(one) for one in (query, self.key(frames), self.value(frames)))
            products = _split_heads(query, self.heads) @ _split_heads(key, self.heads).transpose(2, 3)
            weights = _softmax_over_real_frames(torch.tanh(products.squeeze(2) / self.head_dim**0.5), mask)
            return self.combine(_weighted_mean(weights, value), mean), weights
        # As q (H W)^T = (q W^T) H^T: a vector a head that all frames are multiplied with, and no key a frame
        directions = _split_heads(query, self.heads) @ self.key.weight.unflatten(0, (self.heads, -1))
        scores = self.dropout(directions.squeeze(2) @ frames.transpose(1, 2) / self.head_dim**0.5)
        weights = _softmax_over_real_frames(scores, mask)
        return self.combine(_value_of_weighted_mean(weights, frames, self.value), mean), weights


class _Combine(nn.Module):
    """Concatenate the heads, project them back to `dim` (`W_out`), add the mean if asked, and normalise."""

    def __init__(self, width: int, dim: int, residual: bool):
        super().__init__()
        self.residual = residual
        self.output = nn.Linear(width, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, heads: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        pooled = self.output(heads.flatten(1))
        return self.norm(pooled + mean if self.residual else pooled)


def _mean(frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean `(batch, dim)` over the real frames, where the others are zero."""
    return frames.sum(dim=1) / mask.sum(dim=1, keepdim=True).to(frames.dtype)


def _uniform_weights(frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return `(batch, 1, frames)` weights of one over the number of real frames."""
    weights = mask.to(frames.dtype)
    return (weights / weights.sum(dim=1, keepdim=True)).unsqueeze(1)


def _softmax_over_real_frames(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Softmax of `(batch, heads, frames)` over the frames, exactly 0 on masked ones."""
    return scores.masked_fill(~mask[:, None], -torch.inf).softmax(dim=-1)


def _weighted_mean(weights: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Each head's weighted mean, `(batch, heads, d)`, of its share of values `(batch, frames, heads * d)`."""
    return (weights[:, :, None] @ _split_heads(value, weights.shape[1])).squeeze(2)


def _value_of_weighted_mean(weights: torch.Tensor, frames: torch.Tensor, value: nn.Linear) -> torch.Tensor:
    """`_weighted_mean` of `value(frames)`, the value of the mean in place of the mean of a value a frame."""
    matrices = value.weight.unflatten(0, (weights.shape[1], -1))  # a head's own: (heads, d, dim)
    return ((weights @ frames)[:, :, None] @ matrices.transpose(1, 2)).squeeze(2)


def _split_heads(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """`(batch, frames, heads * d)` -> `(batch, heads, frames, d)`."""
    return tensor.unflatten(-1, (heads, -1)).transpose(1, 2)


def _statistics(weights: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted mean and standard deviation: `(…, 1, frames)` and `(…, frames, d)` -> two of `(…, 1, d)`."""
    mean = weights @ values
    variance = weights @ (values - mean) ** 2
    # The root's slope is infinite at 0, which a clip of one frame, or a constant one, reaches.
    return mean, variance.clamp(min=1e-7).sqrt()


POOLING_CLASSES = {
    "mean": MeanPooling,
    "attentive": AttentivePooling,
    "qkv": QKVPooling,
    "statistics": StatisticsPooling,
    "attentive_statistics": AttentiveStatisticsPooling,
}

__all__ = ["POOLING_CLASSES"]
