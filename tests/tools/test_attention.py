"""Attention implementations: the right result, or a refusal that names the implementation."""

import pytest
import torch

from whisper_emotion import WhisperForEmotionClassification

REFUSED = {
    "flex_attention": "flex_attention",
    "flash_attention_2": "Flash Attention 2|flash_attention_2",
    "flash_attention_3": "Flash Attention 3|flash_attention_3",
    "none_such": "none_such",
}


@pytest.mark.parametrize("context", ["window", "utterance", "sparse_window"])
def test_eager_attention_gives_the_logits_of_sdpa_and_its_maps_sum_to_one(build, inputs, context):
    model = build(encoder_context=context)
    assert model.config._attn_implementation == "sdpa"
    with torch.no_grad():
        expected = model(**inputs).logits
        model.set_attn_implementation("eager")
        found = model(**inputs, output_attentions=True)
    torch.testing.assert_close(found.logits, expected, atol=1e-5, rtol=1e-5)
    assert len(found.attentions) == 2
    for weights in found.attentions:
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_from_pretrained_takes_sdpa_and_eager(folder, inputs, name):
    model = WhisperForEmotionClassification.from_pretrained(folder, attn_implementation=name)
    assert model.config._attn_implementation == name
    with torch.no_grad():
        expected = WhisperForEmotionClassification.from_pretrained(folder)(**inputs).logits
        torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "named"), REFUSED.items())
def test_another_implementation_is_refused_by_name(folder, inputs, name, named):
    with pytest.raises((ValueError, ImportError), match=named):
        WhisperForEmotionClassification.from_pretrained(folder, attn_implementation=name)
    model = WhisperForEmotionClassification.from_pretrained(folder)
    with pytest.raises((ValueError, ImportError), match=named):
        model.set_attn_implementation(name)
    assert model.config._attn_implementation == "sdpa"
