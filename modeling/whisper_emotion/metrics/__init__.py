"""The scores of speech emotion recognition, as a function and as an `evaluate` module."""

from functools import cache
from pathlib import Path

import evaluate

from .ser_scores.ser_scores import compute_scores

__all__ = ["compute_scores", "load_ser_scores"]


@cache
def load_ser_scores() -> evaluate.EvaluationModule:
    """Loads the `ser_scores` module that lies beside this file; needs no network.

    Returns:
        The module, the same one on every call; its `compute` takes what `compute_scores` takes, by name.
    """
    return evaluate.load(str(Path(__file__).parent / "ser_scores"), keep_in_memory=True)
