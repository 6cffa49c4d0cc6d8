"""Training of whole models by the Trainer: its loss, its checkpoints, its selection, and a new model's head."""

import shutil

import numpy as np
import pytest
import torch
from conftest import full_disk
from hand_made_frames import arguments
from safetensors import safe_open

from whisper_emotion.collator import AudioCollator
from whisper_emotion.corpora import load_corpus
from whisper_emotion.errors import UserError
from whisper_emotion.feature_store import FeatureStore
from whisper_emotion.fitting import encoder_training
from whisper_emotion.fitting.encoder_training import best_epoch, build_trainer, train_encoder
from whisper_emotion.fitting.losses import classification_loss
from whisper_emotion.fitting.new_models import build_extractor, build_model, load_config
from whisper_emotion.fitting.stacked_training import train_heads
from whisper_emotion.termination import Terminated, termination

LABELS = ["angry", "happy", "neutral", "sad"]


@pytest.fixture(scope="module")
def corpus(synthetic_dir):
    return load_corpus("synthetic", synthetic_dir)


@pytest.fixture(scope="module")
def collator(tiny_encoder):
    return AudioCollator(build_extractor(str(tiny_encoder)))


def new_model(encoder, seed=3, from_scratch=False, labels=LABELS, **overrides):
    fields = {"encoder_context": "utterance", "encoder_layer": 1, "classifier_proj_size": 8} | overrides
    return build_model(str(encoder), load_config(str(encoder), labels, fields), seed, from_scratch)


def weights_of(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_equal_weights(model, expected):
    for name, tensor in weights_of(model).items():
        assert torch.equal(tensor, expected[name]), name


@pytest.fixture
def train(tiny_encoder, corpus, collator):
    """Train a tiny model of two layers on 12 clips, with dropout, so that a step with another seed shows."""

    def run(folder, selected=False, epochs=None, class_weights=None, freeze=False, overrides=None, **options):
        model = new_model(tiny_encoder, **({"pooling": "attentive", "pooling_dropout": 0.2} | (overrides or {})))
        if freeze:
            model.freeze_encoder()
        args = arguments(folder, **{"per_device_train_batch_size": 4, "seed": 3, "num_train_epochs": 3} | options)
        watched = corpus.select(range(1, 48, 8)) if selected else None
        clips = corpus.select(range(0, 48, 4))
        return train_encoder(build_trainer(model, clips, watched, collator, args, folder, class_weights), epochs)

    return run


def test_trainer_computes_the_shared_loss_with_both_options(tiny_encoder, corpus, collator, tmp_path):
    model, class_weights = new_model(tiny_encoder), torch.tensor([1.0, 3.0, 0.5, 2.0])
    clips, args = corpus.select(range(0, 48, 6)), arguments(tmp_path, label_smoothing_factor=0.2)
    trainer = build_trainer(model, clips, None, collator, args, tmp_path, class_weights)
    batch = collator(list(clips))
    with torch.no_grad():
        logits = model.eval()(batch["input_features"], batch["attention_mask"]).logits
        found = trainer.compute_loss(model, dict(batch))
    expected = classification_loss(logits, batch["labels"], class_weights, 0.2)
    torch.testing.assert_close(found, expected)
    for weights, smoothing in ((None, 0.2), (class_weights, 0.0)):
        assert not torch.allclose(expected, classification_loss(logits, batch["labels"], weights, smoothing))


def test_class_weights_change_the_training_under_label_smoothing(train, tmp_path):
    weights = torch.tensor([1.0, 8.0, 1.0, 1.0])
    ends = [
        train(tmp_path / str(number), class_weights=one, label_smoothing_factor=0.1, num_train_epochs=1).model
        for number, one in enumerate((None, weights))
    ]
    assert not torch.allclose(ends[0].head.classifier.weight, ends[1].head.classifier.weight, atol=1e-4)


def test_gradient_accumulation_gives_the_loss_and_the_weights_of_the_whole_batch(train, tmp_path):
    """Nothing is random here; a loss that is not divided would be four times as large."""
    runs = []
    for accumulated in (1, 4):
        trainer = train(
            tmp_path / str(accumulated), overrides={"pooling": "mean"}, num_train_epochs=2, logging_strategy="steps",
            per_device_train_batch_size=4 // accumulated, gradient_accumulation_steps=accumulated, logging_steps=1,
            train_sampling_strategy="sequential", adam_epsilon=1e-3,
        )  # fmt: skip
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        gradients = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
        runs.append((losses, gradients, weights_of(trainer.model)))
    assert len(runs[0][0]) == 6
    np.testing.assert_allclose(runs[0][0], runs[1][0], atol=2e-3)
    np.testing.assert_allclose(runs[0][1], runs[1][1], rtol=0.02)
    for name, tensor in runs[0][2].items():
        torch.testing.assert_close(tensor, runs[1][2][name], atol=2e-3, rtol=1e-2, msg=name)


def test_frozen_encoder_trains_the_head_as_stored_frames_do(tiny_encoder, corpus, collator, tmp_path):
    clips, weights = corpus.select(range(0, 48, 4)), torch.tensor([1.0, 3.0, 0.5, 2.0])
    # Both roads then order the clips alike, whatever unit their lengths have.
    args = arguments(
        tmp_path, num_train_epochs=2, learning_rate=1e-3, label_smoothing_factor=0.1, train_sampling_strategy="random",
        adam_epsilon=1e-3,
    )  # fmt: skip
    whole, alone = (new_model(tiny_encoder, pooling="mean") for _ in range(2))
    whole.freeze_encoder()
    train_encoder(build_trainer(whole, clips, None, collator, args, tmp_path / "run", weights))
    store = FeatureStore(alone, collator.extractor, clips, [1], tmp_path / "store")
    store.fill()
    labels = torch.tensor(clips["label"][:])
    train_heads([alone.head], store.open([1]), labels, [list(range(12))], args, [args.seed], [weights])
    start = new_model(tiny_encoder, pooling="mean").head.classifier.weight
    assert not torch.allclose(whole.head.classifier.weight, start, atol=1e-4)
    for name, tensor in alone.head.state_dict().items():  # frames are stored in half precision
        torch.testing.assert_close(whole.head.state_dict()[name], tensor, atol=5e-5, rtol=1e-2, msg=name)


def test_same_seed_gives_the_same_weights(train, tmp_path):
    one, other = (train(tmp_path / name, num_train_epochs=1).model for name in "ab")
    assert_equal_weights(one, weights_of(other))


def test_interrupted_run_resumes_to_the_same_weights(train, tmp_path):
    whole = weights_of(train(tmp_path / "whole").model)
    train(tmp_path / "cut", epochs=2)  # the folder of a run killed after its second checkpoint
    resumed = train(tmp_path / "cut")
    assert resumed.state.epoch == 3
    assert_equal_weights(resumed.model, whole)


def test_run_that_stopped_early_is_not_trained_further(train, tmp_path):
    whole = weights_of(train(tmp_path, epochs=2).model)
    again = train(tmp_path, epochs=2)  # killed before its results were written
    assert_equal_weights(again.model, whole)


@pytest.mark.parametrize("lost", ["all of its state", "half of its state"])
def test_resuming_skips_a_checkpoint_that_was_cut_off(train, tmp_path, lost):
    whole = weights_of(train(tmp_path / "whole").model)
    train(tmp_path / "cut", epochs=2)
    (good,) = (tmp_path / "cut").glob("checkpoint-*")
    cut_off = good.with_name("checkpoint-7")
    shutil.copytree(good, cut_off)
    (cut_off / "optimizer.pt").unlink()
    state = cut_off / "trainer_state.json"
    state.write_bytes(state.read_bytes()[:200]) if lost.startswith("half") else state.unlink()
    assert_equal_weights(train(tmp_path / "cut").model, whole)


@pytest.mark.parametrize(("step", "epochs"), [(1, None), (3, None), (5, 2)])
def test_sigterm_keeps_the_step_under_way(train, tmp_path, monkeypatch, step, epochs):
    """An epoch has three steps: within the first, at its end (it may be the chosen one), within the second."""
    whole = train(tmp_path / "whole", selected=True, epochs=epochs)
    seed_step = encoder_training.seed_step

    def terminate(seed, number):
        if number == step - 1:
            monkeypatch.setattr(termination, "asked", True)
        seed_step(seed, number)

    monkeypatch.setattr(encoder_training, "seed_step", terminate)
    with pytest.raises(Terminated):
        train(tmp_path / "cut", selected=True, epochs=epochs)
    monkeypatch.undo()
    assert f"checkpoint-{step}" in {path.name for path in (tmp_path / "cut").iterdir()}
    resumed = train(tmp_path / "cut", selected=True, epochs=epochs)
    assert_equal_weights(resumed.model, weights_of(whole.model))
    assert best_epoch(resumed) == best_epoch(whole)


def test_selected_epoch_s_weights_are_kept_and_not_trained_again(train, tmp_path):
    options = {"selected": True, "learning_rate": 0.1, "metric_for_best_model": "loss"}
    whole = train(tmp_path, **options)
    history = [entry["eval_loss"] for entry in whole.state.log_history if "eval_loss" in entry]
    assert len(history) == 3
    assert best_epoch(whole) == 1 + int(np.argmin(history))
    assert whole.evaluate()["eval_loss"] == pytest.approx(min(history), rel=1e-5)
    again = train(tmp_path, **options)
    assert again.state.global_step == whole.state.global_step == again._initial_global_step
    assert_equal_weights(again.model, weights_of(whole.model))


def test_full_disk_is_one_line_and_the_run_resumes(train, tmp_path):
    whole = weights_of(train(tmp_path / "whole").model)
    train(tmp_path / "cut", epochs=2)
    with (
        full_disk(2_000),
        pytest.raises(UserError, match="^.*cut: cannot be written .*, expected a writable folder with"),
    ):
        train(tmp_path / "cut")
    assert_equal_weights(train(tmp_path / "cut").model, whole)


def test_checkpoints_leave_a_frozen_encoder_out_and_the_model_keeps_it(train, tmp_path):
    trainer = train(tmp_path / "run", freeze=True, num_train_epochs=1)
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    with safe_open(checkpoint / "model.safetensors", "pt") as weights:
        saved = {name for name in weights.keys() if name.startswith("encoder.")}  # noqa: SIM118
    assert saved == {"encoder.embed_positions.weight"}  # a buffer
    trainer.model.save_pretrained(tmp_path / "saved")
    with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as weights:
        assert set(weights.keys()) >= set(dict(trainer.model.named_parameters()))


def test_stopping_early_does_not_shorten_the_schedule(train, tmp_path):
    stopped = train(tmp_path, epochs=2)
    rates = [entry["learning_rate"] for entry in stopped.state.log_history if "learning_rate" in entry]
    assert stopped.state.epoch == 2
    assert rates[-1] > 0.002  # a schedule of two epochs would have ended near zero


@pytest.mark.parametrize(
    ("encoder", "overrides", "message"),
    [
        ("nowhere/at/all", {}, "--encoder nowhere/at/all: "),
        ("corrupt", {}, "corrupt: "),
        (None, {"pooling": "max"}, "pooling"),
        (None, {"encoder_layer": 9}, "encoder_layer"),
    ],
)
def test_models_that_cannot_be_built_are_one_line(tiny_encoder, tmp_path, encoder, overrides, message):
    if encoder == "corrupt":
        encoder = str(tmp_path / "corrupt")
        shutil.copytree(tiny_encoder, encoder)
        (tmp_path / "corrupt" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError) as error:
        new_model(encoder or tiny_encoder, **overrides)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_build_model_leaves_a_checkpoint_s_head_out(tiny_encoder, tmp_path):
    trained = new_model(tiny_encoder, seed=0, encoder_layer=2)
    torch.nn.init.ones_(trained.head.classifier.weight)
    trained.save_pretrained(tmp_path)
    again = new_model(tmp_path, seed=0, encoder_layer=2)
    assert torch.equal(again.encoder.conv1.weight, trained.encoder.conv1.weight)
    assert not torch.equal(again.head.classifier.weight, trained.head.classifier.weight)
    assert new_model(tmp_path, labels=["a", "b"], encoder_layer=2).config.num_labels == 2
    with pytest.raises(UserError, match="lacks encoder.* give a Whisper checkpoint that holds encoder layer 3"):
        new_model(tmp_path, encoder_layer=3)


def test_encoder_from_scratch_takes_the_shape_and_not_the_weights(tiny_encoder):
    loaded, fresh = (new_model(tiny_encoder, from_scratch=scratch) for scratch in (False, True))
    assert loaded.encoder.conv1.weight.shape == fresh.encoder.conv1.weight.shape
    assert not torch.equal(loaded.encoder.conv1.weight, fresh.encoder.conv1.weight)
    positions = [model.encoder.embed_positions.weight for model in (loaded, fresh)]
    torch.testing.assert_close(*positions, atol=1e-3, rtol=0)  # the checkpoint is in half precision
