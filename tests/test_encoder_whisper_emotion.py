"""The encoder against transformers' own, its contexts, and the independence of a clip from its batch."""

import numpy as np
import pytest
import torch
from conftest import extract_features, load_model, noise_clips
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor, WhisperForAudioClassification

from whisper_emotion.encoder_whisper_emotion import WhisperEmotionAttention, encoder_frames, sparse_tokens

CONTEXTS = ("window", "utterance", "sparse_window")


def speech(shared_dir, *names):
    from whisper_emotion.audio import read_audio

    return [read_audio(shared_dir / "corpora/emodb/wav" / f"{name}.flac") for name in names]


BASE = pytest.param("whisper-base-encoder", marks=pytest.mark.slow)


@pytest.fixture(params=["tiny", BASE])
def spoken(request, tiny_encoder, synthetic_dir):
    """An encoder and four clips of speech: random weights and generated voices, or real ones of both."""
    if request.param == "tiny":
        from whisper_emotion.audio import read_audio

        return tiny_encoder, [read_audio(path) for path in sorted(synthetic_dir.rglob("*_01.wav"))[::4]]
    shared_dir = request.getfixturevalue("shared_dir")
    return shared_dir / "encoders" / request.param, speech(shared_dir, "03a01Fa", "03a01Wa", "12a02Nb", "16b10Wb")


def loud_at_its_end():
    clip = noise_clips(1.0)[0] / 100
    clip[-1] = 1.0
    return clip


# --- context ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["max_length", "longest"])
@pytest.mark.parametrize("name", ["tiny", BASE, "whisper-tiny.en-encoder"])
def test_window_context_gives_the_hidden_states_of_the_stock_encoder(name, padding, request):
    if name == "tiny":
        encoder, audio = request.getfixturevalue("tiny_encoder"), [*noise_clips(0.5, 2.0), loud_at_its_end()]
    else:
        shared_dir = request.getfixturevalue("shared_dir")
        encoder, audio = shared_dir / "encoders" / name, [*speech(shared_dir, "03a01Fa"), loud_at_its_end()]
    model = load_model(encoder, encoder_context="window")
    stock = WhisperForAudioClassification.from_pretrained(encoder, dtype=torch.float32).eval().encoder
    features = WhisperFeatureExtractor()(audio, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        ours = model.encoder(**extract_features(audio, padding=padding), output_hidden_states=True).hidden_states
        theirs = stock(features, output_hidden_states=True).hidden_states
    assert len(ours) == len(theirs) == model.config.encoder_layers + 1
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=3e-4, rtol=1e-4)


def test_last_layer_alone_is_normalised(tiny_encoder):
    inputs = extract_features(noise_clips(1.0))
    with torch.no_grad():
        whole = load_model(tiny_encoder).encoder(**inputs, output_hidden_states=True).hidden_states
        cut = load_model(tiny_encoder, encoder_layer=2)
        states = cut.encoder(**inputs, output_hidden_states=True).hidden_states
    torch.testing.assert_close(states[-1], whole[2])
    torch.testing.assert_close(whole[3].mean(-1), torch.zeros_like(whole[3][..., 0]), atol=1e-5, rtol=0)
    assert not any(name.startswith("encoder.layer_norm") for name in cut.state_dict())


def test_utterance_context_with_a_margin_to_the_end_is_the_window(tiny_encoder):
    inputs = extract_features(noise_clips(0.5, 1.7))
    with torch.no_grad():
        window = load_model(tiny_encoder, encoder_context="window")(**inputs).logits
        utterance = load_model(tiny_encoder, encoder_context="utterance", context_margin=30.0)(**inputs).logits
    torch.testing.assert_close(window, utterance, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("margin", "frames"), [(0.0, 50), (0.5, 75)])
def test_utterance_context_encodes_the_clip_and_its_margin(tiny_encoder, margin, frames):
    model = load_model(tiny_encoder, encoder_context="utterance", context_margin=margin)
    with torch.no_grad():
        output = model(**extract_features(noise_clips(1.0)), output_hidden_states=True)
    assert output.hidden_states[-1].shape[1] == frames
    assert (output.pooling_weights[0, 0] > 0).sum() == 50  # the margin is encoded, not pooled
    assert model.encoder.encoded_mel_frames(torch.tensor([100])) == 2 * frames
    assert model.encoder.pooled_frames(torch.tensor([100])) == 50


@pytest.mark.parametrize("seconds", [0.03, 1.0, 29.9, 30.0])
def test_sparse_window_of_stride_1_is_the_window(tiny_encoder, seconds):
    inputs = extract_features(noise_clips(seconds))
    with torch.no_grad():
        window = load_model(tiny_encoder, pooling="qkv", encoder_context="window")(**inputs)
        dense = load_model(tiny_encoder, pooling="qkv", encoder_context="sparse_window", silence_stride=1)(**inputs)
    # but for the window's last frame, where the convolutions meet its end
    torch.testing.assert_close(dense.logits, window.logits, atol=1e-4, rtol=1e-3)


def test_sparse_window_approximates_the_window_on_speech(shared_dir):
    """Real weights alone: random ones attend to all of a window's silence alike."""
    inputs = extract_features(speech(shared_dir, "03a01Wa", "12a02Nb"), padding="longest")

    def means(**fields):
        model = load_model(shared_dir / "encoders/whisper-base-encoder", encoder_layer=3, **fields)
        with torch.no_grad():
            return model.mean_frames(**inputs)

    window = means(encoder_context="window")
    sparse = means(encoder_context="sparse_window")
    alone = means(encoder_context="utterance", context_margin=0.0)
    assert torch.cosine_similarity(sparse, window).min() > 0.998
    assert (sparse - window).norm() < 0.5 * (alone - window).norm()


def test_sparse_tokens_equal_hand_written_ones():
    tokens = sparse_tokens(torch.tensor([1, 3]), longest=3, window=12, stride=4)
    # two silent neighbours follow the clip; then one token stands for four positions, the last for the rest
    assert tokens.positions.tolist() == [[0, 1, 2, 3, 7, 11, 11], [0, 1, 2, 3, 4, 5, 9]]
    assert tokens.counts.tolist() == [[1, 1, 1, 4, 4, 1, 0], [1, 1, 1, 1, 1, 4, 3]]
    assert tokens.sources.tolist() == [[0, 1, 2, 3, 3, 3, 3], [0, 1, 2, 3, 4, 5, 5]]


def test_sparse_tokens_of_a_full_window_are_its_frames():
    tokens = sparse_tokens(torch.tensor([12, 11]), longest=12, window=12, stride=4)
    assert tokens.positions.tolist() == tokens.sources.tolist() == [list(range(12))] * 2
    assert tokens.counts.tolist() == [[1] * 12] * 2


@given(st.lists(st.integers(1, 1500), min_size=1, max_size=4), st.integers(1, 2000))
def test_sparse_tokens_stand_for_every_position_once(own, stride):
    tokens = sparse_tokens(torch.tensor(own), max(own), 1500, stride)
    for positions, counts, frames in zip(tokens.positions.tolist(), tokens.counts.tolist(), own, strict=True):
        kept = [(position, count) for position, count in zip(positions, counts, strict=True) if count]
        assert [count for _, count in kept[:frames]] == [1] * frames
        follower = 0
        for position, count in kept:
            assert position == follower
            follower += count
        assert follower == 1500
        assert counts[len(kept) :] == [0] * (len(counts) - len(kept))


@pytest.mark.parametrize("eager", [True, False])
def test_key_with_count_n_weighs_as_n_copies(tiny_encoder, eager):
    attention = WhisperEmotionAttention(load_model(tiny_encoder).config).eval()
    counts = torch.tensor([[1, 3, 0, 2]])
    hidden = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(0))
    copies = torch.repeat_interleave(hidden, counts[0], dim=1)
    with torch.no_grad():
        weighted = attention(hidden, counts.float().log()[:, None, None], eager)[0]
        copied = attention(copies, torch.zeros(1, 1, 1, 6), eager)[0]
    torch.testing.assert_close(weighted[:, [0, 1, 3]], copied[:, [0, 1, 4]])


@pytest.mark.parametrize("samples", [400, 401, 480, 16_000, 16_161, 480_000])
def test_encoder_frames_are_every_second_mel_frame(samples):
    mel = -(-samples // 160)
    assert encoder_frames(mel) == len(range(0, mel, 2))


# --- a clip and its batch --------------------------------------------------------------------------------------------

MODELS = {}


@settings(max_examples=20)
@given(
    lengths=st.lists(st.integers(400, 480_000), min_size=2, max_size=3),
    context=st.sampled_from(CONTEXTS),
    attention=st.sampled_from(["sdpa", "eager"]),
    extra=st.integers(0, 300),
    seed=st.integers(0, 99),
)
def test_logits_of_a_clip_are_the_same_alone_in_any_batch_order_and_width(
    tiny_encoder, lengths, context, attention, extra, seed
):
    if (key := (context, attention)) not in MODELS:
        fields = {"encoder_context": context, "pooling": "qkv"}
        MODELS[key] = load_model(tiny_encoder, attn_implementation=attention, **fields)
    model, audio = MODELS[key], noise_clips(*(length / 16_000 for length in lengths), seed=seed)
    together = extract_features(audio, padding="longest")
    extra = min(extra, 3000 - together["input_features"].shape[-1])
    wider = {name: torch.nn.functional.pad(tensor, (0, extra)) for name, tensor in together.items()}
    with torch.no_grad():
        expected = torch.cat([model(**extract_features(clip, padding="longest")).logits for clip in audio])
        batches = [
            model(**together).logits,
            model(**wider).logits,
            model(**extract_features(audio[::-1])).logits.flip(0),
        ]
    for logits in batches:
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("context", CONTEXTS)
def test_features_behind_a_clip_do_not_change_logits(tiny_encoder, context):
    model, inputs = load_model(tiny_encoder, encoder_context=context), extract_features(noise_clips(0.5, 1.0))
    with torch.no_grad():
        expected = model(**inputs).logits
        for value in (1000.0, torch.nan):
            inputs["input_features"][0, :, 52:] = value  # the end of the clip reaches two frames
            torch.testing.assert_close(model(**inputs).logits, expected)


def test_speech_has_the_same_logits_alone_and_in_a_batch(spoken):
    encoder, audio = spoken
    model = load_model(encoder, encoder_layer=3)
    with torch.no_grad():
        together = model(**extract_features(audio)).logits
        alone = torch.cat([model(**extract_features(clip, padding="longest")).logits for clip in audio])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


# --- without a mask --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", CONTEXTS)
def test_padding_is_found_without_a_mask(spoken, context):
    """Of the stock extractor, of ours, and zeros: probabilities stay within a percent."""
    encoder, audio = spoken[0], spoken[1][::2]
    model = load_model(encoder, encoder_layer=3, pooling="qkv", encoder_context=context)
    scale, least = (0.05, 0.02) if encoder.name == "encoder" else (0.3, 0.05)  # so that no probability is near 1
    torch.nn.init.normal_(model.head.classifier.weight, std=scale)
    inputs = extract_features(audio, padding="longest")
    zeros = torch.nn.functional.pad(extract_features(audio[0], padding="longest")["input_features"], (0, 500))
    stock = WhisperFeatureExtractor()(audio, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        expected = model(**inputs).logits.softmax(-1)
        for features in (stock, inputs["input_features"], zeros):
            found = model(features).logits.softmax(-1)
            torch.testing.assert_close(found, expected[: len(found)], atol=0.01, rtol=0)
        taken_for_speech = model(stock, torch.ones_like(stock[:, 0])).logits.softmax(-1)
    assert (taken_for_speech - expected).abs().max() > least


def test_clip_without_padding_counts_whole_without_a_mask(tiny_encoder):
    model, inputs = load_model(tiny_encoder), extract_features(noise_clips(30.0))
    with torch.no_grad():
        torch.testing.assert_close(model(inputs["input_features"]).logits, model(**inputs).logits)


@pytest.mark.parametrize("value", [0.0, -1.5])
def test_silence_without_a_mask_gives_finite_logits(tiny_encoder, value):
    with torch.no_grad():
        assert load_model(tiny_encoder)(torch.full((1, 80, 300), value)).logits.isfinite().all()


# --- precision, attention, checkpointing -----------------------------------------------------------------------------


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.01)])
def test_half_precision_is_finite_and_close(tiny_encoder, context, dtype, tolerance, tmp_path):
    model = load_model(tiny_encoder, encoder_context=context, pooling="attentive_statistics")
    model.save_pretrained(tmp_path)
    inputs = extract_features(noise_clips(0.5, 1.7))
    with torch.no_grad():
        expected = model(**inputs).logits
        for half in (load_model(tmp_path, dtype=dtype), model.to(dtype)):
            logits = half(**inputs).logits  # float32 features are cast
            assert logits.dtype == dtype
            torch.testing.assert_close(logits.float(), expected, atol=tolerance, rtol=0.05)


def test_encoder_alone_may_be_in_half_precision(tiny_encoder):
    model, inputs = load_model(tiny_encoder), extract_features(noise_clips(0.5))
    with torch.no_grad():
        expected = model(**inputs).logits
        model.encoder.bfloat16()
        logits = model(**inputs).logits
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, atol=0.1, rtol=0.05)


def test_attention_maps_are_the_same_with_sdpa_and_eager(tiny_encoder):
    inputs = extract_features(noise_clips(0.3, 0.5))
    model = load_model(tiny_encoder, encoder_layer=2, encoder_context="utterance", attn_implementation="sdpa")
    with torch.no_grad():
        sdpa, plain = model(**inputs, output_attentions=True), model(**inputs)
        model.set_attn_implementation("eager")
        eager = model(**inputs, output_attentions=True)
    assert plain.attentions is None
    assert [maps.shape for maps in sdpa.attentions] == [(2, 2, 75, 75)] * 2
    for one, other in zip(sdpa.attentions, eager.attentions, strict=True):
        torch.testing.assert_close(one, other)
        torch.testing.assert_close(one.sum(-1), torch.ones(2, 2, 75))
        assert (one[0, :, :, 65:] == 0).all()  # 15 frames, 50 of margin, padding
    torch.testing.assert_close(plain.logits, eager.logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", ["flash_attention_2", "flex_attention"])
def test_attention_without_a_bias_on_keys_is_refused_by_name(tiny_encoder, kernel):
    with pytest.raises((ValueError, ImportError), match=kernel.split("_")[0].capitalize() + "|" + kernel):
        load_model(tiny_encoder, attn_implementation=kernel)


def test_gradient_checkpointing_changes_no_gradient(tiny_encoder):
    inputs = extract_features(noise_clips(0.3, 0.5))
    gradients = []
    for checkpointing in (False, True):
        model = load_model(tiny_encoder, pooling_dropout=0.0).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        model(**inputs, labels=torch.tensor([0, 1])).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert gradients[0]["encoder.conv1.weight"].abs().sum() > 0
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "mask", "reason"),
    [
        (
            torch.zeros(1, 128, 100),
            None,
            r"input_features has shape \(1, 128, 100\): it must be \(batch, 80, frames\)",
        ),
        (torch.zeros(80, 100), None, r"input_features has shape \(80, 100\): it must be \(batch, 80, frames\)"),
        (torch.zeros(0, 80, 9), None, r"input_features has shape \(0, 80, 9\): it must be"),
        (torch.zeros(1, 80, 3001), None, "input_features has 3001 frames: it may have at most 3000"),
        (torch.zeros(1, 80, 9).long(), None, "input_features has type torch.int64: it must be floating point"),
        (torch.zeros(1, 80, 9), torch.ones(1, 8), r"attention_mask has shape \(1, 8\): .* each of the 9 mel frames"),
        (torch.zeros(2, 80, 9), torch.ones(1, 9), r"attention_mask has shape \(1, 9\): .* each of the 2 clips"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(tiny_encoder, features, mask, reason):
    with pytest.raises(ValueError, match=reason):
        load_model(tiny_encoder)(features, mask)


def test_tracing_is_refused(tiny_encoder):
    model = load_model(tiny_encoder)
    with pytest.raises(ValueError, match="torch.jit.trace would fix the clips' lengths: use torch.export"):
        torch.jit.trace(model, (torch.zeros(1, 80, 100),), strict=False)


def test_mask_may_be_bool_int_or_float(tiny_encoder):
    model, inputs = load_model(tiny_encoder), extract_features(noise_clips(0.3, 0.5))
    mask = inputs["attention_mask"]
    with torch.no_grad():
        logits = [
            model(inputs["input_features"], mask.to(dtype)).logits for dtype in (torch.long, torch.bool, torch.float)
        ]
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(logits[0], logits[2])
