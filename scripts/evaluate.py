"""Score a trained model, or the predictions of any other, on labelled recordings."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from whisper_emotion.cli import parse_arguments, run_script
from whisper_emotion.corpora import load_corpus, utterance_names
from whisper_emotion.errors import UserError
from whisper_emotion.evaluation import classify_corpus, read_other, tabulate, trained_on
from whisper_emotion.inference import EmotionClassifier
from whisper_emotion.options import DEVICE_HELP, ENCODER_HELP, MODEL_HELP, CorpusOptions, option, settings
from whisper_emotion.reporting.corpora import corpus_table, plot_corpora
from whisper_emotion.reporting.plots import plot_confusion_matrix
from whisper_emotion.run_folder import claim, results_of, write_whole
from whisper_emotion.run_record import public_name
from whisper_emotion.scoring import score_table


@dataclass
class EvaluationOptions:
    """What is scored."""

    GROUP = "model"

    output_dir: str = option(help="folder of the results", influences_results=False)
    model: str | None = option(None, help=MODEL_HELP)
    encoder: str | None = option(None, help=ENCODER_HELP, influences_results=False)
    predictions: str | None = option(None, help="in place of a model: JSON file of any model's predictions")
    adaptation: str = option(
        "none",
        help="without labels, adapt the clips to their speaker or to their corpus (domain), or none",
        choices=("none", "speaker", "domain"),
    )
    device: str = option("auto", help=DEVICE_HELP, influences_results=False)


def main() -> None:
    """Classify the recordings and write `scores.json`, `predictions.csv`, `confusion_matrix.png` and the corpora's."""
    corpus, options = parse_arguments(CorpusOptions, EvaluationOptions)
    started = time.monotonic()
    if options.model is not None and options.predictions is not None:
        raise UserError("--model, --predictions: give one of the two")
    if options.predictions is not None and options.adaptation != "none":
        raise UserError(f"--adaptation {options.adaptation}: adapts a model, leave out --predictions")
    in_training = [] if options.predictions is not None else trained_on(options.model, corpus.corpus)
    loaded = load_corpus(corpus.corpus, corpus.corpus_dir, **corpus.reading())
    output_dir, models = Path(options.output_dir), [options.model] if options.model is not None else []
    with claim(output_dir, loaded, models, settings(corpus, options)) as work_dir:
        if options.predictions is None:
            found = classify_corpus(
                EmotionClassifier(options.model, options.encoder, device=options.device), loaded, options.adaptation
            )
        else:
            found = read_other(Path(options.predictions), loaded)
        table, labels = tabulate(loaded, found)
        if len(table) < len(loaded):
            print(f"left out {len(loaded) - len(table)} of {len(loaded)} clips, whose classes the model does not know")
        corpora = pd.Series(loaded["corpus"][:], index=utterance_names(loaded))
        scores = {
            "corpus": corpus.corpus,
            "model": public_name(options.model or options.predictions or "general"),
            "in_training": in_training,
            "adaptation": options.adaptation,
            "labels": labels,
            "seeds": [0],
            **score_table(table, labels, [1], corpora if corpora.nunique() > 1 else None),
            "seconds": round(time.monotonic() - started, 1),
        }
        caption = _caption(scores, len(table))
        with results_of(work_dir) as made:
            write_whole(made / "predictions.csv", table.to_csv(index=False))
            write_whole(made / "scores.json", json.dumps(scores, indent=2, allow_nan=False) + "\n")
            plot_confusion_matrix(scores["confusion_matrix"], labels, made / "confusion_matrix.png", caption)
            if "corpora" in scores:
                plot_corpora(scores, made / "corpora.png", caption)
    if "corpora" in scores:
        print(corpus_table(scores))
    print(caption)
    for name in in_training:
        if name in ("table", "folder"):
            print(f"the model was trained on a {name}, too: if it held these clips, this is no test")
        else:
            print(f"{name} was in the model's training: this is no test of new speech")
    print(f"saved to {output_dir}")


def _caption(scores: dict[str, Any], clips: int) -> str:
    """The scores in one sentence, in percent."""
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
