"""accelerate: weights that lie on the CPU's memory or on disk until a layer needs them."""

import pytest
import torch

from whisper_emotion import WhisperForEmotionClassification

accelerate = pytest.importorskip("accelerate")


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize("options", [{}, {"use_weighted_layer_sum": True, "pooling": "attentive"}])
def test_cpu_offload_changes_no_logits(build, inputs, options):
    model = build(**options)
    expected = logits(model, inputs)
    offloaded = accelerate.cpu_offload(model, execution_device="cpu", offload_buffers=True)
    assert {parameter.device.type for parameter in offloaded.parameters()} == {"meta"}
    torch.testing.assert_close(logits(offloaded, inputs), expected)


def test_disk_offload_changes_no_logits(build, inputs, tmp_path):
    model = build()
    expected = logits(model, inputs)
    offloaded = accelerate.disk_offload(model, str(tmp_path), execution_device="cpu", offload_buffers=True)
    torch.testing.assert_close(logits(offloaded, inputs), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"device_map": "auto"},
        {"device_map": "cpu"},
        {"device_map": "auto", "max_memory": {"cpu": 20_000}},
        {"device_map": {"encoder": "cpu", "head": "disk"}},
    ],
    ids=["auto", "cpu", "auto with little memory", "head on disk"],
)
def test_a_device_map_changes_no_logits(folder, inputs, tmp_path, options):
    expected = logits(WhisperForEmotionClassification.from_pretrained(folder), inputs)
    model = WhisperForEmotionClassification.from_pretrained(folder, offload_folder=tmp_path, **options)
    on_disk = any(parameter.device.type == "meta" for parameter in model.parameters())
    assert on_disk == ("disk" in getattr(model, "hf_device_map", {}).values())
    assert on_disk == ("max_memory" in options or isinstance(options["device_map"], dict))
    torch.testing.assert_close(logits(model, inputs), expected)
