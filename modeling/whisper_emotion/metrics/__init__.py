"""The scores of speech emotion recognition, as functions and as an `evaluate` module."""

from functools import cache
from pathlib import Path

import evaluate

from .ser_scores.ser_scores import compute_scores, concordance_correlation

__all__ = ["compute_scores", "concordance_correlation", "load_ser_scores"]


@cache
def load_ser_scores(config_name: str = "default") -> evaluate.EvaluationModule:
    """Load the `ser_scores` module beside this file, without a network.

    Args:
        config_name: `default` for classes, `regression` for dimensions such as arousal.

    Returns:
        The module, the same one on every call; its `compute` takes the arguments of `compute_scores`, or of
        `concordance_correlation`, by name.
    """
    return evaluate.load(str(Path(__file__).parent / "ser_scores"), config_name, keep_in_memory=True)
