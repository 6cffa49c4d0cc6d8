"""Score a trained model, or the predictions of any other, on labelled recordings: over the classes that both have."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from tqdm.auto import tqdm

from whisper_emotion.audio import SAMPLING_RATE
from whisper_emotion.card_metadata import corpora_of
from whisper_emotion.collator import read_utterance
from whisper_emotion.corpora import utterance_names
from whisper_emotion.corpora.splits import speakers_known
from whisper_emotion.corpora.vocabulary import canonical
from whisper_emotion.errors import UserError, reading
from whisper_emotion.fitting.cross_validation import probability_columns
from whisper_emotion.head_files import find_model
from whisper_emotion.inference import EmotionClassifier

READ_AT_ONCE = 256  # recordings in memory
WRITTEN = (
    'a list of rows with "file" and one number per label, as predict.py writes, or an object that maps each file '
    'name to the list of {"label", "score"} that a pipeline returns'
)


def classify_corpus(
    classifier: EmotionClassifier, corpus: Dataset, adaptation: str = "none"
) -> list[dict[str, float]]:
    """Classify every utterance of a corpus.

    Args:
        classifier: The model.
        corpus: What `load_corpus` returned.
        adaptation: `none`, or what the clips are adapted to without labels: each `speaker`, or each corpus
            (`domain`), by all of its clips.

    Returns:
        A dict a row: label to probability.

    Raises:
        UserError: A recording cannot be read; speakers are not known; or the model cannot adapt.
    """
    if adaptation == "speaker" and not speakers_known(corpus):
        raise UserError("--adaptation speaker: needs known speakers, give --speaker_pattern or a column of them")
    column = {"speaker": "speaker", "domain": "corpus"}.get(adaptation)
    groups = pd.Series([""] * len(corpus) if column is None else corpus[column][:], dtype=object)
    found: list[dict[str, float]] = [{}] * len(corpus)
    own = classifier.model.head.adaptation.domain_mean.clone() if classifier.model.config.adapted else None
    try:
        with tqdm(total=len(corpus), desc="classifying", unit="clip", disable=None) as bar:
            for _, rows in groups.groupby(groups, sort=False).groups.items():
                if column is not None:
                    classifier.adapt(_Recordings(corpus, list(rows)), prior_recordings=0)  # as cross_validate.py
                for part in _parts(list(rows)):
                    for row, named in zip(part, classifier(_Recordings(corpus, part)), strict=True):
                        found[row] = named
                    bar.update(len(part))
    finally:
        classifier.model.adapt(own)
    return found


def trained_on(model: str | None, corpora: str) -> list[str]:
    """Return which corpora were in a model's training, by the `scores.json` beside it.

    Args:
        model: A folder or a Hub name; None for the general model.
        corpora: Names, as `load_corpus` takes them.

    Raises:
        UserError: The file is damaged.
    """
    path = Path(find_model(model)) / "scores.json"
    if not path.is_file():
        return []
    with reading(path, "what train.py wrote"):
        trained = {name for name, _ in corpora_of(json.loads(path.read_text(encoding="utf-8"))["corpus"])}
    return [name for name, _ in corpora_of(corpora) if name in trained]


class _Recordings(Sequence[tuple[np.ndarray, int]]):
    """Utterances as `(array, rate)`, read when they are looked at."""

    def __init__(self, corpus: Dataset, rows: list[int]):
        self._corpus, self._rows = corpus, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: Any) -> Any:
        return read_utterance(self._corpus[self._rows[place]]), SAMPLING_RATE


def _parts(rows: list[int]) -> Iterator[list[int]]:
    return (rows[start : start + READ_AT_ONCE] for start in range(0, len(rows), READ_AT_ONCE))


def read_other(path: Path, corpus: Dataset) -> list[dict[str, float]]:
    """Read the predictions of another model.

    Args:
        path: A JSON file, see `WRITTEN`. Files are found by their names without folders and ending.
        corpus: What `load_corpus` returned.

    Returns:
        As of `classify_corpus`.

    Raises:
        UserError: The file cannot be read, or lacks a recording.
    """
    with reading(path, WRITTEN):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, Mapping):
            named = {name: {one["label"]: float(one["score"]) for one in scores} for name, scores in content.items()}
        else:
            named = {row["file"]: _probabilities(row) for row in content if row.get("label", "") is not None}
    by_stem = {Path(name).stem: scores for name, scores in named.items()}
    names = [Path(name).name for name in utterance_names(corpus)]
    lacking = [name for name in names if name not in by_stem]
    if lacking:
        raise UserError(f"{path}: lacks {lacking[0]} and {len(lacking) - 1} more of {len(names)} recordings")
    return [by_stem[name] for name in names]


def _probabilities(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row, or those under `probabilities`, as predict.py writes them."""
    numbers = row.get("probabilities")
    return {
        name: float(value)
        for name, value in (row if numbers is None else numbers).items()
        if name not in ("start", "end") and isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def tabulate(corpus: Dataset, probabilities: Sequence[Mapping[str, float]]) -> tuple[pd.DataFrame, list[str]]:
    """Restrict predictions to the classes that model and corpus share, and tabulate them.

    Labels of the model count by the vocabulary: `hap` is `happy`. Each clip's probabilities sum to 1 over the shared
    classes that its corpus has; clips of other classes are left out.

    Args:
        corpus: What `load_corpus` returned.
        probabilities: As of `classify_corpus`.

    Returns:
        The table, columns as of `cross_validation.predict`, and the shared classes in the corpus's order.

    Raises:
        UserError: Fewer than two classes are shared.
    """
    labels = corpus.features["label"].names
    words = {word for named in probabilities for word in named}
    spoken = {word: word if word in labels else canonical(word) or word for word in words}
    shared = [label for label in labels if label in spoken.values()]
    if len(shared) < 2:
        raise UserError(
            f"the model knows {', '.join(sorted(spoken.values()))}, the corpus {', '.join(labels)}: expected two or "
            "more classes that both have; --labels_map renames the corpus's"
        )
    matrix = np.zeros((len(corpus), len(shared)))
    for row, named in enumerate(probabilities):
        for word, value in named.items():
            if spoken[word] in shared:
                matrix[row, shared.index(spoken[word])] += value
    table = pd.DataFrame({"name": utterance_names(corpus), "fold": 1, "seed": 0})
    table["label"] = [labels[label] for label in corpus["label"]]
    kept = table["label"].isin(shared).to_numpy()
    corpora = np.asarray(corpus["corpus"][:])
    for name in np.unique(corpora):
        own = corpora == name
        matrix[np.ix_(own, ~np.isin(shared, table["label"][own]))] = 0
    matrix /= np.maximum(matrix.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    table["predicted"] = [shared[index] for index in matrix.argmax(axis=1)]
    table[probability_columns(shared)] = matrix
    return pd.DataFrame(table[kept]).reset_index(drop=True), shared
