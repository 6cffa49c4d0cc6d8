"""The `evaluate` module as a Space: its folder uploaded as it is, and loaded from there by `evaluate` alone."""

import json
from pathlib import Path

import numpy as np
import pytest

from whisper_emotion import metrics

FOLDER = Path(metrics.__file__).parent / "ser_scores"
UPLOAD = """
import sys
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("me/ser_scores", repo_type="space", space_sdk="static")
api.upload_folder(repo_id="me/ser_scores", repo_type="space", folder_path=sys.argv[1], ignore_patterns="__pycache__/*")
"""
SCORE = """
import sys
sys.modules["whisper_emotion"] = None  # importing it raises ImportError
import json
import evaluate
print(json.dumps(evaluate.load("me/ser_scores").compute(**json.loads(sys.argv[1]))))
"""


@pytest.fixture
def predicted():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], size=50)
    references = rng.integers(0, 3, size=50)
    return {
        "predictions": probabilities.argmax(1).tolist(),
        "references": references.tolist(),
        "probabilities": probabilities.tolist(),
    }


def test_a_space_gives_the_package_s_scores(hub, predicted, tmp_path):
    done = hub.run(tmp_path, "-c", UPLOAD, FOLDER)
    assert done.returncode == 0, done.stderr
    assert set(hub.repos["space", "me/ser_scores"].files()) == {".gitattributes", "README.md", "ser_scores.py"}
    done = hub.run(tmp_path, "-c", SCORE, json.dumps(predicted), token=None)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == metrics.compute_scores(**predicted)
    assert "GET /spaces/me/ser_scores/resolve/main/ser_scores.py" in hub.requests
