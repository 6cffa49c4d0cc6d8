"""Loading and saving: stock checkpoints, saved folders, and folders in processes that lack this package."""

import logging
import os

import pytest
import torch
from conftest import extract_features, load_model, noise_clips, run_python, small_model
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    WhisperForAudioClassification,
    pipeline,
)

from whisper_emotion import WhisperEmotionConfig, WhisperEmotionFeatureExtractor, WhisperForEmotionClassification
from whisper_emotion.pooling_whisper_emotion import POOLING_CLASSES

EMOTIONS = {0: "angry", 1: "happy", 2: "sad"}

# --- loading and saving ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", POOLING_CLASSES)
def test_missing_keys_of_a_stock_checkpoint_are_exactly_the_heads(tiny_encoder, pooling, caplog):
    model, report = WhisperForEmotionClassification.from_pretrained(
        tiny_encoder, encoder_layer=2, pooling=pooling, use_weighted_layer_sum=True, output_loading_info=True
    )
    head = {name for name in model.state_dict() if name.startswith("head.")}
    assert set(report["missing_keys"]) == head
    assert not report["unexpected_keys"]  # the decoder and the upper layers are left out on purpose
    assert not report["mismatched_keys"]
    assert {name.split(".")[0] for name in model.state_dict()} == {"encoder", "head"}
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_stock_checkpoint_loads_without_a_word_about_its_decoder(tiny_encoder, caplog):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        load_model(tiny_encoder, encoder_layer=2)
    finally:
        logger.removeHandler(caplog.handler)
    assert "decoder" not in caplog.text
    assert "head.classifier" in caplog.text  # initialised: train it


def test_encoder_has_the_keys_and_weights_of_the_stock_encoder(tiny_encoder):
    model = load_model(tiny_encoder)
    stock = WhisperForAudioClassification.from_pretrained(tiny_encoder, dtype=torch.float32).encoder.state_dict()
    assert stock.keys() == model.encoder.state_dict().keys()
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(tensor, stock[name]), name


def test_positions_of_a_new_model_are_the_stock_encoders(tiny_encoder):
    trained = load_model(tiny_encoder).encoder.embed_positions.weight
    torch.testing.assert_close(small_model().encoder.embed_positions.weight, trained, atol=1e-3, rtol=0)  # float16


@pytest.mark.parametrize("layer", range(4))
def test_layers_above_the_chosen_one_are_neither_built_nor_saved(tiny_encoder, layer, tmp_path):
    model = load_model(tiny_encoder, encoder_layer=layer)
    assert len(model.encoder.layers) == layer
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config.encoder_layer == layer
    assert loaded.state_dict().keys() == model.state_dict().keys()
    inputs = extract_features(noise_clips(0.3))
    torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits)


def test_auto_classes_load_a_saved_folder(tmp_path):
    model = small_model(id2label=EMOTIONS, pooling="qkv")
    model.save_pretrained(tmp_path)
    WhisperEmotionFeatureExtractor().save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is WhisperEmotionConfig
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(extractor) is WhisperEmotionFeatureExtractor
    inputs = extractor(noise_clips(0.3), sampling_rate=16_000, return_tensors="pt")
    for auto in (AutoModel, AutoModelForAudioClassification):
        loaded = auto.from_pretrained(tmp_path).eval()
        assert type(loaded) is WhisperForEmotionClassification
        assert loaded.config.id2label == EMOTIONS
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits)


def test_half_precision_checkpoint_comes_up_in_float32_unless_asked(tiny_encoder):
    assert load_model(tiny_encoder).dtype == torch.float32
    assert load_model(tiny_encoder, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_head_is_the_same_for_the_same_seed(tiny_encoder):
    one, other = load_model(tiny_encoder, pooling="qkv"), load_model(tiny_encoder, pooling="qkv")
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_frozen_encoder_is_trainable_again_after_loading(tiny_encoder, tmp_path):
    model = load_model(tiny_encoder, pooling="attentive")
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.freeze_encoder()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith("encoder.")}
    model.train()(**extract_features(noise_clips(0.3)), labels=torch.tensor([0])).loss.backward()
    assert model.encoder.conv1.weight.grad is None
    assert model.head.classifier.weight.grad.abs().sum() > 0
    model.save_pretrained(tmp_path)
    assert all(parameter.requires_grad for parameter in load_model(tmp_path).parameters())


def test_population_mean_is_saved(tmp_path):
    model = small_model()
    model.head.adaptation.population_mean.uniform_()
    model.save_pretrained(tmp_path)
    kept = load_model(tmp_path).head.adaptation.population_mean
    assert torch.equal(kept, model.head.adaptation.population_mean)


def test_domain_is_saved_and_forgotten(tmp_path):
    model = small_model()
    domain = torch.rand(model.config.frame_size)
    model.adapt(domain)
    model.save_pretrained(tmp_path)
    kept = load_model(tmp_path)
    assert kept.config.adapted and torch.equal(kept.head.adaptation.domain_mean, domain)
    kept.adapt(None)
    assert not kept.config.adapted and not kept.head.adaptation.domain_mean.any()


@pytest.mark.parametrize("wrong", [torch.zeros(7), torch.zeros(1), torch.full((16,), torch.nan)])
def test_domain_that_is_not_a_frame_is_refused(wrong):
    model = small_model()
    with pytest.raises(ValueError, match=r"domain_mean has shape .*: it must be finite numbers \(16,\)"):
        model.adapt(wrong)
    assert not model.config.adapted


def test_other_layers_drop_the_domain(tmp_path):
    model = small_model()
    model.adapt(torch.ones(model.config.frame_size))
    model.save_pretrained(tmp_path)
    assert load_model(tmp_path, encoder_layer=model.config.encoder_layer).config.adapted
    assert not load_model(tmp_path, encoder_layer=0).config.adapted


@pytest.mark.parametrize("labels", [{"num_labels": 5}, {"id2label": {0: "calm", 1: "excited"}}])
def test_other_labels_reset_classifier_names_and_temperatures_and_nothing_else(tmp_path, labels):
    model = small_model(id2label=EMOTIONS, pooling="qkv", logit_temperature=2.0, adapted_logit_temperature=3.0)
    model.head.adaptation.population_mean.uniform_()
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, ignore_mismatched_sizes=True, **labels)
    count = labels.get("num_labels", 2)
    assert loaded.config.num_labels == len(loaded.config.id2label) == count
    assert "angry" not in loaded.config.label2id
    assert (loaded.config.logit_temperature, loaded.config.adapted_logit_temperature) == (1.0, None)
    reset = {"head.classifier.weight", "head.classifier.bias"}
    for name, tensor in loaded.state_dict().items():
        assert torch.isfinite(tensor).all()
        assert name in reset or torch.equal(tensor, model.state_dict()[name]), name
    assert loaded(**extract_features(noise_clips(0.3))).logits.shape == (1, count)


def test_other_names_of_as_many_labels_keep_classifier_and_temperatures(tmp_path):
    model = small_model(id2label=EMOTIONS, logit_temperature=2.0)
    model.save_pretrained(tmp_path)
    names = {0: "wütend", 1: "froh", 2: "traurig"}
    loaded = load_model(tmp_path, id2label=names)
    assert (loaded.config.id2label, loaded.config.logit_temperature) == (names, 2.0)
    assert torch.equal(loaded.head.classifier.weight, model.head.classifier.weight)


def test_mismatched_labels_are_refused_unless_allowed(tmp_path):
    small_model(id2label=EMOTIONS).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes|size mismatch"):
        load_model(tmp_path, num_labels=5)


# --- without this package --------------------------------------------------------------------------------------------

ALONE = """
import sys
sys.modules["whisper_emotion"] = None  # importing it raises ImportError
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification
folder, again = sys.argv[1:]
model = AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True)
assert all(parameter.requires_grad for parameter in model.parameters())
model.save_pretrained(again)
AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True).save_pretrained(again)
"""


@pytest.fixture(scope="module")
def saved_dir(tiny_encoder, tmp_path_factory):
    """A saved model of three emotions and its extractor."""
    folder = tmp_path_factory.mktemp("saved")
    model = load_model(tiny_encoder, encoder_layer=2, pooling="qkv", id2label=EMOTIONS)
    torch.nn.init.normal_(model.head.classifier.weight)
    model.save_pretrained(folder)
    WhisperEmotionFeatureExtractor().save_pretrained(folder)
    return folder


def test_folder_saved_from_remote_code_is_the_same(saved_dir, tmp_path):
    """tests/compat checks that such a folder loads with each version of transformers."""
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }  # fmt: skip
    done = run_python("-c", ALONE, saved_dir, tmp_path / "again", env=environment, cwd=tmp_path, imported="libraries")
    assert done.returncode == 0, done.stderr
    files = {path.name: path.read_bytes() for path in saved_dir.iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == files


def test_pipeline_scores_a_clip_the_same_alone_and_in_a_batch(saved_dir):
    classify = pipeline("audio-classification", model=str(saved_dir))
    assert type(classify.model) is WhisperForEmotionClassification
    assert type(classify.feature_extractor) is WhisperEmotionFeatureExtractor
    inputs = [{"raw": clip, "sampling_rate": 16_000} for clip in noise_clips(0.5, 2, 7, 20)]
    alone = [classify(dict(clip), top_k=None) for clip in inputs]
    together = classify([dict(clip) for clip in inputs], batch_size=4, top_k=None)
    for one, other in zip(alone, together, strict=True):
        assert {score["label"] for score in one} == set(EMOTIONS.values())
        other = {score["label"]: score["score"] for score in other}
        for score in one:
            assert score["score"] == pytest.approx(other[score["label"]], abs=1e-5)


def test_saved_folder_holds_its_code_and_neither_pickles_nor_paths(saved_dir, tiny_encoder):
    assert {path.name for path in saved_dir.iterdir()} == {
        "config.json", "model.safetensors", "preprocessor_config.json", "configuration_whisper_emotion.py",
        "modeling_whisper_emotion.py", "feature_extraction_whisper_emotion.py", "pooling_whisper_emotion.py",
        "encoder_whisper_emotion.py",
    }  # fmt: skip
    for name in ("config.json", "preprocessor_config.json"):
        assert str(tiny_encoder.parent) not in (saved_dir / name).read_text(), name
