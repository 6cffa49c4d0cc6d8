"""Heads without their encoder: saving, loading, and the errors of wrong or damaged ones."""

import json
import shutil

import pytest
import torch
from conftest import noise_clips, run_script, save_model

from whisper_emotion import EmotionClassifier
from whisper_emotion.errors import UserError
from whisper_emotion.head_files import ENCODER, GENERAL, WEIGHTS, load_head, save_head
from whisper_emotion.publishing import whole_model


@pytest.fixture
def head_dir(tiny_encoder, tmp_path):
    """A head on a tiny encoder, and the whole model beside it."""
    whole = EmotionClassifier(save_model(tiny_encoder, tmp_path / "whole", pooling="mean"))
    (tmp_path / "head").mkdir()
    save_head(tmp_path / "head", whole.model, whole.extractor, "me/tiny", "0" * 40)
    return tmp_path / "head"


def test_a_head_on_its_encoder_is_the_whole_model(head_dir, tiny_encoder):
    classify, whole = EmotionClassifier(head_dir, tiny_encoder), EmotionClassifier(head_dir.parent / "whole")
    clip = noise_clips(0.5)[0], 16_000
    assert classify(clip) == whole(clip)
    assert {file.name for file in head_dir.iterdir()} == {
        "config.json", "encoder.json", "head.safetensors", "preprocessor_config.json",
    }  # fmt: skip
    assert (head_dir / WEIGHTS).stat().st_size < 0.2 * (head_dir.parent / "whole/model.safetensors").stat().st_size


def test_a_head_is_pushed_as_a_whole_model(head_dir, tiny_encoder):
    shutil.copy(GENERAL / "README.md", head_dir)
    clip = noise_clips(0.5)[0], 16_000
    with whole_model(head_dir, str(tiny_encoder)) as folder:
        assert EmotionClassifier(folder)(clip) == EmotionClassifier(head_dir, tiny_encoder)(clip)
        card = (folder / "README.md").read_text()
        assert 'pipeline("audio-classification", model="head", trust_remote_code=True)' in card
        assert "holds only the head" not in card and "## Results" in card
    assert not folder.exists()
    with (
        pytest.raises(UserError, match="contains its encoder; leave it out"),
        whole_model(head_dir.parent / "whole", "me/tiny"),
    ):
        pass


def test_another_encoder_is_refused(head_dir, tiny_encoder):
    other = EmotionClassifier(head_dir.parent / "whole").model
    torch.nn.init.zeros_(other.encoder.layers[0].fc1.bias[:1])
    torch.nn.init.ones_(other.encoder.layers[0].fc1.bias[:1])
    other.save_pretrained(head_dir.parent / "other")
    with pytest.raises(UserError, match="other: has other weights than me/tiny, the encoder of this head"):
        load_head(head_dir, head_dir.parent / "other")


def test_what_is_missing_or_damaged_is_named(head_dir, tiny_encoder):
    with pytest.raises(
        UserError, match="encoder me/tiny: is not a folder, and the Hub could not be reached; give the folder"
    ):
        EmotionClassifier(head_dir)
    with pytest.raises(UserError, match="encoder nowhere: is not a folder"):
        EmotionClassifier(head_dir, "nowhere")
    with pytest.raises(UserError, match="encoder .*: not needed, because .*whole contains its encoder; leave it out"):
        EmotionClassifier(head_dir.parent / "whole", tiny_encoder)
    with pytest.raises(UserError, match="^genral: is not a folder"):
        EmotionClassifier("genral", tiny_encoder)
    (head_dir / WEIGHTS).write_bytes(b"")
    with pytest.raises(UserError, match="head: SafetensorError: .*; expected a head: its weights and configurations"):
        EmotionClassifier(head_dir, tiny_encoder)
    (head_dir / ENCODER).write_text(json.dumps({"name": "me/tiny"}))
    with pytest.raises(
        UserError, match="encoder.json: TypeError: .*; expected name, revision and sha256 of an encoder"
    ):
        EmotionClassifier(head_dir, tiny_encoder)


def test_training_writes_a_head_alone(tiny_encoder, synthetic_dir, tmp_path):
    command = ["train.py", "--corpus", "synthetic", "--corpus_dir", synthetic_dir, "--encoder", tiny_encoder]
    command += ["--pooling", "mean", "--classifier_proj_size", 0, "--output_dir", tmp_path / "head", "--head_only"]
    done = run_script(*command)
    assert done.returncode == 2 and "--head_only, --encoder_revision: give both" in done.stderr
    done = run_script(*command, "--encoder_revision", "0" * 40, "--base_model", "me/tiny")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "head" / "model.safetensors").exists()
    card = (tmp_path / "head" / "README.md").read_text()
    assert "The first use downloads the encoder [me/tiny]" in card
    clip = next(synthetic_dir.rglob("*_angry_*.wav"))
    done = run_script("predict.py", "--model", tmp_path / "head", "--encoder", tiny_encoder, clip)
    assert done.returncode == 0, done.stderr
    assert clip.name in done.stdout


def test_the_general_head_labels_a_stranger(shared_dir, tmp_path):
    classify = EmotionClassifier(encoder=shared_dir / "encoders" / "whisper-base-encoder")
    (named,) = classify(shared_dir / "corpora" / "emodb" / "wav" / "03a01Wa.flac")
    assert next(iter(named)) == "angry" and sum(named.values()) == pytest.approx(1)
    assert set(named) == {"angry", "happy", "neutral", "sad", "fearful", "disgusted", "surprised"}
    source = json.loads((GENERAL / ENCODER).read_text())
    assert (source["name"], len(source["revision"]), len(source["sha256"])) == ("openai/whisper-base", 40, 64)
    assert (GENERAL / WEIGHTS).stat().st_size < 1e6
    shutil.copytree(GENERAL, tmp_path / "copy")
    with pytest.raises(UserError, match="tiny.en-encoder: has other weights than openai/whisper-base"):
        load_head(tmp_path / "copy", shared_dir / "encoders" / "whisper-tiny.en-encoder")


@pytest.mark.parametrize(("options", "name"), [((), "general"), (("--model", "permissive"), "permissive")])
def test_predict_says_how_often_a_shipped_head_is_right(shared_dir, options, name):
    clip = shared_dir / "corpora" / "emodb" / "wav" / "03a01Wa.flac"
    done = run_script("predict.py", *options, "--encoder", shared_dir / "encoders" / "whisper-base-encoder", clip)
    assert done.returncode == 0, done.stderr
    assert f"{name} model: on new speech about half of its labels are right" in done.stderr
