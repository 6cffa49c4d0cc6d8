"""Train and test a recipe on every fold of a corpus with every seed."""

import dataclasses
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from whisper_emotion.cli import parse_arguments, parse_seeds, run_script
from whisper_emotion.corpora import utterance_names
from whisper_emotion.corpora.splits import make_folds
from whisper_emotion.fitting.cross_validation import cross_validate
from whisper_emotion.fitting.experiment import load_experiment
from whisper_emotion.fitting.grid import list_clips
from whisper_emotion.fitting.training_arguments import EmotionTrainingArguments
from whisper_emotion.options import CorpusOptions, ModelOptions, ProtocolOptions, option, settings
from whisper_emotion.reporting.card import describe_adaptation, describe_scores, describe_unadapted
from whisper_emotion.reporting.corpora import corpus_table, plot_corpora, plot_transfer, transfer_table
from whisper_emotion.reporting.coverage import describe_sure, plot_coverage
from whisper_emotion.reporting.plots import plot_confusion_matrix
from whisper_emotion.run_folder import claim, results_of, write_whole
from whisper_emotion.run_record import write_scores
from whisper_emotion.scoring import compare, read_compared, summarise


@dataclass
class CrossValidationOptions:
    """Options of the repetitions."""

    GROUP = "repetitions"

    seeds: str | None = option(None, help="such as 0,1,2; default: --seed")
    compare_with: str | None = option(
        None,
        help="other cross-validations' folders with the same clips and seeds, comma-separated",
        influences_results=False,
    )


def main() -> None:
    """Run the protocol and write `scores.json`, `predictions.csv` and `confusion_matrix.png`."""
    corpus, protocol, repeats, model, training = arguments = parse_arguments(
        CorpusOptions, ProtocolOptions, CrossValidationOptions, ModelOptions, EmotionTrainingArguments
    )
    started = time.monotonic()
    seeds = [training.seed] if repeats.seeds is None else parse_seeds(repeats.seeds)
    output_dir = Path(training.output_dir)
    experiment = load_experiment(corpus, protocol, model, dataclasses.replace(training, disable_tqdm=True))
    folds = make_folds(experiment.corpus, corpus.corpus, corpus.folds)
    config = experiment.config()
    experiment.extractor()
    for fold in folds:
        experiment.check_speakers(fold)
    clips = list_clips(experiment.corpus, folds)
    others = {
        Path(folder).name: read_compared(Path(folder), clips, seeds, experiment.labels)
        for folder in (repeats.compare_with.split(",") if repeats.compare_with else [])
    }
    with claim(output_dir, experiment.corpus, [experiment.encoder], settings(*arguments)) as work_dir:
        predictions = cross_validate(experiment, folds, seeds, work_dir)
        if predictions is None:
            return  # only the main process goes on
        differences = {name: compare(predictions, other, experiment.labels) for name, other in others.items()}
        with results_of(work_dir) as made:
            scores = write_scores(
                made / "scores.json",
                summarise(predictions, experiment, folds),
                experiment,
                corpus=corpus.corpus,
                folds=corpus.folds,
                seeds=seeds,
                seconds=round(time.monotonic() - started, 1),
                config=config,
                **({"less": differences} if differences else {}),
            )
            write_whole(made / "predictions.csv", predictions.to_csv(index=False))
            caption = describe_scores(scores)
            summed = " Counts are summed over the seeds." if len(seeds) > 1 else ""
            picture = made / "confusion_matrix.png"
            plot_confusion_matrix(scores["confusion_matrix"], experiment.labels, picture, caption + summed)
            if "corpora" in scores:
                write_whole(made / "corpora.md", _describe_corpora(scores) + "\n")
                plot_corpora(scores, made / "corpora.png", caption)
            if "sure" in scores:
                corpus_of = dict(zip(utterance_names(experiment.corpus), experiment.corpus_of, strict=True))
                tested = predictions["name"].map(corpus_of)
                plot_coverage(predictions, tested, scores, made / "coverage.png")
            if "transfer" in scores:
                plot_transfer(scores, made / "transfer.png", caption)
    if "corpora" in scores:
        print(_describe_corpora(scores))
    print(caption)
    print(
        f"UA's 95 % interval over clips and seeds: {_interval(scores['interval']['unweighted_accuracy'])}; "
        f"calibration error {_calibration(scores)}"
    )
    if "sure" in scores:
        print(describe_sure(scores))
    if "unadapted" in scores and describe_adaptation(scores):
        print(describe_unadapted(scores))
    elif "adapted" in scores:
        print("Adaptation to the speaker did not help on held-out speakers, so no test clip was adapted.")
    for name, figures in differences.items():
        value, low, high = figures["unweighted_accuracy"]
        holds = "these clips cannot tell the two apart" if low <= 0 <= high else "the difference holds"
        print(
            f"UA minus {name}'s: {100 * value:+.1f} points, 95 % interval {_interval((low, high))} over clips "
            f"and seeds: {holds}"
        )
    print(f"saved to {output_dir}")


def _describe_corpora(scores: dict) -> str:
    """Format the tables of several corpora."""
    tables = [corpus_table(scores)]
    if "transfer" in scores:
        tables.append(transfer_table(scores))
        if "unadapted" in scores:
            tables += ["Without adaptation:", transfer_table(scores["unadapted"])]
    return "\n\n".join(tables)


def _interval(bounds: Iterable[float]) -> str:
    """Format two fractions in percent."""
    return " to ".join(f"{100 * bound:.1f}" for bound in bounds)


def _calibration(scores: dict) -> str:
    """Format the calibration error, with and without the temperatures."""
    unscaled = scores.get("ece_unscaled")
    without = "" if unscaled is None else f" ({100 * unscaled:.1f} % without the temperatures)"
    return f"{100 * scores['ece']:.1f} %{without}"


if __name__ == "__main__":
    run_script(main)
