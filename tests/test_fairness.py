"""Accuracy by group, computed by hand on a table of ten clips."""

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from whisper_emotion.corpora import utterance_names
from whisper_emotion.fairness import measure_fairness

LABELS = ["angry", "sad"]
# Speaker, gender, corpus, label, prediction
CLIPS = [
    ("A", "female", "emodb", "angry", "angry"),
    ("A", "female", "emodb", "angry", "sad"),
    ("A", "female", "emodb", "sad", "sad"),
    ("B", "female", "emodb", "sad", "sad"),
    ("B", "female", "emodb", "angry", "angry"),
    ("C", "male", "tess", "angry", "sad"),
    ("C", "male", "tess", "sad", "sad"),
    ("D", "male", "tess", "sad", "sad"),
    ("E", None, "tess", "sad", "angry"),
    ("E", None, "tess", "sad", "sad"),
]


def measured(rows):
    speakers, genders, corpora, labels, predicted = zip(*rows, strict=True)
    kinds = {"audio": {"path": Value("string"), "bytes": Value("binary")}, "label": ClassLabel(names=LABELS)}
    kinds |= dict.fromkeys(("speaker", "gender", "corpus"), Value("string"))
    columns = {
        "audio": [{"path": f"/x/{number}.wav", "bytes": None} for number in range(len(rows))],
        "label": [LABELS.index(label) for label in labels],
        "speaker": speakers, "gender": genders, "corpus": corpora,
    }  # fmt: skip
    corpus = Dataset.from_dict(columns, features=Features(kinds))
    table = pd.DataFrame({"name": utterance_names(corpus), "label": labels, "predicted": predicted})
    return measure_fairness(table, LABELS, corpus)


def test_genders_are_scored_by_themselves():
    found = measured(CLIPS)
    accuracies = {name: own["unweighted_accuracy"] for name, own in found["gender"].items()}
    # female: angry 2 of 3, sad 2 of 2; male: angry 0 of 1, sad 2 of 2; not known: sad 1 of 2
    assert accuracies == pytest.approx({"female": 5 / 6, "male": 1 / 2, "not known": 1 / 2})
    assert [(own["clips"], own["speakers"]) for own in found["gender"].values()] == [(5, 2), (3, 2), (2, 1)]
    value, low, high = found["gender_difference"]
    assert value == pytest.approx(5 / 6 - 1 / 2) and low <= value <= high


def test_interval_draws_speakers():
    # Both speakers A: angry 1 of 2, sad 1 of 1; both B: all right; one of each: 5 / 6
    assert measured(CLIPS)["gender"]["female"]["interval"] == pytest.approx([0.75, 1])


def test_speakers_are_scored_over_the_classes_they_have():
    # A 3/4, B 1, C 1/2, D 1 of sad alone, E 1/2
    speakers = measured(CLIPS)["speakers"]
    assert speakers["speakers"] == 5 and speakers["worst_speaker"] == "tess C"
    assert [speakers[name] for name in ("mean", "worst_decile", "worst")] == pytest.approx([0.75, 0.5, 0.5])
    many = [(f"{number:02d}", "male", "emodb", "sad", "angry" if number < 2 else "sad") for number in range(20)]
    many[1] = (*many[1][:4], "sad")
    assert measured(many)["speakers"]["worst_decile"] == pytest.approx(0.5)  # the worst two of twenty: 0 and 1


def test_corpora_and_languages_are_scored_where_there_are_several():
    found = measured(CLIPS)
    assert list(found["corpora"]) == ["emodb", "tess"] and list(found["languages"]) == ["de", "en"]
    assert found["corpora"]["tess"]["unweighted_accuracy"] == pytest.approx((0 + 3 / 4) / 2)
    alone = measured(CLIPS[:5])
    assert alone["corpora"] == alone["languages"] == {} and alone["gender_difference"] is None


def test_unknown_speakers_are_not_scored():
    rows = [(f"/x/{number}.wav", *clip[1:]) for number, clip in enumerate(CLIPS)]
    found = measured(rows)
    assert found["speakers"] is None and found["gender"]["male"]["speakers"] is None
    assert not np.isnan(found["gender_difference"]).any()
