"""Decisions of held-out speakers, by hand."""

import math

import numpy as np
import pytest
import torch

from whisper_emotion.fitting.selection import (
    LOG_TEMPERATURES,
    Decision,
    HeldOut,
    choose_best,
    decide,
    find_sure_probability,
    fit_temperature,
    selection_value,
)


def sure_logits(*labels):
    """Logits of 2 log 3 for class 0 and 0 for class 1: odds of 9 to 1."""
    return torch.tensor([[2 * math.log(3), 0.0]] * len(labels)), torch.tensor(labels)


def test_choose_best_takes_the_first_of_equals_and_never_nan():
    assert choose_best([-1.2, float("nan"), -0.4, -0.4]) == 2
    assert choose_best([float("nan"), -2.0]) == 1


def test_selection_value_is_higher_for_better_logits():
    logits, labels = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]), torch.tensor([0, 0, 1, 1])
    assert selection_value(logits, labels, "weighted_accuracy") == 0.75
    assert selection_value(logits, labels, "unweighted_accuracy") == 0.75
    assert selection_value(logits, labels, "macro_f1") == pytest.approx((0.8 + 2 / 3) / 2)
    right, wrong = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    assert selection_value(logits, labels, "loss") == pytest.approx(-(3 * right + wrong) / 4)
    weighted = selection_value(logits, labels, "loss", torch.tensor([1.0, 3.0]))
    assert weighted == pytest.approx(-(2 * right + 3 * right + 3 * wrong) / 8)


def test_fit_temperature_matches_hand_computed_values():
    # 300 of 400 right: a temperature of 2 makes the odds 3 to 1; Laplace's rule allows 301 of 402.
    expected = 2 * math.log(3) / math.log(301 / 101)
    assert fit_temperature(*sure_logits(*[0, 0, 0, 1] * 100)) == pytest.approx(expected, abs=1e-3)
    # 4 of 4 right: the loss wants none, Laplace's rule allows 5 of 6.
    assert fit_temperature(*sure_logits(0, 0, 0, 0)) == pytest.approx(2 * math.log(3) / math.log(5), abs=1e-3)
    # 0 of 1 right: Laplace's rule allows 1 of 3, less than any probability of the likelier of two classes.
    assert fit_temperature(*sure_logits(1)) == pytest.approx(math.exp(LOG_TEMPERATURES[1]))


def test_fit_temperature_scales_with_the_logits():
    logits, labels = torch.randn(300, 3, generator=torch.Generator().manual_seed(0)), torch.arange(300) % 3
    logits[torch.arange(300), labels] += 1.5
    assert fit_temperature(3 * logits, labels) == pytest.approx(3 * fit_temperature(logits, labels), rel=1e-3)


def test_temperature_counts_clips_by_their_weights():
    """Two corpora, one ten times the other, count alike where their weights say so."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (1100,), generator=generator)
    logits = torch.randn(1100, 3, generator=generator)
    logits[:100] += 4.0 * torch.nn.functional.one_hot(labels[:100], 3)
    weights = torch.cat([torch.full((100,), 1 / 100), torch.full((1000,), 1 / 1000)])
    repeated = torch.cat([torch.arange(100).repeat(10), torch.arange(100, 1100)])
    expected = fit_temperature(logits[repeated], labels[repeated])
    assert fit_temperature(logits, labels, weights) == pytest.approx(expected, rel=0.01)
    assert fit_temperature(logits, labels) > 1.2 * expected


@pytest.mark.parametrize(("adapted_right", "adapted"), [(3, True), (2, False), (1, False)])
def test_dev_adapts_only_if_held_out_scores_improve(adapted_right, adapted):
    labels = torch.zeros(4, dtype=torch.int64)

    def logits(right):
        return torch.eye(2)[[0] * right + [1] * (4 - right)]

    held_out = HeldOut(logits(2), logits(adapted_right), labels)
    assert decide(held_out, "dev", False, "weighted_accuracy").adapted == adapted
    assert decide(held_out, "speaker", False, "weighted_accuracy").adapted
    assert not decide(held_out, "none", False, "weighted_accuracy").adapted


def test_decide_without_held_out_speakers_follows_the_option():
    assert decide(None, "speaker", False, "loss") == Decision(True, {})
    assert decide(None, "none", False, "loss") == Decision(False, {})


def test_decide_fits_a_temperature_for_adapted_clips_and_one_for_others():
    logits, labels = sure_logits(*[0, 0, 0, 1] * 100)
    alone = decide(HeldOut(logits, None, labels), "none", True, "loss").calibration
    assert alone["logit_temperature"] == pytest.approx(2 * np.log(3) / np.log(301 / 101), abs=1e-3)
    assert "adapted_logit_temperature" not in alone
    both = decide(HeldOut(logits, 2 * logits, labels), "dev", True, "loss").calibration
    assert both["adapted_logit_temperature"] == pytest.approx(2 * both["logit_temperature"], rel=1e-3)


def test_dev_without_known_speakers_does_not_adapt():
    logits, labels = sure_logits(0, 1)
    assert not decide(HeldOut(logits, None, labels), "dev", False, "loss").adapted


def probabilities(*shares):
    """Logits whose first of two probabilities are these."""
    return torch.tensor([[math.log(share), math.log(1 - share)] for share in shares])


def test_sure_is_the_least_probability_with_four_of_five_right():
    logits = probabilities(*[0.9] * 10, *[0.8] * 10, *[0.7] * 10)
    labels = torch.tensor([0] * 10 + [0] * 6 + [1] * 4 + [0] * 7 + [1] * 3)  # right: 10, then 16 of 20, then 23 of 30
    assert find_sure_probability(logits, labels) == pytest.approx(0.8)
    assert find_sure_probability(logits, labels, right=23 / 30) == pytest.approx(0.7)
    weights = torch.tensor([1.0] * 10 + [3.0] * 10 + [1.0] * 10)  # then 28 of 40
    assert find_sure_probability(logits, labels, weights) == pytest.approx(0.9)


def test_nothing_is_sure_where_no_probability_is_high_enough_or_few_clips_were_held_out():
    assert find_sure_probability(probabilities(*[0.9] * 30), torch.ones(30, dtype=torch.int64)) == 1
    assert find_sure_probability(probabilities(*[0.9] * 19), torch.zeros(19, dtype=torch.int64)) == 1


def test_equal_probabilities_are_sure_together_and_never_below_one_half():
    labels = torch.tensor([0] * 20 + [1] * 20)
    assert find_sure_probability(probabilities(*[0.9] * 40), labels) == 1  # the first 20 of equals are right
    three = torch.tensor([[0.4, 0.3, 0.3]]).log().repeat(30, 1)
    assert find_sure_probability(three, torch.zeros(30, dtype=torch.int64)) == 0.5


def test_decide_finds_the_sure_probability_of_calibrated_labels():
    logits, labels = sure_logits(*[0] * 100)
    found = decide(HeldOut(2 * logits, 3 * logits, labels), "dev", True, "loss").calibration
    assert found["sure_probability"] == pytest.approx(found["adapted_sure_probability"], abs=1e-3)  # 101 of 102
    assert found["sure_probability"] == pytest.approx(101 / 102, abs=1e-3)
