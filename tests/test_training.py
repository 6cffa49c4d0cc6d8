"""The Trainer's loss, checkpoints and selection, on heads small enough to train in a moment."""

import shutil

import numpy as np
import pytest
import torch
from conftest import full_disk
from safetensors import safe_open
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from whisper_emotion import training
from whisper_emotion.corpora import load_corpus
from whisper_emotion.errors import UserError
from whisper_emotion.features import FeatureStore
from whisper_emotion.termination import Terminated, termination
from whisper_emotion.training import (
    AudioCollator,
    EmotionTrainingArguments,
    UtteranceSampler,
    best_epoch,
    build_extractor,
    build_model,
    collate_embeddings,
    collate_frames,
    embed,
    fit_pca_projector,
    train,
)

LABELS = ["angry", "happy", "neutral"]


def stored(count, seed=0, width=16):
    """Frames whose mean tells their label, of lengths between 3 and 9."""
    generator = torch.Generator().manual_seed(seed)
    utterances = []
    for index in range(count):
        frames = torch.randn(3 + index % 7, width, generator=generator)
        frames[:, index % 3] += 1.5
        utterances.append({"encoder_outputs": frames.half(), "label": index % 3})
    return utterances


def arguments(folder, **options):
    options = {"num_train_epochs": 4, "disable_tqdm": True, "use_cpu": True, "learning_rate": 0.01, **options}
    return EmotionTrainingArguments(output_dir=str(folder), **options)


def head(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith("encoder.")}


def fit(tiny_encoder, folder, selection=None, epochs=None, overrides=None, **options):
    # with dropout, so that a step that is not seeded as it was before shows
    model = build_model(str(tiny_encoder), LABELS, {"pooling": "qkv", "pooling_dropout": 0.2, **(overrides or {})}, 3)
    trainer = train(model, stored(24), selection, collate_frames, arguments(folder, seed=3, **options), folder, epochs)
    return trainer


def test_a_batch_of_stored_frames_is_packed_and_masked():
    batch = collate_frames(
        [
            {"encoder_outputs": torch.ones(2, 3, dtype=torch.float16), "label": 1},
            {"encoder_outputs": torch.ones(1, 3, dtype=torch.float16), "label": 0},
        ]
    )
    assert batch["encoder_outputs"].dtype == torch.float32
    assert batch["encoder_outputs"].sum(1).tolist() == [3, 3, 3] + [0] * 29
    assert batch["attention_mask"].tolist() == [[True, True] + [False] * 30, [True] + [False] * 31]
    assert batch["labels"].tolist() == [1, 0]


def test_gradient_accumulation_gives_the_loss_and_the_weights_of_the_whole_batch(tiny_encoder, tmp_path):
    """Mean pooling has no dropout, so both runs see the same; the wrong division would be by four."""
    runs = []
    for accumulate in (1, 4):
        trainer = fit(
            tiny_encoder,
            tmp_path / str(accumulate),
            overrides={"pooling": "mean"},
            per_device_train_batch_size=8 // accumulate,
            gradient_accumulation_steps=accumulate,
            logging_strategy="steps",
            logging_steps=1,
        )
        runs.append(([entry["loss"] for entry in trainer.state.log_history if "loss" in entry], head(trainer.model)))
    (losses, weights), (accumulated_losses, accumulated_weights) = runs
    assert len(losses) == 12
    np.testing.assert_allclose(losses, accumulated_losses, atol=1e-4)
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, accumulated_weights[name], atol=1e-4, rtol=1e-3)


def test_the_same_seed_gives_the_same_weights(tiny_encoder, tmp_path):
    one, other = (head(fit(tiny_encoder, tmp_path / name).model) for name in "ab")
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    another = build_model(str(tiny_encoder), LABELS, {"pooling": "qkv"}, seed=4)
    assert not torch.equal(another.classifier.weight, build_model(str(tiny_encoder), LABELS, {}, 3).classifier.weight)


def test_an_interrupted_run_goes_on_to_the_same_weights(tiny_encoder, tmp_path):
    whole = head(fit(tiny_encoder, tmp_path / "whole").model)
    fit(tiny_encoder, tmp_path / "cut", epochs=2)  # as a kill after the second checkpoint leaves it
    resumed = fit(tiny_encoder, tmp_path / "cut")
    assert resumed.state.epoch == 4
    assert all(torch.equal(tensor, whole[name]) for name, tensor in head(resumed.model).items())


def test_a_run_that_had_stopped_early_is_not_trained_further_when_it_goes_on(tiny_encoder, tmp_path):
    whole = head(fit(tiny_encoder, tmp_path / "run", epochs=2).model)
    again = fit(tiny_encoder, tmp_path / "run", epochs=2)  # killed before its results were written
    assert all(torch.equal(tensor, whole[name]) for name, tensor in head(again.model).items())


@pytest.mark.parametrize("lost", ["trainer_state.json", "half of it"])
def test_a_checkpoint_that_was_cut_off_is_not_gone_on_from(tiny_encoder, tmp_path, lost):
    whole = head(fit(tiny_encoder, tmp_path / "whole").model)
    fit(tiny_encoder, tmp_path / "cut", epochs=2)
    (good,) = (tmp_path / "cut").glob("checkpoint-*")
    cut_off = tmp_path / "cut" / "checkpoint-5"
    shutil.copytree(good, cut_off)
    (cut_off / "optimizer.pt").unlink()  # without which the Trainer goes on, too, to other weights
    state = cut_off / "trainer_state.json"
    if lost == "half of it":
        state.write_bytes(state.read_bytes()[:200])
    else:
        state.unlink()
    resumed = fit(tiny_encoder, tmp_path / "cut")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in head(resumed.model).items())


@pytest.mark.parametrize(("step", "epochs"), [(1, None), (3, None), (4, None), (5, 2)])
def test_sigterm_keeps_the_step_under_way_and_going_on_gives_the_same_weights(
    tiny_encoder, tmp_path, monkeypatch, step, epochs
):
    """An epoch has three steps: within the first, at its end (it may be the chosen one), within the second."""
    options = {"per_device_train_batch_size": 8, "selection": stored(12, seed=1), "epochs": epochs}
    whole = fit(tiny_encoder, tmp_path / "whole", **options)
    seed_step = training.seed_step

    def terminate(seed, number):
        if number == step - 1:
            monkeypatch.setattr(termination, "asked", True)
        seed_step(seed, number)

    monkeypatch.setattr(training, "seed_step", terminate)
    with pytest.raises(Terminated):
        fit(tiny_encoder, tmp_path / "cut", **options)
    monkeypatch.undo()
    assert f"checkpoint-{step}" in {path.name for path in (tmp_path / "cut").iterdir()}
    resumed = fit(tiny_encoder, tmp_path / "cut", **options)
    assert all(torch.equal(tensor, head(whole.model)[name]) for name, tensor in head(resumed.model).items())
    assert best_epoch(resumed) == best_epoch(whole)


def test_a_finished_selection_is_not_trained_again(tiny_encoder, tmp_path):
    options = {"selection": stored(12, seed=1), "learning_rate": 0.3}
    whole = fit(tiny_encoder, tmp_path / "run", **options)
    assert best_epoch(whole) < 4  # the last checkpoint is another one
    again = fit(tiny_encoder, tmp_path / "run", **options)
    assert again.state.global_step == whole.state.global_step == again._initial_global_step
    assert all(torch.equal(tensor, head(whole.model)[name]) for name, tensor in head(again.model).items())


def test_a_disk_that_is_full_is_one_line_and_the_run_goes_on(tiny_encoder, tmp_path):
    whole = head(fit(tiny_encoder, tmp_path / "whole").model)
    fit(tiny_encoder, tmp_path / "cut", epochs=2)
    with full_disk(2_000), pytest.raises(UserError, match="^.*cut: cannot be written .*, expected a folder with room"):
        fit(tiny_encoder, tmp_path / "cut")
    resumed = fit(tiny_encoder, tmp_path / "cut")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in head(resumed.model).items())


def test_checkpoints_leave_the_frozen_encoder_out_and_the_model_keeps_it(tiny_encoder, tmp_path):
    trainer = fit(tiny_encoder, tmp_path / "run")
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    with safe_open(checkpoint / "model.safetensors", "pt") as weights:
        assert not [name for name in weights.keys() if name.startswith("encoder.")]  # noqa: SIM118
    trainer.model.save_pretrained(tmp_path / "saved")
    with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as weights:
        assert set(weights.keys()) == set(trainer.model.state_dict())


def test_the_selected_epoch_s_weights_are_kept(tiny_encoder, tmp_path):
    trainer = fit(tiny_encoder, tmp_path / "run", selection=stored(12, seed=1))
    history = [entry["eval_unweighted_accuracy"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(history) == 4
    assert best_epoch(trainer) == 1 + int(np.argmax(history))
    assert trainer.evaluate()["eval_unweighted_accuracy"] == max(history)


def test_stopping_early_does_not_shorten_the_schedule(tiny_encoder, tmp_path):
    stopped = fit(tiny_encoder, tmp_path / "run", epochs=2)
    rates = [entry["learning_rate"] for entry in stopped.state.log_history if "learning_rate" in entry]
    assert stopped.state.epoch == 2
    assert rates[-1] > 0.004  # a schedule of two epochs would have ended at zero


def test_stored_frames_train_the_head_that_audio_trains(tiny_encoder, synthetic_dir, tmp_path):
    corpus = load_corpus("synthetic", synthetic_dir).select(range(0, 48, 4))
    labels, extractor = corpus.features["label"].names, build_extractor(str(tiny_encoder))
    heads = []
    for road in ("audio", "frames"):
        model = build_model(str(tiny_encoder), labels, {"encoder_context": "utterance", "encoder_layer": 1}, seed=0)
        if road == "frames":
            utterances, collator = (
                FeatureStore(model, extractor, corpus, [1], tmp_path / "store").fill()[1],
                collate_frames,
            )
        else:
            utterances, collator = corpus, AudioCollator(extractor)
        options = arguments(tmp_path, num_train_epochs=2, learning_rate=1e-3)
        heads.append(head(train(model, utterances, None, collator, options, tmp_path / road).model))
    for name, tensor in heads[0].items():
        torch.testing.assert_close(tensor, heads[1][name], atol=2e-3, rtol=2e-2)  # frames are stored in half precision


@pytest.mark.parametrize("strategy", ["random", "group_by_length", "sequential"])
def test_an_epoch_s_order_depends_on_the_seed_and_the_epoch_alone(strategy):
    lengths = np.random.default_rng(0).integers(1, 100, size=203).tolist()
    orders = {}
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0)):
        torch.rand(3)  # what else is drawn has no influence
        sampler = UtteranceSampler(lengths, 8, strategy, seed)
        sampler.epoch = epoch
        order = list(sampler)
        assert sorted(order) == list(range(203))
        assert orders.setdefault((seed, epoch), order) == order
    assert len(set(map(tuple, orders.values()))) == (1 if strategy == "sequential" else 3)
    width = sum(max(lengths[row] for row in order[start : start + 8]) * 8 for start in range(0, 203, 8))
    assert (sum(lengths) / width > 0.75) == (strategy == "group_by_length")


@pytest.mark.parametrize("size", [16, 5])
def test_a_pca_projector_gives_the_strongest_components_of_scaled_frames_and_is_not_trained(
    tiny_encoder, tmp_path, size
):
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(16, 16, generator=generator) * torch.logspace(-2, 2, 16)  # as uneven as Whisper's frames
    utterances = [
        {"encoder_outputs": torch.randn(40, 16, generator=generator) @ mixing + 3.0, "label": index % 3}
        for index in range(24)
    ]
    model = build_model(str(tiny_encoder), LABELS, {"classifier_proj_size": size}, seed=0)
    fit_pca_projector(model, utterances)
    frames = torch.cat([utterance["encoder_outputs"] for utterance in utterances]).double().numpy()
    projected = model.projector(torch.from_numpy(frames).float()).detach().double().numpy()
    expected = PCA(size).fit_transform(StandardScaler().fit_transform(frames))[:, ::-1]
    np.testing.assert_allclose(np.abs(projected), np.abs(expected), atol=1e-2)  # a component's sign is arbitrary

    before = head(model)
    assert not before["classifier.weight"].any()
    train(model, utterances, None, collate_frames, arguments(tmp_path), tmp_path)
    after = head(model)
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_embeddings_train_the_classifier_that_frames_train(tiny_encoder, tmp_path):
    utterances = stored(24)
    heads = []
    for name in ("frames", "embeddings"):
        model = build_model(str(tiny_encoder), LABELS, {"classifier_proj_size": 8, "pooling": "statistics"}, seed=0)
        fit_pca_projector(model, utterances)
        assert model.has_fixed_embedding()
        rows, collator = utterances, collate_frames
        if name == "embeddings":
            rows, collator = embed(model, utterances, collate_frames, batch_size=7), collate_embeddings
        train(model, rows, None, collator, arguments(tmp_path / name), tmp_path / name)
        heads.append(head(model))
    assert heads[0]["classifier.weight"].abs().max() > 0.01
    for name, weights in heads[0].items():
        torch.testing.assert_close(weights, heads[1][name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "overrides", "said"),
    [
        ("nowhere/at/all", {}, "--encoder nowhere/at/all: "),
        ("corrupt", {}, "corrupt: "),
        (None, {"pooling": "max"}, "pooling='max' is not allowed: it must be one of mean"),
        (None, {"encoder_layer": 9}, "encoder_layer=9 is not allowed: this encoder has 3 layers"),
    ],
)
def test_what_cannot_be_built_is_a_user_s_mistake_of_one_line(tiny_encoder, tmp_path, encoder, overrides, said):
    if encoder == "corrupt":
        encoder = str(tmp_path / "corrupt")
        shutil.copytree(tiny_encoder, encoder)
        (tmp_path / "corrupt" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError) as error:
        build_model(encoder or str(tiny_encoder), LABELS, overrides, seed=0)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_head_that_the_checkpoint_has_is_not_taken_over(tiny_encoder, tmp_path):
    trained = build_model(str(tiny_encoder), LABELS, {"encoder_layer": 2}, seed=0)
    torch.nn.init.ones_(trained.classifier.weight)
    trained.save_pretrained(tmp_path)
    again = build_model(str(tmp_path), LABELS, {}, seed=0)
    assert torch.equal(again.encoder.conv1.weight, trained.encoder.conv1.weight)
    assert not torch.equal(again.classifier.weight, trained.classifier.weight)
    assert build_model(str(tmp_path), ["a", "b"], {"classifier_proj_size": 8}, seed=0).config.num_labels == 2
    with pytest.raises(UserError, match="lacks encoder.* give a Whisper checkpoint that holds encoder layer 3"):
        build_model(str(tmp_path), LABELS, {"encoder_layer": 3}, seed=0)


def test_an_encoder_from_scratch_takes_the_shape_and_not_the_weights(tiny_encoder):
    loaded, fresh = (build_model(str(tiny_encoder), LABELS, {}, 0, scratch) for scratch in (False, True))
    assert loaded.encoder.conv1.weight.shape == fresh.encoder.conv1.weight.shape
    assert not torch.equal(loaded.encoder.conv1.weight, fresh.encoder.conv1.weight)
    positions = [model.encoder.embed_positions.weight for model in (loaded, fresh)]
    torch.testing.assert_close(*positions, atol=1e-3, rtol=0)  # the checkpoint is in half precision
