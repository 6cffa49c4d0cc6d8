"""IEMOCAP (Busso et al., Language Resources and Evaluation 2008), four emotions as usual: 5,531 English utterances.

Its rows also have the three dimensions that the annotators rated, as means from 1 to 5: `arousal`, `valence` and
`dominance`. The owners call arousal activation.
"""

from __future__ import annotations

import re
from pathlib import Path

from whisper_emotion.corpora._utterances import Corpus, Utterance, inner_folder, named_files, require_folder
from whisper_emotion.errors import UserError

# Excited joins happy; frustration, surprise, fear, disgust, other and "xxx" (no majority) are left out.
EMOTIONS = {"ang": "angry", "hap": "happy", "exc": "happy", "neu": "neutral", "sad": "sad"}
GENDERS = {"F": "female", "M": "male"}

RATING = r"(\d+(?:\.\d+)?)"
LABEL_LINE = re.compile(rf"\[\d+\.\d+ - \d+\.\d+\]\t(\S+)\t(\S+)\t\[{RATING}, *{RATING}, *{RATING}\]\s*")
LABEL_EXPECTED = "[start - end]<TAB>name<TAB>emotion<TAB>[valence, activation, dominance]"
NAME = re.compile(r"(Ses0[1-5])[FM]_(impro|script)\w+_([FM])\d{3}")


def read(corpus_dir: Path, *, improvised_only: bool = False) -> list[Utterance]:
    """Read IEMOCAP's folder, or the one that holds `IEMOCAP_full_release`.

    Args:
        corpus_dir: The folder that holds `Session1` to `Session5`.
        improvised_only: Leave out the scripted dialogues (2,943 utterances remain).

    Returns:
        The utterances, sorted by name, each with its `ratings`.
        A speaker is the session and the letter before the last number: who spoke
        `Ses01F_impro01_M003` is `Ses01M`, since the first letter only says who wore the motion-capture markers.

    Raises:
        UserError: A missing folder, a label file that does not parse, or a labelled utterance without audio.
    """
    require_folder(corpus_dir)
    utterances = []
    root = inner_folder(corpus_dir, "IEMOCAP_full_release")
    for session in sorted(path for path in root.glob("Session[1-5]") if path.is_dir()):
        recordings = named_files(session / "sentences" / "wav")
        folder = session / "dialog" / "EmoEvaluation"
        require_folder(folder)
        sheets = sorted(path for path in folder.glob("Ses*.txt") if path.is_file())
        if not sheets:
            raise UserError(f"{folder}: holds no label file, expected Ses0*.txt")
        for sheet in sheets:
            for name, code, ratings in _labels(sheet):
                match = NAME.fullmatch(name)
                if match is None:
                    raise UserError(f"{sheet}: utterance {name!r} is unknown, expected such as Ses01F_impro01_M003")
                if code not in EMOTIONS or (improvised_only and match[2] != "impro"):
                    continue
                if name not in recordings:
                    raise UserError(f"{session / 'sentences' / 'wav'}: has no {name}.wav, which {sheet.name} labels")
                speaker = match[1] + match[3]
                utterances.append(
                    Utterance(recordings[name], EMOTIONS[code], speaker, GENDERS[match[3]], match[1], ratings)
                )
    return sorted(utterances, key=lambda utterance: utterance.path.stem)


def _labels(sheet: Path) -> list[tuple[str, str, dict[str, float]]]:
    """Names, emotion codes and ratings of the utterances in a label file, without the single annotators' lines."""
    try:
        text = sheet.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{sheet}: cannot be read as text, expected IEMOCAP's label lines") from error
    found = []
    for line in text.splitlines():
        if line.startswith("["):
            match = LABEL_LINE.fullmatch(line)
            if match is None:
                raise UserError(f"{sheet}: line {line.strip()!r} does not parse, expected {LABEL_EXPECTED}")
            valence, arousal, dominance = map(float, match.groups()[2:])
            found.append((match[1], match[2], {"arousal": arousal, "valence": valence, "dominance": dominance}))
    if not found:
        raise UserError(f"{sheet}: holds no label line, expected {LABEL_EXPECTED}")
    return found


IEMOCAP = Corpus(
    ("angry", "happy", "neutral", "sad"),
    published=5531,
    layout="Session1/dialog/EmoEvaluation/Ses01F_impro01.txt and Session1/sentences/wav/Ses01F_impro01/*.wav, …",
    read=read,
)
"""Four classes of IEMOCAP, 10 speakers in 5 sessions."""
