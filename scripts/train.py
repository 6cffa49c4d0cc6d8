"""Train one model, on all folds but one or on everything, and write a folder for the Hub."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate import PartialState

from whisper_emotion.card_metadata import CardOptions, describe_missing
from whisper_emotion.cli import parse_arguments, run_script
from whisper_emotion.corpora.splits import Fold, make_folds, speakers_known
from whisper_emotion.errors import UserError
from whisper_emotion.fitting.cross_validation import predict, warn_of_unknown_speakers
from whisper_emotion.fitting.experiment import Experiment, load_experiment
from whisper_emotion.fitting.fit import Job, fit, load_frames
from whisper_emotion.fitting.fitted import Fitted
from whisper_emotion.fitting.training_arguments import EmotionTrainingArguments
from whisper_emotion.head_files import save_head
from whisper_emotion.options import (
    CARD_TRAINING,
    CorpusOptions,
    ModelOptions,
    ProtocolOptions,
    hyper_parameters,
    option,
    settings,
)
from whisper_emotion.processes import leave_group
from whisper_emotion.reporting.card import describe_scores, describe_unadapted, write_model_card
from whisper_emotion.reporting.evaluations import read_calibration, read_evaluations
from whisper_emotion.reporting.plots import plot_confusion_matrix
from whisper_emotion.run_folder import claim, results_of, write_whole
from whisper_emotion.run_record import describe_recipe, read_cross_validation, write_scores
from whisper_emotion.scoring import summarise


@dataclass
class TrainOptions:
    """Options of testing and of the output."""

    GROUP = "test"

    test_fold: int | None = option(None, help="fold to test on, from 1; default: none", card=True)
    cross_validation: str | None = option(
        None,
        help="cross_validate.py's output, for the card of a model trained on everything",
        influences_results=False,
    )
    calibration: str | None = option(
        None,
        help="evaluate.py's output for this model, whose recordings then set temperatures and sure probabilities",
        advanced=True,
    )
    evaluations: str | None = option(
        None,
        help="evaluate.py's outputs, comma-separated, for the card's robustness and fairness",
        advanced=True,
        influences_results=False,
    )
    head_only: bool = option(
        False,
        help="write the head without its encoder, --base_model",
        advanced=True,
        influences_results=False,
    )
    encoder_revision: str | None = option(
        None, help="head_only: commit of --base_model on the Hub", advanced=True, influences_results=False
    )

    def __post_init__(self):
        if self.head_only != (self.encoder_revision is not None):
            raise UserError("--head_only, --encoder_revision: give both, with --base_model")


def main() -> None:
    """Train, test on the held-out fold if any, and write the folder."""
    *arguments, card = parse_arguments(
        CorpusOptions, ProtocolOptions, TrainOptions, ModelOptions, EmotionTrainingArguments, CardOptions
    )
    corpus, protocol, holdout, model, training = arguments
    started = time.monotonic()
    output_dir = Path(training.output_dir)
    experiment = load_experiment(corpus, protocol, model, training)
    if holdout.head_only and (card.base_model is None or not experiment.freeze_encoder):
        raise UserError("--head_only: needs --base_model, the encoder's name on the Hub, and --freeze_encoder true")
    if protocol.select_on == "test" and holdout.test_fold is None:
        raise UserError("--select_on test: needs a test fold, give --test_fold, or use dev or last")
    fold, everything = None, Fold(0, list(range(len(experiment.corpus))), [])
    if holdout.test_fold is not None:
        folds = make_folds(experiment.corpus, corpus.corpus, corpus.folds)
        if not 1 <= holdout.test_fold <= len(folds):
            raise UserError(f"--test_fold {holdout.test_fold}: {corpus.folds} has the folds 1 to {len(folds)}")
        fold = folds[holdout.test_fold - 1]
    tested = None
    calibration = None if holdout.calibration is None else read_calibration(holdout.calibration)
    evaluations = [] if holdout.evaluations is None else read_evaluations(holdout.evaluations)
    config = experiment.config()
    experiment.extractor()
    if holdout.cross_validation is not None:
        if fold is not None:
            raise UserError("--cross_validation: needs a model trained on everything, leave out --test_fold")
        recipe = describe_recipe(experiment, config)
        tested = read_cross_validation(Path(holdout.cross_validation), corpus.corpus, recipe)
    experiment.check_speakers(fold or everything)
    with claim(output_dir, experiment.corpus, [experiment.encoder], settings(*arguments)) as work_dir:
        if (output_dir / "config.json").exists() and PartialState().is_main_process:
            print(f"{output_dir}: the existing model will be replaced when this one is finished")
        warn_of_unknown_speakers(experiment, [fold or everything])
        frames = load_frames(experiment)
        if frames is not None and not leave_group():
            return
        known = fold or everything
        job = Job(known.train, known.test, training.seed, known.dev)
        (fitted,) = fit(experiment, frames, [job], work_dir)
        if calibration is not None:
            fitted.head.config.update(calibration[0])
        predictions = None if fold is None else predict(fitted, experiment, fold, training.seed)
        if PartialState().is_main_process:
            seconds = time.monotonic() - started
            _write_results(
                work_dir, experiment, fitted, fold, predictions, tested, evaluations, arguments, card, seconds
            )


def _write_results(
    work_dir: Path,
    experiment: Experiment,
    fitted: Fitted,
    fold: Fold | None,
    predictions: pd.DataFrame | None,
    tested: dict[str, Any] | None,
    evaluations: list[dict[str, Any]],
    arguments: list[Any],
    card: CardOptions,
    seconds: float,
) -> None:
    """Write the model with its scores and its card.

    Args:
        work_dir: The folder of the run's work.
        experiment: The experiment.
        fitted: The trained model.
        fold: The held-out fold, if any.
        predictions: Predictions of the fold's test clips, if any.
        tested: The recipe's scores in cross-validation, if known.
        evaluations: Contents of `evaluate.py`'s `scores.json`, for the card.
        arguments: The options, as `main` parses them.
        card: Options of the model card.
        seconds: Duration of the run.
    """
    corpus, protocol, holdout, _, training = arguments
    output_dir = work_dir.parent
    model, extractor = fitted.whole_model(experiment), experiment.extractor()
    with results_of(work_dir) as made:
        if holdout.head_only:
            save_head(made, model, extractor, str(card.base_model), str(holdout.encoder_revision))
        else:
            model.save_pretrained(made)
            extractor.save_pretrained(made)
        for weights in made.glob("*.safetensors"):  # safetensors writes files that only their owner may read
            shutil.copymode(made / "config.json", weights)
        if predictions is not None:
            write_whole(made / "predictions.csv", predictions.to_csv(index=False))
        record = write_scores(
            made / "scores.json",
            {} if predictions is None else summarise(predictions, experiment, [fold]),
            experiment,
            corpus=corpus.corpus,
            folds=None if fold is None else corpus.folds,
            test_fold=holdout.test_fold,
            seeds=[training.seed],
            seconds=round(seconds, 1),
            config=model.config,
        )
        if predictions is not None:
            caption = describe_scores(record)
            plot_confusion_matrix(
                record["confusion_matrix"], experiment.labels, made / "confusion_matrix.png", caption
            )
            print(caption)
            if "unadapted" in record:
                print(describe_unadapted(record))
        if tested is not None:
            for picture in ("confusion_matrix.png", "coverage.png"):
                if (source := Path(holdout.cross_validation) / picture).exists():
                    shutil.copy(source, made)
        missing = write_model_card(
            made,
            tested if predictions is None else record,
            model.config,
            _card_facts(record, experiment, fitted, corpus, holdout, protocol, training),
            card,
            evaluations,
        )
        for name in ("scores.json", "predictions.csv", "confusion_matrix.png", "coverage.png"):
            (output_dir / name).unlink(missing_ok=True)  # remove files of an earlier run
    if missing:
        print(describe_missing(missing))
    print(f"saved to {output_dir}: predict.py --model {output_dir} labels recordings with it")
    if predictions is None and tested is None:
        print("no test was held out: cross_validate.py with the same options measures such models on unseen speakers")


def _card_facts(record: dict[str, Any], experiment: Experiment, fitted: Fitted, *options: Any) -> dict[str, Any]:
    """Return the options that a card shows, without local folders, as in `scores.json`."""
    facts = {name: record.get(name, value) for name, value in hyper_parameters(*options).items()}
    if experiment.is_linear:  # L-BFGS uses none of the Trainer's hyper-parameters
        facts = {name: facts[name] for name in facts if name not in CARD_TRAINING or name == "metric_for_best_model"}
        facts["strength"] = f"{fitted.choice['strength']:.2g}"
    if len(experiment.corpora) > 1:
        facts |= {"corpus_weights": experiment.corpus_weights or "sqrt"} if experiment.is_linear else {}
        facts["held_out"] = experiment.held_out
    if experiment.train_adaptation != "none":
        facts["train_adaptation"] = experiment.train_adaptation
    if options[1].calibration is not None:
        facts["calibration"] = read_calibration(options[1].calibration)[1]
    if experiment.augmented_copies:
        facts["augmented_copies"] = experiment.augmented_copies
    if experiment.initial is not None:
        facts |= {"init": experiment.initial.record, "metric_for_best_model": experiment.args.metric_for_best_model}
    if experiment.clips_per_class is not None:
        facts["clips_per_class"] = experiment.clips_per_class
    if fitted.choice.get("one_voice"):
        facts["speakers"] = "one, or unknown: clips were held out instead of speakers"
    elif not speakers_known(experiment.corpus):
        facts["speakers"] = "unknown: training and held-out clips may share speakers"
    if experiment.adaptation != "none":
        facts["adaptation"] = f"{experiment.adaptation}: {'yes' if fitted.decision.adapted else 'no'}"
    return facts


if __name__ == "__main__":
    run_script(main)
