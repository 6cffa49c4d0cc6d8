"""Speech emotion corpora as `datasets.Dataset`, read from the folders that their owners publish, or from the Hub.

`load_corpus` gives the columns `audio, label, speaker, gender, session, seconds` for every corpus; `splits` turns them
into folds. A corpus is one `Corpus` record in `CORPORA`; `hub` alone reads no folder.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import Any

from datasets import Dataset

from whisper_emotion.corpora import hub
from whisper_emotion.corpora._utterances import audio_paths, to_dataset
from whisper_emotion.corpora.folder import FOLDER
from whisper_emotion.corpora.iemocap import IEMOCAP
from whisper_emotion.corpora.named import EMODB, RAVDESS, SHEMO
from whisper_emotion.corpora.synthetic import SYNTHETIC
from whisper_emotion.errors import UserError

logger = logging.getLogger(__name__)

CORPORA = {
    "emodb": EMODB,
    "ravdess": RAVDESS,
    "iemocap": IEMOCAP,
    "shemo": SHEMO,
    "synthetic": SYNTHETIC,
    "folder": FOLDER,
}


def load_corpus(name: str, corpus_dir: str | os.PathLike[str] | None = None, **options: Any) -> Dataset:
    """Read a corpus from its folder, or from the Hub.

    Args:
        name: One of `CORPORA`, or `hub:NAMESPACE/NAME`.
        corpus_dir: The corpus's folder; none with `hub:`.
        **options: `classes` (a list or a comma-separated string: keep only these classes, in the corpus's own order),
            and the options of that corpus's `read`: `improvised_only` (iemocap), `speaker_pattern` (folder),
            `speakers`, `utterances`, `seed` (synthetic). An option that is `None` counts as not given.

    Returns:
        `Dataset` sorted by file name, with the columns `audio` (`Audio(decode=False)`: absolute path, no bytes),
        `label` (`ClassLabel`), `speaker`, `gender` (`female`, `male` or `None`), `session` (or `None`) and `seconds`
        (float, from the files' headers); `iemocap` adds `arousal`, `valence` and `dominance` (floats).
        From the Hub it is in the dataset's order, and `audio` may hold bytes.

    Raises:
        UserError: An unknown corpus, option or class; a missing or empty folder; a file whose name does not parse or
            that cannot be read.
    """
    options = {option: value for option, value in options.items() if value is not None}
    classes = options.pop("classes", None)
    corpus = CORPORA.get(name)
    known = ["classes", *(list(inspect.signature(corpus.read).parameters)[1:] if corpus else [])]
    if corpus is None and not name.startswith(hub.PREFIX):
        raise UserError(f"corpus: unknown name '{name}', expected one of {', '.join(CORPORA)} or hub:NAMESPACE/NAME")
    for option in options:
        if option not in known:
            raise UserError(f"{option}: not an option of corpus {name}, which takes {', '.join(known)}")
    if corpus is None:
        if corpus_dir is not None:
            raise UserError(f"corpus_dir: {name} comes from the Hub, leave {corpus_dir} out")
        return hub.load(name, lambda labels, spoken: _chosen_classes(classes, labels, Counter(spoken)))
    if corpus_dir is None:
        raise UserError(f"corpus_dir: is missing, expected the folder of {name}")
    utterances = corpus.read(Path(corpus_dir), **options)
    if not utterances:
        raise UserError(f"{corpus_dir}: holds no recordings as --corpus {name} has them, expected {corpus.layout}")
    if corpus.published is not None and not options and len(utterances) != corpus.published:
        logger.warning("%s: %d of the %d published utterances", corpus_dir, len(utterances), corpus.published)
    labels = corpus.labels or sorted({utterance.label for utterance in utterances})
    kept = _chosen_classes(classes, labels, Counter(utterance.label for utterance in utterances))
    return to_dataset((utterance for utterance in utterances if utterance.label in kept), kept)


def utterance_names(dataset: Dataset) -> list[str]:
    """A name for every row: the file's stem, or its path below the rows' common folder where stems collide.

    Recordings that are bytes and no files may have colliding names, or none: their rows' numbers stand before them.

    Args:
        dataset: What `load_corpus` returned, or a selection of its rows.

    Returns:
        One unique name a row; paths have forward slashes and no ending.
    """
    paths = [PurePath(path or "") for path, _ in audio_paths(dataset)]
    names = [path.stem for path in paths]
    if len(set(names)) < len(names) and all(path.is_absolute() for path in paths):
        common = os.path.commonpath([path.parent for path in paths])
        names = [path.relative_to(common).with_suffix("").as_posix() for path in paths]
    if len(set(names)) < len(names) or not all(names):
        digits = len(str(len(names)))
        names = [f"{row:0{digits}d}_{name}".rstrip("_") for row, name in enumerate(names)]
    return names


def _chosen_classes(classes: str | Iterable[str] | None, labels: Sequence[str], counts: Counter[str]) -> list[str]:
    """The classes to keep, in the corpus's order."""
    kept = list(labels)
    if classes is not None:
        if not isinstance(classes, Iterable):
            raise UserError(f"classes: {classes} is no list of names, expected some of {', '.join(labels)}")
        names = classes.split(",") if isinstance(classes, str) else classes
        chosen = {str(name).strip() for name in names} - {""}
        for name in sorted(chosen):
            if name not in labels:
                raise UserError(f"classes: unknown class '{name}', expected some of {', '.join(labels)}")
            if not counts[name]:
                raise UserError(f"classes: no recording of class '{name}' is there, found {', '.join(sorted(counts))}")
        kept = [label for label in labels if label in chosen]
    if len(kept) < 2:
        raise UserError(f"classes: {', '.join(kept) or 'none'} alone, expected two or more of {', '.join(labels)}")
    return kept
