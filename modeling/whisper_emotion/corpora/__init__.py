"""Speech emotion corpora as `datasets.Dataset`: `load_corpus` reads them, `splits` divides them into folds.

`records.CORPORA` holds one record per corpus. The readers import `datasets`, which takes seconds, on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whisper_emotion.corpora.loading import load_corpus, utterance_names
    from whisper_emotion.corpora.records import CORPORA

__all__ = ["CORPORA", "load_corpus", "utterance_names"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from whisper_emotion.corpora import loading

    return getattr(loading, name)
