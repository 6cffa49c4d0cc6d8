"""A tiny model, its features, and a folder of it, for the tools that people use around a model."""

from pathlib import Path

import numpy as np
import pytest
import torch

from whisper_emotion import WhisperEmotionFeatureExtractor, WhisperForEmotionClassification

RATE = 16_000
LABELS = {0: "angry", 1: "calm", 2: "sad"}


def clips(*seconds, seed=0):
    """Noise of several lengths, in seconds."""
    rng = np.random.default_rng(seed)
    return [(0.1 * rng.standard_normal(round(length * RATE))).astype(np.float32) for length in seconds]


@pytest.fixture(scope="session")
def extract():
    """Make the features and the mask of clips of noise, by their seconds."""
    extractor = WhisperEmotionFeatureExtractor()

    def extract(*seconds, padding="longest"):
        return extractor(clips(*seconds), sampling_rate=RATE, padding=padding, return_tensors="pt")

    return extract


@pytest.fixture(scope="session")
def mapped():
    """Make a data set as transformers' guides do: features by `map`, labels, and a column that no model takes."""
    from datasets import Dataset

    extractor = WhisperEmotionFeatureExtractor()

    def mapped(*seconds, padding="longest", batch_size=1000):
        columns = {
            "audio": clips(*seconds),
            "label": [index % 3 for index in range(len(seconds))],
            "speaker": [str(length) for length in seconds],
        }
        return Dataset.from_dict(columns).map(
            lambda batch: extractor(batch["audio"], sampling_rate=RATE, padding=padding),
            batched=True, batch_size=batch_size, remove_columns="audio",
        )  # fmt: skip

    return mapped


@pytest.fixture(scope="session")
def inputs(extract):
    """The inputs of three clips of 0.5 to 2 s."""
    return extract(0.5, 1.3, 2.0)


@pytest.fixture(scope="session")
def build(tiny_encoder: Path):
    """Build a model on the stock checkpoint whose labels get probabilities far from alike."""

    def build(**options):
        torch.manual_seed(0)
        options = {"encoder_layer": 2, "pooling": "qkv", "id2label": LABELS, **options}
        model = WhisperForEmotionClassification.from_pretrained(tiny_encoder, **options).eval()
        torch.nn.init.normal_(model.head.classifier.weight, std=0.3)
        return model

    return build


@pytest.fixture(scope="session")
def folder(build, tmp_path_factory) -> Path:
    """A saved model with its extractor."""
    path = tmp_path_factory.mktemp("tools") / "model"
    build().save_pretrained(path)
    WhisperEmotionFeatureExtractor().save_pretrained(path)
    return path
