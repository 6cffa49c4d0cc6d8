"""A trained folder serves people who do not have this package: fresh processes that cannot import it load it."""

import json
import subprocess
import sys

import numpy as np
import pytest

ALONE = """
import sys
sys.modules["whisper_emotion"] = None  # importing it raises ImportError
import json, warnings
import numpy as np
import torch
folder = sys.argv[1]
torch.manual_seed(0)
rng = np.random.default_rng(0)
clips = [(0.1 * rng.standard_normal(int(16_000 * seconds))).astype(np.float32) for seconds in (0.5, 2, 7, 20)]
"""

PARTS = {
    "AutoConfig": """
from transformers import AutoConfig
print(json.dumps(AutoConfig.from_pretrained(folder, trust_remote_code=True).pooling))
""",
    "AutoFeatureExtractor": """
from transformers import AutoFeatureExtractor
extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
print(json.dumps(extractor(clips, sampling_rate=16_000)["attention_mask"].sum(1).tolist()))
""",
    **{
        auto: f"""
from transformers import AutoFeatureExtractor, {auto}
extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
model = {auto}.from_pretrained(folder, trust_remote_code=True).eval()
assert not any(p.requires_grad for p in model.encoder.parameters())
with torch.no_grad():
    logits = model(**extractor(clips, sampling_rate=16_000, return_tensors="pt")).logits
print(json.dumps([type(model).__name__, logits.tolist()]))
"""
        for auto in ("AutoModel", "AutoModelForAudioClassification")
    },
    "pipeline": """
from transformers import pipeline
classify = pipeline("audio-classification", model=folder, trust_remote_code=True)
inputs = [{"raw": clip, "sampling_rate": 16_000} for clip in clips]
alone = [classify(dict(clip), top_k=None) for clip in inputs]
together = classify([dict(clip) for clip in inputs], batch_size=4, top_k=None)
print(json.dumps([alone, together]))
""",
    "saved again": """
import tempfile
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline
with tempfile.TemporaryDirectory() as again:
    AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True).save_pretrained(again)
    AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True).save_pretrained(again)
    results = [
        pipeline("audio-classification", model=path, trust_remote_code=True)(clips[1]) for path in (folder, again)
    ]
print(json.dumps(results[0] == results[1]))
""",
}


@pytest.fixture(scope="module")
def alone(trained_dir, tmp_path_factory):
    """Runs a part in a fresh process, with caches of its own, and returns what it printed."""

    def run(part):
        home = tmp_path_factory.mktemp("home")
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", ALONE + PARTS[part], str(trained_dir)],
            capture_output=True, text=True, env=environment, cwd=home, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "not supported" not in done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_config_and_extractor(alone):
    assert alone("AutoConfig") == "qkv"
    assert alone("AutoFeatureExtractor") == [50, 200, 700, 2000]


def test_both_auto_models_are_the_same_class_with_the_same_logits(alone):
    (name, logits), (other_name, other_logits) = alone("AutoModel"), alone("AutoModelForAudioClassification")
    assert name == other_name == "WhisperForEmotionClassification"
    assert logits == other_logits
    assert np.shape(logits) == (4, 4)


def test_the_pipeline_gives_each_clip_the_same_scores_in_a_batch_as_alone(alone):
    single, batched = alone("pipeline")
    assert [len(scores) for scores in single] == [4, 4, 4, 4]
    for one, other in zip(single, batched, strict=True):
        assert {s["label"] for s in one} == {"angry", "happy", "neutral", "sad"}
        other = {score["label"]: score["score"] for score in other}
        for score in one:
            assert score["score"] == pytest.approx(other[score["label"]], abs=1e-4)


def test_a_folder_saved_from_remote_code_is_as_good(alone):
    assert alone("saved again") is True


def test_nothing_in_the_folder_is_a_pickle_or_names_this_machine(trained_dir, tiny_encoder):
    files = {path.name for path in trained_dir.iterdir()}
    assert files == {
        "README.md", "config.json", "confusion_matrix.png", "model.safetensors", "predictions.csv",
        "preprocessor_config.json", "scores.json", "configuration_whisper_emotion.py", "modeling_whisper_emotion.py",
        "feature_extraction_whisper_emotion.py", "pooling_whisper_emotion.py", "encoder_whisper_emotion.py",
    }  # fmt: skip
    for name in ("README.md", "config.json", "preprocessor_config.json"):
        assert str(tiny_encoder.parent) not in (trained_dir / name).read_text(), name


def test_the_installed_package_needs_no_remote_code(trained_dir):
    from transformers import pipeline

    import whisper_emotion

    classify = pipeline("audio-classification", model=str(trained_dir))
    assert type(classify.model) is whisper_emotion.WhisperForEmotionClassification
    assert type(classify.feature_extractor) is whisper_emotion.WhisperEmotionFeatureExtractor
