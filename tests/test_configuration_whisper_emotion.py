"""Every field is checked where it is set: at construction and through `from_pretrained`."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError

from whisper_emotion import WhisperEmotionConfig, WhisperForEmotionClassification

REFUSED = [
    ("encoder_layer", 4, "3 layers, so 0 (convolutions) to 3 and -1 (last) to -4 are"),
    ("encoder_layer", -5, "3 layers"),
    ("encoder_layer", 1.5, "a whole number"),
    ("encoder_layer", True, "a whole number"),
    ("pooling", "max", "one of mean, attentive, qkv, statistics, attentive_statistics"),
    ("pooling_scores", "code", "one of paper, released"),
    ("encoder_context", "clip", "one of window, utterance, sparse_window"),
    ("classifier_proj_size", 0, "1 or more"),
    ("pooling_heads", 0, "1 or more"),
    ("pooling_head_dim", -1, "1 or more"),
    ("pooling_dropout", 1.0, "in [0, 1)"),
    ("pooling_dropout", "0.3", "a number"),
    ("label_smoothing", -0.1, "in [0, 1)"),
    ("context_margin", -1.0, "0 seconds or more"),
    ("context_margin", float("nan"), "a number"),
    ("silence_stride", 0, "1 or more"),
    ("mask_padding", "yes", "true or false"),
    ("freeze_encoder", 1, "true or false"),
    ("class_weights", [1.0], "None or 2 positive numbers, one a class"),
    ("class_weights", [1.0, -1.0], "None or 2 positive numbers, one a class"),
]


@pytest.mark.parametrize(("field", "value", "allowed"), REFUSED)
def test_a_value_that_is_not_allowed_is_refused_with_what_is(field, value, allowed, tiny_encoder):
    with pytest.raises(ValueError) as construction:
        WhisperEmotionConfig(encoder_layers=3, **{field: value})
    with pytest.raises(ValueError) as loading:
        WhisperForEmotionClassification.from_pretrained(tiny_encoder, **{field: value})
    with pytest.raises(ValueError) as configuring:
        WhisperEmotionConfig.from_pretrained(tiny_encoder, **{field: value})
    for error in (construction, loading, configuring):
        assert field in str(error.value)
        assert allowed in str(error.value)


@pytest.mark.parametrize(("field", "value"), [("use_weighted_layer_sum", None), ("classifier_proj_size", "256")])
def test_fields_that_stock_whisper_has_too_are_checked_by_its_own_types(field, value):
    with pytest.raises(Exception, match=f"'{field}' expected"):
        WhisperEmotionConfig(**{field: value})


@pytest.mark.parametrize(("given", "resolved"), [(0, 0), (3, 3), (-1, 3), (-2, 2), (-4, 0)])
def test_layers_count_from_the_top_where_negative(given, resolved, tiny_encoder):
    assert WhisperEmotionConfig(encoder_layers=3, encoder_layer=given).encoder_layer == resolved
    model = WhisperForEmotionClassification.from_pretrained(tiny_encoder, encoder_layer=given)
    assert model.config.encoder_layer == resolved
    assert model.config.encoder_layers == 3  # stays the checkpoint's


def test_survives_a_round_trip(tmp_path):
    config = WhisperEmotionConfig(
        encoder_layer=2, pooling="qkv", encoder_context="utterance", class_weights=[1, 2.5], label_smoothing=0.1
    )
    config.save_pretrained(tmp_path)
    loaded = WhisperEmotionConfig.from_pretrained(tmp_path)
    assert loaded.to_diff_dict() == config.to_diff_dict()
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "whisper_emotion"
    assert sorted(saved["auto_map"]) == ["AutoConfig", "AutoModel", "AutoModelForAudioClassification"]


def test_class_weights_are_replaced_together_with_the_labels(tmp_path):
    WhisperEmotionConfig(num_labels=3, class_weights=[1.0, 2.0, 3.0]).save_pretrained(tmp_path)
    config = WhisperEmotionConfig.from_pretrained(tmp_path, num_labels=2, class_weights=[1.0, 2.0])
    assert (config.num_labels, config.class_weights) == (2, [1.0, 2.0])
    assert WhisperEmotionConfig.from_pretrained(tmp_path, encoder_layer=-2).encoder_layer == 3


def test_a_stock_checkpoint_gives_its_shape_and_nothing_of_its_task(tiny_encoder, caplog):
    config = WhisperEmotionConfig.from_pretrained(tiny_encoder, num_labels=4)
    assert (config.d_model, config.encoder_layers, config.num_labels) == (16, 3, 4)
    assert not config.is_encoder_decoder
    assert config.dtype is None
    assert not caplog.records


def test_a_sparse_window_has_no_silence_to_pool():
    with pytest.raises(ValueError, match="mask_padding=False is not allowed with encoder_context='sparse_window'"):
        WhisperEmotionConfig(encoder_context="sparse_window", mask_padding=False)


@pytest.mark.parametrize("layers", [[], [2, 1], [1, 1], [-1], [1.0], "12", [True]])
def test_concatenated_layers_are_ascending(layers):
    with pytest.raises(ValueError, match="concatenated_layers=.* it must be None or ascending layers"):
        WhisperEmotionConfig(encoder_layers=3, concatenated_layers=layers)


def test_concatenated_layers_say_how_far_the_encoder_runs():
    config = WhisperEmotionConfig(encoder_layers=6, d_model=8, concatenated_layers=[2, 3, 4])
    assert (config.encoder_layer, config.frame_layers, config.frame_size) == (4, [2, 3, 4], 24)
    with pytest.raises(ValueError, match="encoder_layer=7 is not allowed: this encoder has 6 layers"):
        WhisperEmotionConfig(encoder_layers=6, concatenated_layers=[2, 7])
    with pytest.raises(ValueError, match="concatenated_layers excludes use_weighted_layer_sum"):
        WhisperEmotionConfig(encoder_layers=6, concatenated_layers=[2], use_weighted_layer_sum=True)


@pytest.mark.parametrize("layers", [10**9, -1, "6", None])
def test_an_encoder_of_no_known_size_is_refused(layers):
    with pytest.raises((ValueError, StrictDataclassError), match="encoder_layers"):
        WhisperEmotionConfig(encoder_layers=layers)
