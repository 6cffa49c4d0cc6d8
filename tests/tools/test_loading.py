"""A trained folder is the start of another training: other labels, another head."""

import pytest
import torch

from whisper_emotion import WhisperForEmotionClassification


def parameters_that_differ(model, other):
    theirs = other.state_dict()
    return {
        name
        for name, tensor in model.state_dict().items()
        if tensor.shape != theirs[name].shape or not tensor.equal(theirs[name])
    }


def test_another_number_of_labels_gives_a_new_classifier_alone(folder, inputs):
    trained = WhisperForEmotionClassification.from_pretrained(folder)
    model = WhisperForEmotionClassification.from_pretrained(folder, num_labels=5, ignore_mismatched_sizes=True)
    assert parameters_that_differ(model, trained) == {"head.classifier.weight", "head.classifier.bias"}
    assert model.config.num_labels == len(model.config.id2label) == 5
    output = model(**inputs, labels=torch.tensor([0, 3, 4]))
    assert output.logits.shape == (3, 5)
    assert output.logits.isfinite().all() and output.loss.isfinite()


def test_another_number_of_labels_drops_the_calibration_of_the_old_ones(build, tmp_path):
    model = build()
    model.config.logit_temperature = 1.7
    model.save_pretrained(tmp_path)
    assert WhisperForEmotionClassification.from_pretrained(tmp_path).config.logit_temperature == 1.7
    names = {0: "low", 1: "high"}
    new = WhisperForEmotionClassification.from_pretrained(tmp_path, id2label=names, ignore_mismatched_sizes=True)
    assert new.config.logit_temperature == 1.0
    assert new.config.id2label == names and new.config.label2id == {"low": 0, "high": 1}


def test_another_number_of_labels_is_refused_unless_asked_for(folder):
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        WhisperForEmotionClassification.from_pretrained(folder, num_labels=5)


def test_other_names_of_as_many_labels_keep_the_classifier(folder):
    trained = WhisperForEmotionClassification.from_pretrained(folder)
    names = {0: "wütend", 1: "ruhig", 2: "traurig"}
    model = WhisperForEmotionClassification.from_pretrained(folder, id2label=names)
    assert not parameters_that_differ(model, trained)
    assert model.config.id2label == names
