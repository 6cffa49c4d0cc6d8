"""Saved folders load with other versions of transformers alone, and the package trains with them.

`make test-all` runs three versions, `make compat` more; each is installed from the package index into `.compat`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from versions import NoIndex, install, newest

from whisper_emotion import WhisperEmotionFeatureExtractor, WhisperForEmotionClassification

VERSIONS = os.environ.get("TRANSFORMERS_VERSIONS", "4.57.6 5.0.0 newest").split()
HERE = Path(__file__).parent
pytestmark = pytest.mark.slow
LABELS = {0: "angry", 1: "calm", 2: "sad"}


@pytest.fixture(scope="module", params=VERSIONS)
def packages(request) -> Path:
    """The folder of a version."""
    try:
        return install(newest("transformers<6") if request.param == "newest" else request.param)
    except NoIndex as error:
        pytest.skip(f"transformers {request.param} cannot be installed: {error}")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Three clips of noise of 0.5 to 2 s."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("clips") / "clips.npz"
    np.savez(path, *(0.1 * rng.standard_normal(samples).astype(np.float32) for samples in (8_000, 20_000, 32_000)))
    return path


@pytest.fixture(scope="module")
def model(tiny_encoder) -> WhisperForEmotionClassification:
    """A model whose labels get probabilities far from alike."""
    torch.manual_seed(0)
    model = WhisperForEmotionClassification.from_pretrained(
        tiny_encoder, encoder_layer=2, pooling="qkv", id2label=LABELS
    )
    torch.nn.init.normal_(model.head.classifier.weight, std=0.3)
    return model.eval()


def run(script: str, packages: Path, home: Path, *arguments: object) -> dict:
    """Run a script in a fresh process with the packages of a folder first; return the JSON that it prints."""
    search = [str(packages), *([str(HERE.parents[1] / "modeling")] if script == "with_package.py" else [])]
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(home), "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(home / "modules"), "PYTHONPATH": os.pathsep.join(search),
    }  # fmt: skip
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=home, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["version"] == packages.name
    return found


def outputs(model, archive, **options):
    extractor = WhisperEmotionFeatureExtractor()
    inputs = extractor(list(np.load(archive).values()), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**inputs, **options)


def check(found, expected):
    torch.testing.assert_close(torch.tensor(found), expected, atol=1e-5, rtol=1e-5)


def test_a_saved_folder_gives_its_logits_with_transformers_alone(packages, model, clips, tmp_path):
    model.save_pretrained(tmp_path / "model")
    WhisperEmotionFeatureExtractor().save_pretrained(tmp_path / "model")
    expected = outputs(model, clips).logits
    found = run("without_package.py", packages, tmp_path, tmp_path / "model", clips)
    classes = ["WhisperEmotionConfig", *2 * ["WhisperForEmotionClassification"], "WhisperEmotionFeatureExtractor"]
    assert found["classes"] == classes
    for logits in found["logits"].values():
        check(logits, expected)
    check(found["probabilities"], expected.softmax(dim=-1))


def test_the_package_trains_a_stock_checkpoint_into_a_folder_that_loads_here(
    packages, model, tiny_encoder, clips, tmp_path
):
    found = run("with_package.py", packages, tmp_path, tiny_encoder, clips, tmp_path / "trained")
    assert found["dtype"] == "torch.float32"
    hidden = outputs(model, clips, output_hidden_states=True).hidden_states[-1][:, 0]
    torch.testing.assert_close(torch.tensor(found["hidden"]), hidden, atol=1e-4, rtol=1e-4)
    assert 0 < found["loss"] < 10
    trained = WhisperForEmotionClassification.from_pretrained(tmp_path / "trained")
    check(found["logits"], outputs(trained, clips).logits)
