"""Results for readers: pictures, tables and the model card."""

from .attention import plot_explanation
from .card import describe_scores, describe_unadapted, write_model_card
from .frontier import CONTEXT, read_contexts, write_frontier
from .plots import plot_confusion_matrix
from .rows import RowFile, table_heading, table_line
from .sweep import SweepResults, check_same_clips, markdown_table, write_sweep_report
from .timeline import plot_timeline

__all__ = [
    "CONTEXT",
    "RowFile",
    "SweepResults",
    "check_same_clips",
    "describe_scores",
    "describe_unadapted",
    "markdown_table",
    "plot_confusion_matrix",
    "plot_explanation",
    "plot_timeline",
    "read_contexts",
    "table_heading",
    "table_line",
    "write_frontier",
    "write_model_card",
    "write_sweep_report",
]
