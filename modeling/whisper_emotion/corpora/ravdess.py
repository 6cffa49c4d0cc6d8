"""RAVDESS (Livingstone and Russo, PLoS ONE 2018), its speech recordings: 1,440 English utterances, 24 actors."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from whisper_emotion.corpora._utterances import Utterance, named_files, parse_name

logger = logging.getLogger(__name__)

LABELS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
PUBLISHED = 1440
LAYOUT = "Actor_01/03-01-05-01-01-01-01.wav, …"

# Modality (03: audio only), channel (01: speech, 02: song), emotion, intensity, statement, repetition, actor.
NAME = re.compile(r"(0[1-3])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])")
EXPECTED = (
    "modality, channel, emotion (01 to 08), intensity, statement, repetition and actor (01 to 24), "
    "such as 03-01-05-01-01-01-12"
)


def read(corpus_dir: Path) -> list[Utterance]:
    """Read RAVDESS's folder, or one that holds it.

    Songs and the sound of its videos are left out; how many is logged.

    Args:
        corpus_dir: The folder that holds `Actor_01` to `Actor_24`.

    Returns:
        The utterances, sorted by name: speakers `01` to `24` (even numbers are female), 8 emotions.

    Raises:
        UserError: A missing folder, a name that does not parse, or one that is there twice.
    """
    utterances, left_out = [], 0
    for path in named_files(corpus_dir).values():
        modality, channel, emotion, _, _, _, actor = parse_name(NAME, path, EXPECTED).groups()
        if (modality, channel) != ("03", "01"):
            left_out += 1
            continue
        gender = "male" if int(actor) % 2 else "female"
        utterances.append(Utterance(path, LABELS[int(emotion) - 1], actor, gender))
    if left_out:
        logger.warning("%s: left out %d files that are songs or the sound of a video", corpus_dir, left_out)
    return utterances
