"""Scores of a trained model, or of other predictions, on labelled recordings."""

import json
import runpy

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPOSITORY, run_script
from datasets import ClassLabel, Dataset, Features, Value

from whisper_emotion.configuration_whisper_emotion import WhisperEmotionConfig
from whisper_emotion.corpora import load_corpus, utterance_names
from whisper_emotion.errors import UserError
from whisper_emotion.evaluation import calibrate, classify_corpus, read_other, tabulate, trained_on
from whisper_emotion.inference import EmotionClassifier
from whisper_emotion.modeling_whisper_emotion import WhisperForEmotionClassification


def test_evaluate_scores_a_model_over_the_shared_classes(trained_dir, synthetic_dir, tmp_path):
    done = run_script(
        "evaluate.py", "--model", trained_dir, "--corpus", "synthetic", "--corpus_dir", synthetic_dir,
        "--classes", "angry,sad", "--output_dir", tmp_path / "o",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "o" / "scores.json").read_text())
    table = pd.read_csv(tmp_path / "o" / "predictions.csv")
    assert scores["labels"] == ["angry", "sad"] and len(table) == 24
    assert scores["in_training"] == ["synthetic"]
    assert "synthetic was in the model's training: this is not a test on new speech" in done.stdout
    right = table["label"] == table["predicted"]
    assert scores["pooled"]["unweighted_accuracy"] == pytest.approx(right.groupby(table["label"]).mean().mean())
    corpus = load_corpus("synthetic", synthetic_dir, classes="angry,sad")
    alone = EmotionClassifier(trained_dir)([audio["path"] for audio in corpus["audio"]])
    expected = [named["angry"] / (named["angry"] + named["sad"]) for named in alone]
    found = table.set_index("name")["p_angry"][utterance_names(corpus)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (tmp_path / "o" / "confusion_matrix.png").exists()
    assert "UA " in done.stdout and "24 clips, 2 classes" in done.stdout


def test_corpora_of_the_training_are_found(trained_dir, model_dir, tmp_path):
    assert trained_on(str(trained_dir), "emodb,synthetic") == ["synthetic"]
    assert trained_on(None, "emovo,cremad") == ["emovo"]
    assert trained_on(str(model_dir), "synthetic") == trained_on("me/model", "synthetic") == []
    (tmp_path / "scores.json").write_text("{}")
    with pytest.raises(UserError, match="scores.json: KeyError: 'corpus'; expected a file of train.py"):
        trained_on(str(tmp_path), "emodb")


def test_left_out_corpus_is_not_of_the_training(tmp_path):
    record = {"corpus": "emodb,tess,nemo", "folds": "loco", "corpora": {"tess": {}}}
    (tmp_path / "scores.json").write_text(json.dumps(record))
    assert trained_on(str(tmp_path), "tess,nemo") == ["nemo"]


def linear_classifier(trained_dir, tiny_encoder):
    """A classifier whose head is linear on the mean of two layers' frames."""
    classifier = EmotionClassifier(trained_dir)
    torch.manual_seed(0)
    model = WhisperForEmotionClassification.from_pretrained(
        tiny_encoder, concatenated_layers=[1, 2], pooling="mean", classifier_proj_size=0, num_labels=4,
        encoder_context="utterance", id2label=classifier.model.config.id2label,
    )  # fmt: skip
    torch.nn.init.normal_(model.head.classifier.weight)
    model.head.adaptation.population_mean.normal_()
    classifier.model = model.eval().to(classifier.model.device)
    return classifier


@pytest.mark.parametrize("linear, encodings", [(True, 1), (False, 2)])
def test_adaptation_takes_the_mean_of_each_group_of_clips(
    trained_dir, tiny_encoder, synthetic_dir, monkeypatch, linear, encodings
):
    classifier = linear_classifier(trained_dir, tiny_encoder) if linear else EmotionClassifier(trained_dir)
    corpus, encoded = load_corpus("synthetic", synthetic_dir), []
    paths = np.array([audio["path"] for audio in corpus["audio"]])
    alone = classifier(paths.tolist())
    forward = classifier.model.encoder.forward
    with monkeypatch.context() as patch:
        patch.setattr(
            classifier.model.encoder,
            "forward",
            lambda **inputs: encoded.append(len(inputs["input_features"])) or forward(**inputs),
        )
        by_speaker = classify_corpus(classifier, corpus, "speaker")
    assert sum(encoded) == encodings * len(corpus)
    for named, expected in zip(by_speaker.unadapted, alone, strict=True):
        assert named == pytest.approx(expected, abs=1e-5)
    own = np.array(corpus["speaker"][:]) == "S02M"
    classifier.adapt(paths[own].tolist(), prior_recordings=0)
    for named, expected in zip(np.array(by_speaker.found)[own], classifier(paths[own].tolist()), strict=True):
        assert named == pytest.approx(expected, abs=1e-5)
    classifier.adapt(paths.tolist(), prior_recordings=0)
    (first,) = classifier(paths[0])
    classifier.adapt([])
    assert classify_corpus(classifier, corpus, "domain").found[0] == pytest.approx(first, abs=1e-5)


def test_own_adaptation_of_a_model_stays(trained_dir, synthetic_dir):
    corpus, classifier = load_corpus("synthetic", synthetic_dir), EmotionClassifier(trained_dir)
    domain = classifier.model.head.adaptation.population_mean + 1.0
    classifier.model.adapt(domain)
    adapted = classifier(corpus["audio"][0])[0]
    assert classify_corpus(classifier, corpus).found[0] == pytest.approx(adapted, abs=1e-6)  # evaluated as it is
    classify_corpus(classifier, corpus, "speaker")
    assert classifier.model.config.adapted and torch.equal(classifier.model.head.adaptation.domain_mean, domain)
    broken = corpus.select(range(2)).map(lambda _: {"audio": {"path": "absent.wav", "bytes": None}})
    with pytest.raises(UserError):
        classify_corpus(classifier, broken, "speaker")
    classifier.model.head.adaptation.population_mean.zero_()
    with pytest.raises(UserError, match="--adaptation domain: the model has no mean of its training speakers"):
        classify_corpus(classifier, corpus, "domain")


def test_evaluate_measures_robustness_and_fairness(trained_dir, synthetic_dir, tmp_path, monkeypatch, capsys):
    options = [
        "--model", trained_dir, "--corpus", "synthetic", "--corpus_dir", synthetic_dir, "--adaptation", "speaker",
        "--robustness", "--robustness_clips", 8, "--fairness", "--output_dir", tmp_path / "o",
    ]  # fmt: skip
    script = REPOSITORY / "scripts" / "evaluate.py"
    monkeypatch.setattr("sys.argv", [str(script), *map(str, options)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert not ended.value.code
    scores, printed = json.loads((tmp_path / "o" / "scores.json").read_text()), capsys.readouterr().out
    table = pd.read_csv(tmp_path / "o" / "predictions.csv")
    right = table["label"] == table["unadapted_predicted"]
    expected = right.groupby(table["label"]).mean().mean()
    assert scores["unadapted"]["pooled"]["unweighted_accuracy"] == pytest.approx(expected)
    assert {*scores["unadapted"]} >= {"pooled", "interval", "confusion_matrix", "ece", "mean_confidence"}
    assert set(scores["fairness"]["gender"]) == {"female", "male"} and scores["fairness"]["speakers"]["speakers"] == 4
    assert scores["robustness_clips"] == 8 and scores["robustness"]["gain of -20 dB"]["loss"] <= 1
    assert (tmp_path / "o" / "robustness.png").exists()
    for line in (
        "adaptation changes UA by ",
        "| first 3 s only | ",
        "conditions lose at most 5 points of UA",
        "| female",
    ):
        assert line in printed


def clips(labels, corpora=None):
    """Rows with classes and without recordings."""
    names = ["angry", "happy", "sad"]
    columns = {
        "audio": [{"path": f"{number}.wav", "bytes": None} for number in range(len(labels))],
        "label": [names.index(label) for label in labels],
        "corpus": corpora or ["one"] * len(labels),
    }
    kinds = {"audio": {"path": Value("string"), "bytes": Value("binary")}, "label": ClassLabel(names=names)}
    return Dataset.from_dict(columns, features=Features({**kinds, "corpus": Value("string")}))


def test_labels_of_other_models_count_by_the_vocabulary():
    corpus = clips(["angry", "sad", "happy"])
    table, shared = tabulate(corpus, [{"ang": 0.4, "anger": 0.2, "sadness": 0.2, "calm": 0.2}] * 3)
    assert shared == ["angry", "sad"]
    assert table["label"].tolist() == ["angry", "sad"]  # the model does not know happy
    np.testing.assert_allclose(table[["p_angry", "p_sad"]], [[0.75, 0.25]] * 2)
    assert table["predicted"].tolist() == ["angry", "angry"]


def test_each_corpus_is_scored_over_its_own_classes():
    corpus = clips(["angry", "sad", "happy", "angry"], ["one", "one", "two", "two"])
    table, shared = tabulate(corpus, [{"angry": 0.3, "happy": 0.3, "sad": 0.4}] * 4)
    assert shared == ["angry", "happy", "sad"]
    expected = [[3 / 7, 0, 4 / 7]] * 2 + [[0.5, 0.5, 0]] * 2
    np.testing.assert_allclose(table[["p_angry", "p_happy", "p_sad"]], expected)


def test_fewer_than_two_shared_classes_are_refused():
    with pytest.raises(UserError, match="the model has angry, calm, the corpus angry, happy, sad: expected two"):
        tabulate(clips(["angry", "sad"]), [{"anger": 0.5, "calm": 0.5}] * 2)


def test_predictions_of_any_model_are_read(tmp_path):
    corpus, path = clips(["angry", "sad"]), tmp_path / "other.json"
    scores = [{"label": "ang", "score": 0.9}, {"label": "sad", "score": 0.1}]
    rows = [
        {"file": f"x/{number}.opus", "start": 0.0, "end": 1.5, "label": "ang", "unsure": False, "ang": 0.9, "sad": 0.1}
        for number in (1, 0)
    ]
    ours = [
        {"file": row["file"], "label": "ang", "dbfs": -20.0, "probabilities": {"ang": 0.9, "sad": 0.1}} for row in rows
    ]
    silent = {"file": "2.wav", "label": None, "dbfs": -200.0, "probabilities": None}
    for content in ({"0.wav": scores, "a/1.flac": scores, "9.wav": scores}, rows, [*ours, silent]):
        path.write_text(json.dumps(content))
        assert read_other(path, corpus) == [{"ang": 0.9, "sad": 0.1}] * 2
    path.write_text(json.dumps({"0.wav": scores}))
    with pytest.raises(UserError, match="other.json: lacks 1 and 0 more of 2 recordings"):
        read_other(path, corpus)
    path.write_text("[1]")
    with pytest.raises(UserError, match='other.json: .*expected a list of rows with "file"'):
        read_other(path, corpus)


def test_evaluate_leaves_a_folder_with_other_files_alone(synthetic_dir, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("text")
    done = run_script(
        "evaluate.py", "--predictions", "x.json", "--corpus", "synthetic", "--corpus_dir", synthetic_dir,
        "--output_dir", tmp_path / "mine",
    )  # fmt: skip
    assert done.returncode == 2
    assert "mine: holds other files; name a new folder" in done.stderr.splitlines()[-1]
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "encoder openai/whisper-base: is not a folder, and the Hub could not be reached"),
        (["--model", "m", "--predictions", "x.json"], "--model, --predictions: give one of the two"),
        (["--predictions", "x.json", "--adaptation", "speaker"], "speaker: needs a model, leave out --predictions"),
        (["--predictions", "gone.json"], "gone.json: "),
        (
            ["--predictions", "x.json", "--robustness"],
            "--robustness: needs a model, leave out --predictions",
        ),
        (["--robustness_clips", "0"], "--robustness_clips 0: must be 1 or more"),
        (["--folds", "loso"], "--folds: no such option"),
    ],
)
def test_evaluate_refuses_in_one_line(synthetic_dir, tmp_path, options, message):
    done = run_script(
        "evaluate.py", *options, "--corpus", "synthetic", "--corpus_dir", synthetic_dir, "--output_dir", tmp_path / "o"
    )
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert not (tmp_path / "o").exists()


def test_calibration_is_fitted_to_the_evaluated_clips_and_counts_corpora_alike():
    clips = ["a"] * 100 + ["b"] * 300
    right = [True] * 94 + [False] * 6 + [True] * 210 + [False] * 90  # 94 % and 70 %, so 82 %
    table = pd.DataFrame({"name": [f"{place}" for place in range(400)], "label": "sad"})
    table["p_sad"] = [0.95 if one else 0.05 for one in right]
    table["p_calm"] = 1 - table["p_sad"]
    config = WhisperEmotionConfig(logit_temperature=2.0)
    found = calibrate(config, table, None, ["sad", "calm"], pd.Series(clips, index=table["name"]))
    # A temperature makes odds of 19 odds of 82 to 18; Laplace's rule hardly shows
    assert found["logit_temperature"] == pytest.approx(2 * np.log(19) / np.log(82 / 18), rel=0.02)
    assert found["sure_probability"] == pytest.approx(0.82, abs=0.01)
