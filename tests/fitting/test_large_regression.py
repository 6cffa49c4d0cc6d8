"""The streamed regression: the solution of the one in memory, from arrays and maps that are read in chunks."""

import numpy as np
import pytest

from whisper_emotion.fitting import large_regression, regression
from whisper_emotion.fitting.large_regression import StreamedPath, regularisation_path
from whisper_emotion.fitting.regression import RegularisationPath
from whisper_emotion.stored_frames import Rows


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    """What is large here: more than 200 clips, of which 100 are the sample, in chunks of 64."""
    monkeypatch.setattr(regression, "LARGE", 200)
    monkeypatch.setattr(regression, "SAMPLE", 100)
    monkeypatch.setattr(large_regression, "CHUNK", 64)


def clips(count=500, width=12, seed=0):
    """Correlated inputs of uneven scales, far from zero, and classes that they do not tell for sure."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1, 2], rng.choice(3, count - 3, p=[0.6, 0.3, 0.1])])
    inputs = (
        rng.standard_normal((count, width)) @ rng.standard_normal((width, width))
        + rng.standard_normal((3, width))[labels]
    )
    return (inputs * np.logspace(-2, 2, width) + 3.0).astype(np.float32), labels


OPTIONS = {
    "plain": (),
    "class weights": (np.array([1.0, 2.5, 0.5]),),
    "smoothing": (None, 0.2),
    "clip weights": (np.array([1.0, 2.5, 0.5], np.float32), 0.1, np.random.default_rng(1).random(500)),
    # Every other clip's corpus lacks the class after the clip's own.
    "classes of corpora": (
        None,
        0.1,
        None,
        (np.arange(3) != (clips()[1] + 1)[:, None] % 3) | (np.arange(500) % 2 == 0)[:, None],
    ),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("strength", [0.1, 1e-3])
def test_streamed_path_finds_the_solution_in_memory(options, strength):
    inputs, labels = clips()
    streamed = regularisation_path(inputs, labels, 3, *options)
    assert isinstance(streamed, StreamedPath)
    found, expected = streamed.fit(strength), RegularisationPath(inputs, labels, 3, *options).fit(strength)
    scale = inputs.std(axis=0)
    np.testing.assert_allclose(found.weight * scale, expected.weight * scale, atol=1e-2)
    np.testing.assert_allclose(*(one.logits(inputs).softmax(dim=1) for one in (found, expected)), atol=2e-3)


def test_streamed_path_needs_few_passes_and_repeats_its_bits(monkeypatch):
    inputs, labels = clips(5_000)
    passes, evaluate = [], StreamedPath._evaluate

    def counted(self, *arguments):
        passes.append(1)
        return evaluate(self, *arguments)

    monkeypatch.setattr(StreamedPath, "_evaluate", counted)
    monkeypatch.setattr(regression, "SAMPLE", 2_000)
    one, other = (StreamedPath(inputs, labels, 3).fit(0.01) for _ in range(2))
    assert len(passes) <= 2 * 25
    np.testing.assert_array_equal(one.weight, other.weight)


def test_streamed_path_takes_constant_dimensions_and_absent_classes():
    inputs, labels = clips()
    constant = np.concatenate([inputs, np.full((500, 1), 0.1, np.float32), np.zeros((500, 1), np.float32)], axis=1)
    found, expected = (make(constant, labels, 4).fit(0.1) for make in (StreamedPath, RegularisationPath))
    assert not found.weight[:, 12:].any()
    np.testing.assert_allclose(*(one.logits(constant).softmax(dim=1) for one in (found, expected)), atol=2e-3)
    assert found.logits(constant).softmax(dim=1)[:, 3].max() < 1e-12


def test_streamed_path_reads_a_map_in_chunks(tmp_path):
    inputs, labels = clips()
    inputs.tofile(tmp_path / "inputs")
    rows = np.arange(0, 500, 2)
    sizes = []

    class Watched(Rows):
        def __getitem__(self, part):
            found = super().__getitem__(part)
            sizes.append(len(found))
            return found

    mapped = Watched(np.memmap(tmp_path / "inputs", np.float32, "r", shape=inputs.shape), rows)
    found = regularisation_path(mapped, labels[rows], 3).fit(0.01)
    assert max(sizes) <= 102 and sizes.count(64) >= 3 * 3
    expected = RegularisationPath(inputs[rows], labels[rows], 3).fit(0.01)
    np.testing.assert_allclose(*(one.logits(inputs).softmax(dim=1) for one in (found, expected)), atol=2e-3)
    # The inputs are left as they were.
    np.testing.assert_array_equal(mapped[:], inputs[rows])


def test_few_clips_are_fitted_in_memory_to_the_same_bits():
    inputs, labels = clips()
    rows = np.arange(0, 400, 2)
    found = regularisation_path(Rows(inputs, rows), labels[rows], 3)
    assert isinstance(found, RegularisationPath)
    expected = RegularisationPath(inputs[rows], labels[rows], 3)
    np.testing.assert_array_equal(found.fit(0.1).weight, expected.fit(0.1).weight)
