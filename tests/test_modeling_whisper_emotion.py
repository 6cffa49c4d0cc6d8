"""The model: its head, its losses, its outputs."""

import inspect
import re

import pytest
import torch
from conftest import extract_features, load_model, noise_clips, small_model
from transformers.utils.generic import find_labels

from whisper_emotion import WhisperEmotionFeatureExtractor, WhisperForEmotionClassification

WINDOW = {"encoder_context": "window", "mask_padding": False}


# --- head ------------------------------------------------------------------------------------------------------------


def test_logits_are_the_classified_mean_of_projected_frames(tiny_encoder):
    model, inputs = load_model(tiny_encoder, **WINDOW), extract_features(noise_clips(1.0))
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
        frames = model.head.projector_norm(model.head.projector(output.hidden_states[-1]))
        torch.testing.assert_close(output.embedding, frames.mean(1))
        torch.testing.assert_close(output.logits, model.head.classifier(frames.mean(1)))
        torch.testing.assert_close(output.pooling_weights, torch.full((1, 1, 1500), 1 / 1500))


@pytest.mark.parametrize(("context", "pooled"), [("window", 1500), ("utterance", 100)])
def test_unmasked_padding_pools_every_encoded_frame_of_a_clip(tiny_encoder, context, pooled):
    model = load_model(tiny_encoder, encoder_context=context, mask_padding=False)
    with torch.no_grad():
        weights = model(**extract_features(noise_clips(1.0, 2.0))).pooling_weights
    assert (weights[0, 0] > 0).sum() == pooled
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 1))


def test_without_a_projector_the_pooling_sees_the_encoders_frames(tiny_encoder):
    model, inputs = load_model(tiny_encoder, classifier_proj_size=0, **WINDOW), extract_features(noise_clips(1.0))
    assert not any("projector" in name for name in model.state_dict())
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
    torch.testing.assert_close(output.embedding, output.hidden_states[-1].mean(1))


def test_weighted_layer_sum_starts_as_the_mean_of_the_layers(tiny_encoder):
    model = load_model(tiny_encoder, encoder_layer=2, use_weighted_layer_sum=True, **WINDOW)
    inputs = extract_features(noise_clips(1.0))
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
        mixed = torch.stack(output.hidden_states).mean(0)
        frames = model.head.projector_norm(model.head.projector(mixed))
        torch.testing.assert_close(output.embedding, frames.mean(1), atol=1e-5, rtol=1e-5)
        model.head.merge.weight.copy_(torch.tensor([-50.0, 50.0, -50.0]))
        one_layer = load_model(tiny_encoder, encoder_layer=1, **WINDOW)
        torch.testing.assert_close(model(**inputs).logits, one_layer(**inputs).logits, atol=1e-5, rtol=1e-5)


def test_concatenated_layers_lie_side_by_side(tiny_encoder):
    model = load_model(tiny_encoder, concatenated_layers=[0, 2], classifier_proj_size=0, **WINDOW)
    assert (model.config.encoder_layer, len(model.encoder.layers), model.config.frame_size) == (2, 2, 32)
    with torch.no_grad():
        output = model(**extract_features(noise_clips(1.0)), output_hidden_states=True)
    expected = torch.cat([output.hidden_states[0], output.hidden_states[2]], dim=-1).mean(1)
    torch.testing.assert_close(output.embedding, expected)


@pytest.mark.parametrize("layers", [{}, {"concatenated_layers": [1, 2]}, {"use_weighted_layer_sum": True}])
def test_domain_mean_shifts_every_frame_to_the_population(tiny_encoder, layers):
    model, inputs = (
        load_model(tiny_encoder, encoder_layer=2, pooling="qkv", **layers),
        extract_features(noise_clips(0.5, 1.7)),
    )
    generator = torch.Generator().manual_seed(0)
    speakers = torch.randn(2, model.config.frame_size, generator=generator)
    with torch.no_grad():
        model.head.adaptation.population_mean.normal_(generator=generator)
        encoded = model.encoder(**inputs)
        shifted = model.head.merge(encoded.frames) - (speakers - model.head.adaptation.population_mean)[:, None]
        expected = model.head.classifier(model.head.pooling(model.head.project(shifted), encoded.mask)[0])
        adapted = model(**inputs, domain_mean=speakers).logits
        torch.testing.assert_close(adapted, expected, atol=1e-5, rtol=1e-5)
        assert (adapted - model(**inputs).logits).abs().max() > 1e-3


def test_domain_mean_equal_to_the_population_mean_changes_nothing(tiny_encoder):
    model, inputs = load_model(tiny_encoder), extract_features(noise_clips(0.5, 1.7))
    with torch.no_grad():
        model.head.adaptation.population_mean.copy_(model.mean_frames(**inputs)[0])
        adapted = model(**inputs, domain_mean=model.mean_frames(**inputs)).logits
        torch.testing.assert_close(adapted[0], model(**inputs).logits[0], atol=1e-5, rtol=1e-5)


def test_stored_domain_gives_the_logits_of_its_mean(tiny_encoder):
    model = load_model(tiny_encoder, logit_temperature=1.5, adapted_logit_temperature=0.5)
    inputs = extract_features(noise_clips(0.5, 1.7))
    with torch.no_grad():
        domain = model.mean_frames(**inputs).mean(dim=0)
        plain, expected = model(**inputs).logits, model(**inputs, domain_mean=domain.expand(2, -1)).logits
        model.adapt(domain)
        torch.testing.assert_close(model(**inputs).logits, expected)
        torch.testing.assert_close(model(**inputs, domain_mean=domain.expand(2, -1)).logits, expected)
        model.adapt(None)
        torch.testing.assert_close(model(**inputs).logits, plain)


def test_mean_frames_are_averaged_over_the_pooled_frames(tiny_encoder):
    model = load_model(tiny_encoder, concatenated_layers=[1, 2], encoder_context="utterance")
    inputs = extract_features(noise_clips(0.5, 1.7))
    with torch.no_grad():
        means = model.mean_frames(**inputs)
        states = model(**inputs, output_hidden_states=True).hidden_states
    for clip, frames in enumerate((25, 85)):
        expected = torch.cat([states[layer][clip, :frames].mean(0) for layer in (1, 2)])
        torch.testing.assert_close(means[clip], expected, atol=1e-5, rtol=1e-5)


def test_temperature_divides_the_logits(tiny_encoder):
    model, inputs = load_model(tiny_encoder), extract_features(noise_clips(0.5, 1.7))
    speakers = torch.zeros(2, 16)
    with torch.no_grad():
        plain = model(**inputs).logits
        model.config.logit_temperature = 2.0
        torch.testing.assert_close(model(**inputs).logits, plain / 2)
        torch.testing.assert_close(model(**inputs, domain_mean=speakers).logits, plain / 2)
        model.config.adapted_logit_temperature = 0.5
        torch.testing.assert_close(model(**inputs).logits, plain / 2)
        torch.testing.assert_close(model(**inputs, domain_mean=speakers).logits, plain / 0.5)


# --- loss and output -------------------------------------------------------------------------------------------------

LOGITS = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
@pytest.mark.parametrize("problem", [None, "single_label_classification"])
def test_hard_labels_give_cross_entropy(problem, dtype):
    loss = small_model(problem_type=problem).compute_loss(LOGITS, torch.tensor([1, 0], dtype=dtype))
    probabilities = LOGITS.exp() / LOGITS.exp().sum(1, keepdim=True)
    torch.testing.assert_close(loss, -(probabilities[0, 1].log() + probabilities[1, 0].log()) / 2)


def test_soft_labels_give_cross_entropy():
    model = small_model()
    log_probabilities = LOGITS.log_softmax(1)
    soft = torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]])
    expected = -(0.25 * log_probabilities[0, 0] + 0.75 * log_probabilities[0, 1] + log_probabilities[1, 0]) / 2
    torch.testing.assert_close(model.compute_loss(LOGITS, soft), expected)
    certain = torch.nn.functional.one_hot(torch.tensor([1, 0]), 3)
    for labels in (certain.float(), certain.double()):
        torch.testing.assert_close(
            model.compute_loss(LOGITS, labels), model.compute_loss(LOGITS, torch.tensor([1, 0]))
        )


def test_ignored_labels_do_not_change_the_loss():
    model = small_model()
    both = model.compute_loss(LOGITS, torch.tensor([1, -100]))
    torch.testing.assert_close(both, model.compute_loss(LOGITS[:1], torch.tensor([1])))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_multi_label_loss_is_binary_cross_entropy(dtype):
    labels = torch.tensor([[1, 0, 1], [0, 0, 1]], dtype=dtype)
    loss = small_model(problem_type="multi_label_classification").compute_loss(LOGITS, labels)
    chances = 1 / (1 + (-LOGITS).exp())
    torch.testing.assert_close(loss, -torch.where(labels == 1, chances, 1 - chances).log().mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_regression_loss_is_the_mean_squared_error(dtype):
    labels = torch.tensor([[1, 3, 0], [0, 0, 3]], dtype=dtype)
    loss = small_model(problem_type="regression").compute_loss(LOGITS, labels)
    torch.testing.assert_close(loss, torch.tensor((0 + 1 + 0.25 + 0 + 1 + 0) / 6))


def test_one_label_is_a_regression_whose_labels_may_be_flat():
    model = small_model(num_labels=1)
    for labels in (torch.tensor([1.0, 2.0]), torch.tensor([[1.0], [2.0]])):
        torch.testing.assert_close(model.compute_loss(torch.tensor([[0.0], [4.0]]), labels), torch.tensor(2.5))


@pytest.mark.parametrize(
    ("problem", "labels"),
    [
        (None, torch.tensor([0.0, 1.0])),
        (None, torch.tensor([[1, 0, 0], [0, 1, 0]])),
        ("regression", torch.tensor([0.0, 1.0])),
        ("multi_label_classification", torch.tensor([0.0, 1.0])),
    ],
)
def test_labels_that_do_not_fit_the_problem_are_refused_with_their_shape(problem, labels):
    with pytest.raises(ValueError, match=rf"labels has shape {re.escape(str(tuple(labels.shape)))}.*: it must be"):
        small_model(problem_type=problem).compute_loss(LOGITS, labels)


@pytest.mark.parametrize("shape", [(16,), (2, 1), (3, 16)])
def test_domain_mean_of_another_shape_is_refused(shape):
    inputs = extract_features(noise_clips(0.3, 0.5), padding="longest")
    with pytest.raises(ValueError, match=r"domain_mean has shape .*: it must be \(2, 16\)"):
        small_model()(**inputs, domain_mean=torch.zeros(shape))


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
def test_model_learns_its_labels(problem):
    model = small_model(problem_type=problem, pooling_dropout=0.0).train()
    inputs = extract_features(noise_clips(0.3, 0.5), padding="longest")
    inputs["input_features"][1] *= -1
    labels = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    labels = labels.argmax(1) if problem.startswith("single") else labels
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_loss_of_half_precision_logits_is_float32():
    assert small_model().compute_loss(LOGITS.half(), torch.tensor([0, 1])).dtype == torch.float32


def test_outputs_come_on_request(tiny_encoder):
    model, inputs = load_model(tiny_encoder, encoder_layer=2), extract_features(noise_clips(0.3))
    with torch.no_grad():
        plain = model(**inputs)
        assert list(plain) == ["logits", "embedding", "pooling_weights"]
        whole = model(**inputs, labels=torch.tensor([1]), output_hidden_states=True, output_attentions=True)
        assert list(whole) == ["loss", "logits", "embedding", "pooling_weights", "hidden_states", "attentions"]
        assert (len(whole.hidden_states), len(whole.attentions)) == (3, 2)
        parts = model(**inputs, return_dict=False)
        assert isinstance(parts, tuple)
        assert torch.equal(parts[0], plain.logits)
        model.config.output_hidden_states = True
        assert len(model(**inputs).hidden_states) == 3


def test_forward_has_the_signature_that_trainer_needs():
    """Trainer drops columns that `forward` does not name, and trusts `**kwargs` to mean a loss of its kind."""
    parameters = inspect.signature(WhisperForEmotionClassification.forward).parameters
    assert {"input_features", "attention_mask", "labels", "domain_mean"} <= set(parameters)
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    assert WhisperForEmotionClassification.accepts_loss_kwargs is False
    assert find_labels(WhisperForEmotionClassification) == ["labels"]
    lines = inspect.getsource(WhisperForEmotionClassification.forward).split('"""')
    code = [line for part in lines[::2] for line in part.splitlines() if line.strip()]
    assert len(code) <= 30


def test_model_takes_128_mel_bands():
    extractor = WhisperEmotionFeatureExtractor(feature_size=128)
    features = extractor(noise_clips(0.3), sampling_rate=16_000, return_tensors="pt")
    assert small_model(num_mel_bins=128)(**features).logits.shape == (1, 3)
