"""EMO-DB, the Berlin Database of Emotional Speech (Burkhardt et al., Interspeech 2005): 535 German utterances."""

from __future__ import annotations

import re
from pathlib import Path

from whisper_emotion.corpora._utterances import Utterance, inner_folder, named_files, parse_name

LABELS = ("anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness")
PUBLISHED = 535
LAYOUT = "wav/03a01Wa.wav, …"

# The letters are those of the German words: Wut, Langeweile, Ekel, Angst, Freude, neutral, Trauer.
EMOTIONS = dict(zip("WLEAFNT", LABELS, strict=True))
FEMALE = {"08", "09", "13", "14", "16"}
MALE = {"03", "10", "11", "12", "15"}

NAME = re.compile(rf"({'|'.join(sorted(FEMALE | MALE))})([a-z]\d\d)([{''.join(EMOTIONS)}])([a-z])")
EXPECTED = "a speaker (03, 08 to 16), a text, an emotion (W, L, E, A, F, N or T) and a version, such as 03a01Wa"


def read(corpus_dir: Path) -> list[Utterance]:
    """Read EMO-DB's folder, or its `wav` folder itself.

    Args:
        corpus_dir: The folder.

    Returns:
        The utterances, sorted by name: 10 speakers (`03` to `16`, five female), 7 emotions.

    Raises:
        UserError: A missing folder, or a name that does not parse.
    """
    utterances = []
    for path in named_files(inner_folder(corpus_dir, "wav")).values():
        speaker, _, emotion, _ = parse_name(NAME, path, EXPECTED).groups()
        gender = "female" if speaker in FEMALE else "male"
        utterances.append(Utterance(path, EMOTIONS[emotion], speaker, gender))
    return utterances
