"""Results for readers: pictures, tables and the model card."""

from .card import describe_scores, write_model_card
from .frontier import CONTEXT, read_contexts, write_frontier
from .plots import plot_confusion_matrix
from .sweep import SweepResults, check_same_clips, write_sweep_report

__all__ = [
    "CONTEXT",
    "SweepResults",
    "check_same_clips",
    "describe_scores",
    "plot_confusion_matrix",
    "read_contexts",
    "write_frontier",
    "write_model_card",
    "write_sweep_report",
]
