"""torch.compile and torch.export take the whole model as one graph; torch.jit.trace is refused."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _forget_graphs():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def check(model, compiled, inputs):
    with torch.no_grad():
        found, expected = compiled(**inputs), model(**inputs)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("masked", [True, False])
def test_the_model_compiles_to_one_graph(build, inputs, masked):
    model = build()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    features = inputs["input_features"]
    # Without a mask the model finds the silence at the end of the features.
    given = dict(inputs) if masked else {"input_features": torch.nn.functional.pad(features, (0, 50), value=-1.5)}
    check(model, compiled, given)


@pytest.mark.parametrize("context", ["window", "utterance", "sparse_window"])
def test_one_dynamic_graph_serves_batches_of_any_shape(build, extract, context):
    model, graphs = build(encoder_layer=1, encoder_context=context), []

    def count(graph, _):
        graphs.append(graph)
        return graph

    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=count)
    for seconds in ((0.5, 1.3), (2.0, 0.4, 1.1), (3.1, 0.2)):
        check(model, compiled, extract(*seconds))
    assert len(graphs) == 1


def test_a_compiled_model_trains_with_the_same_gradients(build, inputs):
    model, labels = build(encoder_layer=1, pooling="attentive_statistics"), torch.tensor([0, 1, 2])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    model(**inputs, labels=labels).loss.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    compiled(**inputs, labels=labels).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4)


def test_torch_export_takes_batches_of_any_shape(build, extract):
    model = build()
    inputs = dict(extract(0.5, 1.3))
    dim = torch.export.Dim
    shapes = {
        "input_features": {0: dim("batch", max=64), 2: dim("frames", min=2, max=3000)},
        "attention_mask": {0: dim("batch", max=64), 1: dim("frames", min=2, max=3000)},
    }
    exported = torch.export.export(model, (), inputs, dynamic_shapes=shapes).module()
    check(model, exported, extract(0.7, 2.2, 1.1))


def test_torch_jit_trace_is_refused_by_name(build, inputs):
    with pytest.raises(ValueError, match="torch.jit.trace"):
        torch.jit.trace(build(), (inputs["input_features"], inputs["attention_mask"]), strict=False)
