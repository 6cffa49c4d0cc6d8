"""Read IEMOCAP (Busso et al., Language Resources and Evaluation 2008) from its label files.

The rows also have the annotators' mean ratings from 1 to 5: `arousal`, `valence` and `dominance`. The owners call
arousal activation.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from whisper_emotion.corpora._utterances import audio_files, inner_folder, require_folder
from whisper_emotion.corpora.frames import frame_of_rows
from whisper_emotion.corpora.record import Corpus
from whisper_emotion.errors import UserError

GENDERS = {"F": "female", "M": "male"}

RATING = r"(\d+(?:\.\d+)?)"
LABEL_LINE = re.compile(rf"\[\d+\.\d+ - \d+\.\d+\]\t(\S+)\t(\S+)\t\[{RATING}, *{RATING}, *{RATING}\]\s*")
LABEL_EXPECTED = "[start - end]<TAB>name<TAB>emotion<TAB>[valence, activation, dominance]"
NAME = re.compile(r"(Ses0[1-5])[FM]_(impro|script)\w+_([FM])\d{3}")


def read(corpus_dir: Path, record: Corpus, *, improvised_only: bool = False) -> pd.DataFrame:
    """Read IEMOCAP's folder, or the parent of `IEMOCAP_full_release`.

    Args:
        corpus_dir: The folder that holds `Session1` to `Session5`.
        record: IEMOCAP's record.
        improvised_only: Leave out the scripted dialogues (2,943 utterances of the usual four classes remain).

    Returns:
        One row per utterance, sorted by name, see `frames.utterance_frame`.

        A speaker is the session and the letter before the last number. The speaker of `Ses01F_impro01_M003` is
        `Ses01M`: the first letter names the actor with the motion-capture markers.

    Raises:
        UserError: A folder is missing, a label file does not parse, or a labelled utterance has no audio.
    """
    require_folder(corpus_dir)
    rows = []
    root = inner_folder(corpus_dir, "IEMOCAP_full_release")
    for session in sorted(path for path in root.glob("Session[1-5]") if path.is_dir()):
        recordings = _by_name(session / "sentences" / "wav")
        folder = session / "dialog" / "EmoEvaluation"
        require_folder(folder)
        sheets = sorted(path for path in folder.glob("Ses*.txt") if path.is_file())
        if not sheets:
            raise UserError(f"{folder}: holds no label file, expected Ses0*.txt")
        for sheet in sheets:
            for name, code, ratings in _labels(sheet):
                match = NAME.fullmatch(name)
                if match is None:
                    raise UserError(f"{sheet}: utterance {name!r} is unknown, expected Ses01F_impro01_M003 or similar")
                if code not in record.emotions:
                    raise UserError(f"{sheet}: emotion {code!r} is unknown, expected {', '.join(record.emotions)}")
                if not record.emotions[code] or (improvised_only and match[2] != "impro"):
                    continue
                if name not in recordings:
                    raise UserError(f"{session / 'sentences' / 'wav'}: has no {name}.wav, which {sheet.name} labels")
                who = {"speaker": match[1] + match[3], "gender": GENDERS[match[3]], "session": match[1]}
                rows.append({"path": str(recordings[name]), "label": record.emotions[code], **who, **ratings})
    return frame_of_rows(sorted(rows, key=lambda row: Path(row["path"]).stem))


def _by_name(folder: Path) -> dict[str, Path]:
    """Return the recordings of a session by name; raise for duplicates."""
    named: dict[str, Path] = {}
    for path in audio_files(folder):
        if (other := named.setdefault(path.stem, path)) != path:
            raise UserError(f"{path}: has the same name as {other}, expected each recording once")
    return named


def _labels(sheet: Path) -> list[tuple[str, str, dict[str, float]]]:
    """Read names, emotion codes and ratings from a label file, without the lines of single annotators."""
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
