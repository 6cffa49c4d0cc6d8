"""The vocabulary of emotions for all corpora, with synonyms."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping

from whisper_emotion.errors import UserError

EMOTIONS = (
    "angry", "happy", "neutral", "sad", "fearful", "disgusted", "surprised", "calm", "bored", "excited", "frustrated",
    "contemptuous", "other",
)  # fmt: skip
"""Class names, ordered by id."""

SYNONYMS = {
    "angry": ("anger", "ang", "annoyed", "hot anger"),
    "happy": ("happiness", "hap", "joy", "joyful", "joyfully"),
    "neutral": ("neu", "neutrality"),
    "sad": ("sadness",),
    "fearful": ("fear", "fea", "afraid", "scared"),
    "disgusted": ("disgust", "dis"),
    "surprised": ("surprise", "sur", "pleasant surprise", "pleasant surprised", "ps"),
    "calm": ("calmness", "relaxed"),
    "bored": ("boredom",),
    "excited": ("excitement", "exc"),
    "frustrated": ("frustration", "fru"),
    "contemptuous": ("contempt",),
    "other": ("oth",),
}
"""Synonyms of each class name."""

_CLASSES = {word: emotion for emotion, words in SYNONYMS.items() for word in (emotion, *words)}


def canonical(word: str) -> str | None:
    """Return the vocabulary's class for a word in any case; None for an unknown word."""
    plain = unicodedata.normalize("NFC", word).casefold().replace("_", " ").replace("-", " ")
    return _CLASSES.get(" ".join(plain.split()))


def in_order(labels: Iterable[str]) -> list[str]:
    """Sort class names: the vocabulary's classes in order, then other classes by name."""
    ranks = {emotion: rank for rank, emotion in enumerate(EMOTIONS)}
    return sorted(set(labels), key=lambda label: (ranks.get(canonical(label) or label, len(ranks)), label))


def parse_mapping(option: str, given: str | Mapping[str, str]) -> dict[str, str]:
    """Parse an option such as `calm=neutral,excited=happy`.

    Args:
        option: The option's name, for messages.
        given: The text, or a mapping.

    Raises:
        UserError: A part is not `one=other`, or a name has two targets.
    """
    if isinstance(given, Mapping):
        return {str(word): str(target) for word, target in given.items()}
    mapping: dict[str, str] = {}
    for part in given.split(","):
        word, equals, target = (piece.strip() for piece in part.partition("="))
        if not (word and equals and target) or "=" in target:
            raise UserError(f"{option} {given}: must be pairs, such as calm=neutral,excited=happy")
        if mapping.setdefault(word, target) != target:
            raise UserError(f"{option} {given}: gives {word} twice, expected each name once")
    return mapping
