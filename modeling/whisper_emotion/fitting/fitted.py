"""A fitted model with calibration and the statistics for adaptation and novelty, ready to classify stored clips."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from whisper_emotion.fitting.adaptation import group_means, measure_novelty, population_deviation, population_mean
from whisper_emotion.fitting.experiment import Experiment
from whisper_emotion.fitting.selection import Decision, HeldOut, decide
from whisper_emotion.modeling_whisper_emotion import EmotionHead, WhisperForEmotionClassification
from whisper_emotion.stored_frames import StoredFrames

FAMILIAR = 0.995  # share of the training clips and their copies below the novelty limit
CLIPS_AT_ONCE = 64  # clips per batch when a trained head classifies


@dataclass
class Fitted:
    """A fitted model.

    Args:
        head: The head; its configuration holds the calibration.
        model: The whole model if the encoder was trained, otherwise None.
        decision: The decisions of the held-out speakers.
        choice: The selected `epoch` or `strength`, and its `selection_value`.
        classify: Function of (rows, adapted) that returns logits `(clips, labels)`, divided by the temperature.
        novelty: Function of rows that returns `EmotionHead.novelty` of the clips; None if the encoder was trained.
    """

    head: EmotionHead
    model: WhisperForEmotionClassification | None
    decision: Decision
    choice: dict[str, Any]
    classify: Callable[[Sequence[int], bool], np.ndarray]
    novelty: Callable[[Sequence[int]], np.ndarray] | None = None

    def whole_model(self, experiment: Experiment) -> WhisperForEmotionClassification:
        """Return the model with its encoder, ready to save."""
        if self.model is not None:
            return self.model
        model = experiment.model(seed=0)
        model.config = model.encoder.config = self.head.config
        model.head = self.head
        return model


def finish(
    experiment: Experiment,
    frames: StoredFrames,
    head: EmotionHead,
    known: Sequence[int],
    held_out: HeldOut | None,
    choice: dict[str, Any],
) -> Fitted:
    """Calibrate a fitted head, and store the statistics for adaptation and novelty in it.

    Args:
        experiment: The experiment.
        frames: Output of `load_frames`.
        head: The head.
        known: The head's training clips.
        held_out: Logits of the held-out clips; None if nothing was held out.
        choice: As in `Fitted`.
    """
    metric = experiment.args.metric_for_best_model
    decision = decide(held_out, experiment.adaptation, experiment.temperature_scaling, metric)
    head.config.update(decision.calibration)
    novelty = None
    if not head.config.use_weighted_layer_sum:
        set_population_mean(experiment, frames, head, known)
        novelty = _set_novelty(experiment, frames, head, known)
    head.eval()

    def classify(rows: Sequence[int], adapted: bool) -> np.ndarray:
        groups = experiment.adaptation_groups
        means = group_means(frames.means, groups, np.asarray(rows)) if adapted else None
        return classify_stored(frames, head, rows, means)

    return Fitted(head, None, decision, choice, classify, novelty)


def set_population_mean(experiment: Experiment, frames: StoredFrames, head: EmotionHead, rows: Sequence[int]) -> None:
    """Store the mean of the population of the clips `rows` in a head."""
    population = population_mean(frames.means, experiment.speakers, experiment.corpus_of, rows)
    head.adaptation.population_mean.copy_(torch.from_numpy(population))


def _set_novelty(
    experiment: Experiment, frames: StoredFrames, head: EmotionHead, rows: Sequence[int]
) -> Callable[[Sequence[int]], np.ndarray]:
    """Store the training clips' deviation and the novelty limit in the head; return a function that measures clips."""
    population, means = head.adaptation.population_mean.numpy(), [frames.means, *(one.means for one in frames.copies)]
    deviation = population_deviation(means, population, experiment.speakers, experiment.corpus_of, rows)
    head.adaptation.population_deviation.copy_(torch.from_numpy(deviation))
    known = [measure_novelty(head, mean, rows) for mean in means]
    head.config.novelty_limit = float(np.quantile(np.concatenate(known), FAMILIAR))
    return partial(measure_novelty, head, frames.means)


@torch.inference_mode()
def classify_stored(
    frames: StoredFrames, head: EmotionHead, rows: Sequence[int], means: np.ndarray | None
) -> np.ndarray:
    """Classify stored clips with a head, in batches of similar length.

    Args:
        frames: Output of `load_frames`.
        head: The head.
        rows: The clips.
        means: Mean frame of each clip's domain, `(clips, frame_size)`; None: no adaptation.

    Returns:
        Logits `(clips, labels)`.
    """
    head.eval()
    if head.config.pooling == "mean" and head.config.classifier_proj_size == 0:  # the mean frame stands for the clip
        averages = torch.from_numpy(frames.means[list(rows)]).unflatten(1, (len(frames.layers), -1))[:, None]
        domain_mean = None if means is None else torch.from_numpy(means)
        return head(averages, torch.ones(averages.shape[:2], dtype=torch.bool), domain_mean).logits.numpy()
    order = np.argsort(frames.lengths[list(rows)], kind="stable")
    logits = np.empty((len(rows), head.config.num_labels), np.float32)
    for start in range(0, len(order), CLIPS_AT_ONCE):
        places = order[start : start + CLIPS_AT_ONCE]
        batch, mask = frames.batch([rows[place] for place in places])
        domain_mean = None if means is None else torch.from_numpy(means[places])
        logits[places] = head(batch, mask, domain_mean).logits.numpy()
    return logits
