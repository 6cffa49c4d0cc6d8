"""ShEMO (Mohamad Nezami et al., Language Resources and Evaluation 2019): 3,000 Persian utterances, 87 speakers."""

from __future__ import annotations

import re
from pathlib import Path

from whisper_emotion.corpora._utterances import Utterance, named_files, parse_name

LABELS = ("anger", "fear", "happiness", "neutral", "sadness", "surprise")
PUBLISHED = 3000
LAYOUT = "female/F03S02.wav, male/M32S01.wav, …"

EMOTIONS = dict(zip("AFHNSW", LABELS, strict=True))
GENDERS = {"F": "female", "M": "male"}

NAME = re.compile(rf"(F(?:0[1-9]|[12]\d|3[01])|M(?:0[1-9]|[1-4]\d|5[0-6]))([{''.join(EMOTIONS)}])\d+")
EXPECTED = "a speaker (F01 to F31, M01 to M56), an emotion (A, F, H, N, S or W) and a number, such as F03S02"


def read(corpus_dir: Path) -> list[Utterance]:
    """Read ShEMO's folder.

    Args:
        corpus_dir: The folder that holds `female` and `male`.

    Returns:
        The utterances, sorted by name: speakers `F01` to `F31` and `M01` to `M56`, 6 emotions.

    Raises:
        UserError: A missing folder, a name that does not parse, or one that is there twice.
    """
    utterances = []
    for path in named_files(corpus_dir).values():
        speaker, emotion = parse_name(NAME, path, EXPECTED).groups()
        utterances.append(Utterance(path, EMOTIONS[emotion], speaker, GENDERS[speaker[0]]))
    return utterances
