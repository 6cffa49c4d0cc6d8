"""The linear classifier: scikit-learn's probabilities, the optimum of the shared loss, and a selection by speakers."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from whisper_emotion.errors import UserError
from whisper_emotion.fitting import regression
from whisper_emotion.fitting.losses import classification_loss
from whisper_emotion.fitting.regression import STRENGTHS, RegularisationPath, sample_clips, select_strength
from whisper_emotion.fitting.selection import fit_temperature
from whisper_emotion.stored_frames import Rows

WEIGHTS = np.array([1.0, 2.5, 0.5], np.float32)


def clips(count, width, seed=0, classes=3):
    """Inputs of uneven scales whose mean tells the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    inputs = rng.standard_normal((count, width)) + labels[:, None] * rng.standard_normal(width)
    return (inputs * np.logspace(-2, 2, width) + 3.0).astype(np.float32), labels


@pytest.mark.parametrize(("count", "width"), [(90, 8), (20, 50)], ids=["more clips", "more dimensions"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
def test_fit_gives_the_probabilities_of_scikit_learn(count, width, weights):
    inputs, labels = clips(count, width)
    clip_weights = np.ones(count) if weights is None else weights[labels]
    path = RegularisationPath(inputs, labels, 3, weights)
    standard = StandardScaler().fit_transform(inputs.astype(np.float64))
    for strength in (1.0, 0.1, 0.01):
        # scikit-learn sums the clips' losses, weighted; ours is their mean.
        reference = LogisticRegression(C=1 / (strength * clip_weights.sum()), tol=1e-10, max_iter=10_000)
        reference.fit(standard, labels, clip_weights)
        expected = reference.predict_proba(standard)
        found = path.fit(strength, tolerance=1e-9).logits(inputs).softmax(dim=1)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("width", [6, 40])
def test_gradient_of_the_shared_loss_and_the_penalty_vanishes_at_the_optimum(width, smoothing, weights):
    inputs, labels = clips(30, width)
    strength = 0.03
    linear = RegularisationPath(inputs, labels, 3, weights, smoothing).fit(strength)
    scale = inputs.std(axis=0, dtype=np.float64)
    standard = torch.from_numpy((inputs - inputs.mean(axis=0, dtype=np.float64)) / scale).float()
    weight = torch.from_numpy(linear.weight * scale).float().requires_grad_()
    bias = torch.from_numpy(linear.bias + linear.weight @ inputs.mean(axis=0, dtype=np.float64)).float()
    bias.requires_grad_()
    class_weights = None if weights is None else torch.from_numpy(weights)
    loss = classification_loss(standard @ weight.T + bias, torch.from_numpy(labels), class_weights, smoothing)
    (loss + strength / 2 * weight.square().sum()).backward()
    torch.testing.assert_close(weight.grad, torch.zeros_like(weight), atol=2e-5, rtol=0)
    torch.testing.assert_close(bias.grad, torch.zeros_like(bias), atol=2e-5, rtol=0)
    assert weight.abs().max() > 0.01


def test_clip_of_weight_two_counts_as_two_clips():
    inputs, labels = clips(40, 6)
    counts = 1 + np.arange(40) % 3
    # Copies of clips would change the standardisation: the penalty on the inputs' own scale is too weak to matter.
    weighted = RegularisationPath(inputs, labels, 3, WEIGHTS, 0.1, counts).fit(1e-6)
    repeated = RegularisationPath(np.repeat(inputs, counts, axis=0), np.repeat(labels, counts), 3, WEIGHTS, 0.1).fit(
        1e-6
    )
    probabilities = (one.logits(inputs).softmax(dim=1) for one in (weighted, repeated))
    np.testing.assert_allclose(*probabilities, atol=1e-3)
    plain = RegularisationPath(inputs, labels, 3, WEIGHTS, 0.1).fit(1e-6)
    assert (plain.logits(inputs) - weighted.logits(inputs)).abs().max() > 0.1


def test_equal_clip_weights_change_no_bit():
    inputs, labels = clips(48, 10)
    groups = np.repeat(["a", "b", "c", "d"], 12)
    plain, ones = (
        select_strength(inputs, labels, groups, 3, "loss", WEIGHTS, clip_weights=own) for own in (None, np.ones(48))
    )
    assert plain[:2] == ones[:2] and torch.equal(plain.logits, ones.logits)


def test_clips_of_no_weight_have_no_part_in_the_loss():
    inputs, labels = clips(48, 4)
    wrong = labels.copy()
    wrong[40:] = (labels[40:] + 1) % 3
    own = (np.arange(48) < 40).astype(np.float32)
    one, other = (RegularisationPath(inputs, each, 3, clip_weights=own).fit(0.1) for each in (labels, wrong))
    np.testing.assert_array_equal(one.weight, other.weight)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_clip_is_told_apart_from_its_corpus_s_classes_only(smoothing):
    """The gradient of the loss by hand: each corpus's softmax runs over its own classes."""
    inputs, labels = clips(60, 6)
    allowed = np.ones((60, 3), bool)
    allowed[:30, 2] = False
    labels[:30] %= 2
    linear = RegularisationPath(inputs, labels, 3, label_smoothing=smoothing, allowed=allowed).fit(0.03)
    mean, scale = inputs.mean(axis=0, dtype=np.float64), inputs.std(axis=0, dtype=np.float64)
    standard = torch.from_numpy((inputs - mean) / scale)
    weight = torch.from_numpy(linear.weight * scale).requires_grad_()
    bias = torch.from_numpy(linear.bias + linear.weight @ mean).requires_grad_()
    logits, targets = standard @ weight.T + bias, torch.from_numpy(labels)
    losses = [
        torch.nn.functional.cross_entropy(
            part, own, reduction="sum", label_smoothing=smoothing
        )
        for part, own in ((logits[:30, :2], targets[:30]), (logits[30:], targets[30:]))
    ]  # fmt: skip
    (sum(losses) / 60 + 0.03 / 2 * weight.square().sum()).backward()
    assert weight.grad.abs().max() < 1e-5 and bias.grad.abs().max() < 1e-5
    without = RegularisationPath(inputs, labels, 3, label_smoothing=smoothing).fit(0.03)
    assert (without.logits(inputs) - linear.logits(inputs))[:, 2].abs().mean() > 0.1


def test_all_classes_allowed_changes_nothing():
    inputs, labels = clips(60, 6)
    found = RegularisationPath(inputs, labels, 3, None, 0.1, None, np.ones((60, 3), bool)).fit(0.1)
    expected = RegularisationPath(inputs, labels, 3, None, 0.1).fit(0.1)
    np.testing.assert_allclose(found.weight, expected.weight, rtol=1e-6)


def test_select_strength_judges_clips_left_out_by_their_corpus_s_classes():
    inputs, labels = clips(90, 4)
    allowed = np.ones((90, 3), bool)
    allowed[labels != 2, 2] = False
    groups = np.repeat(np.arange(9), 10)
    selected = select_strength(inputs, labels, groups, 3, "loss", allowed=allowed, adapt=lambda _, rows: inputs[rows])
    for logits in (selected.logits, selected.adapted_logits):
        probabilities = logits.softmax(dim=1).numpy()
        assert (probabilities[~allowed[selected.rows]] == 0).all()
        assert (probabilities[allowed[selected.rows]] > 0).all()


def test_fit_does_not_depend_on_the_strengths_before_it():
    inputs, labels = clips(40, 10)
    path = RegularisationPath(inputs, labels, 3)
    for strength in STRENGTHS[:5]:
        warm = path.fit(strength)
    cold = RegularisationPath(inputs, labels, 3).fit(STRENGTHS[4])
    np.testing.assert_allclose(warm.logits(inputs), cold.logits(inputs), atol=1e-3)


def test_constant_dimension_has_no_influence():
    inputs, labels = clips(40, 10)
    constant = np.concatenate([inputs, np.full((40, 1), 0.1, np.float32), np.zeros((40, 1), np.float32)], axis=1)
    linear = RegularisationPath(constant, labels, 3).fit(0.1)
    assert not linear.weight[:, 10:].any()
    expected = RegularisationPath(inputs, labels, 3).fit(0.1)
    np.testing.assert_allclose(linear.logits(constant), expected.logits(inputs), atol=1e-4)


def test_inputs_without_any_spread_give_the_frequencies_of_the_classes():
    labels = np.array([0, 0, 0, 1])
    linear = RegularisationPath(np.ones((4, 5), np.float32), labels, 2).fit(0.1)
    np.testing.assert_allclose(linear.logits(np.ones((1, 5))).softmax(dim=1), [[0.75, 0.25]], atol=1e-5)


def test_absent_class_is_never_predicted():
    inputs, labels = clips(40, 10, classes=2)
    probabilities = RegularisationPath(inputs, labels, 3).fit(0.01).logits(inputs).softmax(dim=1).numpy()
    assert probabilities[:, 2].max() < 1e-12
    expected = RegularisationPath(inputs, labels, 2).fit(0.01).logits(inputs).softmax(dim=1)
    np.testing.assert_allclose(probabilities[:, :2], expected, atol=1e-4)


def test_single_class_is_always_predicted():
    inputs, _ = clips(10, 4)
    logits = RegularisationPath(inputs, np.full(10, 1), 3).fit(0.1).logits(inputs)
    assert (logits.argmax(dim=1) == 1).all() and torch.isfinite(logits).all()


@pytest.mark.parametrize("metric", ["loss", "unweighted_accuracy"])
def test_select_strength_is_deterministic(metric):
    inputs, labels = clips(48, 20)
    groups = np.repeat(["a", "b", "c", "d"], 12)
    one, other = (select_strength(inputs, labels, groups, 3, metric, WEIGHTS) for _ in range(2))
    assert one[:2] == other[:2] and torch.equal(one.logits, other.logits)
    assert one.strength in STRENGTHS and one.adapted_logits is None


def test_select_strength_classifies_each_group_without_its_labels(monkeypatch):
    """Wrong labels of one group change the logits of the others, and not its own."""
    monkeypatch.setattr("whisper_emotion.fitting.regression.STRENGTHS", (0.1,))
    inputs, labels = clips(48, 4)
    groups = np.repeat(["a", "b", "c", "d"], 12)
    wrong = np.where(groups == "d", (labels + 1) % 3, labels)
    known, changed = (select_strength(inputs, one, groups, 3, "unweighted_accuracy") for one in (labels, wrong))
    torch.testing.assert_close(known.logits[36:], changed.logits[36:])
    assert not torch.allclose(known.logits[:36], changed.logits[:36])


def test_select_strength_prefers_strong_penalties_on_noise():
    rng = np.random.default_rng(0)
    inputs, labels = rng.standard_normal((60, 30)).astype(np.float32), rng.integers(0, 3, 60)
    assert select_strength(inputs, labels, np.arange(60) // 6, 3, "loss").strength == STRENGTHS[0]


def test_class_of_a_single_speaker_selects_nothing_and_leaves_the_temperature_alone():
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 2, 240), np.repeat(list("abcdef"), 40)
    labels[:15] = 2  # of speaker a alone
    inputs = (np.eye(3)[labels] + 0.8 * rng.normal(size=(240, 3))).astype(np.float32)
    selected = select_strength(inputs, labels, groups, 3, "loss")
    assert selected.rows.tolist() == list(range(15, 240)) and len(selected.logits) == 225
    assert 0.2 < fit_temperature(selected.logits, torch.from_numpy(labels[selected.rows])) < 2
    with pytest.raises(UserError, match="needs a class with two or more speakers"):
        select_strength(inputs, np.repeat([0, 1, 2], 80), np.repeat(list("abc"), 80), 3, "loss")


def test_select_strength_adapts_the_clips_left_out():
    inputs, labels = clips(24, 5)
    groups, asked = np.repeat(["a", "b", "c"], 8), []

    def adapt(known, other):
        asked.append((set(groups[known]), set(groups[other])))
        return inputs[other]

    selected = select_strength(inputs, labels, groups, 3, "loss", adapt=adapt)
    torch.testing.assert_close(selected.adapted_logits, selected.logits)
    assert len(asked) == 3 and all(not known & other for known, other in asked)


def test_select_strength_leaves_out_the_folds_that_are_given():
    inputs, labels = clips(48, 10)
    corpora = np.repeat([0, 1, 2], 16)
    folds = [(np.flatnonzero(corpora != one), np.flatnonzero(corpora == one)) for one in range(3)]
    asked = []

    def adapt(known, other):
        asked.append((known, other))
        return inputs[other]

    given = select_strength(inputs, labels, np.arange(48), 3, "loss", adapt=adapt, folds=folds)
    assert all(np.array_equal(one, other) for pair, fold in zip(asked, folds, strict=True)
               for one, other in zip(pair, fold, strict=True))  # fmt: skip
    grouped = select_strength(inputs, labels, corpora, 3, "loss")
    assert given.strength == grouped.strength
    torch.testing.assert_close(given.logits, grouped.logits)
    half = select_strength(inputs, labels, corpora, 3, "loss", folds=folds[:1])
    assert half.rows.tolist() == list(range(16))


def test_sample_holds_each_stratum_s_share_and_at_least_one_clip():
    strata = np.array(["a"] * 600 + ["b"] * 390 + ["c"] * 9 + ["d"])
    np.random.default_rng(0).shuffle(strata)
    drawn = sample_clips(strata, 100)
    assert (np.diff(drawn) > 0).all()
    counts = {name: int((strata[drawn] == name).sum()) for name in "abcd"}
    assert counts.pop("d") == 1  # its share is 0.1
    assert all(abs(counts[name] - share) < 1 for name, share in {"a": 60, "b": 39, "c": 0.9}.items()), counts
    np.testing.assert_array_equal(drawn, sample_clips(strata, 100))
    assert sample_clips(strata, 1000).tolist() == list(range(1000))
    assert len(sample_clips(np.arange(1000), 100)) == 100


def test_select_strength_compares_on_a_sample_of_many_clips(monkeypatch):
    monkeypatch.setattr(regression, "LARGE", 300)
    monkeypatch.setattr(regression, "SAMPLE", 120)
    inputs, labels = clips(600, 8)
    groups = np.repeat(np.arange(12), 50)
    read = []

    class Watched(Rows):
        def __getitem__(self, part):
            read.append(len(part))
            return super().__getitem__(part)

    selected = select_strength(Watched(inputs, np.arange(600)), labels, groups, 3, "loss", WEIGHTS)
    assert max(read) < 120 and len(selected.rows) == len(selected.logits) == 120
    assert np.bincount(groups[selected.rows]).tolist() == [10] * 12
    rows = selected.rows
    alone = select_strength(inputs[rows], labels[rows], groups[rows], 3, "loss", WEIGHTS)
    assert selected.strength == alone.strength
    torch.testing.assert_close(selected.logits, alone.logits)


def test_select_strength_keeps_small_folds_whole_and_weighs_what_is_drawn(monkeypatch):
    monkeypatch.setattr(regression, "LARGE", 300)
    monkeypatch.setattr(regression, "SAMPLE", 120)
    inputs, labels = clips(600, 8)
    corpora = np.array([0] * 560 + [1] * 40)
    folds = [(np.flatnonzero(corpora != one), np.flatnonzero(corpora == one)) for one in range(2)]
    built, init = [], RegularisationPath.__init__

    def watched(self, inputs, labels, num_labels, class_weights, label_smoothing, clip_weights, allowed, start):
        built.append(clip_weights)
        init(self, inputs, labels, num_labels, class_weights, label_smoothing, clip_weights, allowed, start)

    monkeypatch.setattr(RegularisationPath, "__init__", watched)
    selected = select_strength(inputs, labels, np.arange(600), 3, "loss", folds=folds)
    assert np.bincount(corpora[selected.rows]).tolist() == [60, 40]
    np.testing.assert_allclose(sorted({float(one) for own in built for one in own}), [1, 560 / 60])


def test_the_clips_that_are_used_choose_the_strength():
    rng = np.random.default_rng(0)
    labels, groups = np.arange(60) % 3, np.repeat(np.arange(6), 10)
    inputs, noise = rng.normal(size=(60, 8)) + labels[:, None], rng.normal(size=(60, 8))
    plain = select_strength(inputs, labels, groups, 3, "loss")

    def select(**options):
        adapt, as_is = (lambda known, other: inputs[other]), (lambda known, other: noise[other])
        return select_strength(inputs, labels, groups, 3, "loss", adapt=adapt, as_is=as_is, **options)

    adapted = select(judge_adapted=True)
    assert (adapted.strength, adapted.value) == (plain.strength, plain.value)
    torch.testing.assert_close(adapted.adapted_logits, plain.logits)
    assert select().value < plain.value
