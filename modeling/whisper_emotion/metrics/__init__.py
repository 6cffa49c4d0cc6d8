"""The scores of speech emotion recognition, as functions and as an `evaluate` module."""

import sys
from pathlib import Path

_paths = sys.path[:]
# The folder of a running script comes first in the path, and scripts/evaluate.py would hide the library `evaluate`
sys.path[:] = [entry for entry in _paths if not (Path(entry) / "evaluate.py").is_file()]
try:
    from .ser_scores.ser_scores import compute_scores, concordance_correlation
finally:
    sys.path[:] = _paths

__all__ = ["compute_scores", "concordance_correlation"]
