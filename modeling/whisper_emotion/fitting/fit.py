"""Fit models on training clips and select on held-out speakers: one function, three ways of training under it."""

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from whisper_emotion.collator import AudioCollator
from whisper_emotion.corpora.splits import hold_out_speakers
from whisper_emotion.errors import UserError
from whisper_emotion.fitting.encoder_training import best_epoch, build_trainer, train_encoder
from whisper_emotion.fitting.experiment import Experiment, build_extractor, new_head
from whisper_emotion.fitting.large_regression import regularisation_path
from whisper_emotion.fitting.regression import DEFAULT_STRENGTH, STRENGTHS, select_strength
from whisper_emotion.fitting.selection import Decision, HeldOut, choose_best, decide, selection_value
from whisper_emotion.fitting.stacked_training import train_heads
from whisper_emotion.modeling_whisper_emotion import EmotionHead, WhisperForEmotionClassification
from whisper_emotion.stored_frames import PooledClips, Rows, StoredFrames

CLIPS_AT_ONCE = 64  # that a trained head classifies together
READ_AT_ONCE = 4096  # vectors that are averaged together


@dataclass(frozen=True)
class Job:
    """One model to fit.

    Args:
        train: Clips to train on.
        test: Clips to test on; empty where nothing is tested.
        seed: Seed of the head, the order of the batches, dropout, and the choice of held-out speakers.
    """

    train: list[int]
    test: list[int]
    seed: int


@dataclass
class Fitted:
    """A fitted model.

    Args:
        head: The head; its configuration has the temperatures.
        model: The whole model, where the encoder was trained, too.
        decision: What held-out speakers decided.
        choice: What was selected: `epoch` or `strength`, and `selection_value`.
        classify: Function of (rows, adapted) that returns logits `(clips, labels)`, divided by the temperature.
    """

    head: EmotionHead
    model: WhisperForEmotionClassification | None
    decision: Decision
    choice: dict[str, Any]
    classify: Callable[[Sequence[int], bool], np.ndarray]

    def whole_model(self, experiment: Experiment) -> WhisperForEmotionClassification:
        """Return the model with its encoder, ready to be saved."""
        if self.model is not None:
            return self.model
        model = experiment.model(seed=0)
        model.config = model.encoder.config = self.head.config
        model.head = self.head
        return model


def load_frames(experiment: Experiment) -> StoredFrames | PooledClips | None:
    """Encode the corpus where the encoder is frozen, and open its frames; None where the encoder is trained.

    Where only a linear classifier is learned, the clips' pooled vectors stand in for their frames.
    """
    if not experiment.freeze_encoder:
        return None
    config = experiment.config()
    layers = config.frame_layers
    store = experiment.feature_store(layers, config.pooling if experiment.is_linear else "frames")
    store.fill()
    return store.open(layers)


def fit(experiment: Experiment, frames: StoredFrames | None, jobs: Sequence[Job], work_dir: Path) -> list[Fitted]:
    """Fit the models of some jobs.

    Learned heads of several jobs are trained side by side: their dropout depends on which jobs these are. An encoder's
    training resumes from its last checkpoint.

    Args:
        experiment: What to train.
        frames: Output of `load_frames`.
        jobs: The models, of one seed where they are learned heads.
        work_dir: Folder of the encoder's checkpoints.

    Raises:
        UserError: There are not enough speakers to hold out, or no test clips to select on.
    """
    if experiment.select_on == "test" and not all(job.test for job in jobs):
        raise UserError("--select_on test: there is no test fold to select on; use dev or last, or --test_fold")
    if frames is None:
        return [_fit_encoder(experiment, job, work_dir) for job in jobs]
    if experiment.is_linear:
        with threadpool_limits(1):  # several fits run at once, which gains more than threads in each
            fitted: dict[tuple, Fitted] = {}  # no seed has a part in it
            for job in jobs:
                clips = tuple(job.train), tuple(job.test)
                if clips not in fitted:
                    fitted[clips] = _fit_linear(experiment, frames, job)
            return [fitted[tuple(job.train), tuple(job.test)] for job in jobs]
    return _fit_heads(experiment, frames, jobs)


def _fit_linear(experiment: Experiment, frames: StoredFrames, job: Job) -> Fitted:
    """Fit the classifier by L-BFGS; its strength is chosen by leaving training speakers out in turn."""
    config, rows = experiment.config(), np.asarray(job.train)
    mean, pooled = frames.means, frames.pooled(config.pooling)
    labels, speakers, weights = experiment.label_ids, experiment.speakers, experiment.class_weights_of(job.train)
    loss = (None if weights is None else weights.numpy(), experiment.args.label_smoothing_factor)
    num_labels, metric = len(experiment.labels), experiment.args.metric_for_best_model

    def adapt(known: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Adapt clips to their speakers, as the model does with the known clips' population mean."""
        moved = pooled[other].copy()
        moved[:, : mean.shape[1]] += _population_mean(mean, speakers, known) - _speaker_means(mean, speakers, other)
        return moved

    held_out, choice = None, {"epoch": None, "strength": DEFAULT_STRENGTH, "selection_value": None}
    if experiment.select_on == "dev":
        selected = select_strength(
            Rows(pooled, rows), labels[rows], speakers[rows], num_labels, metric, *loss,
            (lambda known, other: adapt(rows[known], rows[other])) if experiment.adapts else None,
        )  # fmt: skip
        targets = torch.from_numpy(labels[rows][selected.rows])
        held_out = HeldOut(selected.logits, selected.adapted_logits, targets)
        choice |= {"strength": selected.strength, "selection_value": selected.value}
    path = regularisation_path(Rows(pooled, rows), labels[rows], num_labels, *loss)
    if experiment.select_on == "test":
        targets = torch.from_numpy(labels[job.test])
        tested = pooled[job.test]
        values = [selection_value(path.fit(one).logits(tested), targets, metric, weights) for one in STRENGTHS]
        choice |= {"strength": STRENGTHS[choose_best(values)], "selection_value": max(values)}
    linear = path.fit(choice["strength"])
    head = new_head(config, job.seed)
    head.classifier.weight.data.copy_(torch.from_numpy(linear.weight))
    head.classifier.bias.data.copy_(torch.from_numpy(linear.bias))
    return _finish(experiment, frames, head, job, held_out, choice)


def _fit_heads(experiment: Experiment, frames: StoredFrames, jobs: Sequence[Job]) -> list[Fitted]:
    """Train learned heads side by side; held-out speakers choose the epoch."""
    args, config = experiment.args, experiment.config()
    labels, seeds = torch.from_numpy(experiment.label_ids), [job.seed for job in jobs]

    def trained(rows, watched=None, epochs=None):
        heads = [new_head(copy.deepcopy(config), seed) for seed in seeds]
        weights = [experiment.class_weights_of(own) for own in rows]
        total = max(epochs) if epochs else math.ceil(args.num_train_epochs)
        with tqdm(total=total, desc="training", unit="epoch", leave=False, disable=args.disable_tqdm) as bar:
            return heads, train_heads(
                heads, frames, labels, rows, args, seeds, weights, watched, epochs, progress=bar.update
            )

    rows, watched = [job.train for job in jobs], None
    choices: list[dict[str, Any]] = [
        {"epoch": math.ceil(args.num_train_epochs), "strength": None, "selection_value": None} for _ in jobs
    ]
    if experiment.select_on == "dev":
        held_out = [hold_out_speakers(experiment.corpus, job.train, job.seed) for job in jobs]
        rows, watched = map(list, zip(*held_out, strict=True))
    elif experiment.select_on == "test":
        watched = [job.test for job in jobs]
    heads, values = trained(rows, watched)
    if watched is not None:
        for choice, own in zip(choices, values, strict=True):
            choice |= {"epoch": 1 + choose_best(own), "selection_value": max(own)}
    held: list[HeldOut | None] = [None] * len(jobs)
    if experiment.select_on == "dev":
        held = [
            _classify_held_out(experiment, frames, head, own, dev)
            for head, own, dev in zip(heads, rows, watched, strict=True)
        ]
        if experiment.refit:
            heads, _ = trained([job.train for job in jobs], epochs=[choice["epoch"] for choice in choices])
    parts = zip(heads, jobs, held, choices, strict=True)
    return [_finish(experiment, frames, head, job, own, choice) for head, job, own, choice in parts]


def _classify_held_out(experiment: Experiment, frames: StoredFrames, head: EmotionHead, rows, dev) -> HeldOut:
    """Classify held-out clips as they are and, where asked for, adapted to their speakers."""
    logits = torch.from_numpy(_classify(frames, head, dev, None))
    adapted = None
    if experiment.adapts:
        mean, speakers = frames.means, experiment.speakers
        _set_population_mean(head, mean, speakers, rows)
        adapted = torch.from_numpy(_classify(frames, head, dev, _speaker_means(mean, speakers, np.asarray(dev))))
    return HeldOut(logits, adapted, torch.from_numpy(experiment.label_ids[dev]))


def _finish(experiment: Experiment, frames: StoredFrames, head: EmotionHead, job: Job, held_out, choice) -> Fitted:
    """Calibrate a fitted head, and give it the statistics of adaptation."""
    metric = experiment.args.metric_for_best_model
    decision = decide(held_out, experiment.adaptation, experiment.temperature_scaling, metric)
    head.config.update(decision.temperatures)
    speakers, by_layer_sum = experiment.speakers, head.config.use_weighted_layer_sum
    if not by_layer_sum:
        _set_population_mean(head, frames.means, speakers, job.train)
    head.eval()

    def classify(rows: Sequence[int], adapted: bool) -> np.ndarray:
        means = _speaker_means(frames.means, speakers, np.asarray(rows)) if adapted else None
        return _classify(frames, head, rows, means)

    return Fitted(head, None, decision, choice, classify)


@torch.inference_mode()
def _classify(frames: StoredFrames, head: EmotionHead, rows: Sequence[int], means: np.ndarray | None) -> np.ndarray:
    """Classify stored clips with a head, batches of like length; logits `(clips, labels)`."""
    head.eval()
    if head.config.pooling == "mean" and head.config.classifier_proj_size == 0:  # a clip's mean is one frame to pool
        averages = torch.from_numpy(frames.means[list(rows)]).unflatten(1, (len(frames.layers), -1))[:, None]
        speaker_mean = None if means is None else torch.from_numpy(means)
        return head(averages, torch.ones(averages.shape[:2], dtype=torch.bool), speaker_mean).logits.numpy()
    order = np.argsort(frames.lengths[list(rows)], kind="stable")
    logits = np.empty((len(rows), head.config.num_labels), np.float32)
    for start in range(0, len(order), CLIPS_AT_ONCE):
        places = order[start : start + CLIPS_AT_ONCE]
        batch, mask = frames.batch([rows[place] for place in places])
        speaker_mean = None if means is None else torch.from_numpy(means[places])
        logits[places] = head(batch, mask, speaker_mean).logits.numpy()
    return logits


def _speaker_means(mean: np.ndarray, speakers: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Average the clips `rows` of each speaker, `(rows, frame_size)`: one row a clip."""
    names, places = np.unique(speakers[rows], return_inverse=True)
    averages = np.stack([mean[rows[places == number]].mean(axis=0) for number in range(len(names))])
    return averages[places]


def _population_mean(mean: np.ndarray, speakers: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Average the speakers' means, `(frame_size,)`: a speaker counts as one, however many clips there are."""
    _, places, counts = np.unique(speakers[rows], return_inverse=True, return_counts=True)
    shares, starts = 1 / (len(counts) * counts[places]), range(0, len(rows), READ_AT_ONCE)
    return np.sum([shares[own] @ mean[rows[own]] for own in (slice(at, at + READ_AT_ONCE) for at in starts)], axis=0)


def _set_population_mean(head: EmotionHead, mean: np.ndarray, speakers: np.ndarray, rows: Sequence[int]) -> None:
    population = _population_mean(mean, speakers, np.asarray(rows))
    head.adaptation.population_mean.copy_(torch.from_numpy(population))


def _fit_encoder(experiment: Experiment, job: Job, work_dir: Path) -> Fitted:
    """Train the whole model with the `Trainer`; held-out speakers choose the epoch."""
    args = dataclasses.replace(experiment.args, seed=job.seed)
    collator = AudioCollator(build_extractor(experiment.encoder))
    corpus, weights = experiment.corpus, experiment.class_weights_of

    def trained(rows, watched, folder, epochs=None):
        selection = None if watched is None else corpus.select(watched)
        model = experiment.model(job.seed)
        trainer = build_trainer(model, corpus.select(rows), selection, collator, args, folder, weights(rows))
        return train_encoder(trainer, epochs)

    rows, watched = job.train, None
    if experiment.select_on == "dev":
        rows, watched = hold_out_speakers(corpus, job.train, job.seed)
    elif experiment.select_on == "test":
        watched = job.test
    trainer = trained(rows, watched, work_dir / "select")
    choice: dict[str, Any] = {"epoch": math.ceil(args.num_train_epochs), "strength": None, "selection_value": None}
    held_out = None
    if watched is not None:
        choice |= {"epoch": best_epoch(trainer), "selection_value": trainer.state.best_metric}
    if experiment.select_on == "dev":
        logits = torch.from_numpy(trainer.predict(corpus.select(watched)).predictions)
        held_out = HeldOut(logits, None, torch.from_numpy(experiment.label_ids[watched]))
        if experiment.refit:
            trainer = trained(job.train, None, work_dir / "refit", choice["epoch"])
    decision = decide(held_out, "none", experiment.temperature_scaling, args.metric_for_best_model)
    model = trainer.model
    model.config.update(decision.temperatures)

    def classify(test: Sequence[int], adapted: bool) -> np.ndarray:
        return np.asarray(trainer.predict(corpus.select(test)).predictions)

    return Fitted(model.head, model, decision, choice, classify)
