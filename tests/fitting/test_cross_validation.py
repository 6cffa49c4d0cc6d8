"""Folds times seeds as a table of predictions, the same after an interruption."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from whisper_emotion.fitting import cross_validation
from whisper_emotion.fitting.cross_validation import cross_validate, predict
from whisper_emotion.fitting.fit import Job, fit, load_frames


@pytest.mark.parametrize(("kind", "interruption"), [("experiment", 4), ("linear", 3)])
def test_interrupted_cross_validation_resumes_to_the_same_predictions(
    request, folds, tmp_path, monkeypatch, kind, interruption
):
    experiment = request.getfixturevalue(kind)
    if kind == "experiment":  # dropout depends on which heads are side by side
        experiment = dataclasses.replace(experiment, overrides=experiment.overrides | {"pooling": "attentive"})
    whole = cross_validate(experiment, folds[:3], [0, 1], tmp_path / "whole")
    assert len(whole) == 2 * 36
    assert set(whole["fold"]) == {1, 2, 3} and set(whole["seed"]) == {0, 1}
    real, calls = cross_validation.write_whole, []

    def interrupted(path, text):
        calls.append(path.name)
        if len(calls) == interruption:
            raise KeyboardInterrupt
        real(path, text)

    monkeypatch.setattr(cross_validation, "write_whole", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(experiment, folds[:3], [0, 1], tmp_path / "cut")
    pd.testing.assert_frame_equal(cross_validate(experiment, folds[:3], [0, 1], tmp_path / "cut"), whole)
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "cut" / path.name).read_bytes() == path.read_bytes()


def test_predict_tabulates_probabilities_temperature_and_unadapted_clips(linear, folds, tmp_path):
    own = dataclasses.replace(linear, select_on="dev", adaptation="speaker", temperature_scaling=True)
    fold = folds[0]
    (fitted,) = fit(own, load_frames(own), [Job(fold.train, fold.test, 0)], tmp_path)
    table = predict(fitted, own, fold, 0)
    assert set(table["adapted"]) == {True}
    assert set(table["temperature"]) == {fitted.head.config.adapted_logit_temperature}
    for prefix, adapted in (("p_", True), ("unadapted_p_", False)):
        logits = fitted.classify(fold.test, adapted)
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        expected = exponents / exponents.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(table[[f"{prefix}{label}" for label in own.labels]], expected, atol=1e-6)
        predicted = [own.labels[index] for index in logits.argmax(axis=1)]
        assert table["unadapted_" * (not adapted) + "predicted"].tolist() == predicted


def test_names_and_classes_that_look_like_numbers_stay_text(experiment, folds, tmp_path, monkeypatch):
    def numbered(fitted, experiment, fold, seed):
        return pd.DataFrame({"name": ["001"], "fold": 1, "seed": seed, "label": ["0"], "predicted": ["1"], "p_0": 0.5})

    monkeypatch.setattr(cross_validation, "fit", lambda *_: [SimpleNamespace()])
    monkeypatch.setattr(cross_validation, "predict", numbered)
    table = cross_validate(experiment, folds[:1], [0], tmp_path)
    assert table[["name", "label", "predicted"]].iloc[0].tolist() == ["001", "0", "1"]
