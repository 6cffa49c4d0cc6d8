"""Score a trained model, or another model's predictions, on labelled recordings."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from whisper_emotion.cli import parse_arguments, run_script
from whisper_emotion.corpora import load_corpus, utterance_names
from whisper_emotion.errors import UserError
from whisper_emotion.evaluation import Classified, calibrate, classify_corpus, read_other, tabulate, trained_on
from whisper_emotion.fairness import measure_fairness
from whisper_emotion.fitting.cross_validation import UNADAPTED, probability_columns
from whisper_emotion.inference import EmotionClassifier
from whisper_emotion.options import DEVICE_HELP, ENCODER_HELP, MODEL_HELP, RecordingOptions, option, settings
from whisper_emotion.reporting.card import describe_unadapted
from whisper_emotion.reporting.corpora import corpus_table, plot_corpora
from whisper_emotion.reporting.coverage import describe_sure, plot_coverage
from whisper_emotion.reporting.evaluations import (
    describe_fairness,
    describe_robustness,
    plot_robustness,
    robustness_table,
)
from whisper_emotion.reporting.plots import plot_confusion_matrix
from whisper_emotion.robustness import measure_robustness
from whisper_emotion.run_folder import claim, results_of, write_whole
from whisper_emotion.run_record import public_name
from whisper_emotion.scoring import compare, score_table
from whisper_emotion.windows import LONGEST_SECONDS


@dataclass
class EvaluationOptions:
    """Options of the model and of the evaluation."""

    GROUP = "model"

    output_dir: str = option(help="folder of the results", influences_results=False)
    model: str | None = option(None, help=MODEL_HELP)
    encoder: str | None = option(None, help=ENCODER_HELP, influences_results=False)
    predictions: str | None = option(None, help="JSON file of any model's predictions, instead of --model")
    adaptation: str = option(
        "none",
        help="adapt clips, without labels, to their speaker or corpus (domain), or none",
        choices=("none", "speaker", "domain"),
    )
    robustness: bool = option(False, help="also test distorted clips: noise, telephone, codecs, room, level, length")
    robustness_clips: int = option(500, help="robustness: maximum number of clips per corpus", advanced=True)
    fairness: bool = option(False, help="also score each gender, speaker, language and corpus separately")
    device: str = option("auto", help=DEVICE_HELP, influences_results=False)


def main() -> None:
    """Classify the recordings and write `scores.json`, `predictions.csv` and the pictures."""
    corpus, options = parse_arguments(RecordingOptions, EvaluationOptions)
    started = time.monotonic()
    if options.model is not None and options.predictions is not None:
        raise UserError("--model, --predictions: give one of the two")
    if options.predictions is not None and options.adaptation != "none":
        raise UserError(f"--adaptation {options.adaptation}: needs a model, leave out --predictions")
    if options.predictions is not None and options.robustness:
        raise UserError("--robustness: needs a model, leave out --predictions")
    if options.robustness_clips < 1:
        raise UserError(f"--robustness_clips {options.robustness_clips}: must be 1 or more")
    in_training = [] if options.predictions is not None else trained_on(options.model, corpus.corpus)
    loaded = load_corpus(corpus.corpus, corpus.corpus_dir, **corpus.reading())
    output_dir, models = Path(options.output_dir), [options.model] if options.model is not None else []
    with claim(output_dir, loaded, models, settings(corpus, options)) as work_dir:
        if options.predictions is None:
            classifier = EmotionClassifier(options.model, options.encoder, device=options.device)
            classified = classify_corpus(classifier, loaded, options.adaptation)
        else:
            classifier, classified = None, Classified(read_other(Path(options.predictions), loaded))
        least, alone_least = (
            None if classifier is None else classifier.model.config.sure_probability_of(adapted)
            for adapted in (options.adaptation != "none", False)
        )
        table, labels = tabulate(loaded, classified.found, least, classified.familiar)
        corpora = pd.Series(loaded["corpus"][:], index=utterance_names(loaded))
        several = corpora if corpora.nunique() > 1 else None
        scores = {
            "corpus": corpus.corpus,
            "model": public_name(options.model or options.predictions or "general"),
            "in_training": in_training,
            "adaptation": options.adaptation,
            "labels": labels,
            "seeds": [0],
            **score_table(table, labels, [1], several),
        }
        gain = alone = None
        if classified.unadapted is not None:
            alone, _ = tabulate(loaded, classified.unadapted, alone_least, classified.familiar)
            scores["unadapted"] = score_table(alone, labels, [1], several)
            gain = compare(table, alone, labels)["unweighted_accuracy"]
            kept = alone.columns.intersection(["predicted", *probability_columns(labels), "sure"])
            table = table.join(alone[kept].add_prefix(UNADAPTED))
        if classifier is not None:
            scores["calibration"] = calibrate(classifier.model.config, table, alone, labels, corpora)
        if options.fairness:
            scores["fairness"] = measure_fairness(table, labels, loaded)
        if options.robustness and classifier is not None:
            scores |= measure_robustness(classifier, loaded, options.adaptation, options.robustness_clips)
        scores["seconds"] = round(time.monotonic() - started, 1)
        caption = _caption(scores, len(table))
        with results_of(work_dir) as made:
            write_whole(made / "predictions.csv", table.to_csv(index=False))
            write_whole(made / "scores.json", json.dumps(scores, indent=2, allow_nan=False) + "\n")
            plot_confusion_matrix(scores["confusion_matrix"], labels, made / "confusion_matrix.png", caption)
            if "corpora" in scores:
                plot_corpora(scores, made / "corpora.png", caption)
            if "sure" in scores:
                plot_coverage(table, table["name"].map(corpora), scores, made / "coverage.png")
            if "robustness" in scores:
                plot_robustness(scores, made / "robustness.png")
    if len(table) < len(loaded):
        print(f"left out {len(loaded) - len(table)} of {len(loaded)} clips of classes that the model does not have")
    long = sum(seconds > LONGEST_SECONDS for seconds in loaded["seconds"][:])
    if long and classifier is not None:
        print(f"{long} clips last more than {LONGEST_SECONDS} s: only the first {LONGEST_SECONDS} s are used")
    _report(scores, caption, gain)
    print(f"saved to {output_dir}")


def _report(scores: dict[str, Any], caption: str, gain: list[float] | None) -> None:
    """Print the tables and summaries."""
    if "corpora" in scores:
        print(corpus_table(scores))
    print(caption)
    if "sure" in scores:
        print(describe_sure(scores))
    if gain is not None:
        value, low, high = (100 * figure for figure in gain)
        holds = "these clips cannot tell the two apart" if low <= 0 <= high else "the difference holds"
        print(describe_unadapted(scores))
        print(
            f"adaptation changes UA by {value:+.1f} points, 95 % interval {low:.1f} to {high:.1f} over clips: {holds}"
        )
    if "fairness" in scores:
        print(describe_fairness(scores))
    if "robustness" in scores:
        print(robustness_table([scores]))
        print(describe_robustness(scores))
    for name in scores["in_training"]:
        if name in ("table", "folder"):
            print(f"the model was also trained on a {name}: if it held these clips, this is not a test")
        else:
            print(f"{name} was in the model's training: this is not a test on new speech")


def _caption(scores: dict[str, Any], clips: int) -> str:
    """Summarise the scores in one sentence, in percent."""
    pooled, (low, high) = scores["pooled"], scores["interval"]["unweighted_accuracy"]
    return (
        f"{scores['model']} on {scores['corpus']}, {clips:,} clips, {len(scores['labels'])} classes, adaptation: "
        f"{scores['adaptation']}: UA {100 * pooled['unweighted_accuracy']:.1f} % "
        f"({100 * low:.1f} to {100 * high:.1f}), WA {100 * pooled['weighted_accuracy']:.1f} %, "
        f"calibration error {100 * scores['ece']:.1f} %, "
        f"mean confidence {100 * scores['mean_confidence']:.1f} %"
    )


if __name__ == "__main__":
    run_script(main)
