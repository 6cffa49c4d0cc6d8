"""Training on some speakers and testing on others, with selection on speakers held out of the training."""

import dataclasses
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from datasets import Dataset
from scipy.optimize import brentq, minimize_scalar
from tqdm.auto import tqdm
from transformers import Trainer

from whisper_emotion.corpora import utterance_names
from whisper_emotion.corpora.splits import Fold, check_held_out, hold_out_speakers, speakers_known
from whisper_emotion.errors import UserError
from whisper_emotion.features import FeatureStore, StoredFrames, stack_layers
from whisper_emotion.modeling_whisper_emotion import WhisperForEmotionClassification
from whisper_emotion.processes import leave_group
from whisper_emotion.run_folder import write_whole
from whisper_emotion.training import (
    AudioCollator,
    EmotionTrainingArguments,
    Utterances,
    best_epoch,
    build_extractor,
    build_model,
    collate_embeddings,
    collate_frames,
    embed,
    fit_pca_projector,
    train,
)

TEMPERATURES = (-3.0, 3.0)  # natural logarithms between which the temperature is sought
PROBABILITY = "p_"  # prefix of a class's column in predictions.csv
UNADAPTED = "unadapted_"  # prefix of what is said of a clip whose speaker is not adapted to


@dataclass(frozen=True)
class Experiment:
    """All that decides what a model becomes, but for its rows and its seed.

    Args:
        corpus: What `load_corpus` returned.
        encoder: A Whisper checkpoint, or one of ours: a folder or a Hub name.
        overrides: Fields of `WhisperEmotionConfig` that differ from the checkpoint's. `class_weights` may be
            `"balanced"`: inverse to the classes' frequencies among the training rows.
        args: Hyper-parameters.
        select_on: What chooses the epoch: speakers held out of the training rows (`dev`), nothing (`last`), or the
            test rows (`test`), as the paper's released code does.
        refit: After `dev` has chosen the number of epochs, train anew on all training rows for as many.
        from_scratch: Take the encoder's configuration only, and train all weights from random ones.
        projector: `learned` with the rest of the head, or `pca`: the principal components of the training rows'
            frames, fixed.
        encoder_dtype: Precision of a frozen encoder; the head is trained in float32 whatever it is.
        speaker_adaptation: Whether a test speaker's mean frame, over all of that speaker's utterances and without
            their labels, is taken into account when they are classified: `never`, `always`, or where it helps on the
            speakers held out of the training rows (`dev`). The training is the same.
        temperature_scaling: Divide the logits by the number that gives the least loss on the speakers held out.
        store_dir: Folder of the feature store; its own default where not given.

    Raises:
        UserError: Options that exclude one another.
    """

    corpus: Dataset
    encoder: str
    overrides: dict[str, Any]
    args: EmotionTrainingArguments
    select_on: str = "dev"
    refit: bool = True
    from_scratch: bool = False
    projector: str = "learned"
    encoder_dtype: str = "float32"
    speaker_adaptation: str = "never"
    temperature_scaling: bool = False
    store_dir: str | None = None

    def __post_init__(self):
        """Refuse options that exclude one another."""
        if self.projector == "pca" and self.overrides.get("use_weighted_layer_sum"):
            raise UserError("--projector pca: a learned mix of layers has no fixed ones, leave one of them out")
        if self.from_scratch and self.overrides.get("freeze_encoder", True):
            raise UserError("--from_scratch: a random encoder must be trained, add --freeze_encoder false")
        if self.encoder_dtype != "float32" and not self.overrides.get("freeze_encoder", True):
            raise UserError(f"--encoder_dtype {self.encoder_dtype}: is a frozen encoder's, add --freeze_encoder true")
        if self.temperature_scaling and self.select_on != "dev":
            raise UserError("--temperature_scaling true: is fitted on held-out speakers, so it needs --select_on dev")
        if self.speaker_adaptation == "never":
            return
        option = f"--speaker_adaptation {self.speaker_adaptation}"
        if not self.overrides.get("freeze_encoder", True):
            raise UserError(f"{option}: needs the frames of a frozen encoder, add --freeze_encoder true")
        if self.overrides.get("use_weighted_layer_sum"):
            raise UserError(f"{option}: a learned mix of layers has no fixed mean, leave one of them out")
        if self.speaker_adaptation == "always" and not speakers_known(self.corpus):
            raise UserError(f"{option}: needs to know who speaks, give --speaker_pattern to find it in the file names")
        if self.speaker_adaptation == "dev" and self.select_on != "dev":
            raise UserError(f"{option}: is decided on held-out speakers, so it needs --select_on dev")

    @property
    def labels(self) -> list[str]:
        """Class names in the order of their ids."""
        return self.corpus.features["label"].names

    def model(self, rows: Sequence[int], seed: int, head_only: bool = False) -> WhisperForEmotionClassification:
        """A fresh model, with weights of the classes among `rows` where they are to be balanced."""
        overrides = dict(self.overrides)
        if overrides.get("class_weights") == "balanced":
            counts = np.bincount(np.asarray(self.corpus["label"][:])[rows], minlength=len(self.labels))
            overrides["class_weights"] = (len(rows) / len(self.labels) / np.maximum(counts, 1)).tolist()
        model = build_model(self.encoder, self.labels, overrides, seed, self.from_scratch, head_only)
        if self.projector == "pca":
            size, width = model.config.classifier_proj_size, model.config.frame_size
            if not model.config.freeze_encoder:
                raise UserError("--projector pca: needs the frames of a frozen encoder, add --freeze_encoder true")
            if size > width:
                raise UserError(f"--classifier_proj_size {size}: pca has at most the {width} components of a frame")
        return model

    def model_for(
        self, utterances: Utterances, rows: Sequence[int], seed: int, head_only: bool = False
    ) -> WhisperForEmotionClassification:
        """A fresh model that is ready to be trained on `rows` of `utterances`."""
        model = self.model(rows, seed, head_only)
        if isinstance(utterances, StoredFrames) and not model.config.use_weighted_layer_sum:
            speakers = np.asarray(self.corpus["speaker"][:])[rows]
            means = utterances.own_means()[rows]
            of_speakers = [means[speakers == speaker].mean(axis=0) for speaker in np.unique(speakers)]
            model.population_mean.copy_(torch.from_numpy(np.mean(of_speakers, axis=0)))
        if self.projector == "pca":
            fit_pca_projector(model, [utterances[row] for row in rows])
        return model

    def check_speakers(self, rows: Sequence[int]) -> None:
        """Raise for training rows of which none can be held out, before the encoder has run over the corpus.

        Raises:
            UserError: There are not enough speakers to hold out.
        """
        if self.select_on == "dev":
            check_held_out(self.corpus, rows)

    def utterances(self) -> tuple[Utterances, Any]:
        """What is trained on, and its collator: stored frames where the encoder is frozen, else the audio."""
        config = self.model(range(len(self.corpus)), self.args.seed, head_only=True).config
        if not config.freeze_encoder:
            return self.corpus, AudioCollator(build_extractor(self.encoder))
        return stack_layers(self.feature_store(config.frame_layers).fill()), collate_frames

    def adapted(self, utterances: Utterances) -> Utterances:
        """Stored frames with their speakers' means; as they are where the corpus does not say who speaks."""
        return utterances.adapted(self.corpus["speaker"][:]) if speakers_known(self.corpus) else utterances

    def feature_store(self, layers: Sequence[int]) -> FeatureStore:
        """The store of the corpus's frames at some layers of the encoder."""
        highest = {"encoder_layer": max(layers), "concatenated_layers": None}
        wide = dataclasses.replace(self, overrides=self.overrides | highest, projector="learned")
        model = wide.model(range(len(self.corpus)), self.args.seed).to(self.args.device)
        model.encoder.to(getattr(torch, self.encoder_dtype))
        return FeatureStore(model, build_extractor(self.encoder), self.corpus, layers, self.store_dir)


def fit(
    experiment: Experiment,
    utterances: Utterances,
    collator,
    train_rows: list[int],
    test_rows: list[int] | None,
    seed: int,
    work_dir: Path,
) -> "Fitted":
    """Train one model; a run that was cut off goes on from its last checkpoint.

    Args:
        experiment: What to train.
        utterances: `experiment.utterances()`, of the whole corpus.
        collator: The same.
        train_rows: Rows to learn from.
        test_rows: Rows that choose the epoch under `select_on="test"`; not looked at otherwise.
        seed: Seed of the head, the order of the batches, dropout, and of the choice of held-out speakers.
        work_dir: Folder of the checkpoints.

    Raises:
        UserError: There are not enough speakers to hold out, or no test rows to select on.
    """
    fit_rows, selection_rows = train_rows, None
    if experiment.select_on == "dev":
        fit_rows, selection_rows = hold_out_speakers(experiment.corpus, train_rows, seed)
        if not speakers_known(experiment.corpus):
            _say(
                "nothing tells who speaks: clips are held out, not speakers, and what they choose may be too sure of "
                "itself; --speaker_pattern finds the speaker in the file names"
            )
    elif experiment.select_on == "test":
        if test_rows is None:
            raise UserError("--select_on test: there is no test fold to select on; use dev or last, or --test_fold")
        selection_rows = test_rows
    adapted = experiment.speaker_adaptation == "always"
    fitting = _Fitting(experiment, utterances, collator, fit_rows, seed)
    selection_set = None if selection_rows is None else fitting.select(selection_rows, adapted)
    trainer = fitting.train(selection_set, work_dir / "select")
    if experiment.speaker_adaptation == "dev" and speakers_known(experiment.corpus):
        adapted = _value(trainer, fitting.select(selection_rows, adapted=True)) > _value(trainer, selection_set)
        _say(f"dev chose {'to adapt' if adapted else 'not to adapt'} to speakers")
    temperatures: dict[str, float] = {}
    if experiment.temperature_scaling:
        temperatures["temperature"] = fit_temperature(trainer, fitting.select(selection_rows))
        if experiment.speaker_adaptation != "never" and speakers_known(experiment.corpus):
            with_speakers = fitting.select(selection_rows, adapted=True)
            temperatures["adapted_temperature"] = fit_temperature(trainer, with_speakers)
        named = (f"{name.replace('_', ' ')} {value:.2f}" for name, value in temperatures.items())
        _say(f"dev chose the {' and the '.join(named)}")
    if experiment.select_on == "dev" and experiment.refit:
        epochs = best_epoch(trainer)
        _say(f"dev chose epoch {epochs}: training anew on all training speakers for as many")
        fitting = _Fitting(experiment, utterances, collator, train_rows, seed)
        trainer = fitting.train(None, work_dir / "refit", epochs)
    for name, value in temperatures.items():
        setattr(trainer.model.config, name, value)
    return Fitted(trainer, fitting, adapted)


def _say(message: str) -> None:
    """Print above a bar; one process speaks for all."""
    if PartialState().is_main_process:
        tqdm.write(message)


class _Fitting:
    """A fresh model and the utterances as it takes them: frames, audio, or what a fixed projection makes of them."""

    def __init__(self, experiment: Experiment, utterances: Utterances, collator, rows: list[int], seed: int):
        self.experiment, self.utterances, self.rows = experiment, utterances, rows
        self.args = dataclasses.replace(experiment.args, seed=seed)
        self.model = experiment.model_for(utterances, rows, seed)
        self._collator = collator
        self._embeds = collator is collate_frames and self.model.has_fixed_embedding()

    def select(self, rows: list[int], adapted: bool = False) -> Utterances:
        """Some rows of the corpus."""
        heard = self.experiment.adapted(self.utterances) if adapted else self.utterances
        selected = heard.select(rows) if hasattr(heard, "select") else [heard[row] for row in rows]
        return embed(self.model, selected, self._collator) if self._embeds else selected

    def train(self, selection_set: Utterances | None, folder: Path, epochs: int | None = None) -> Trainer:
        """Train the model."""
        collator = collate_embeddings if self._embeds else self._collator
        return train(self.model, self.select(self.rows), selection_set, collator, self.args, folder, epochs)


class Fitted(NamedTuple):
    """A trained model, in a trainer, how it takes its utterances, and whether it takes note of who speaks."""

    trainer: Trainer
    fitting: _Fitting
    adapted: bool


def _value(trainer: Trainer, utterances: Utterances) -> float:
    """What chooses the epoch, of a trained model on some utterances; higher is better."""
    metric = trainer.args.metric_for_best_model
    value = trainer.predict(utterances).metrics[f"test_{metric}"]
    return -value if metric == "loss" else value


def fit_temperature(trainer: Trainer, utterances: Utterances) -> float:
    """The number by which a trained model's logits are divided for the least cross-entropy on some utterances.

    Guo et al. 2017 (arXiv 1706.04599), section 4.2. Classes weigh alike, whatever weights the loss has. A model may
    name all of a few utterances and be sure of it, but nobody can know so much from them: on average it is to be no
    surer than Laplace's rule of succession says of so many right ones, `(right + 1) / (all + 2)`.
    """
    found = trainer.predict(utterances)
    logits, labels = torch.tensor(found.predictions, dtype=torch.float64), torch.tensor(found.label_ids)
    right = int((logits.argmax(dim=1) == labels).sum())
    surest = (right + 1) / (len(labels) + 2)

    def loss(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / math.exp(log_temperature), labels))

    def too_sure(log_temperature: float) -> float:
        return float((logits / math.exp(log_temperature)).softmax(dim=1).amax(dim=1).mean()) - surest

    best, highest = minimize_scalar(loss, bounds=TEMPERATURES, method="bounded").x, TEMPERATURES[1]
    if too_sure(best) > 0:
        best = brentq(too_sure, best, highest) if too_sure(highest) < 0 else highest
    return math.exp(best)


def predict(fitted: Fitted, experiment: Experiment, fold: Fold, seed: int) -> pd.DataFrame:
    """Classify a fold's test rows.

    Returns:
        A row an utterance: `name, fold, seed, label, predicted`, and a probability a class, `p_` and its name; with
        options that choose them `adapted` and `temperature`, too, and beside `adapted` the class and the probabilities
        that the same model gives without the adaptation, their names behind `UNADAPTED`.
    """

    def answers(adapted: bool) -> pd.DataFrame:
        test_set = fitted.fitting.select(fold.test, adapted)
        return prediction_table(experiment, fitted.trainer.predict(test_set).predictions, fold, seed)

    table = answers(fitted.adapted)
    if experiment.speaker_adaptation != "never":
        alone = answers(False) if fitted.adapted else table
        table = table.assign(adapted=fitted.adapted).join(
            alone[["predicted", *probability_columns(experiment.labels)]].add_prefix(UNADAPTED)
        )
    if experiment.temperature_scaling:
        table["temperature"] = fitted.trainer.model.config.temperature_of(fitted.adapted)
    return table


def prediction_table(experiment: Experiment, logits: np.ndarray, fold: Fold, seed: int) -> pd.DataFrame:
    """Write logits `(clips, labels)` of a fold's test rows down as predictions; `predict` says how."""
    probabilities = torch.tensor(logits, dtype=torch.float64).softmax(dim=-1).numpy()
    names, labels = utterance_names(experiment.corpus), experiment.corpus["label"][:]
    table = pd.DataFrame(
        {
            "name": [names[row] for row in fold.test],
            "fold": fold.number,
            "seed": seed,
            "label": [experiment.labels[labels[row]] for row in fold.test],
            "predicted": [experiment.labels[index] for index in probabilities.argmax(axis=1)],
        }
    )
    table[probability_columns(experiment.labels)] = probabilities
    return table


def probability_columns(labels: Sequence[str]) -> list[str]:
    """Where predictions have the probabilities."""
    return [PROBABILITY + label for label in labels]


def read_predictions(path: Path) -> pd.DataFrame:
    """Read predictions with names and labels as they are: 001 is no number, and neither is a class 0."""
    text = dict.fromkeys(("name", "label", "predicted", UNADAPTED + "predicted"), str)
    return pd.read_csv(path, keep_default_na=False, dtype=text)


def cross_validate(experiment: Experiment, folds: list[Fold], seeds: list[int], work_dir: Path) -> pd.DataFrame | None:
    """Train and test on every fold with every seed; finished ones are found again in `work_dir`.

    Returns:
        The predictions of all folds and seeds, in order; None in all processes but the main one.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    cells = {work_dir / f"seed{seed}_fold{fold.number}.csv": (seed, fold) for seed in seeds for fold in folds}
    missing = {path: cell for path, cell in cells.items() if not path.exists()}
    if missing:
        for _, fold in missing.values():
            experiment.check_speakers(fold.train)
        utterances, collator = experiment.utterances()
        if collator is collate_frames and not leave_group():
            return None
        progress = tqdm(missing.items(), desc="cross-validation", unit="fold", initial=len(cells) - len(missing),
                        total=len(cells))  # fmt: skip
        for path, (seed, fold) in progress:
            folder = path.with_suffix("")
            fitted = fit(experiment, utterances, collator, fold.train, fold.test, seed, folder)
            table = predict(fitted, experiment, fold, seed)
            if PartialState().is_main_process:
                write_whole(path, table.to_csv(index=False))  # a file that is there is a finished fold
                shutil.rmtree(folder)
    if not PartialState().is_main_process:
        return None
    return pd.concat([read_predictions(path) for path in cells], ignore_index=True)
