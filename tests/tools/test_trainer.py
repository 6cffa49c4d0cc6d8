"""The stock Trainer on mapped features: its defaults, its losses, its steps and its upload."""

import json

import pytest
import torch
from stand_in import Hub
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments

from whisper_emotion import WhisperEmotionFeatureExtractor, WhisperForEmotionClassification

SECONDS = (0.5, 1.3, 2.0, 0.8)


def arguments(folder, **options):
    options = {"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2, **options}
    return TrainingArguments(str(folder), report_to="none", disable_tqdm=True, use_cpu=True, **options)


def losses(model, dataset, **options):
    """The loss of each clip alone."""
    rows = dataset.with_format("torch")
    with torch.no_grad():
        logits = model(rows["input_features"][:], rows["attention_mask"][:]).logits
    return cross_entropy(logits, rows["label"][:], reduction="none", **options)


@pytest.mark.parametrize("padding", ["longest", "max_length"])
def test_trainer_learns_and_evaluates_with_its_defaults(build, mapped, tmp_path, padding):
    model, dataset = build(), mapped(*SECONDS, padding=padding)
    before = losses(model, dataset).mean()
    trainer = Trainer(
        model,
        arguments(tmp_path, max_steps=8, learning_rate=1e-4, eval_strategy="steps", eval_steps=4),
        train_dataset=dataset,
        eval_dataset=dataset,
        compute_metrics=lambda found: {"right": (found.predictions.argmax(axis=1) == found.label_ids).mean()},
    )
    assert trainer.args.remove_unused_columns
    trainer.train()
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluations] == [4, 8]
    assert evaluations[-1]["eval_loss"] < before
    assert evaluations[-1]["eval_loss"] == pytest.approx(float(losses(model.eval(), dataset).mean()), rel=1e-4)
    assert 0 <= evaluations[-1]["eval_right"] <= 1
    assert trainer.predict(dataset).predictions.shape == (4, 3)  # logits alone, not embeddings and maps


def test_trainer_pads_mapped_features_of_several_widths(build, mapped, tmp_path):
    dataset = mapped(*SECONDS, batch_size=1)
    assert len({len(mask) for mask in dataset["attention_mask"]}) == 4
    model = build()
    trainer = Trainer(
        model, arguments(tmp_path), eval_dataset=dataset, processing_class=WhisperEmotionFeatureExtractor()
    )
    expected = losses(model, mapped(*SECONDS)).mean()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(("batch", "steps"), [(4, 1), (2, 2), (1, 4)])
def test_gradient_accumulation_reports_and_trains_the_mean_loss(build, mapped, tmp_path, batch, steps, smoothing):
    model, dataset = build(pooling="mean"), mapped(*SECONDS)
    expected = losses(model, dataset, label_smoothing=smoothing).mean()
    options = {"gradient_accumulation_steps": steps, "per_device_train_batch_size": batch, "max_grad_norm": 1e9}
    trainer = Trainer(
        model,
        arguments(tmp_path, max_steps=1, logging_steps=1, label_smoothing_factor=smoothing, **options),
        train_dataset=dataset,
    )
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["loss"] == pytest.approx(float(expected), abs=1e-3)
    reference = build(pooling="mean")
    rows = dataset.with_format("torch")
    logits = reference(rows["input_features"][:], rows["attention_mask"][:]).logits
    cross_entropy(logits, rows["label"][:], label_smoothing=smoothing).backward()
    norm = torch.stack([parameter.grad.norm() for parameter in reference.parameters()]).norm()
    assert first["grad_norm"] == pytest.approx(float(norm), rel=1e-3)


def test_gradient_checkpointing_trains_the_same_weights(build, mapped, tmp_path):
    dataset, trained = mapped(*SECONDS), []
    for checkpointing in (False, True):
        model = build(pooling="mean")
        options = {"gradient_checkpointing": checkpointing, "optim": "sgd"}
        Trainer(model, arguments(tmp_path, **options), train_dataset=dataset).train()
        trained.append(model.state_dict())
    assert not trained[0]["encoder.conv1.weight"].equal(build(pooling="mean").encoder.conv1.weight)
    for name, tensor in trained[0].items():
        torch.testing.assert_close(trained[1][name], tensor, atol=1e-6, rtol=1e-5)


def test_an_encoder_that_is_frozen_keeps_its_weights(build, mapped, tmp_path):
    model = build()
    model.freeze_encoder()
    Trainer(model, arguments(tmp_path), train_dataset=mapped(*SECONDS)).train()
    fresh = build().state_dict()
    changed = {name.split(".")[0] for name, tensor in model.state_dict().items() if not tensor.equal(fresh[name])}
    assert changed == {"head"}


def test_a_checkpoint_of_trainer_is_a_whole_model_folder(build, mapped, tmp_path):
    trainer = Trainer(
        build(),
        arguments(tmp_path),
        train_dataset=mapped(*SECONDS),
        processing_class=WhisperEmotionFeatureExtractor(),
    )
    trainer.train()
    checkpoint = tmp_path / "checkpoint-2"
    assert (checkpoint / "modeling_whisper_emotion.py").is_file()
    loaded = WhisperForEmotionClassification.from_pretrained(checkpoint).state_dict()
    assert all(tensor.equal(loaded[name]) for name, tensor in trainer.model.state_dict().items())
    resumed = Trainer(build(), arguments(tmp_path, max_steps=3), train_dataset=mapped(*SECONDS))
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.state.global_step == 3


PUSH = """
import sys
from datasets import load_from_disk
from transformers import Trainer, TrainingArguments
from whisper_emotion import WhisperEmotionFeatureExtractor, WhisperForEmotionClassification

folder, data, output = sys.argv[1:]
arguments = TrainingArguments(
    output, max_steps=1, report_to="none", disable_tqdm=True, use_cpu=True, push_to_hub=True, hub_model_id="me/moods"
)
model = WhisperForEmotionClassification.from_pretrained(folder)
extractor = WhisperEmotionFeatureExtractor()
trainer = Trainer(model, arguments, train_dataset=load_from_disk(data), processing_class=extractor)
trainer.train()
trainer.push_to_hub()  # the pushes of `train` leave the code out
"""

LOAD = """
import json, sys
sys.modules["whisper_emotion"] = None
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification
extractor = AutoFeatureExtractor.from_pretrained("me/moods", trust_remote_code=True)
model = AutoModelForAudioClassification.from_pretrained("me/moods", trust_remote_code=True)
print(json.dumps([type(extractor).__name__, type(model).__name__, model.config.id2label[0]]))
"""


def test_trainer_pushes_a_model_that_loads_without_this_package(folder, mapped, tmp_path):
    mapped(*SECONDS).save_to_disk(tmp_path / "data")
    with Hub() as hub:
        pushed = hub.run(tmp_path, "-c", PUSH, folder, tmp_path / "data", tmp_path / "output")
        assert pushed.returncode == 0, pushed.stderr
        files = set(hub.repos["model", "me/moods"].files())
        assert {"model.safetensors", "modeling_whisper_emotion.py", "preprocessor_config.json"} <= files
        assert not [name for name in files if name.endswith((".pt", ".pth"))]
        loaded = hub.run(tmp_path, "-c", LOAD)
    assert loaded.returncode == 0, loaded.stderr
    names = ["WhisperEmotionFeatureExtractor", "WhisperForEmotionClassification", "angry"]
    assert json.loads(loaded.stdout.splitlines()[-1]) == names
