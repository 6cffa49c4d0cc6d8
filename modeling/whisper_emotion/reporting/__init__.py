"""Results for readers: pictures and the model card."""

from .card import describe_scores, write_model_card
from .plots import plot_confusion_matrix

__all__ = ["describe_scores", "plot_confusion_matrix", "write_model_card"]
