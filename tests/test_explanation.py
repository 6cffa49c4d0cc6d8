"""Explanations: pooling weights sum to 1, and evidence sums to the difference of the logits."""

import numpy as np
import pytest
import torch
from conftest import save_model

from whisper_emotion.explanation import FRAME_SECONDS, explain
from whisper_emotion.inference import EmotionClassifier

NOISE = np.random.default_rng(0).normal(0, 0.1, 23_456).astype(np.float32)  # 147 mel frames, so 74 encoder frames


def logits(classifier, samples):
    inputs = classifier.extractor(samples, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        return classifier.model(**inputs).logits[0].sort(descending=True).values


@pytest.mark.parametrize("pooling", ["qkv", "attentive", "attentive_statistics"])
def test_weights_of_every_head_sum_to_one(tiny_encoder, tmp_path, pooling):
    classifier = EmotionClassifier(save_model(tiny_encoder, tmp_path, pooling=pooling, pooling_heads=3))
    explanation = explain(classifier, NOISE)
    assert explanation.weights.shape == (3, 74)
    assert 74 * FRAME_SECONDS == pytest.approx(23_456 / 16_000, abs=FRAME_SECONDS)
    np.testing.assert_allclose(explanation.weights.sum(axis=1), 1, atol=1e-5)
    assert explanation.weights.std(axis=1).min() > 0
    assert explanation.behind < 1e-5 and explanation.evidence is None
    assert explanation.log_mel.shape == (80, 147)
    probabilities = list(explanation.probabilities.values())
    np.testing.assert_allclose(probabilities, logits(classifier, NOISE).softmax(0), atol=1e-5)


@pytest.mark.parametrize("width", [0, 16])
@pytest.mark.parametrize("context", ["window", "sparse_window"])
@pytest.mark.parametrize("pooling", ["mean", "statistics"])
def test_evidence_adds_up_to_the_difference_of_the_logits(tiny_encoder, tmp_path, pooling, context, width):
    fields = {"pooling": pooling, "encoder_context": context, "classifier_proj_size": width, "logit_temperature": 0.5}
    classifier = EmotionClassifier(save_model(tiny_encoder, tmp_path, **fields))
    torch.nn.init.normal_(classifier.model.head.classifier.bias)
    explanation = explain(classifier, NOISE)
    np.testing.assert_allclose(explanation.weights, 1 / 74, rtol=1e-4)
    first, second, _ = logits(classifier, NOISE).tolist()
    assert explanation.evidence.shape == (74,) and explanation.evidence.std() > 0
    assert explanation.evidence.mean() == pytest.approx(first - second, abs=1e-3)


def test_weight_on_the_silence_behind_a_clip_is_reported(tiny_encoder, tmp_path):
    folder = save_model(tiny_encoder, tmp_path, pooling="mean", encoder_context="window", mask_padding=False)
    explanation = explain(EmotionClassifier(folder), NOISE)
    assert explanation.weights.shape == (1, 74) and explanation.evidence.shape == (74,)
    assert explanation.behind == pytest.approx(1 - 74 / 1500, abs=1e-4)


def test_explanation_of_normalized_speech_begins_where_the_speech_does(tiny_encoder, tmp_path):
    classifier = EmotionClassifier(save_model(tiny_encoder, tmp_path, pooling="mean"))
    classifier.extractor.normalize_speech = True
    clip = np.pad(NOISE, (8000, 16_000))
    explanation = explain(classifier, clip)
    assert explanation.start == pytest.approx(0.5 - 0.1, abs=0.025)  # a frame of 25 ms reaches into the speech
    start = round(16_000 * explanation.start)
    np.testing.assert_array_equal(explanation.samples, clip[start : start + len(explanation.samples)])
    assert len(explanation.samples) == pytest.approx(len(NOISE) + 3200, abs=800)
    assert len(explanation.evidence) == -(-explanation.log_mel.shape[1] // 2)


def test_frames_forty_decibels_below_the_loudest_are_pauses(model_dir):
    clip = np.concatenate([NOISE[:6400], 0.005 * NOISE[6400:12800], 0.05 * NOISE[12800:19200]])  # 0, -46 and -26 dB
    np.testing.assert_array_equal(
        np.flatnonzero(~explain(EmotionClassifier(model_dir), clip).speech),
        np.arange(21, 40),  # frame k has the 20 ms around k * 20 ms; frames 20 and 40 hold half of their neighbours
    )


def test_bands_have_their_frequencies(model_dir):
    hertz = explain(EmotionClassifier(model_dir), NOISE).mel_hertz
    assert len(hertz) == 80 and (np.diff(hertz) > 0).all()
    # Slaney's scale is linear to 1 kHz, which is mel 15 of 45.245 at 8 kHz; band k is centred at (k + 1) / 81 of them.
    assert hertz[9] == pytest.approx(10 / 81 * 45.245 * 1000 / 15, rel=0.05)
    assert 7500 < hertz[-1] < 8000


def test_a_clip_that_is_too_long_is_refused(model_dir):
    with pytest.raises(
        ValueError,
        match=r"30\.00 s \(480,001 samples\): at most 480,000 samples",
    ):
        explain(EmotionClassifier(model_dir), np.zeros(480_001, np.float32))
