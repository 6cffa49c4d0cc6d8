"""The loss of all three ways of training."""

import torch
from torch import nn


def classification_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    class_weights: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Compute the weighted, smoothed cross-entropy of a batch in float32.

    Args:
        logits: `(batch, labels)`.
        labels: Class ids `(batch,)`; -100 is ignored.
        class_weights: `(labels,)`. As in PyTorch, the loss is divided by the sum of the batch's weights.
        label_smoothing: Share of a label's probability that is spread over all classes, in [0, 1).
    """
    return nn.functional.cross_entropy(logits.float(), labels, weight=class_weights, label_smoothing=label_smoothing)
