"""The demo page: record or upload speech, and see its emotion, the moments that decided, and its course over time.

`page.py` alone imports Gradio (extra `demo`).
"""

import os

MOST_MINUTES, MOST_MEGABYTES = 10.0, 100.0
"""Default limits of a recording."""


def model_name(model: str) -> str:
    """Return the public name of a model: the last part of a folder, or the name on the Hub."""
    return os.path.basename(os.path.abspath(model)) if os.path.isdir(model) else model
