"""An experiment on the small synthetic corpus."""

import dataclasses

import pytest
from hand_made_frames import arguments

from whisper_emotion.corpora import load_corpus
from whisper_emotion.corpora.splits import make_folds
from whisper_emotion.fitting.experiment import Experiment


@pytest.fixture(scope="session")
def experiment(tiny_encoder, synthetic_dir, tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    overrides = {"encoder_context": "utterance", "encoder_layer": 1, "classifier_proj_size": 16}
    return Experiment(
        load_corpus("synthetic", synthetic_dir), str(tiny_encoder), overrides,
        arguments(root, num_train_epochs=3, learning_rate=1e-3), "last", store_dir=str(root / "store"),
    )  # fmt: skip


@pytest.fixture(scope="session")
def linear(experiment):
    """The same with nothing to learn under the classifier."""
    return dataclasses.replace(experiment, overrides=experiment.overrides | {"classifier_proj_size": 0})


@pytest.fixture(scope="session")
def folds(experiment):
    return make_folds(experiment.corpus, "synthetic", "loso")
