"""The demo page: record or upload speech, and see its emotion, the moments that decided, and its course over time.

`page.py` alone imports Gradio (extra `demo`).
"""

import os

PURPOSE = (
    "It names the emotion that a listener would hear in acted speech, not what a person feels. Do not use it to judge "
    "people. In the European Union, inferring emotions at work and in education is prohibited (Regulation 2024/1689, "
    "article 5(1)(f))."
)
TESTED = (
    "The general model was tested on adults who act emotions in German, English, Italian, Amharic and Polish, each "
    "corpus left out of the training once: about half of the labels were right. Children, everyday talk, real "
    "telephone calls and other languages were not tested. A speech synthesiser reads the examples."
)
MOST_MINUTES, MOST_MEGABYTES = 10.0, 100.0
"""Default limits of a recording."""


def model_name(model: str) -> str:
    """Return the public name of a model: the last part of a folder, or the name on the Hub."""
    return os.path.basename(os.path.abspath(model)) if os.path.isdir(model) else model
