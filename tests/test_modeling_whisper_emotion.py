"""The model: what it computes, what it keeps, what it loads, and that a clip's company is of no consequence."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperForAudioClassification
from transformers.modeling_outputs import BaseModelOutput

from whisper_emotion import (
    WhisperEmotionConfig,
    WhisperEmotionFeatureExtractor,
    WhisperForEmotionClassification,
    encoder_whisper_emotion,
)
from whisper_emotion.audio import read_audio
from whisper_emotion.encoder_whisper_emotion import encoder_frames, sparse_positions
from whisper_emotion.pooling_whisper_emotion import POOLING_CLASSES

RATE = 16_000
EXTRACTOR = WhisperEmotionFeatureExtractor()


def load(encoder, **fields):
    torch.manual_seed(0)
    return WhisperForEmotionClassification.from_pretrained(encoder, **fields).eval()


def clips(*seconds, seed=0):
    rng = np.random.default_rng(seed)
    return [(0.1 * rng.standard_normal(round(length * RATE))).astype(np.float32) for length in seconds]


def extract(audio, **options):
    return EXTRACTOR(audio, sampling_rate=RATE, return_tensors="pt", **options)


# --- what it computes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "whisper-base-encoder", "whisper-tiny.en-encoder"])
def test_window_context_gives_the_stock_encoder_s_hidden_states(name, request):
    if name == "tiny":
        encoder, audio = request.getfixturevalue("tiny_encoder"), clips(0.5, 2.0)
    else:
        shared = request.getfixturevalue("shared_dir")
        encoder = shared / "encoders" / name
        audio = [read_audio(shared / "corpora/emodb/wav" / f"{clip}.flac") for clip in ("03a01Fa", "16b10Wb")]
    model = load(encoder, encoder_context="window")
    stock = WhisperForAudioClassification.from_pretrained(encoder, dtype=torch.float32).eval().encoder
    inputs = extract(audio)
    with torch.no_grad():
        ours = model(**inputs, output_hidden_states=True).hidden_states
        theirs = stock(inputs.input_features, output_hidden_states=True).hidden_states
    assert len(ours) == len(theirs) == model.config.encoder_layers + 1
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_the_last_layer_alone_is_normalised(tiny_encoder):
    inputs = extract(clips(1.0))
    with torch.no_grad():
        whole = load(tiny_encoder)(**inputs, output_hidden_states=True).hidden_states
        cut = load(tiny_encoder, encoder_layer=2)
        assert not hasattr(cut.encoder, "layer_norm")
        torch.testing.assert_close(cut(**inputs, output_hidden_states=True).hidden_states[-1], whole[2])


def test_a_narrow_batch_is_extended_with_the_window_s_own_silence(tiny_encoder):
    model, audio = load(tiny_encoder), clips(0.5, 1.7)
    with torch.no_grad():
        wide, narrow = model(**extract(audio)).logits, model(**extract(audio, padding="longest")).logits
    torch.testing.assert_close(wide, narrow, atol=1e-5, rtol=1e-5)


def test_utterance_context_with_a_margin_to_the_end_is_the_window(tiny_encoder):
    inputs = extract(clips(0.5, 1.7))
    with torch.no_grad():
        window = load(tiny_encoder, encoder_context="window")(**inputs).logits
        utterance = load(tiny_encoder, encoder_context="utterance", context_margin=30.0)(**inputs).logits
    torch.testing.assert_close(window, utterance, atol=1e-5, rtol=1e-5)


def test_utterance_context_encodes_the_audio_and_the_margin(tiny_encoder):
    inputs = extract(clips(1.0))
    for margin, frames in ((0.0, 50), (0.5, 75)):
        model = load(tiny_encoder, encoder_context="utterance", context_margin=margin)
        with torch.no_grad():
            output = model(**inputs, output_hidden_states=True)
        assert output.hidden_states[-1].shape[1] == frames
        assert (output.pooling_weights[0, 0] > 0).sum() == 50  # the margin is heard, not pooled


@pytest.mark.parametrize("seconds", [0.03, 1.0, 29.9, 30.0])
def test_a_sparse_window_of_stride_1_is_the_window(tiny_encoder, seconds):
    inputs = extract(clips(seconds))
    with torch.no_grad():
        window = load(tiny_encoder, pooling="qkv", encoder_context="window")(**inputs)
        dense = load(tiny_encoder, pooling="qkv", encoder_context="sparse_window", silence_stride=1)(**inputs)
    # but for the window's last frame, where the convolutions meet its end
    torch.testing.assert_close(dense.logits, window.logits, atol=1e-4, rtol=1e-3)


def test_real_speech_has_in_the_sparse_window_what_it_has_in_the_window(shared_dir):
    audio = [read_audio(shared_dir / f"corpora/emodb/wav/{name}.flac") for name in ("03a01Wa", "12a02Nb")]
    inputs = extract(audio, padding="longest")

    def means(**fields):
        model = load(shared_dir / "encoders/whisper-base-encoder", encoder_layer=3, **fields)
        with torch.no_grad():
            frames, mask = model.encode(**inputs)
        return torch.stack([clip[real].mean(0) for clip, real in zip(frames, mask, strict=True)])

    window = means()
    sparse = means(encoder_context="sparse_window")
    alone = means(encoder_context="utterance", context_margin=0.0)
    assert torch.cosine_similarity(sparse, window).min() > 0.998
    assert (sparse - window).norm() < 0.5 * (alone - window).norm()


@given(st.lists(st.integers(1, 1500), min_size=1, max_size=4), st.integers(1, 2000))
def test_the_sparse_window_s_frames_stand_for_all_of_it(audible, stride):
    positions, counts = sparse_positions(torch.tensor(audible), max(audible), 1500, stride)
    for clip, own, stands_for in zip(positions.tolist(), audible, counts.tolist(), strict=True):
        kept = [(position, count) for position, count in zip(clip, stands_for, strict=True) if count]
        assert [count for _, count in kept[:own]] == [1] * own
        follower = 0
        for position, count in kept:  # one behind the other, without a gap
            assert position == follower
            follower += count
        assert follower == 1500
        assert stands_for[len(kept) :] == [0] * (len(clip) - len(kept))


@pytest.mark.parametrize(("context", "pooled"), [("window", 1500), ("utterance", 100)])
def test_without_mask_padding_every_encoded_frame_of_the_clip_is_pooled(tiny_encoder, context, pooled):
    model = load(tiny_encoder, encoder_context=context, mask_padding=False)
    with torch.no_grad():
        weights = model(**extract(clips(1.0, 2.0))).pooling_weights
    assert (weights[0, 0] > 0).sum() == pooled
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 1))


def test_the_paper_s_mean_is_the_mean_of_1500_frames(tiny_encoder):
    model, inputs = load(tiny_encoder, encoder_context="window", mask_padding=False), extract(clips(1.0))
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
        frames = model.projector_norm(model.projector(output.hidden_states[-1]))
    torch.testing.assert_close(output.embedding, frames.mean(1))
    torch.testing.assert_close(output.logits, model.classifier(frames.mean(1)))


def test_weighted_layer_sum_starts_as_the_mean_of_the_layers(tiny_encoder):
    window = {"encoder_context": "window"}
    model, inputs = load(tiny_encoder, encoder_layer=2, use_weighted_layer_sum=True, **window), extract(clips(1.0))
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
        mixed = torch.stack(output.hidden_states).mean(0)
        frames, mask = model.projector_norm(model.projector(mixed)), inputs.attention_mask[:, ::2]
        torch.testing.assert_close(output.embedding, model.pooling(frames, torch.arange(1500)[None] < mask.sum())[0])
        model.layer_weights.copy_(torch.tensor([-50.0, 50.0, -50.0]))
        one_layer = load(tiny_encoder, encoder_layer=1, **window)
        torch.testing.assert_close(model(**inputs).logits, one_layer(**inputs).logits, atol=1e-5, rtol=1e-5)


def test_concatenated_layers_lie_side_by_side(tiny_encoder):
    model, inputs = load(tiny_encoder, concatenated_layers=[0, 2]), extract(clips(1.0))
    assert (model.config.encoder_layer, len(model.encoder.layers), model.config.frame_size) == (2, 2, 32)
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
        frames = torch.cat([output.hidden_states[0], output.hidden_states[2]], dim=-1)[:, :50]
        expected = model.projector_norm(model.projector(frames)).mean(1)
    torch.testing.assert_close(output.embedding, expected)


@pytest.mark.parametrize("layers", [{}, {"use_weighted_layer_sum": True}, {"concatenated_layers": [1, 2]}])
@pytest.mark.parametrize(
    "fields", [{}, {"encoder_context": "window", "mask_padding": False}, {"encoder_context": "utterance"}]
)
def test_stored_frames_give_the_logits_of_the_audio(tiny_encoder, layers, fields):
    model = load(tiny_encoder, encoder_layer=2, pooling="attentive", **layers, **fields)
    inputs = extract(clips(0.5, 1.7))
    with torch.no_grad():
        expected = model(**inputs, output_hidden_states=True)
        frames, mask = model.encode(**inputs)
        stored = model(encoder_outputs=frames, attention_mask=mask)
        torch.testing.assert_close(stored.logits, expected.logits, atol=1e-5, rtol=1e-5)
        # packed: without the frames that are not pooled, and with something behind them
        kept = [clip[..., real, :] for clip, real in zip(frames, mask, strict=True)]
        packed = torch.cat([*kept, torch.full_like(kept[0], torch.nan)], dim=-2)
        torch.testing.assert_close(
            model(encoder_outputs=packed, attention_mask=mask).logits, expected.logits, atol=1e-5, rtol=1e-5
        )
        # the encoder's own output
        hidden = expected.hidden_states
        whole = BaseModelOutput(last_hidden_state=hidden[-1], hidden_states=hidden)
        torch.testing.assert_close(model(encoder_outputs=whole, attention_mask=mask).logits, expected.logits)


@pytest.mark.parametrize("layers", [{}, {"concatenated_layers": [1, 2]}])
def test_a_speaker_s_difference_to_the_population_is_taken_off_every_frame(tiny_encoder, layers):
    """By hand: frames minus (speaker's mean - population's mean), and the same for audio, stored and packed frames."""
    model, inputs = load(tiny_encoder, encoder_layer=2, pooling="qkv", **layers), extract(clips(0.5, 1.7))
    generator = torch.Generator().manual_seed(0)
    speakers = torch.randn(2, model.config.frame_size, generator=generator)
    with torch.no_grad():
        with pytest.raises(ValueError, match="does not know its training speakers' mean"):
            model(**inputs, speaker_mean=speakers)
        model.population_mean.normal_(generator=generator)
        frames, mask = model.encode(**inputs)
        shift = (speakers - model.population_mean).unflatten(1, (-1, 16))  # one a layer
        shifted = frames - (shift[:, 0, None] if frames.ndim == 3 else shift[:, :, None])
        expected = model(encoder_outputs=shifted, attention_mask=mask).logits
        assert (expected - model(**inputs).logits).abs().max() > 0.01
        packed = torch.cat([clip[..., real, :] for clip, real in zip(frames, mask, strict=True)], dim=-2)
        for given in (inputs, *({"encoder_outputs": f, "attention_mask": mask} for f in (frames, packed))):
            torch.testing.assert_close(model(**given, speaker_mean=speakers).logits, expected, atol=1e-5, rtol=1e-5)


def test_mean_frames_are_those_of_the_clip_alone(tiny_encoder):
    """Whatever is pooled: padding and margin are not the speaker's."""
    model = load(tiny_encoder, concatenated_layers=[1, 2], mask_padding=False, encoder_context="utterance")
    inputs = extract(clips(0.5, 1.7))
    with torch.no_grad():
        means = model.mean_frames(**inputs)
        states = model(**inputs, output_hidden_states=True).hidden_states
    for clip, frames in enumerate((25, 85)):
        expected = torch.cat([states[layer][clip, :frames].mean(0) for layer in (1, 2)])
        torch.testing.assert_close(means[clip], expected, atol=1e-5, rtol=1e-5)


def test_an_embedding_stands_for_all_below_the_classifier(tiny_encoder):
    model, inputs = load(tiny_encoder, temperature=2.0), extract(clips(0.5, 1.7))
    with torch.no_grad():
        output = model(**inputs)
        torch.testing.assert_close(model(embedding=output.embedding).logits, output.logits)
        torch.testing.assert_close(output.logits, model.classifier(output.embedding) / 2)

        model.config.adapted_temperature = 0.5
        model.population_mean.fill_(0.1)
        speakers = model.mean_frames(**inputs)
        adapted = model(**inputs, speaker_mean=speakers)
        torch.testing.assert_close(adapted.logits, model.classifier(adapted.embedding) / 0.5)
        again = model(embedding=adapted.embedding, speaker_mean=speakers)
        torch.testing.assert_close(again.logits, adapted.logits)
        torch.testing.assert_close(model(**inputs).logits, output.logits)


@pytest.mark.parametrize(("pooling", "frozen", "fixed"), [("mean", True, True), ("mean", False, False),
                                                          ("qkv", True, False)])  # fmt: skip
def test_an_embedding_is_fixed_where_only_the_classifier_learns(tiny_encoder, pooling, frozen, fixed):
    model = load(tiny_encoder, pooling=pooling)
    for part in (model.projector, model.projector_norm):
        part.requires_grad_(not frozen)
    assert model.has_fixed_embedding() == fixed


@pytest.mark.parametrize("samples", [400, 401, 480, 16_000, 16_161, 480_000])
def test_encoder_frames_of_a_clip(samples):
    mel = -(-samples // 160)
    assert encoder_frames(mel) == len(range(0, mel, 2))


# --- a clip's company ------------------------------------------------------------------------------------------------

MODELS = {}


@settings(max_examples=24)
@given(
    lengths=st.lists(st.integers(400, 480_000), min_size=2, max_size=4),
    context=st.sampled_from(["window", "utterance", "sparse_window"]),
    attention=st.sampled_from(["sdpa", "eager"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_a_clip_has_the_same_logits_alone_in_any_batch_and_order(
    tiny_encoder, lengths, context, attention, dtype, seed
):
    key = (context, attention, dtype)
    if key not in MODELS:
        fields = {"encoder_context": context, "pooling": "qkv", "dtype": dtype}
        MODELS[key] = load(tiny_encoder, attn_implementation=attention, **fields)
    model, audio = MODELS[key], clips(*(length / RATE for length in lengths), seed=seed)
    with torch.no_grad():
        together = model(**extract(audio, padding="longest")).logits
        reverse = model(**extract(audio[::-1])).logits.flip(0)
        alone = torch.cat([model(**extract(clip, padding="longest")).logits for clip in audio])
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 0.05}[dtype]  # logits of about 1
    torch.testing.assert_close(together, alone, atol=tolerance, rtol=0)
    torch.testing.assert_close(together, reverse, atol=tolerance, rtol=0)


@pytest.mark.parametrize("context", ["window", "utterance", "sparse_window"])
def test_packed_clips_train_as_padded_ones(tiny_encoder, context):
    fields = {"encoder_layer": 2, "encoder_context": context, "freeze_encoder": False, "pooling_dropout": 0.0}
    models = [
        load(tiny_encoder, pooling="attentive", attn_implementation=name, **fields).train()
        for name in ("sdpa", "eager")
    ]
    inputs = extract(clips(0.4, 1.7, 0.9), padding="longest")
    outputs = [model(**inputs, labels=torch.tensor([0, 1, 1]), output_hidden_states=True) for model in models]
    for output in outputs:
        output.loss.backward()
    packed, padded = outputs
    torch.testing.assert_close(packed.loss, padded.loss)
    real = packed.pooling_weights.sum(1) > 0
    for one, other in zip(packed.hidden_states, padded.hidden_states, strict=True):
        torch.testing.assert_close(one[real], other[real], atol=1e-4, rtol=1e-4)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-3)


def test_a_batch_is_divided_into_packs_of_neighbours(monkeypatch):
    monkeypatch.setattr(encoder_whisper_emotion, "PACKED_ROWS", 10)
    packs = encoder_whisper_emotion._split_batch([4, 6, 1, 12, 3, 3, 4])
    assert [list(range(7)[pack]) for pack in packs] == [[0, 1], [2], [3], [4, 5, 6]]


def test_what_stands_in_the_padding_is_of_no_consequence(tiny_encoder):
    model, inputs = load(tiny_encoder, encoder_context="utterance"), extract(clips(0.5, 1.0), padding="longest")
    with torch.no_grad():
        expected = model(**inputs).logits
        inputs["input_features"][0, :, 52:] = 1000.0  # behind the two frames that still hear the clip's end
        torch.testing.assert_close(model(**inputs).logits, expected)


def test_real_speech_in_a_batch(shared_dir):
    model = load(shared_dir / "encoders/whisper-base-encoder", encoder_layer=3, encoder_context="utterance")
    paths = sorted((shared_dir / "corpora/emodb/wav").glob("*.flac"))[::90]
    audio = [read_audio(path) for path in paths]
    with torch.no_grad():
        together = model(**extract(audio)).logits
        alone = torch.cat([model(**extract(clip)).logits for clip in audio])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


# --- loading, saving, freezing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", POOLING_CLASSES)
def test_the_missing_keys_of_a_stock_checkpoint_are_exactly_the_head_s(tiny_encoder, pooling):
    model, report = WhisperForEmotionClassification.from_pretrained(
        tiny_encoder, encoder_layer=2, pooling=pooling, use_weighted_layer_sum=True, output_loading_info=True
    )
    head = {name for name in model.state_dict() if not name.startswith("encoder.")}
    assert set(report["missing_keys"]) == head
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]


@pytest.mark.parametrize("layer", range(4))
def test_layers_above_the_chosen_one_are_neither_built_nor_saved(tiny_encoder, layer, tmp_path):
    model = load(tiny_encoder, encoder_layer=layer)
    assert len(model.encoder.layers) == layer
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert loaded.config.encoder_layer == layer
    assert loaded.state_dict().keys() == model.state_dict().keys()
    inputs = extract(clips(0.3))
    torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits)


def test_half_precision_checkpoints_come_up_in_float32_unless_asked(tiny_encoder):
    assert load(tiny_encoder).dtype == torch.float32
    half = load(tiny_encoder, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half(**extract(clips(0.3))).logits.dtype == torch.bfloat16  # float32 features are cast


def test_weights_are_the_checkpoint_s_and_positions_are_whisper_s(tiny_encoder):
    model = load(tiny_encoder)
    stock = WhisperForAudioClassification.from_pretrained(tiny_encoder, dtype=torch.float32).encoder.state_dict()
    assert stock.keys() == model.encoder.state_dict().keys()
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(tensor, stock[name]), name
    fresh = WhisperForEmotionClassification(WhisperEmotionConfig(d_model=16, encoder_attention_heads=2))
    torch.testing.assert_close(fresh.encoder.embed_positions.weight[0, 8:], torch.ones(8))  # cosines of 0


def test_the_head_is_the_same_for_the_same_seed(tiny_encoder):
    one, other = load(tiny_encoder, pooling="qkv"), load(tiny_encoder, pooling="qkv")
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
        assert torch.isfinite(tensor).all(), name


def test_a_frozen_encoder_is_frozen_again_after_loading(tiny_encoder, tmp_path):
    load(tiny_encoder, pooling="attentive").save_pretrained(tmp_path)
    for path in (tiny_encoder, tmp_path):
        model = load(path).train()
        assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
        assert all(p.requires_grad for name, p in model.named_parameters() if not name.startswith("encoder."))
        assert not model.encoder.training


def test_an_encoder_that_is_not_frozen_trains_all_but_the_positions(tiny_encoder):
    model = load(tiny_encoder, freeze_encoder=False).train()
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == {"encoder.embed_positions.weight"}
    model(**extract(clips(0.3)), labels=torch.tensor([0])).loss.backward()
    assert model.encoder.conv1.weight.grad.abs().sum() > 0


def test_gradient_checkpointing_changes_no_gradient(tiny_encoder):
    gradients = []
    for checkpointing in (False, True):
        model = load(tiny_encoder, freeze_encoder=False, encoder_context="utterance").train()
        if checkpointing:
            model.activation_checkpointing_enable()
            assert model.is_activation_checkpointing
        model(**extract(clips(0.3)), labels=torch.tensor([0])).loss.backward()
        gradients.append(model.encoder.conv1.weight.grad)
    torch.testing.assert_close(*gradients)


def test_128_mel_bins(tmp_path):
    model = WhisperForEmotionClassification(
        WhisperEmotionConfig(num_mel_bins=128, d_model=16, encoder_attention_heads=2, encoder_layers=1)
    ).eval()
    features = WhisperEmotionFeatureExtractor(feature_size=128)(clips(0.3), sampling_rate=RATE, return_tensors="pt")
    assert model(**features).logits.shape == (1, 2)


# --- loss and outputs ------------------------------------------------------------------------------------------------


def test_loss_is_the_weighted_smoothed_cross_entropy(tiny_encoder):
    model = load(tiny_encoder, num_labels=3, class_weights=[1.0, 2.0, 4.0], label_smoothing=0.1)
    labels = torch.tensor([2, 0])
    with torch.no_grad():
        output = model(**extract(clips(0.3, 0.5)), labels=labels)
    expected = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 4.0]), label_smoothing=0.1)
    torch.testing.assert_close(output.loss, expected(output.logits, labels))


def test_soft_labels_that_are_certain_are_hard_labels(tiny_encoder):
    model, inputs = load(tiny_encoder, num_labels=3), extract(clips(0.3, 0.5))
    with torch.no_grad():
        hard = model(**inputs, labels=torch.tensor([2, 0])).loss
        soft = model(**inputs, labels=torch.tensor([[0, 0, 1], [1, 0, 0]])).loss
        mixed = model(**inputs, labels=torch.tensor([[0, 0.5, 0.5], [1, 0, 0]])).loss
    torch.testing.assert_close(hard, soft)
    assert not torch.isclose(mixed, soft)


def test_outputs_on_request(tiny_encoder):
    model, inputs = load(tiny_encoder, encoder_layer=2, encoder_context="utterance"), extract(clips(0.3))
    plain = model(**inputs)
    assert plain.hidden_states is None and plain.attentions is None and plain.loss is None
    with pytest.raises(ValueError, match="set_attn_implementation"):
        model(**inputs, output_attentions=True)
    model.set_attn_implementation("eager")
    output = model(**inputs, output_attentions=True)
    assert [maps.shape for maps in output.attentions] == [(1, 2, 65, 65)] * 2
    torch.testing.assert_close(output.attentions[0].sum(-1), torch.ones(1, 2, 65))
    torch.testing.assert_close(output.logits, plain.logits, atol=1e-5, rtol=1e-5)
    assert torch.equal(model(**inputs, return_dict=False)[0], output.logits)


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({}, "needs input_features, encoder_outputs or embedding"),
        ({"input_features": torch.zeros(1, 128, 100)}, r"\(1, 128, 100\): this model takes \(batch, 80, frames\)"),
        ({"input_features": torch.zeros(1, 80, 3001)}, "3001 frames: the encoder takes at most 3000"),
        ({"input_features": torch.zeros(1, 80, 9), "attention_mask": torch.ones(1, 8)}, "one value for each of the 9"),
        ({"input_features": torch.zeros(1, 80, 3), "attention_mask": torch.zeros(1, 3)}, "clip 0 .* has no frame"),
        (
            {"input_features": torch.zeros(1, 80, 3), "attention_mask": torch.tensor([[0, 1, 1]])},
            "ones followed by zeros",
        ),
        (
            {"encoder_outputs": torch.zeros(2, 5, 16), "attention_mask": torch.ones(2, 10)},
            "one value for each of the 5 encoder frames of each of the 2 clips",
        ),
        (
            {"encoder_outputs": torch.zeros(2, 5, 16), "attention_mask": torch.tensor([[1] * 5, [0] * 5])},
            "clip 1 of the batch has no frame",
        ),
        ({"encoder_outputs": torch.zeros(5, 16)}, "packed encoder_outputs need an attention_mask"),
        (
            {"encoder_outputs": torch.zeros(5, 16), "attention_mask": torch.ones(2, 3)},
            r"shape \(2, 3\): with packed encoder_outputs it must be \(batch, frames\) and have at most 5 ones",
        ),
        ({"input_features": torch.zeros(0, 80, 9)}, r"\(0, 80, 9\): this model takes"),
        ({"input_features": torch.zeros(1, 80, 9, dtype=torch.int64)}, "type torch.int64: this model takes floating"),
        ({"encoder_outputs": torch.zeros(16)}, r"encoder_outputs has shape \(16,\)"),
        ({"encoder_outputs": torch.zeros(1, 5, 15)}, r"encoder_outputs has shape \(1, 5, 15\)"),
        ({"encoder_outputs": torch.full((1, 5, 16), torch.nan)}, "encoder_outputs: holds NaN or infinity"),
        ({"embedding": torch.zeros(2, 256), "labels": torch.tensor([0, 2])}, "labels .* class ids from 0 to 1"),
        ({"embedding": torch.zeros(2, 256), "labels": torch.tensor([0, -1])}, "labels .* class ids from 0 to 1"),
        ({"embedding": torch.zeros(2, 256), "labels": torch.zeros(3, dtype=torch.long)}, r"labels has shape \(3,\)"),
        ({"embedding": torch.zeros(2, 256), "labels": torch.zeros(2, 3)}, r"or soft labels \(2, 2\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(tiny_encoder, inputs, reason):
    with pytest.raises(ValueError, match=reason):
        load(tiny_encoder)(**inputs)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 3e38])
def test_a_clip_that_is_no_spectrogram_is_named_by_its_place(tiny_encoder, value):
    model, inputs = load(tiny_encoder, encoder_context="utterance"), extract(clips(0.3, 0.5))
    inputs["input_features"][1, 3, 20] = value
    with pytest.raises(ValueError, match="clip 1 of the batch has NaN, infinity or more than 10000 in input_features"):
        model(**inputs)
    inputs["input_features"][1, 3, 20] = 0
    inputs["input_features"][0, 3, 45] = value  # behind the shorter clip: of no consequence
    assert model(**inputs).logits.isfinite().all()


def test_ignored_labels_are_passed_over(tiny_encoder):
    model, embedding = load(tiny_encoder), torch.randn(2, 256)
    both = model(embedding=embedding, labels=torch.tensor([1, -100])).loss
    assert both == model(embedding=embedding[:1], labels=torch.tensor([1])).loss
