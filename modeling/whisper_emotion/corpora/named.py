"""Corpora whose file names say who speaks how: EMO-DB, RAVDESS and ShEMO."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from whisper_emotion.corpora._utterances import Corpus, Utterance, inner_folder, named_files
from whisper_emotion.errors import UserError

logger = logging.getLogger(__name__)


def _corpus(
    labels: Sequence[str],
    published: int,
    layout: str,
    codes: Mapping[str, str],
    pattern: str,
    expected: str,
    is_female: Callable[[str], bool],
    folder: str = "",
) -> Corpus:
    """A corpus by the names of its files.

    Args:
        labels: As in `Corpus`.
        published: As in `Corpus`.
        layout: As in `Corpus`.
        codes: The label for each code of an emotion in a name.
        pattern: Matches a name without its ending, with the groups `speaker` and `emotion`. A name with a group
            `other` is left out: a song, or the sound of a video.
        expected: What a name looks like, for messages.
        is_female: Whether a speaker is a woman.
        folder: The folder within the corpus that holds the files, if there is one.
    """

    def read(corpus_dir: Path) -> list[Utterance]:
        utterances, left_out = [], 0
        for path in named_files(inner_folder(corpus_dir, folder)).values():
            match = re.fullmatch(pattern, path.stem)
            if match is None:
                raise UserError(f"{path}: its name does not parse, expected {expected}")
            if match.groupdict().get("other"):
                left_out += 1
                continue
            gender = "female" if is_female(match["speaker"]) else "male"
            utterances.append(Utterance(path, codes[match["emotion"]], match["speaker"], gender))
        if left_out:
            logger.warning("%s: left out %d files that are songs or the sound of a video", corpus_dir, left_out)
        return utterances

    return Corpus(labels, published, layout, read)


_EMODB_LABELS = ("anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness")
EMODB = _corpus(
    _EMODB_LABELS,
    published=535,
    layout="wav/03a01Wa.wav, …",
    codes=dict(zip("WLEAFNT", _EMODB_LABELS, strict=True)),  # Wut, Langeweile, Ekel, Angst, Freude, neutral, Trauer
    pattern=r"(?P<speaker>03|08|09|1[0-6])[a-z]\d\d(?P<emotion>[WLEAFNT])[a-z]",
    expected="a speaker (03, 08 to 16), a text, an emotion (W, L, E, A, F, N or T) and a version, such as 03a01Wa",
    is_female={"08", "09", "13", "14", "16"}.__contains__,
    folder="wav",
)
"""The Berlin Database of Emotional Speech (Burkhardt et al., Interspeech 2005), German, 10 speakers."""

_RAVDESS_LABELS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
RAVDESS = _corpus(
    _RAVDESS_LABELS,
    published=1440,
    layout="Actor_01/03-01-05-01-01-01-01.wav, …",
    codes={f"{number:02d}": label for number, label in enumerate(_RAVDESS_LABELS, start=1)},
    # Modality (03: audio only), channel (01: speech, 02: song), emotion, intensity, statement, repetition, actor
    pattern=r"(?:03-01|(?P<other>0[1-3]-0[12]))-(?P<emotion>0[1-8])(?:-0[12]){3}-(?P<speaker>0[1-9]|1\d|2[0-4])",
    expected="modality, channel, emotion (01 to 08), intensity, statement, repetition and actor (01 to 24), "
    "such as 03-01-05-01-01-01-12",
    is_female=lambda speaker: int(speaker) % 2 == 0,
)
"""The speech recordings of RAVDESS (Livingstone and Russo, PLoS ONE 2018), English, 24 actors."""

_SHEMO_LABELS = ("anger", "fear", "happiness", "neutral", "sadness", "surprise")
SHEMO = _corpus(
    _SHEMO_LABELS,
    published=3000,
    layout="female/F03S02.wav, male/M32S01.wav, …",
    codes=dict(zip("AFHNSW", _SHEMO_LABELS, strict=True)),
    pattern=r"(?P<speaker>F(?:0[1-9]|[12]\d|3[01])|M(?:0[1-9]|[1-4]\d|5[0-6]))(?P<emotion>[AFHNSW])\d+",
    expected="a speaker (F01 to F31, M01 to M56), an emotion (A, F, H, N, S or W) and a number, such as F03S02",
    is_female=lambda speaker: speaker[0] == "F",
)
"""ShEMO (Mohamad Nezami et al., Language Resources and Evaluation 2019), Persian, 87 speakers."""
