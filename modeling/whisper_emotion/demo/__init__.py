"""The demo page: record or upload speech, and see which emotion a model hears in it, where, and when.

`page.py` alone imports Gradio (extra `demo`).
"""

import os

MOST_MINUTES, MOST_MEGABYTES = 10.0, 100.0
"""Of a recording, where nothing else is asked for."""


def model_name(model: str) -> str:
    """What a model is called in public: a folder's last part, or the name on the Hub."""
    return os.path.basename(os.path.abspath(model)) if os.path.isdir(model) else model
