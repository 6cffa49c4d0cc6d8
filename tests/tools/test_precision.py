"""Half precision, bfloat16, autocast and 8-bit weights give nearly the logits of float32."""

import pytest
import torch

from whisper_emotion import WhisperForEmotionClassification

# Of logits that span several units.
TOLERANCES = {torch.float16: 0.02, torch.bfloat16: 0.15}


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def check(found, expected, tolerance):
    torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=0.0)


@pytest.mark.parametrize("pooling", ["mean", "qkv", "attentive_statistics"])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_model_in_half_precision_gives_nearly_the_logits_of_float32(build, inputs, dtype, pooling):
    model = build(pooling=pooling)
    expected = logits(model, inputs)
    found = logits(model.to(dtype), inputs)
    assert found.dtype == dtype
    check(found, expected, TOLERANCES[dtype])


@pytest.mark.parametrize(("dtype", "loaded"), [("float16", torch.float16), (torch.bfloat16, torch.bfloat16)])
def test_from_pretrained_loads_in_the_dtype_asked_for(folder, inputs, dtype, loaded):
    expected = logits(WhisperForEmotionClassification.from_pretrained(folder), inputs)
    model = WhisperForEmotionClassification.from_pretrained(folder, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {loaded}
    check(logits(model, inputs), expected, TOLERANCES[loaded])


def test_a_folder_in_half_precision_comes_up_in_float32_unless_asked(folder, inputs, tmp_path):
    WhisperForEmotionClassification.from_pretrained(folder).half().save_pretrained(tmp_path)
    assert WhisperForEmotionClassification.from_pretrained(tmp_path).dtype == torch.float32
    assert WhisperForEmotionClassification.from_pretrained(tmp_path, dtype="auto").dtype == torch.float16


def test_autocast_trains_and_predicts_nearly_as_float32(build, inputs):
    model, labels = build(), torch.tensor([0, 1, 2])
    expected = model(**inputs, labels=labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(**inputs, labels=labels)
    check(found.logits, expected.logits, TOLERANCES[torch.bfloat16])
    assert found.loss.dtype == torch.float32
    found.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.head.parameters())


def test_a_half_precision_encoder_serves_a_head_in_float32(build, inputs):
    model = build()
    expected = logits(model, inputs)
    model.encoder.to(torch.bfloat16)
    found = logits(model, inputs)
    assert found.dtype == torch.float32
    check(found, expected, TOLERANCES[torch.bfloat16])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("pooling", ["mean", "qkv", "attentive"])
def test_dynamic_quantisation_to_eight_bits_gives_nearly_the_logits_of_float32(build, inputs, pooling):
    model = build(pooling=pooling)
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    layers = [module for module in quantised.modules() if isinstance(module, torch.ao.nn.quantized.dynamic.Linear)]
    assert len(layers) == sum(isinstance(module, torch.nn.Linear) for module in model.modules())
    check(logits(quantised, inputs), logits(model, inputs), 0.4)
