"""Training on some speakers and testing on others, with selection on speakers held out of the training."""

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import Trainer

from whisper_emotion.corpora import utterance_names
from whisper_emotion.corpora.splits import Fold, hold_out_speakers
from whisper_emotion.errors import UserError
from whisper_emotion.features import FeatureStore, stack_layers
from whisper_emotion.modeling_whisper_emotion import WhisperForEmotionClassification
from whisper_emotion.run_folder import write_whole
from whisper_emotion.training import (
    AudioCollator,
    EmotionTrainingArguments,
    Utterances,
    best_epoch,
    build_extractor,
    build_model,
    collate_frames,
    fit_pca_projector,
    train,
)

SELECTIONS = ("dev", "last", "test")
PROJECTORS = ("learned", "pca")
ENCODER_DTYPES = ("float32", "bfloat16")
PROBABILITY = "p_"  # prefix of a class's column in predictions.csv


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
    store_dir: str | None = None

    def __post_init__(self):
        """Refuse options that exclude one another."""
        if self.projector == "pca" and self.overrides.get("use_weighted_layer_sum"):
            raise UserError("--projector pca: has the components of one layer, leave --use_weighted_layer_sum out")
        if self.from_scratch and self.overrides.get("freeze_encoder", True):
            raise UserError("--from_scratch: a random encoder must be trained, add --freeze_encoder false")
        if self.encoder_dtype != "float32" and not self.overrides.get("freeze_encoder", True):
            raise UserError(f"--encoder_dtype {self.encoder_dtype}: is a frozen encoder's, add --freeze_encoder true")

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
            size, width = model.config.classifier_proj_size, model.config.d_model
            if not model.config.freeze_encoder:
                raise UserError("--projector pca: needs the frames of a frozen encoder, add --freeze_encoder true")
            if size > width:
                raise UserError(f"--classifier_proj_size {size}: pca has at most the encoder's {width} components")
        return model

    def model_for(
        self, utterances: Utterances, rows: Sequence[int], seed: int, head_only: bool = False
    ) -> WhisperForEmotionClassification:
        """A fresh model that is ready to be trained on `rows` of `utterances`."""
        model = self.model(rows, seed, head_only)
        if self.projector == "pca":
            fit_pca_projector(model, [utterances[row] for row in rows])
        return model

    def utterances(self) -> tuple[Utterances, Any]:
        """What is trained on, and its collator: stored frames where the encoder is frozen, else the audio."""
        config = self.model(range(len(self.corpus)), self.args.seed, head_only=True).config
        if not config.freeze_encoder:
            return self.corpus, AudioCollator(build_extractor(self.encoder))
        top = config.encoder_layer
        layers = range(top + 1) if config.use_weighted_layer_sum else [top]
        return stack_layers(self.feature_store(layers).fill()), collate_frames

    def feature_store(self, layers: Sequence[int]) -> FeatureStore:
        """The store of the corpus's frames at some layers of the encoder."""
        highest = dataclasses.replace(self, overrides=self.overrides | {"encoder_layer": max(layers)})
        model = highest.model(range(len(self.corpus)), self.args.seed).to(self.args.device)
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
) -> Trainer:
    """Train one model; a run that was cut off goes on from its last checkpoint.

    Args:
        experiment: What to train.
        utterances: `experiment.utterances()`, of the whole corpus.
        collator: The same.
        train_rows: Rows to learn from.
        test_rows: Rows that choose the epoch under `select_on="test"`; not looked at otherwise.
        seed: Seed of the head, the order of the batches, dropout, and of the choice of held-out speakers.
        work_dir: Folder of the checkpoints.

    Returns:
        A trainer that holds the final model.

    Raises:
        UserError: There are not enough speakers to hold out, or no test rows to select on.
    """
    args = dataclasses.replace(experiment.args, seed=seed)
    fit_rows, selection_rows = train_rows, None
    if experiment.select_on == "dev":
        fit_rows, selection_rows = hold_out_speakers(experiment.corpus, train_rows, seed)
    elif experiment.select_on == "test":
        if test_rows is None:
            raise UserError("--select_on test: there is no test fold to select on; use dev or last, or --test_fold")
        selection_rows = test_rows
    trainer = train(
        experiment.model_for(utterances, fit_rows, seed),
        _rows(utterances, fit_rows),
        None if selection_rows is None else _rows(utterances, selection_rows),
        collator,
        args,
        work_dir / "select",
    )
    if experiment.select_on == "dev" and experiment.refit:
        epochs = best_epoch(trainer)
        tqdm.write(f"dev chose epoch {epochs}: training anew on all training speakers for as many")
        model, everything = experiment.model_for(utterances, train_rows, seed), _rows(utterances, train_rows)
        trainer = train(model, everything, None, collator, args, work_dir / "refit", epochs)
    return trainer


def predict(trainer: Trainer, experiment: Experiment, utterances: Utterances, fold: Fold, seed: int) -> pd.DataFrame:
    """Classify a fold's test rows.

    Returns:
        A row an utterance: `name, fold, seed, label, predicted`, and a probability a class, `p_` and its name.
    """
    return prediction_table(experiment, trainer.predict(_rows(utterances, fold.test)).predictions, fold, seed)


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
    for label, column in zip(experiment.labels, probabilities.T, strict=True):
        table[PROBABILITY + label] = column
    return table


def read_predictions(path: Path) -> pd.DataFrame:
    """Read predictions with names and labels as they are: 001 is no number, and neither is a class 0."""
    text = dict.fromkeys(("name", "label", "predicted"), str)
    return pd.read_csv(path, keep_default_na=False, dtype=text)


def cross_validate(experiment: Experiment, folds: list[Fold], seeds: list[int], work_dir: Path) -> pd.DataFrame:
    """Train and test on every fold with every seed; finished ones are found again in `work_dir`.

    Returns:
        The predictions of all folds and seeds, in order.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    cells = {work_dir / f"seed{seed}_fold{fold.number}.csv": (seed, fold) for seed in seeds for fold in folds}
    missing = {path: cell for path, cell in cells.items() if not path.exists()}
    if missing:
        utterances, collator = experiment.utterances()
        progress = tqdm(missing.items(), desc="cross-validation", unit="fold", initial=len(cells) - len(missing),
                        total=len(cells))  # fmt: skip
        for path, (seed, fold) in progress:
            folder = path.with_suffix("")
            trainer = fit(experiment, utterances, collator, fold.train, fold.test, seed, folder)
            table = predict(trainer, experiment, utterances, fold, seed)
            write_whole(path, table.to_csv(index=False))  # a file that is there is a finished fold
            shutil.rmtree(folder)
    return pd.concat([read_predictions(path) for path in cells], ignore_index=True)


def _rows(utterances: Utterances, rows: list[int]) -> Utterances:
    return utterances.select(rows) if hasattr(utterances, "select") else [utterances[row] for row in rows]
