"""Accuracy by gender, speaker, language and corpus."""

import math
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset

from whisper_emotion.corpora import utterance_names
from whisper_emotion.corpora.records import corpus_record
from whisper_emotion.corpora.splits import speakers_known
from whisper_emotion.scoring import RESAMPLES, interval

NOT_KNOWN = "not known"


def measure_fairness(predictions: pd.DataFrame, labels: list[str], corpus: Dataset) -> dict[str, Any]:
    """Score the clips of each group separately, over the classes in the group.

    Args:
        predictions: Output of `tabulate`.
        labels: The classes.
        corpus: Output of `load_corpus`.

    Returns:
        Unweighted accuracies as fractions, under these keys.

        - `gender`: for each gender `unweighted_accuracy`, its 95 % `interval`, `clips`, and `speakers` (None if
          unknown).
        - `gender_difference`: `[value, low, high]`, female minus male; None unless both are known.
        - `speakers`: `speakers`, `mean`, `worst_decile` (mean of the worst tenth), `worst` and `worst_speaker`; None
          if unknown.
        - `languages`, `corpora`: as `gender`; empty unless there are several.

        Intervals resample speakers with replacement, or clips in groups with fewer than two known speakers.
    """
    facts = pd.DataFrame({name: corpus[name][:] for name in ("gender", "speaker", "corpus")})
    facts.index = pd.Index(utterance_names(corpus))
    facts["gender"] = facts["gender"].fillna(NOT_KNOWN)
    facts["language"] = [corpus_record(name).language or NOT_KNOWN for name in facts["corpus"]]
    facts["speaker"] = facts["corpus"] + " " + facts["speaker"]
    table = predictions[["name", "label", "predicted"]].join(facts, on="name")
    known = speakers_known(corpus)
    genders = {name: _draws(own, labels, known) for name, own in table.groupby("gender") if name != NOT_KNOWN}
    difference = None
    if len(genders) == 2:
        female, male = genders["female"], genders["male"]
        male[1:] = np.roll(male[1:], 1)  # groups of equal size share their draws; a shift makes them independent
        difference = list(interval(female - male))
    return {
        "gender": _groups(table, "gender", labels, known),
        "gender_difference": difference,
        "speakers": _speakers(table) if known else None,
        "languages": _several(table, "language", labels, known),
        "corpora": _several(table, "corpus", labels, known),
    }


def _groups(table: pd.DataFrame, column: str, labels: list[str], known: bool) -> dict[str, dict[str, Any]]:
    """Score each group."""
    found = {}
    for name, own in table.groupby(column):
        value, low, high = interval(_draws(own, labels, known))
        speakers = own["speaker"].nunique() if known else None
        found[str(name)] = {"unweighted_accuracy": value, "interval": [low, high]}
        found[str(name)] |= {"clips": len(own), "speakers": speakers}
    return found


def _several(table: pd.DataFrame, column: str, labels: list[str], known: bool) -> dict[str, dict[str, Any]]:
    """Score each group if there are two or more."""
    groups = _groups(table, column, labels, known)
    return groups if len(groups) > 1 else {}


def _speakers(table: pd.DataFrame) -> dict[str, Any]:
    """Summarise the mean recall per speaker, over the classes of the speaker."""
    right = table["label"] == table["predicted"]
    recalls = right.groupby([table["speaker"], table["label"]]).mean()
    accuracies = recalls.groupby(level=0).mean().sort_values(kind="stable")
    return {
        "speakers": len(accuracies),
        "mean": float(accuracies.mean()),
        "worst_decile": float(accuracies.iloc[: math.ceil(len(accuracies) / 10)].mean()),
        "worst": float(accuracies.iloc[0]),
        "worst_speaker": str(accuracies.index[0]),
    }


def _draws(table: pd.DataFrame, labels: list[str], known: bool) -> np.ndarray:
    """Return the unweighted accuracy `(1 + RESAMPLES,)`: of all clips, then of resampled speakers or clips."""
    units = "speaker" if known and len(set(table["speaker"])) > 1 else "name"
    places, names = pd.factorize(table[units])
    classes, predicted = (pd.Index(labels).get_indexer(table[name]) for name in ("label", "predicted"))
    clips, hits = np.zeros((2, len(names), len(labels)))
    np.add.at(clips, (places, classes), 1)
    np.add.at(hits, (places, classes), classes == predicted)
    draw, shares = np.random.default_rng(0), np.full(len(names), 1 / len(names))
    recalls = np.full((1 + RESAMPLES, len(labels)), np.nan)
    for row in range(1 + RESAMPLES):
        counts = draw.multinomial(len(names), shares) if row else np.ones(len(names))
        np.divide(counts @ hits, support := counts @ clips, out=recalls[row], where=support > 0)
    return np.nanmean(recalls, axis=1)  # a resample may lack a class
