"""The ONNX graph gives torch's probabilities for any clips, in every context."""

import json
import re

import numpy as np
import pytest
import torch
from conftest import full_disk, run_script, save_model

from whisper_emotion.errors import UserError
from whisper_emotion.export import export_onnx
from whisper_emotion.inference import EmotionClassifier

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def save(tiny_encoder, folder, **fields):
    return EmotionClassifier(save_model(tiny_encoder, folder, **fields), device="cpu")


@pytest.mark.parametrize(
    "fields",
    [
        {"encoder_context": "sparse_window", "pooling": "qkv"},
        *(
            pytest.param(fields, marks=pytest.mark.slow)
            for fields in (
                {"encoder_context": "window", "pooling": "qkv"},
                {"encoder_context": "window", "mask_padding": False, "pooling": "attentive"},
                {"encoder_context": "utterance", "pooling": "attentive_statistics", "use_weighted_layer_sum": True},
            )
        ),
    ],
)
def test_a_graph_gives_torch_s_probabilities_and_weights_in_batches_of_any_size(tiny_encoder, tmp_path, fields):
    classifier = save(tiny_encoder, tmp_path / "model", **fields)
    assert export_onnx(classifier.model, classifier.extractor, tmp_path / "model.onnx").deviation < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    rng = np.random.default_rng(1)
    for lengths in ([400], [480_000, 1_000], [16_000, 8_000, 50_000]):
        clips = [rng.standard_normal(length).astype(np.float32) for length in lengths]
        inputs = classifier.extractor(clips, sampling_rate=16_000, padding="longest", return_tensors="pt")
        with torch.no_grad():
            expected = classifier.model(**inputs)
        names = ["probabilities", "pooling_weights"]
        probabilities, weights = session.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
        np.testing.assert_allclose(probabilities, expected.logits.softmax(-1), atol=1e-4)
        width = expected.pooling_weights.shape[-1]
        np.testing.assert_allclose(weights[..., :width], expected.pooling_weights, atol=1e-4)
        assert not weights[..., width:].any()


@pytest.mark.slow
def test_an_adapted_model_s_graph_is_adapted(tiny_encoder, tmp_path):
    classifier = save(tiny_encoder, tmp_path / "model", encoder_context="utterance", adapted_logit_temperature=2.0)
    model, extractor = classifier.model, classifier.extractor
    rng = np.random.default_rng(1)
    inputs = extractor(
        [rng.standard_normal(16_000).astype(np.float32)], sampling_rate=16_000, padding="longest", return_tensors="pt"
    )
    graphs = []
    for domain_mean in (None, torch.ones(model.config.frame_size)):
        model.adapt(domain_mean)
        assert export_onnx(model, extractor, tmp_path / "model.onnx").deviation < 1e-4
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
        graphs.append(session.run(["probabilities"], {name: tensor.numpy() for name, tensor in inputs.items()})[0])
        with torch.no_grad():
            np.testing.assert_allclose(graphs[-1], model(**inputs).logits.softmax(-1), atol=1e-4)
    assert np.abs(graphs[1] - graphs[0]).max() > 1e-3


@pytest.mark.parametrize(
    ("pooling", "scores"),
    [
        ("qkv", "released"),
        *(
            pytest.param(pooling, scores, marks=pytest.mark.slow)
            for pooling in ("attentive", "qkv", "attentive_statistics")
            for scores in ("paper", "released")
            if (pooling, scores) != ("qkv", "released")
        ),
    ],
)
def test_eight_bits_are_the_encoder_s_alone(tiny_encoder, tmp_path, pooling, scores):
    fields = {"pooling": pooling, "pooling_scores": scores, "encoder_layer": 1}
    classifier = save(tiny_encoder, tmp_path / "model", encoder_context="utterance", **fields)
    assert export_onnx(classifier.model, classifier.extractor, tmp_path / "int8.onnx", quantize=True).deviation < 0.1
    graph = onnx.load(tmp_path / "int8.onnx").graph
    products = [node for node in graph.node if node.op_type in ("MatMulInteger", "DynamicQuantizeMatMul")]
    assert len(products) == 6 * classifier.model.config.encoder_layer


def test_the_script_writes_a_graph_that_knows_its_labels(tiny_encoder, tmp_path):
    save(tiny_encoder, tmp_path / "model", encoder_context="utterance")
    sizes = []
    for quantize in (False, True):
        output = tmp_path / f"{quantize}.onnx"
        done = run_script("export_onnx.py", "--model", tmp_path / "model", "--output", output, "--quantize", quantize)
        assert done.returncode == 0, done.stderr
        assert "opset 20; largest deviation of a probability from torch over 50 clips" in done.stdout
        deviation = float(re.search(r"generated speech: (\S+), the same label for \d+", done.stdout)[1])
        assert deviation < (0.1 if quantize else 1e-4)
        properties = onnxruntime.InferenceSession(output).get_modelmeta().custom_metadata_map
        assert json.loads(properties["labels"]) == ["angry", "calm", "sad"]
        sizes.append(output.stat().st_size)
    assert sizes[1] < sizes[0]


@pytest.mark.slow
def test_a_graph_that_is_far_from_the_model_is_warned_of(tiny_encoder, tmp_path):
    """A classifier with so large weights that eight bits of the encoder's decide."""
    classifier = save(tiny_encoder, tmp_path / "model", encoder_context="utterance")
    with torch.no_grad():
        classifier.model.head.classifier.weight *= 10_000
    classifier.model.save_pretrained(tmp_path / "model")
    output = tmp_path / "model.onnx"
    done = run_script("export_onnx.py", "--model", tmp_path / "model", "--output", output, "--quantize", True)
    assert done.returncode == 0 and output.exists()
    (warning,) = (line for line in done.stderr.splitlines() if "warning" in line)
    moved = re.search(r"probabilities change by up to (\S+), and (\d+) of 50 labels change", warning)
    assert float(moved[1]) > 0.1 and warning.endswith("compare the two on your own clips, or leave out --quantize")
    assert f"the same label for {50 - int(moved[2])}" in done.stdout


@pytest.mark.slow
def test_eight_bits_leave_principal_components_as_they_are(tiny_encoder, tmp_path):
    """Whose rows differ by orders of magnitude: one scale for all of them would leave nothing of the small ones."""
    classifier = save(tiny_encoder, tmp_path / "model", encoder_context="utterance", pooling="mean")
    with torch.no_grad():
        classifier.model.head.projector.weight *= torch.logspace(0, -4, classifier.model.config.d_model)
    export_onnx(classifier.model, classifier.extractor, tmp_path / "model.onnx", quantize=True)
    found = onnx.load(tmp_path / "model.onnx").graph
    kept = [onnx.numpy_helper.to_array(one) for one in found.initializer]
    for layer in (classifier.model.head.projector, classifier.model.head.classifier):
        weight = layer.weight.detach().numpy()
        assert any(np.array_equal(one, weight) or np.array_equal(one, weight.T) for one in kept)
    assert any(one.dtype == np.int8 and one.ndim == 2 for one in kept)  # the encoder's


def test_a_disk_that_is_full_is_one_line_and_leaves_the_earlier_file(tiny_encoder, tmp_path):
    classifier, output = save(tiny_encoder, tmp_path / "model"), tmp_path / "onnx" / "model.onnx"
    output.parent.mkdir()
    output.write_text("before")
    with (
        full_disk(2_000),
        pytest.raises(UserError, match=r"onnx: cannot be written \(.*\), expected a writable folder with"),
    ):
        export_onnx(classifier.model, classifier.extractor, output)
    assert [(path.name, path.read_text()) for path in output.parent.iterdir()] == [("model.onnx", "before")]


@pytest.mark.slow
def test_what_eight_bits_cost_is_measured_on_every_fold(tiny_encoder, synthetic_dir, tmp_path):
    done = run_script(
        "../tests/measure_eight_bits.py", "--corpus", "synthetic", "--corpus_dir", synthetic_dir, "--folds",
        "speakers:2", "--encoder", tiny_encoder, "--encoder_context", "utterance", "--num_train_epochs", 1,
        "--store_dir", tmp_path / "store", "--output_dir", tmp_path / "run", "--seed", 0,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    torch_s, graph_s, less = (float(value) for value in re.findall(r": UA (\S+) \(", done.stdout))
    assert less == pytest.approx(graph_s - torch_s, abs=0.11)
    assert re.search(r"^\d+ of 48 clips have another label$", done.stdout, re.MULTILINE)
