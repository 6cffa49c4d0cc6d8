"""PEFT: LoRA adapters learn on every linear layer, and are saved, loaded and merged."""

import pytest
import torch
from torch import nn

from whisper_emotion.pooling_whisper_emotion import POOLING_CLASSES

peft = pytest.importorskip("peft", reason="adapters need PEFT: pip install 'whisper-emotion[lora]'")


def linear_layers(model):
    return {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def logits(model, inputs):
    with torch.no_grad():
        return model.eval()(**inputs).logits


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("pooling", POOLING_CLASSES)
def test_an_adapter_on_every_linear_layer_gets_a_gradient(build, inputs, pooling, checkpointing):
    model = build(pooling=pooling)
    expected = linear_layers(model)
    assert {"encoder.layers.0.self_attn.k_proj", "head.projector", "head.classifier"} <= expected
    assert pooling != "qkv" or {f"head.pooling.{name}" for name in ("query", "key", "value")} <= expected
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=sorted(expected), init_lora_weights=False)
    ).train()
    if checkpointing:
        wrapped.gradient_checkpointing_enable()
    wrapped(**inputs, labels=torch.tensor([0, 1, 2])).loss.backward()
    adapters = {name: parameter for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    assert {name.removeprefix("base_model.model.").split(".lora_")[0] for name in adapters} == expected
    assert not [name for name, parameter in adapters.items() if parameter.grad is None or not parameter.grad.any()]


def test_adapters_survive_saving_and_merging(build, inputs, tmp_path):
    model = build()
    targets = sorted(linear_layers(model) - {"head.classifier"})
    config = peft.LoraConfig(r=2, target_modules=targets, modules_to_save=["classifier"], init_lora_weights=False)
    wrapped = peft.get_peft_model(model, config)
    torch.nn.init.ones_(wrapped.base_model.model.head.classifier.bias)  # what training would change
    expected = logits(wrapped, inputs)
    assert not torch.allclose(expected, logits(build(), inputs), atol=1e-3)
    wrapped.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(build(), tmp_path)
    torch.testing.assert_close(logits(loaded, inputs), expected)
    torch.testing.assert_close(logits(loaded.merge_and_unload(), inputs), expected, atol=1e-4, rtol=1e-4)
