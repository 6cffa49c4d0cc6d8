"""The scores of speech emotion recognition, as functions and as an `evaluate` module."""

from .ser_scores.ser_scores import compute_scores, concordance_correlation

__all__ = ["compute_scores", "concordance_correlation"]
