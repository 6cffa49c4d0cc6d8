"""Fit models on training clips and select on held-out speakers: `fit` covers all three ways of training."""

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from whisper_emotion.collator import AudioCollator
from whisper_emotion.corpora.held_out import hold_out_speakers
from whisper_emotion.errors import UserError
from whisper_emotion.fitting.adaptation import (
    CentredRows,
    group_means,
    population_mean,
    with_copies,
)
from whisper_emotion.fitting.encoder_training import best_epoch, build_trainer, train_encoder
from whisper_emotion.fitting.experiment import Experiment
from whisper_emotion.fitting.fitted import Fitted, classify_stored, finish, set_population_mean
from whisper_emotion.fitting.large_regression import regularisation_path
from whisper_emotion.fitting.new_models import new_head
from whisper_emotion.fitting.regression import (
    DEFAULT_START_STRENGTH,
    DEFAULT_STRENGTH,
    START_STRENGTHS,
    STRENGTHS,
    Linear,
    select_strength,
)
from whisper_emotion.fitting.selection import HeldOut, choose_best, decide, selection_value
from whisper_emotion.fitting.stacked_training import train_heads
from whisper_emotion.modeling_whisper_emotion import EmotionHead
from whisper_emotion.stored_frames import PooledClips, Rows, Stacked, StoredFrames


@dataclass(frozen=True)
class Job:
    """One model to fit.

    Args:
        train: Clips to train on.
        test: Clips to test on; may be empty.
        seed: Seed of the head, the order of the batches, dropout, and the choice of held-out speakers.
        dev: Clips to select on; None holds training clips out.
    """

    train: list[int]
    test: list[int]
    seed: int
    dev: list[int] | None = None

    def known(self, experiment: Experiment) -> list[int]:
        """Return the training clips of the final model."""
        return sorted([*self.train, *(self.dev or [])]) if experiment.refit else self.train

    def divide(self, experiment: Experiment) -> tuple[list[int], list[int]]:
        """Return the clips to train on and the clips to select on."""
        return (
            hold_out_speakers(experiment.corpus, self.train, self.seed) if self.dev is None else (self.train, self.dev)
        )


def load_frames(experiment: Experiment) -> StoredFrames | PooledClips | None:
    """Encode the corpus with a frozen encoder and open its frames; None if the encoder is trained.

    For a linear head, pooled vectors replace the frames.
    """
    if not experiment.freeze_encoder:
        return None
    config = experiment.config()
    layers = config.frame_layers
    kind, stored = config.pooling if experiment.is_linear else "frames", []
    for number in range(1 + experiment.augmented_copies):
        store = experiment.feature_store(layers, kind, number)
        store.fill()
        stored.append(store.open(layers))
    stored[0].copies = stored[1:]
    return stored[0]


def fit(experiment: Experiment, frames: StoredFrames | None, jobs: Sequence[Job], work_dir: Path) -> list[Fitted]:
    """Fit the models of some jobs.

    Learned heads of several jobs are trained in parallel, and their dropout depends on the set of jobs. An encoder's
    training resumes from its last checkpoint.

    Args:
        experiment: The experiment.
        frames: Output of `load_frames`.
        jobs: The models; learned heads must have the same seed.
        work_dir: Folder of the encoder's checkpoints.

    Raises:
        UserError: There are too few speakers to hold out, or no test clips to select on.
    """
    jobs = [dataclasses.replace(job, train=experiment.draw_clips(job.train, job.seed)) for job in jobs]
    if experiment.select_on == "test" and not all(job.test for job in jobs):
        raise UserError("--select_on test: needs a test fold, give --test_fold, or use dev or last")
    if frames is None:
        return [_fit_encoder(experiment, job, work_dir) for job in jobs]
    if experiment.is_linear:
        with threadpool_limits(1):  # parallel fits gain more than threads within a fit
            fitted: dict[tuple, Fitted] = {}  # the fit does not depend on the seed
            for job in jobs:
                clips = tuple(job.train), tuple(job.test)
                if clips not in fitted:
                    fitted[clips] = _fit_linear(experiment, frames, job)
            return [fitted[tuple(job.train), tuple(job.test)] for job in jobs]
    return _fit_heads(experiment, frames, jobs)


def _fit_linear(experiment: Experiment, frames: StoredFrames, job: Job) -> Fitted:
    """Fit the classifier by L-BFGS; cross-validation over training speakers selects its strength."""
    config, rows = experiment.config(), np.asarray(job.train if job.dev is None else sorted([*job.train, *job.dev]))
    mean, pooled = frames.means, frames.pooled(config.pooling)
    labels, speakers, corpora = experiment.label_ids, experiment.speakers, experiment.corpus_of
    weights, centred = experiment.class_weights_of(job.train), experiment.train_adaptation == "speaker"
    own, smoothing = experiment.clip_weights_of, experiment.args.label_smoothing_factor
    loss = (None if weights is None or len(experiment.corpora) > 1 else weights.numpy(), smoothing)
    num_labels, metric = len(experiment.labels), experiment.args.metric_for_best_model
    copies = len(frames.copies)
    every = Stacked([pooled, *(one.pooled(config.pooling) for one in frames.copies)]) if copies else pooled

    def inputs(rows: np.ndarray) -> Rows:
        if centred:
            return CentredRows(every, mean, speakers, rows, home, copies)
        return Rows(every, with_copies(rows, len(mean), copies))

    def moved(known: np.ndarray, other: np.ndarray, adapted: bool) -> np.ndarray:
        """Compute the inputs of left-out clips, with the population mean of the known clips."""
        known, other = rows[known], rows[other]
        found, population = np.array(pooled[other]), population_mean(mean, speakers, corpora, known)
        found[:, : mean.shape[1]] += (home - population if centred else 0) + (
            population - group_means(mean, experiment.adaptation_groups, other) if adapted else 0
        )
        return found

    def start(known: np.ndarray) -> Linear | None:
        initial = experiment.initial
        return initial and initial.start(experiment.labels, population_mean(mean, speakers, corpora, known))

    home = population_mean(mean, speakers, corpora, rows)
    default = DEFAULT_STRENGTH if experiment.initial is None else DEFAULT_START_STRENGTH
    held_out, choice = None, {"epoch": None, "strength": default, "selection_value": None}
    if experiment.select_on == "dev":
        folds = experiment.inner_folds(rows)
        if job.dev is not None:
            folds = [(np.flatnonzero(np.isin(rows, job.train)), np.flatnonzero(np.isin(rows, job.dev)))]
        begin: dict[str, Any] = {}
        if experiment.initial is not None:  # with one speaker, stay close to the initial head
            choice["one_voice"] = experiment.one_voice(rows)
            weakest = default if choice["one_voice"] else 0
            begin["strengths"] = [one for one in START_STRENGTHS if one >= weakest]
            begin["start"] = lambda known: start(rows[known])
        selected = select_strength(
            inputs(rows), labels[rows], speakers[rows], num_labels, metric, *loss,
            adapt=partial(moved, adapted=True) if experiment.adapts else None,
            as_is=partial(moved, adapted=False) if centred else None,
            clip_weights=own(rows), folds=folds, judge_adapted=experiment.adaptation in ("speaker", "domain"),
            copies=copies, allowed=experiment.allowed_classes(rows), **begin,
        )  # fmt: skip
        targets = torch.from_numpy(labels[rows][selected.rows])
        shares = experiment.held_out_weights(rows[selected.rows])
        held_out = HeldOut(selected.logits, selected.adapted_logits, targets, shares)
        choice |= {"strength": selected.strength, "selection_value": selected.value}
    rows = np.asarray(job.known(experiment))
    home = population_mean(mean, speakers, corpora, rows)
    clips = np.tile(rows, 1 + copies)  # a copy has the label, the weight and the classes of its clip
    path = regularisation_path(
        inputs(rows), labels[clips], num_labels, *loss, own(clips), experiment.allowed_classes(clips), start(rows)
    )
    if experiment.select_on == "test":
        targets = torch.from_numpy(labels[job.test])
        tested = pooled[job.test]
        values = [
            selection_value(experiment.restrict(path.fit(one).logits(tested), job.test), targets, metric, weights)
            for one in STRENGTHS
        ]
        choice |= {"strength": STRENGTHS[choose_best(values)], "selection_value": max(values)}
    linear = path.fit(choice["strength"])
    head = new_head(config, job.seed)
    head.classifier.weight.data.copy_(torch.from_numpy(linear.weight))
    head.classifier.bias.data.copy_(torch.from_numpy(linear.bias))
    return finish(experiment, frames, head, job.known(experiment), held_out, choice)


def _fit_heads(experiment: Experiment, frames: StoredFrames, jobs: Sequence[Job]) -> list[Fitted]:
    """Train learned heads in parallel; held-out speakers select the epoch."""
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
        rows, watched = map(list, zip(*[job.divide(experiment) for job in jobs], strict=True))
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
            heads, _ = trained([job.known(experiment) for job in jobs], epochs=[choice["epoch"] for choice in choices])
    parts = zip(heads, jobs, held, choices, strict=True)
    return [finish(experiment, frames, head, job.known(experiment), own, choice) for head, job, own, choice in parts]


def _classify_held_out(experiment: Experiment, frames: StoredFrames, head: EmotionHead, rows, dev) -> HeldOut:
    """Classify held-out clips without adaptation and, if requested, adapted to their speakers."""
    logits = torch.from_numpy(classify_stored(frames, head, dev, None))
    adapted = None
    if experiment.adapts:
        set_population_mean(experiment, frames, head, rows)
        means = group_means(frames.means, experiment.adaptation_groups, np.asarray(dev))
        adapted = torch.from_numpy(classify_stored(frames, head, dev, means))
    logits, adapted = (None if one is None else experiment.restrict(one, dev) for one in (logits, adapted))
    return HeldOut(logits, adapted, torch.from_numpy(experiment.label_ids[dev]))


def _fit_encoder(experiment: Experiment, job: Job, work_dir: Path) -> Fitted:
    """Train the whole model with the `Trainer`; held-out speakers select the epoch."""
    args = dataclasses.replace(experiment.args, seed=job.seed)
    collator = AudioCollator(experiment.extractor())
    corpus, weights = experiment.corpus, experiment.class_weights_of

    def trained(rows, watched, folder, epochs=None):
        selection = None if watched is None else corpus.select(watched)
        model = experiment.model(job.seed)
        trainer = build_trainer(model, corpus.select(rows), selection, collator, args, folder, weights(rows))
        return train_encoder(trainer, epochs)

    rows, watched = job.train, None
    if experiment.select_on == "dev":
        rows, watched = job.divide(experiment)
    elif experiment.select_on == "test":
        watched = job.test
    trainer = trained(rows, watched, work_dir / "select")
    choice: dict[str, Any] = {"epoch": math.ceil(args.num_train_epochs), "strength": None, "selection_value": None}
    held_out = None
    if watched is not None:
        choice |= {"epoch": best_epoch(trainer), "selection_value": trainer.state.best_metric}
    if experiment.select_on == "dev":
        logits = experiment.restrict(trainer.predict(corpus.select(watched)).predictions, watched)
        held_out = HeldOut(logits, None, torch.from_numpy(experiment.label_ids[watched]))
        if experiment.refit:
            trainer = trained(job.known(experiment), None, work_dir / "refit", choice["epoch"])
    decision = decide(held_out, "none", experiment.temperature_scaling, args.metric_for_best_model)
    model = trainer.model
    model.config.update(decision.calibration)

    def classify(test: Sequence[int], adapted: bool) -> np.ndarray:
        return np.asarray(trainer.predict(corpus.select(test)).predictions)

    return Fitted(model.head, model, decision, choice, classify)
