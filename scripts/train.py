"""Train one model, on all folds but one or on everything, and leave a folder that is ready for the Hub."""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState

from whisper_emotion.arguments import (
    CorpusArguments,
    ModelArguments,
    ProtocolArguments,
    hyper_parameters,
    load_experiment,
    parse_arguments,
    run_script,
    settings,
)
from whisper_emotion.card_metadata import CardOptions, describe_missing
from whisper_emotion.corpora.splits import make_folds, speakers_known
from whisper_emotion.errors import UserError
from whisper_emotion.processes import leave_group
from whisper_emotion.protocol import Experiment, Fitted, fit, predict
from whisper_emotion.reporting import describe_scores, describe_unadapted, plot_confusion_matrix, write_model_card
from whisper_emotion.run_folder import claim, results_of, write_whole
from whisper_emotion.run_record import describe_recipe, read_cross_validation, write_scores
from whisper_emotion.scoring import summarise
from whisper_emotion.training import EmotionTrainingArguments, build_extractor, collate_frames

# What a card says of how its model was made, out of scores.json, before the hyper-parameters
CARD_FACTS = (
    "corpus", "test_fold", "encoder", "from_scratch", "freeze_encoder", "encoder_dtype", "projector", "select_on",
    "refit",
)  # fmt: skip


@dataclass
class TrainArguments:
    """What is held out."""

    test_fold: int | None = field(
        default=None, metadata={"help": "fold to test on, from 1; without it the model is trained on everything"}
    )
    cross_validation: str | None = field(
        default=None,
        metadata={
            "help": "what cross_validate.py wrote with the same options: its figures go into the card of a model "
            "that is trained on everything"
        },
    )


def main() -> None:
    """Train, test where a fold is held out, and write the folder."""
    *arguments, card = parse_arguments(
        CorpusArguments, ProtocolArguments, TrainArguments, ModelArguments, EmotionTrainingArguments, CardOptions
    )
    corpus, protocol, holdout, model, training = arguments
    started = time.monotonic()
    output_dir = Path(training.output_dir)
    experiment = load_experiment(corpus, protocol, model, training)
    fold, train_rows = None, list(range(len(experiment.corpus)))
    if holdout.test_fold is not None:
        folds = make_folds(experiment.corpus, corpus.corpus, corpus.folds)
        if not 1 <= holdout.test_fold <= len(folds):
            raise UserError(f"--test_fold {holdout.test_fold}: {corpus.folds} has the folds 1 to {len(folds)}")
        fold = folds[holdout.test_fold - 1]
        train_rows = fold.train
    tested = None
    if holdout.cross_validation is not None:
        if fold is not None:
            raise UserError("--cross_validation: is for a model trained on everything, leave out --test_fold")
        config = experiment.model(train_rows, training.seed, head_only=True).config
        recipe = describe_recipe(experiment, config)
        tested = read_cross_validation(Path(holdout.cross_validation), corpus.corpus, recipe)
    experiment.check_speakers(train_rows)
    if (output_dir / "config.json").exists() and PartialState().is_main_process:
        print(f"{output_dir}: the model that is there will be replaced when this one is finished")
    work_dir = claim(output_dir, experiment.corpus, [experiment.encoder], settings(*arguments))

    utterances, collator = experiment.utterances()
    if collator is collate_frames and not leave_group():
        return
    test_rows = None if fold is None else fold.test
    fitted = fit(experiment, utterances, collator, train_rows, test_rows, training.seed, work_dir)
    predictions = None if fold is None else predict(fitted, experiment, fold, training.seed)
    if not PartialState().is_main_process:
        return

    with results_of(work_dir) as made:
        fitted.trainer.model.save_pretrained(made)
        build_extractor(protocol.encoder).save_pretrained(made)
        shutil.copymode(made / "config.json", made / "model.safetensors")  # written for its owner's eyes only
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
            seconds=round(time.monotonic() - started, 1),
            config=fitted.trainer.model.config,
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
            shutil.copy(Path(holdout.cross_validation) / "confusion_matrix.png", made)
        lacking = write_model_card(
            made,
            tested if predictions is None else record,
            fitted.trainer.model.config,
            {name: record[name] for name in CARD_FACTS} | _speakers(experiment, fitted) | hyper_parameters(training),
            card,
        )
        for name in ("scores.json", "predictions.csv", "confusion_matrix.png"):
            (output_dir / name).unlink(missing_ok=True)  # an earlier run's would pass for this one's
    print(f"saved to {output_dir}: predict.py --model {output_dir} labels recordings with it")
    if lacking:
        print(describe_missing(lacking))
    if predictions is None and tested is None:
        chose = ", and what is said above of held-out clips chose the epoch" if protocol.select_on == "dev" else ""
        print(f"no test was held out{chose}: cross_validate.py with the same options says how good such a model is")


def _speakers(experiment: Experiment, fitted: Fitted) -> dict[str, str]:
    """What a card says of the speakers, where they are not known or could be adapted to."""
    said = {}
    if not speakers_known(experiment.corpus):
        said["speakers"] = "not known: training and held-out clips may share them"
    if experiment.speaker_adaptation != "never":
        said["adaptation"] = f"{experiment.speaker_adaptation}: {'yes' if fitted.adapted else 'no'}"
    return said


if __name__ == "__main__":
    run_script(main)
