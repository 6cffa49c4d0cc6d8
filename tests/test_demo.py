"""`make demo`: its recipe learns emotions of speakers that it never heard, and learns nothing from shuffled labels."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import run_script

from whisper_emotion.cli import parse_arguments
from whisper_emotion.corpora import load_corpus
from whisper_emotion.corpora.splits import make_folds, speakers_shared
from whisper_emotion.fitting.cross_validation import predict
from whisper_emotion.fitting.experiment import load_experiment
from whisper_emotion.fitting.fit import Job, fit
from whisper_emotion.fitting.training_arguments import EmotionTrainingArguments
from whisper_emotion.options import CorpusOptions, ModelOptions, ProtocolOptions
from whisper_emotion.scoring import summarise

REPOSITORY = Path(__file__).resolve().parents[1]
RECIPE = REPOSITORY / "scripts" / "recipes" / "demo.yaml"


@dataclasses.dataclass
class Others:
    """What train.py takes besides."""

    test_fold: int | None = None


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("demo") / "synthetic"


def check_pipeline(folder, file):
    used = run_script("try_pipeline.py", "--model", folder, file, imported="nothing")
    assert used.returncode == 0, used.stderr
    probabilities = [float(line.split()[0]) for line in used.stdout.splitlines()]
    assert {line.split()[1] for line in used.stdout.splitlines()} == {"angry", "happy", "neutral", "sad"}
    assert sum(probabilities) == pytest.approx(1, abs=0.01)


def test_try_pipeline_prints_a_probability_for_each_label(trained_dir, synthetic_dir):
    check_pipeline(trained_dir, synthetic_dir / "S01F" / "S01F_angry_01.wav")


def test_demo_recipe_trains_in_one_epoch_on_few_speakers(tmp_path):
    """All that `make demo` does, but for the time it takes to learn."""
    load_corpus("synthetic", tmp_path / "corpus", speakers=4, utterances=1)
    options = ["--corpus_dir", tmp_path / "corpus", "--output_dir", tmp_path / "run", "--num_train_epochs", 1]
    done = run_script("train.py", "--config", RECIPE, *options, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["speakers_shared"] == [0] and scores["labels"] == ["angry", "happy", "neutral", "sad"]


@pytest.mark.slow
def test_the_demo_recognises_emotions_of_unseen_speakers_and_its_folder_works_alone(corpus_dir, tmp_path):
    done = run_script(
        "train.py", "--config", RECIPE, "--corpus_dir", corpus_dir, "--output_dir", tmp_path, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["speakers_shared"] == [0]
    assert scores["pooled"]["unweighted_accuracy"] >= 0.85
    check_pipeline(tmp_path, corpus_dir / "S01F" / "S01F_angry_01.wav")


@pytest.mark.slow
def test_with_shuffled_training_labels_it_stays_near_chance(corpus_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    (corpus, protocol, _, model, training) = parse_arguments(
        CorpusOptions, ProtocolOptions, Others, ModelOptions, EmotionTrainingArguments,
        argv=["--config", str(RECIPE), "--corpus_dir", str(corpus_dir), "--output_dir", str(tmp_path)],
    )  # fmt: skip
    training.disable_tqdm = True
    experiment = load_experiment(corpus, protocol, model, training)
    fold = make_folds(experiment.corpus, corpus.corpus, corpus.folds)[0]
    assert speakers_shared(experiment.corpus, fold) == 0

    labels = np.array(experiment.corpus["label"][:])
    labels[fold.train] = np.random.default_rng(0).permutation(labels[fold.train])
    column = experiment.corpus.features["label"]
    shuffled = experiment.corpus.remove_columns("label").add_column("label", labels.tolist(), feature=column)
    experiment = dataclasses.replace(experiment, corpus=shuffled)
    (fitted,) = fit(experiment, None, [Job(fold.train, fold.test, training.seed)], tmp_path / "work")
    scores = summarise(predict(fitted, experiment, fold, training.seed), experiment, [fold])
    assert scores["pooled"]["unweighted_accuracy"] < 0.45  # chance is 0.25
