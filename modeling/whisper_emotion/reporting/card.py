"""The model card of a trained folder: metadata that the Hub reads, text that a person reads."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from whisper_emotion.card_metadata import (
    CORPORA,
    TASK,
    CardOptions,
    corpus_facts,
    is_hub_name,
    missing_options,
    run_metadata,
)

METRICS = {  # scores.json's key: the reader's name, the Hub's metric and its arguments
    "weighted_accuracy": ("Weighted accuracy (WA)", "accuracy", None),
    "unweighted_accuracy": ("Unweighted accuracy (UA)", "recall", {"average": "macro"}),
    "macro_f1": ("Macro F1", "f1", {"average": "macro"}),
}
SELECTION = {
    "dev": "epoch chosen on speakers held out of the training folds",
    "last": "last epoch, none chosen",
    "test": "epoch chosen on the test fold: optimistic",
}


def write_model_card(
    folder: str | os.PathLike[str],
    scores: Mapping[str, Any] | None,
    config: Any,
    training: Mapping[str, Any],
    options: CardOptions | None = None,
) -> list[str]:
    """Write the `README.md` of a trained folder.

    Args:
        folder: The Hub folder; its name is the model's. The card shows its `confusion_matrix.png`.
        scores: The content of `scores.json`, or None when no test was held out.
        config: The model's `WhisperEmotionConfig`.
        training: Facts and hyper-parameters by name, shown in their order (None is left out). `test_fold` names the
            fold that was held out; `from_scratch` and `freeze_encoder` describe the encoder. Without `scores`,
            `corpus` and `encoder` name the training data and the checkpoint. Local paths among the values are cut to
            their last component.
        options: Metadata that the user gives.

    Returns:
        The names of the options that would fill what the metadata lack.
    """
    folder = Path(folder).resolve()
    run = scores or training
    corpus = run["corpus"]
    metadata = run_metadata(
        corpus,
        encoder=None if training.get("from_scratch") else run["encoder"],
        metrics=None if scores is None else [hub_metric for _, hub_metric, _ in METRICS.values()],
        model_name=None if scores is None else folder.name,
        eval_results=None if scores is None else _eval_results(scores),
    )
    if options is not None:
        options.update(metadata)
    rows = {name: value for name, value in training.items() if name not in ("corpus", "encoder", "test_fold")}
    card = ModelCard.from_template(
        metadata,
        template_path=str(_template()),
        model_name=folder.name,
        corpus=corpus.partition(":")[0],
        corpus_name=corpus_title(corpus),
        encoder=_public(run["encoder"]),
        config=config,
        labels=[_cell(config.id2label[index]) for index in range(config.num_labels)],
        held_out="clips" if "speakers" in rows else "speakers",
        training={name: _cell(_public(value)) for name, value in rows.items() if value is not None},
        test_fold=training.get("test_fold"),
        **({"scores": None} if scores is None else _results(scores)),
    )
    card.save(folder / "README.md")
    if corpus == "synthetic":
        return []  # of no language and no licence but the code's
    unneeded = ["base_model"] if training.get("from_scratch") else []
    return [name for name in missing_options(metadata) if name not in unneeded]


def describe_scores(scores: Mapping[str, Any]) -> str:
    """Say in one caption what was tested, how, how well, and how many test speakers were also in training.

    Args:
        scores: The content of `scores.json`.
    """
    return (
        f"{corpus_title(scores['corpus'])}, {_plural(len(scores['speakers_shared']), 'test fold')} "
        f"({scores['folds']}), "
        f"{_layers(scores)} of {_public(scores['encoder'])}, {scores['pooling']} pooling: "
        f"pooled UA {_percent(scores['pooled']['unweighted_accuracy'])} %, "
        f"WA {_percent(scores['pooled']['weighted_accuracy'])} %; {SELECTION[scores['select_on']]}. "
        f"{describe_adaptation(scores)}{describe_leakage(scores['corpus'], scores['speakers_shared'])}"
    )


def describe_adaptation(scores: Mapping[str, Any]) -> str:
    """Say in a sentence, with a space behind it, whether test clips were adapted to their speakers; nothing if not.

    Args:
        scores: The content of `scores.json`.
    """
    adapted = [cell for seed in scores.get("adapted", []) for cell in seed]
    if not any(adapted):
        return ""
    which = "" if all(adapted) else f" in {sum(adapted)} of {len(adapted)} trainings, where held-out speakers gained"
    return f"Test clips adapted to their speaker by the mean of all the speaker's clips, without labels{which}. "


def corpus_title(name: str) -> str:
    """Return a corpus's name as its owners write it."""
    return corpus_facts(name).name


def describe_leakage(corpus: str, shared: Sequence[int]) -> str:
    """Say in a sentence how many test speakers were heard in training.

    Args:
        corpus: the corpus's name, as `load_corpus` takes it.
        shared: for each fold, how many of its test speakers are also heard in its training.
    """
    if not any(shared):
        # In a folder or a dataset a recording may stand for its own speaker, and nothing is known of its voice
        told = "dataset tells" if corpus.startswith("hub:") else "file names tell"
        known = "" if _speakers_are_known(corpus) else f", as far as the {told}"
        return f"Test speakers also heard in training: 0{known}."
    counts = ", ".join(str(count) for count in shared)
    return f"Speaker leakage: test speakers also heard in training, fold by fold: {counts}."


def _results(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The template's view of the scores, in percent."""
    matrix = scores["confusion_matrix"]
    clips = [sum(row) for row in matrix]
    return {
        "scores": scores,
        "runs": _count_runs(scores),
        "repeats": _repeats(scores),
        "figures": [
            (name, _figure(scores, key), _percent(scores["pooled"][key])) for key, (name, _, _) in METRICS.items()
        ],
        "recalls": [
            (_cell(label), total, "–" if total == 0 else _percent(matrix[index][index] / total))
            for index, (label, total) in enumerate(zip(scores["labels"], clips, strict=True))
        ],
        "chance": _percent(1 / sum(total > 0 for total in clips)),
        "majority": _percent(max(clips) / sum(clips)),
        "caption": describe_scores(scores),
        "shared": describe_leakage(scores["corpus"], scores["speakers_shared"]),
        "speakers_known": _speakers_are_known(scores["corpus"]),
        "leaks": any(scores["speakers_shared"]),
        "ece": None if scores["ece"] is None else _percent(scores["ece"]),
        "mean_confidence": None if scores["ece"] is None else _percent(scores["mean_confidence"]),
        "ece_unscaled": _percent(scores["ece_unscaled"]) if "ece_unscaled" in scores else None,
        "adaptation": describe_adaptation(scores).strip(),
        "alone": _alone(scores) if any(map(any, scores.get("adapted", []))) else None,
    }


def _eval_results(scores: Mapping[str, Any]) -> list[EvalResult]:
    """The scores as the Hub takes them: the mean is a number in percent, its spread is in the metric's name."""
    shared = list(scores["speakers_shared"])
    optimistic = ", chosen on the test fold: optimistic" if scores["select_on"] == "test" else ""
    several = _count_runs(scores) > 1
    return [
        EvalResult(
            task_type=TASK,
            task_name="Speech emotion recognition",
            dataset_type=scores["corpus"].removeprefix("hub:"),
            dataset_name=corpus_title(scores["corpus"]),
            dataset_config=scores["folds"],
            dataset_split="test",
            dataset_args={"select_on": scores["select_on"], "speakers_shared": shared},
            metric_type=hub_metric,
            metric_value=round(100 * scores[key]["mean"], 1),
            metric_name=f"{name}, %{_spread(scores, key) if several else ''}{optimistic}",
            metric_args=arguments,
        )
        for key, (name, hub_metric, arguments) in METRICS.items()
    ]


def _alone(scores: Mapping[str, Any]) -> dict[str, str]:
    """What the models do without the adaptation, in percent."""
    figures = scores["unadapted"]
    value, (low, high) = (figures[name]["unweighted_accuracy"] for name in ("pooled", "interval"))
    return {
        "unweighted_accuracy": f"{_percent(value)} ({_percent(low)} to {_percent(high)})",
        "ece": _percent(figures["ece"]),
    }


def describe_unadapted(scores: Mapping[str, Any]) -> str:
    """Say in a line how well the same models do on each clip by itself, where they could be adapted to speakers.

    Args:
        scores: The content of `scores.json`.
    """
    alone = _alone(scores)
    return (
        f"The same models without speaker adaptation, each clip by itself: UA {alone['unweighted_accuracy']} %; "
        f"calibration error {alone['ece']} %"
    )


def _count_runs(scores: Mapping[str, Any]) -> int:
    return sum(len(seed) for seed in scores["weighted_accuracy"]["folds"])


def _layers(scores: Mapping[str, Any]) -> str:
    several = scores.get("concatenated_layers")
    return f"layers {', '.join(map(str, several))}" if several else f"layer {scores['encoder_layer']}"


def _figure(scores: Mapping[str, Any], key: str) -> str:
    mean, std = _percent(scores[key]["mean"]), _percent(scores[key]["std"])
    return f"{mean} ± {std}" if _count_runs(scores) > 1 else mean


def _spread(scores: Mapping[str, Any], key: str) -> str:
    return f", mean over {_repeats(scores)} (± {_percent(scores[key]['std'])})"


def _repeats(scores: Mapping[str, Any]) -> str:
    return f"{_plural(len(scores['speakers_shared']), 'fold')}, {_plural(len(scores['seeds']), 'seed')}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _speakers_are_known(corpus: str) -> bool:
    return corpus in CORPORA and corpus != "folder"


def _public(value: Any) -> Any:
    """A value without the user's folders: a local path is cut to its last component."""
    if isinstance(value, (list, tuple)):
        return ", ".join(str(_public(item)) for item in value)
    if isinstance(value, PurePath) or (
        isinstance(value, str) and re.search(r"[/\\]", value) and not is_hub_name(value)
    ):
        return re.split(r"[/\\]", str(value).rstrip("/\\"))[-1]
    return value


def _cell(value: Any) -> str:
    """Text for a cell of a Markdown table."""
    return re.sub(r"\s+", " ", str(value)).replace("|", "\\|")


def _template() -> Path:
    """The template beside this file in an installed package, or else the repository's."""
    packaged = Path(__file__).with_name("template.md")
    return packaged if packaged.exists() else Path(__file__).parents[3] / "model_cards" / "template.md"
