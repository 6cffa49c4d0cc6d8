"""Tables of utterances, as the corpus readers build them, and usual words for splits and genders."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from whisper_emotion.errors import printable

logger = logging.getLogger(__name__)

TEXTS = ("path", "label", "speaker", "gender", "session", "split")
NUMBERS = ("start", "end", "seconds")
RATINGS = ("arousal", "valence", "dominance")
SPLITS = {
    "train": r"train(ing)?",
    "dev": r"dev(el|elopment)?|val(id|idation)?",
    "test": r"test[ _-]?\d*|eval(uation)?",
}
GENDERS = {"female": {"f", "female", "w", "woman"}, "male": {"m", "male", "man"}}


def utterance_frame(**columns: Any) -> pd.DataFrame:
    """Make a table of utterances, one per row.

    Args:
        **columns: `path`, and any of `label`, `speaker`, `gender`, `session`, `split` (text, None if unknown),
            `start`, `end`, `seconds` (in seconds, NaN if unknown) and ratings (floats); one value per row.

    Returns:
        A data frame of these nine columns and the given ratings. Text columns have the type object.
    """
    count = len(columns["path"])
    texts = {name: pd.Series(columns.get(name, [None] * count), dtype=object) for name in TEXTS}
    floats = {name: np.full(count, np.nan) for name in NUMBERS}
    return pd.DataFrame(texts | floats | {name: values for name, values in columns.items() if name not in TEXTS})


def frame_of_rows(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Make a table of utterances from dictionaries with the same keys, the arguments of `utterance_frame`."""
    return utterance_frame(**{name: [row[name] for row in rows] for name in (rows[0] if rows else ("path",))})


def tidy(word: str) -> str:
    """Return a word without surrounding blanks, in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", word).strip()


def split_of(word: str) -> str | None:
    """Return `train`, `dev` or `test` for a usual name of a split, None for any other word."""
    return next((split for split, names in SPLITS.items() if re.fullmatch(names, word.strip().casefold())), None)


def gender_of(word: str) -> str | None:
    """Return `female` or `male` for a usual word, None for any other word."""
    return next((gender for gender, words in GENDERS.items() if word.strip().casefold() in words), None)


def one_spelling(labels: Iterable[str], source: object) -> dict[str, str]:
    """Unify labels that differ only in case, surrounding blanks or Unicode form; log a warning if there are any.

    Args:
        labels: Every row's label.
        source: Source of the labels, for the warning.

    Returns:
        For each label the tidy form of the most frequent spelling.
    """
    counts = Counter(labels)
    alike = defaultdict(list)
    for label in sorted(counts, key=lambda label: (-counts[label], label)):
        alike[tidy(label).casefold()].append(label)
    merged = [spellings for spellings in alike.values() if len(spellings) > 1]
    if merged:
        classes = ", ".join(" = ".join(f"'{spelling}'" for spelling in spellings) for spellings in merged)
        logger.warning("%s", printable(f"{source}: merged labels that differ only in spelling: {classes}"))
    return {label: tidy(spellings[0]) for spellings in alike.values() for label in spellings}
