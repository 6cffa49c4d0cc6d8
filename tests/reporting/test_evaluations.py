"""Tables and pictures of robustness and fairness, and their means over corpora."""

import json

import pytest
from matplotlib.image import imread

from whisper_emotion.errors import UserError
from whisper_emotion.reporting.evaluations import (
    describe_fairness,
    describe_robustness,
    fairness_table,
    plot_robustness,
    read_evaluations,
    robustness_table,
)


def figures(accuracy, loss, low=0.0, high=0.0):
    return {
        "unweighted_accuracy": accuracy, "loss": loss, "interval": [low, high], "ece": 0.1, "mean_confidence": 0.6,
    }  # fmt: skip


def group(accuracy):
    return {"unweighted_accuracy": accuracy, "interval": [accuracy, accuracy], "clips": 10, "speakers": 2}


def evaluation(corpus="emodb", lost=0.2):
    return {
        "corpus": corpus,
        "model": "mine",
        "adaptation": "domain",
        "robustness": {"clean": figures(0.8, 0.0), "noise": figures(0.8 - lost, lost, 0.1, 0.3)},
        "robustness_clips": 1500,
        "fairness": {
            "gender": {"female": group(0.8), "male": group(0.7)},
            "gender_difference": [0.1, -0.02, 0.2],
            "speakers": {"speakers": 4, "mean": 0.75, "worst_decile": 0.6, "worst": 0.6, "worst_speaker": "emodb 03"},
            "languages": {},
            "corpora": {},
        },
    }


def test_tables_of_one_corpus_have_intervals():
    assert robustness_table([evaluation()]).splitlines() == [
        "| condition | UA | loss (95 % interval) | confidence | ECE |",
        "| --- | --- | --- | --- | --- |",
        "| clean | 80.0 |  | 60.0 | 10.0 |",
        "| noise | 60.0 | 20.0 (10.0 to 30.0) | 60.0 | 10.0 |",
    ]
    (row,) = fairness_table([evaluation()]).splitlines()[2:]
    assert row == "| EMO-DB | 80.0 | 70.0 | 10.0 (-2.0 to 20.0) | 4 | 75.0 | 60.0 | 60.0 |"


def test_losses_of_several_corpora_are_averaged():
    table = robustness_table([evaluation(), evaluation("tess", -0.1)])
    assert "| noise | 75.0 | 5.0 (20.0) | 60.0 | 10.0 |" in table and "loss (largest of a corpus)" in table


def test_nothing_measured_gives_no_table():
    assert robustness_table([]) is None and fairness_table([{"corpus": "emodb"}]) is None


def test_finding_comes_first(tmp_path):
    text = describe_robustness(evaluation())
    assert text.startswith("0 of 1 conditions lose at most 5 points of UA. The largest loss is 20.0 points (10.0 to")
    assert "1,500 clips" in text and "clean clips: UA 80.0 %" in text
    plot_robustness(evaluation(), tmp_path / "x.png")
    assert imread(tmp_path / "x.png").shape[1] > 600


def test_fairness_says_what_it_cannot_compare():
    scores = evaluation()
    scores["fairness"] |= {"gender": {"not known": group(0.5)}, "gender_difference": None, "speakers": None}
    lines = describe_fairness(scores).splitlines()
    assert lines[2] == "| EMO-DB | – | – | – | – | – | – | – |"
    assert lines[3:] == ["gender: only one group (not known), nothing to compare", "speakers: not known"]
    scores["fairness"]["languages"] = {"de": group(0.9), "en": group(0.4)}
    assert describe_fairness(scores).endswith(
        "languages, UA in percent: en 40.0 (40.0 to 40.0), de 90.0 (90.0 to 90.0)"
    )


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "holds no scores.json, expected the output of evaluate.py"),
        ("{}", "has nothing for a card, run evaluate.py with --robustness or --fairness"),
        ('{"robustness": {"clean": {}}}', "KeyError: 'unweighted_accuracy'; expected a file of evaluate.py"),
    ],
)
def test_folders_without_evaluations_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "scores.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_evaluations(str(tmp_path))


def test_evaluations_of_several_folders_are_read(tmp_path):
    for name, scores in {"a": evaluation(), "b": evaluation("tess")}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "scores.json").write_text(json.dumps(scores))
    folders = f"{tmp_path / 'a'},{tmp_path / 'b'}"
    assert [scores["corpus"] for scores in read_evaluations(folders)] == ["emodb", "tess"]
    other = evaluation("tess")
    other["robustness"]["more"] = figures(0.1, 0.1)
    (tmp_path / "b" / "scores.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="have different conditions"):
        read_evaluations(folders)
