"""Results for readers: pictures, tables and the model card. Each is imported when it is first used."""

import importlib

_MODULES = {
    "attention": ("plot_explanation",),
    "card": ("describe_scores", "describe_unadapted", "write_model_card"),
    "frontier": ("read_contexts", "write_frontier"),
    "markdown": ("markdown_table",),
    "plots": ("plot_confusion_matrix",),
    "rows": ("RowFile", "table_heading", "table_line"),
    "sweep": ("CONTEXT", "write_sweep_report"),
    "sweep_results": ("SweepResults", "check_same_clips"),
    "timeline": ("plot_timeline",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
