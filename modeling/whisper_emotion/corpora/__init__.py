"""Speech emotion corpora as `datasets.Dataset`, read from the folders that their owners publish.

`load_corpus` gives the columns `audio, label, speaker, gender, session, seconds` for every corpus; `splits` turns them
into folds. A corpus is one module with `LABELS` (`None` where the folder decides), `PUBLISHED` (how many utterances
its owners publish, `None` where that has no meaning), `LAYOUT` (what its files look like, for messages) and
`read(corpus_dir, **options)`.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath
from typing import Any

from datasets import Dataset

from whisper_emotion.corpora import emodb, folder, iemocap, ravdess, shemo, synthetic
from whisper_emotion.corpora._utterances import Utterance, to_dataset
from whisper_emotion.errors import UserError

logger = logging.getLogger(__name__)

CORPORA = {
    "emodb": emodb,
    "ravdess": ravdess,
    "iemocap": iemocap,
    "shemo": shemo,
    "synthetic": synthetic,
    "folder": folder,
}


def load_corpus(name: str, corpus_dir: str | os.PathLike[str], **options: Any) -> Dataset:
    """Read a corpus from its folder.

    Args:
        name: One of `CORPORA`.
        corpus_dir: The corpus's folder.
        **options: `classes` (a list or a comma-separated string: keep only these classes, in the corpus's own order),
            and the options of that corpus's `read`: `improvised_only` (iemocap), `speaker_pattern` (folder),
            `speakers`, `utterances`, `seed` (synthetic). An option that is `None` counts as not given.

    Returns:
        `Dataset` sorted by file name, with the columns `audio` (`Audio(decode=False)`: absolute path, no bytes),
        `label` (`ClassLabel`), `speaker`, `gender` (`female`, `male` or `None`), `session` (or `None`) and `seconds`
        (float, from the files' headers).

    Raises:
        UserError: An unknown corpus, option or class; a missing or empty folder; a file whose name does not parse or
            that cannot be read.
    """
    if name not in CORPORA:
        raise UserError(f"corpus: unknown name {name!r}, expected one of {', '.join(CORPORA)}")
    corpus = CORPORA[name]
    options = {option: value for option, value in options.items() if value is not None}
    classes = options.pop("classes", None)
    _check_options(name, corpus.read, options)
    utterances = corpus.read(Path(corpus_dir), **options)
    if not utterances:
        raise UserError(f"{corpus_dir}: holds no {name} recordings, expected {corpus.LAYOUT}")
    _check_unique(utterances)
    if corpus.PUBLISHED is not None and not options and len(utterances) != corpus.PUBLISHED:
        logger.warning("%s: %d of the %d published utterances", corpus_dir, len(utterances), corpus.PUBLISHED)
    labels = corpus.LABELS or sorted({utterance.label for utterance in utterances})
    kept = _chosen_classes(classes, labels, Counter(utterance.label for utterance in utterances))
    return to_dataset((utterance for utterance in utterances if utterance.label in kept), kept)


def utterance_names(dataset: Dataset) -> list[str]:
    """A name for every row: the file's stem, or its path below the rows' common folder where stems collide.

    Args:
        dataset: What `load_corpus` returned, or a selection of its rows.

    Returns:
        One unique name a row; paths have forward slashes and no ending.
    """
    paths = [PurePath(audio["path"]) for audio in dataset["audio"][:]]
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    common = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(common).with_suffix("").as_posix() for path in paths]


def _check_options(name: str, read: Callable[..., Sequence[Utterance]], options: Iterable[str]) -> None:
    """Raise unless the corpus takes all these options."""
    known = ["classes", *list(inspect.signature(read).parameters)[1:]]
    for option in options:
        if option not in known:
            raise UserError(f"{option}: not an option of corpus {name}, which takes {', '.join(known)}")


def _check_unique(utterances: Iterable[Utterance]) -> None:
    """Raise where one recording is there twice (as `.wav` and `.flac`): a copy in both parts of a fold leaks."""
    seen: dict[PurePath, Path] = {}
    for utterance in utterances:
        path = utterance.path
        other = seen.setdefault(path.with_suffix(""), path)
        if other != path:
            raise UserError(f"{path}: the same recording as {other.name} beside it, remove one of the two")


def _chosen_classes(classes: str | Iterable[str] | None, labels: Sequence[str], counts: Counter[str]) -> list[str]:
    """The classes to keep, in the corpus's order."""
    if classes is None:
        chosen = set(labels)
    else:
        names = classes.split(",") if isinstance(classes, str) else list(classes)
        chosen = {str(name).strip() for name in names} - {""}
        for name in sorted(chosen):
            if name not in labels:
                raise UserError(f"classes: unknown class {name!r}, expected some of {', '.join(labels)}")
            if not counts[name]:
                raise UserError(f"classes: no recording of class {name!r} is there, found {', '.join(sorted(counts))}")
    kept = [label for label in labels if label in chosen]
    if len(kept) < 2:
        raise UserError(f"classes: {', '.join(kept) or 'none'} alone, expected two or more of {', '.join(labels)}")
    return kept
