"""A handful of what `faults.py` does at random: each command is cut off in the middle, goes on, and loses nothing."""

import pytest
from conftest import save_model
from faults import Fault, disturb, jobs, run_undisturbed


@pytest.fixture(scope="module")
def known(tiny_encoder, synthetic_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    model = save_model(tiny_encoder, folder / "model", encoder_context="utterance", pooling="qkv", encoder_layer=1)
    corpus = ["--corpus", "synthetic", "--corpus_dir", str(synthetic_dir), "--folds", "speakers:2", "--encoder",
              str(tiny_encoder), "--encoder_context", "utterance"]  # fmt: skip
    return jobs(corpus, model, synthetic_dir, layers="1", epochs=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "faults"),
    [
        ("train", [Fault("kill", operation=30), Fault("full", operation=20)]),
        ("sweep", [Fault("term", operation=30)]),
        ("predict", [Fault("full", operation=2)]),
    ],
)
def test_a_command_that_is_cut_off_goes_on_to_the_same_results(known, tmp_path, name, faults):
    reference = run_undisturbed(known[name], tmp_path / "reference" / name)
    for fault in faults:
        assert disturb(known[name], fault, tmp_path / fault.kind / name, reference) == "disturbed", fault
