"""Every field is checked where it is set: at construction, in a saved folder, and through `from_pretrained`."""

import json
import re

import pytest

from whisper_emotion import WhisperEmotionConfig, WhisperForEmotionClassification

EMOTIONS = {0: "angry", 1: "happy", 2: "sad"}

REFUSED = [
    ("d_model", 15, "an even number"),
    ("activation_function", "nope", "an activation that transformers knows"),
    ("attention_dropout", 2.0, "a number in [0, 1)"),
    ("init_std", -1, "a number, 0 or more"),
    ("silence_stride", 10**30, "a whole number from 1 to 1000000"),
    ("logit_temperature", 10**400, "a number above 0"),
    ("problem_type", "multi_label", "one of None, single_label_classification"),
    ("encoder_layer", 4, "3 layers, so it must be 0 (convolutions) to 3, or -1 (last) to -4"),
    ("encoder_layer", -5, "3 layers, so it must be 0 (convolutions) to 3, or -1 (last) to -4"),
    ("encoder_layer", 1.5, "a whole number"),
    ("encoder_layer", True, "a whole number"),
    ("encoder_layers", 10**9, "a whole number from 0 to 1024"),
    ("encoder_layers", -1, "a whole number from 0 to 1024"),
    ("encoder_layers", "6", "a whole number from 0 to 1024"),
    ("encoder_layers", None, "a whole number from 0 to 1024"),
    ("d_model", 0, "an even number from 2 to 65536"),
    ("encoder_attention_heads", 5, "it must divide d_model=16"),
    ("pooling", "max", "one of mean, attentive, qkv, statistics, attentive_statistics"),
    ("pooling", ["mean"], "one of mean, attentive, qkv, statistics, attentive_statistics"),
    ("pooling_scores", "code", "one of paper, released"),
    ("encoder_context", "clip", "one of window, utterance, sparse_window"),
    ("classifier_proj_size", -1, "0 (no projector) or more"),
    ("classifier_proj_size", "256", "0 (no projector) or more"),
    ("pooling_heads", 0, "1 or more"),
    ("pooling_head_dim", -1, "1 or more"),
    ("pooling_dropout", 1.0, "in [0, 1)"),
    ("pooling_dropout", "0.3", "a number"),
    ("context_margin", -1.0, "a number of seconds in [0, 1000)"),
    ("context_margin", float("nan"), "a number"),
    ("silence_stride", 0, "a whole number from 1 to 1000000"),
    ("mask_padding", "yes", "true or false"),
    ("use_weighted_layer_sum", None, "true or false"),
    ("logit_temperature", 0.0, "a number above 0"),
    ("logit_temperature", float("inf"), "a number above 0"),
    ("adapted_logit_temperature", -2, "None or a number above 0"),
    ("concatenated_layers", [2, 1], "None or ascending layers"),
    ("concatenated_layers", [1, 1], "None or ascending layers"),
    ("concatenated_layers", [-1], "None or ascending layers"),
    ("concatenated_layers", [], "None or ascending layers"),
    ("concatenated_layers", "12", "None or ascending layers"),
    ("concatenated_layers", [True], "None or ascending layers"),
]

BAD_LABELS = [
    {0.5: "angry", 1.2: "sad"},
    ["angry", "sad"],
    {},
    {1: "angry", 2: "sad"},
    {0: "angry", 2: "sad"},
    {0: 1, 1: 2},
    {0: "angry", 1: "angry"},
    {0: "angry", 1: " "},
    {"angry": 0, "sad": 1},
    {"a": "angry", "b": "sad"},
    {"0": "angry", 0: "sad"},
    "angry",
]


def saved(folder, **fields):
    """Save a configuration of three labels and edit its file, as with a text editor."""
    WhisperEmotionConfig(encoder_layers=3, d_model=16, encoder_attention_heads=2, id2label=EMOTIONS).save_pretrained(
        folder
    )
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return folder


@pytest.mark.parametrize(("field", "value", "allowed"), REFUSED)
def test_value_that_is_not_allowed_is_refused_with_what_is(field, value, allowed, tiny_encoder, tmp_path):
    shape = {"encoder_layers": 3, "d_model": 16, "encoder_attention_heads": 2}
    attempts = [
        lambda: WhisperEmotionConfig(**{**shape, field: value}),
        lambda: WhisperForEmotionClassification.from_pretrained(tiny_encoder, **{field: value}),
        lambda: WhisperEmotionConfig.from_pretrained(tiny_encoder, **{field: value}),
        lambda: WhisperEmotionConfig.from_pretrained(saved(tmp_path, **{field: value})),
    ]
    for attempt in attempts:
        with pytest.raises(ValueError, match=re.escape(allowed)) as error:
            attempt()
        assert str(error.value).startswith(f"{field}={value!r} is not allowed: ")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("labels", BAD_LABELS, ids=str)
def test_labels_without_one_name_for_each_id_are_refused(labels, tiny_encoder, tmp_path):
    attempts = [
        lambda: WhisperEmotionConfig(id2label=labels),
        lambda: WhisperForEmotionClassification.from_pretrained(tiny_encoder, id2label=labels),
        lambda: WhisperEmotionConfig.from_pretrained(tiny_encoder, id2label=labels),
    ]
    if not isinstance(labels, dict) or len({str(key) for key in labels}) == len(labels):  # JSON has it
        attempts.append(lambda: WhisperEmotionConfig.from_pretrained(saved(tmp_path, id2label=labels)))
    for attempt in attempts:
        with pytest.raises(ValueError, match="^id2label=.* it must map each id from 0 on to a unique") as error:
            attempt()
        assert "\n" not in str(error.value)


def test_labels_edited_in_a_saved_folder_are_taken(tmp_path):
    names = {"2": "frustrated", "0": "cross", "1": "joyful"}
    config = WhisperEmotionConfig.from_pretrained(saved(tmp_path, id2label=names))
    assert config.id2label == {0: "cross", 1: "joyful", 2: "frustrated"}
    assert config.label2id == {"cross": 0, "joyful": 1, "frustrated": 2}
    assert config.num_labels == 3


def test_labels_that_do_not_fit_num_labels_are_refused(tiny_encoder, tmp_path):
    attempts = [
        lambda: WhisperEmotionConfig(num_labels=4, id2label=EMOTIONS),
        lambda: WhisperEmotionConfig.from_pretrained(tiny_encoder, num_labels=4, id2label=EMOTIONS),
        lambda: WhisperForEmotionClassification.from_pretrained(tiny_encoder, num_labels=4, id2label=EMOTIONS),
        lambda: WhisperEmotionConfig.from_pretrained(saved(tmp_path), num_labels=2, id2label=EMOTIONS),
    ]
    for attempt in attempts:
        with pytest.raises(ValueError, match=r"num_labels=\d does not fit id2label, which has 3 labels"):
            attempt()
    assert WhisperEmotionConfig(num_labels=3, id2label=EMOTIONS).id2label == EMOTIONS
    assert WhisperEmotionConfig.from_pretrained(saved(tmp_path), num_labels=3).id2label == EMOTIONS


def test_label2id_follows_id2label():
    config = WhisperEmotionConfig(id2label=EMOTIONS, label2id={"angry": 7})
    assert config.label2id == {"angry": 0, "happy": 1, "sad": 2}


def test_other_number_of_labels_drops_names_and_temperatures(tmp_path):
    saved(tmp_path, logit_temperature=2.0, adapted_logit_temperature=3.0)
    kept = WhisperEmotionConfig.from_pretrained(tmp_path)
    assert (kept.logit_temperature, kept.adapted_logit_temperature) == (2.0, 3.0)
    for given, names in (
        ({"num_labels": 2}, {0: "LABEL_0", 1: "LABEL_1"}),
        ({"id2label": {0: "calm", 1: "excited"}}, {0: "calm", 1: "excited"}),
    ):
        config = WhisperEmotionConfig.from_pretrained(tmp_path, **given)
        assert config.id2label == names
        assert (config.logit_temperature, config.adapted_logit_temperature) == (1.0, None)
    config = WhisperEmotionConfig.from_pretrained(tmp_path, num_labels=2, logit_temperature=1.5)
    assert config.logit_temperature == 1.5


@pytest.mark.parametrize(("given", "resolved"), [(0, 0), (3, 3), (-1, 3), (-2, 2), (-4, 0)])
def test_negative_layer_counts_from_the_top(given, resolved, tiny_encoder):
    assert WhisperEmotionConfig(encoder_layers=3, encoder_layer=given).encoder_layer == resolved
    model = WhisperForEmotionClassification.from_pretrained(tiny_encoder, encoder_layer=given)
    assert model.config.encoder_layer == resolved
    assert model.config.encoder_layers == 3  # stays the checkpoint's


def test_layer_set_after_construction_is_resolved_by_the_model():
    config = WhisperEmotionConfig(d_model=16, encoder_attention_heads=2, encoder_layers=2)
    config.encoder_layer = -2
    assert len(WhisperForEmotionClassification(config).encoder.layers) == 1
    config.encoder_layer = 3
    with pytest.raises(ValueError, match="encoder_layer=3 is not allowed: this encoder has 2 layers"):
        WhisperForEmotionClassification(config)


def test_configuration_survives_a_round_trip(tmp_path):
    config = WhisperEmotionConfig(
        encoder_layer=2, pooling="qkv", encoder_context="utterance", id2label=EMOTIONS, logit_temperature=1.5,
        problem_type="multi_label_classification", classifier_proj_size=0, output_hidden_states=True,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    loaded = WhisperEmotionConfig.from_pretrained(tmp_path)
    assert loaded.to_diff_dict() == config.to_diff_dict()
    assert (loaded.encoder_layer, loaded.pooling, loaded.classifier_proj_size) == (2, "qkv", 0)
    assert (loaded.id2label, loaded.problem_type) == (EMOTIONS, "multi_label_classification")
    assert loaded.output_hidden_states
    saved_fields = json.loads((tmp_path / "config.json").read_text())
    assert saved_fields["model_type"] == "whisper_emotion"
    assert sorted(saved_fields["auto_map"]) == ["AutoConfig", "AutoModel", "AutoModelForAudioClassification"]


def test_auto_map_of_a_hub_checkpoint_is_replaced(tmp_path):
    """Loaded from the Hub, it names the repository: a copy must name its own files."""
    config = WhisperEmotionConfig.from_pretrained(
        saved(tmp_path, auto_map={"AutoConfig": "someone/model--configuration_whisper_emotion.WhisperEmotionConfig"})
    )
    assert config.auto_map == WhisperEmotionConfig().auto_map


def test_stock_checkpoint_gives_its_shape_and_nothing_of_its_task(tiny_encoder):
    config = WhisperEmotionConfig.from_pretrained(tiny_encoder, num_labels=4)
    assert (config.d_model, config.encoder_layers, config.encoder_attention_heads, config.num_labels) == (16, 3, 2, 4)
    assert not config.is_encoder_decoder
    assert config.to_dict().get("dtype", config.to_dict().get("torch_dtype")) is None
    assert not {"vocab_size", "decoder_layers", "max_target_positions"} & set(config.to_dict())


def test_sparse_window_requires_masked_padding():
    with pytest.raises(ValueError, match="mask_padding=False is not allowed with encoder_context='sparse_window'"):
        WhisperEmotionConfig(encoder_context="sparse_window", mask_padding=False)
    assert not WhisperEmotionConfig(encoder_context="window", mask_padding=False).mask_padding


def test_concatenated_layers_determine_how_far_the_encoder_runs():
    config = WhisperEmotionConfig(
        encoder_layers=6, d_model=8, encoder_attention_heads=2, concatenated_layers=[2, 3, 4]
    )
    assert (config.encoder_layer, config.frame_layers, config.frame_size) == (4, [2, 3, 4], 24)
    with pytest.raises(ValueError, match="encoder_layer=7 is not allowed: this encoder has 6 layers"):
        WhisperEmotionConfig(encoder_layers=6, concatenated_layers=[2, 7])
    with pytest.raises(ValueError, match="concatenated_layers excludes use_weighted_layer_sum"):
        WhisperEmotionConfig(encoder_layers=6, concatenated_layers=[2], use_weighted_layer_sum=True)


@pytest.mark.parametrize(
    ("fields", "layers", "size"),
    [({}, [3], 384), ({"encoder_layer": 1}, [1], 384), ({"use_weighted_layer_sum": True}, [0, 1, 2, 3], 384)],
)
def test_head_takes_the_frames_of_its_layers(fields, layers, size):
    config = WhisperEmotionConfig(encoder_layers=3, **fields)
    assert (config.frame_layers, config.frame_size) == (layers, size)


@pytest.mark.parametrize(
    ("context", "own"),
    [("window", {}), ("utterance", {"context_margin": 1.0}), ("sparse_window", {"silence_stride": 32})],
)
def test_context_names_the_field_that_belongs_to_it(context, own):
    assert WhisperEmotionConfig(encoder_context=context).context == {"encoder_context": context, **own}


def test_temperature_of_adapted_clips_falls_back_to_the_plain_one():
    config = WhisperEmotionConfig(logit_temperature=2.0)
    assert [config.temperature_of(adapted) for adapted in (False, True)] == [2.0, 2.0]
    config.adapted_logit_temperature = 3.0
    assert [config.temperature_of(adapted) for adapted in (False, True)] == [2.0, 3.0]
