"""The model card of a trained folder: metadata for the Hub, text for people."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from whisper_emotion.card_metadata import (
    TASK,
    CardOptions,
    corpora_of,
    corpus_title,
    is_hub_name,
    missing_options,
    run_metadata,
)
from whisper_emotion.corpora.record import Corpus
from whisper_emotion.head_files import is_head, read_source
from whisper_emotion.reporting.corpora import corpus_table
from whisper_emotion.reporting.coverage import describe_sure
from whisper_emotion.reporting.evaluations import describe_evaluations, fairness_table, robustness_table

METRICS = {  # key in scores.json: display name, the Hub's metric and its arguments
    "weighted_accuracy": ("Weighted accuracy (WA)", "accuracy", None),
    "unweighted_accuracy": ("Unweighted accuracy (UA)", "recall", {"average": "macro"}),
    "macro_f1": ("Macro F1", "f1", {"average": "macro"}),
}


def write_model_card(
    folder: str | os.PathLike[str],
    scores: Mapping[str, Any] | None,
    config: Any,
    training: Mapping[str, Any],
    options: CardOptions | None = None,
    evaluations: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """Write the `README.md` of a trained folder.

    Args:
        folder: The Hub folder, named like the model. The card shows its `confusion_matrix.png`.
        scores: The content of `scores.json`, or None if no test was held out.
        config: The model's `WhisperEmotionConfig`.
        training: Facts and hyper-parameters by name, shown in order, without None and without local folders.

            `test_fold` is the held-out fold; `from_scratch` and `freeze_encoder` describe the encoder. Without
            `scores`, `corpus` and `encoder` name the training data and the checkpoint. `init` has the initial `head`
            and its `corpora`, whose terms also bind the model.
        options: Metadata from the user.
        evaluations: Contents of `evaluate.py`'s `scores.json`, for the tables of robustness and fairness.

    Returns:
        The names of the options that would complete the metadata.
    """
    folder = Path(folder).resolve()
    run = scores or training
    corpus, init = run["corpus"], training.get("init")
    trained_on = (
        ",".join(dict.fromkeys(f"{corpus},{init['corpora']}".split(","))) if init and init["corpora"] else corpus
    )
    metadata = run_metadata(
        trained_on,
        encoder=None if training.get("from_scratch") else run["encoder"],
        **({} if scores is None else _eval_metadata(scores, folder.name)),
    )
    if options is not None:
        options.update(metadata)
    rows = {name: value for name, value in training.items() if name not in ("corpus", "encoder", "test_fold")}
    rows |= {"init": init["head"]} if init else {}
    card = ModelCard.from_template(
        metadata,
        template_path=str(_template()),
        model_name=folder.name,
        encoder_source=read_source(folder) if is_head(folder) else None,
        noncommercial=[record.title for _, record in corpora_of(trained_on) if "-nc" in record.license],
        corpora=[_describe_corpus(name, record) for name, record in corpora_of(trained_on)],
        init=init and {**init, "title": corpus_title(init["corpora"]) if init["corpora"] else None},
        languages=metadata.language,
        languages_lack=(options is None or options.language is None) and _lacks_languages(trained_on),
        corpus_name=corpus_title(corpus),
        encoder=_public(run["encoder"]),
        config=config,
        labels=[_cell(config.id2label[index]) for index in range(config.num_labels)],
        held_out="clips" if "speakers" in rows else _held_out(run),
        training={name: _cell(_public(value)) for name, value in rows.items() if value is not None},
        test_fold=training.get("test_fold"),
        percent=_percent,
        scores=scores,
        coverage_picture=(folder / "coverage.png").exists(),
        elsewhere="\n\n".join(corpus_table(one) for one in evaluations if "corpora" in one),
        evaluated=describe_evaluations(evaluations),
        robustness_table=robustness_table(evaluations),
        fairness_table=fairness_table(evaluations),
        **({} if scores is None else _results(scores)),
    )
    card.save(folder / "README.md")
    if corpus == "synthetic":
        return []  # has no language, and the code's licence
    unneeded = ["base_model"] if training.get("from_scratch") else []
    return [name for name in missing_options(metadata) if name not in unneeded]


def describe_scores(scores: Mapping[str, Any]) -> str:
    """Describe a test in one caption: corpus, folds, model, accuracies in percent, selection and shared speakers.

    Args:
        scores: The content of `scores.json`.
    """
    folds = _plural(len(scores["speakers_shared"]), "test fold")
    several, pooled = scores.get("concatenated_layers"), scores["pooled"]
    layers = f"layers {', '.join(map(str, several))}" if several else f"layer {scores['encoder_layer']}"
    return (
        f"{corpus_title(scores['corpus'])}, {folds} ({scores['folds']}), "
        f"{layers} of {_public(scores['encoder'])}, {scores['pooling']} pooling: "
        f"pooled UA {_percent(pooled['unweighted_accuracy'])} %, WA {_percent(pooled['weighted_accuracy'])} %; "
        f"{describe_selection(scores['select_on'], scores.get('selected') == 'strength', _held_out(scores))}. "
        f"{describe_adaptation(scores)}{describe_leakage(scores['corpus'], scores['speakers_shared'])}"
    )


def describe_selection(select_on: str, linear: bool = False, held_out: str = "speakers") -> str:
    """Name the clips that selected the epoch, or the strength of the regularisation of a linear head.

    Args:
        select_on: `dev`, `last` or `test`.
        linear: Whether the head is linear (`Experiment.is_linear`).
        held_out: Units that `dev` held out: `speakers`, `corpora` or `clips`.
    """
    if select_on == "last":
        return "a fixed strength" if linear else "last epoch, none chosen"
    clips = {"dev": f"{held_out} held out of the training folds", "test": "the test fold: optimistic"}[select_on]
    return f"{'strength' if linear else 'epoch'} chosen on {clips}"


def describe_adaptation(scores: Mapping[str, Any]) -> str:
    """Return a sentence and a space if test clips were adapted, otherwise an empty string.

    Args:
        scores: The content of `scores.json`.
    """
    adapted = [cell for seed in scores.get("adapted", []) for cell in seed]
    if not any(adapted):
        return ""
    which = "" if all(adapted) else f" in {sum(adapted)} of {len(adapted)} trainings, where held-out speakers gained"
    whose = "corpus" if scores.get("adaptation") == "domain" else "speaker"
    return f"Test clips adapted to their {whose} by the mean of all the {whose}'s clips, without labels{which}. "


def describe_unadapted(scores: Mapping[str, Any]) -> str:
    """Return a line with the scores of the same models without adaptation.

    Args:
        scores: The content of `scores.json`.
    """
    accuracy, calibration_error = _unadapted(scores)
    return (
        f"The same models without adaptation, each clip by itself: UA {accuracy} %; "
        f"calibration error {calibration_error} %"
    )


def describe_leakage(corpus: str, shared: Sequence[int]) -> str:
    """Return a sentence with the number of test speakers that are also in training.

    Args:
        corpus: The corpus's name, as in `load_corpus`.
        shared: For each fold, the number of its test speakers that are also in its training.
    """
    if any(shared):
        counts = ", ".join(map(str, shared))
        return f"Speaker leakage: test speakers also in training, fold by fold: {counts}."
    # Without known speakers, each recording counts as a separate speaker
    readers = {record.reader for _, record in corpora_of(corpus)}
    source = "dataset tells" if "hub" in readers else "table tells" if "table" in readers else "file names tell"
    known = "" if _speakers_are_known(corpus) else f", as far as the {source}"
    return f"Test speakers also in training: 0{known}."


def _results(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores as template variables, in percent."""
    matrix = scores["confusion_matrix"]
    clips = [sum(row) for row in matrix]
    return {
        "several_runs": _are_several(scores),
        "repeats": _repeats(scores),
        "figures": [
            (name, _mean(scores[key], _are_several(scores)), _percent(scores["pooled"][key]))
            for key, (name, _, _) in METRICS.items()
        ],
        "recalls": [
            (_cell(label), total, _percent(matrix[index][index] / total) if total else "–")
            for index, (label, total) in enumerate(zip(scores["labels"], clips, strict=True))
        ],
        "chance": 1 / sum(total > 0 for total in clips),
        "majority": max(clips) / sum(clips),
        "caption": describe_scores(scores),
        "shared": describe_leakage(scores["corpus"], scores["speakers_shared"]),
        "speakers_known": _speakers_are_known(scores["corpus"]),
        "corpora_table": corpus_table(scores) if "corpora" in scores else None,
        "adaptation": describe_adaptation(scores).strip(),
        "sure": describe_sure(scores) if "sure" in scores else None,
        "unadapted": _unadapted(scores) if describe_adaptation(scores) else None,
    }


def _eval_metadata(scores: Mapping[str, Any], model_name: str) -> dict[str, Any]:
    """Return the scores as the Hub's metadata: means in percent, with their spread in the metric's name."""
    optimistic = ", chosen on the test fold: optimistic" if scores["select_on"] == "test" else ""
    results = []
    for key, (name, hub_metric, arguments) in METRICS.items():
        spread = f", mean over {_repeats(scores)} (± {_percent(scores[key]['std'])})" if _are_several(scores) else ""
        results.append(
            EvalResult(
                task_type=TASK,
                task_name="Speech emotion recognition",
                dataset_type=scores["corpus"].removeprefix("hub:"),
                dataset_name=corpus_title(scores["corpus"]),
                dataset_config=scores["folds"],
                dataset_split="test",
                dataset_args={"select_on": scores["select_on"], "speakers_shared": list(scores["speakers_shared"])},
                metric_type=hub_metric,
                metric_value=round(100 * scores[key]["mean"], 1),
                metric_name=f"{name}, %{spread}{optimistic}",
                metric_args=arguments,
            )
        )
    metrics = [hub_metric for _, hub_metric, _ in METRICS.values()]
    return {"metrics": metrics, "model_name": model_name, "eval_results": results}


def _unadapted(scores: Mapping[str, Any]) -> tuple[str, str]:
    """Return the unweighted accuracy with its interval, and the calibration error, without adaptation."""
    figures = scores["unadapted"]
    value, (low, high) = (figures[name]["unweighted_accuracy"] for name in ("pooled", "interval"))
    return f"{_percent(value)} ({_percent(low)} to {_percent(high)})", _percent(figures["ece"])


def _are_several(scores: Mapping[str, Any]) -> bool:
    return len(scores["seeds"]) * len(scores["speakers_shared"]) > 1


def _mean(figures: Mapping[str, float], with_spread: bool) -> str:
    return _percent(figures["mean"]) + (f" ± {_percent(figures['std'])}" if with_spread else "")


def _repeats(scores: Mapping[str, Any]) -> str:
    return f"{_plural(len(scores['speakers_shared']), 'fold')}, {_plural(len(scores['seeds']), 'seed')}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _speakers_are_known(corpus: str) -> bool:
    return all(record.reader not in ("folder", "table", "hub") for _, record in corpora_of(corpus))


def _held_out(run: Mapping[str, Any]) -> str:
    """Return the units that `dev` held out; a corpus's own split holds out clips."""
    return "clips" if run.get("folds") == "split" else run.get("held_out") or "speakers"


def _lacks_languages(corpus: str) -> bool:
    return not all(record.language for _, record in corpora_of(corpus))


def _describe_corpus(name: str, record: Corpus) -> str:
    """Return a paragraph about the recordings and their terms."""
    if name.startswith("hub:"):
        title = record.title
        return (
            f"The Hub dataset [{title}](https://huggingface.co/datasets/{title}) describes its terms, language and "
            "speakers; its licence may bind models trained on it."
        )
    if not record.about:
        return (
            f"{record.title[0].upper()}{record.title[1:]}, its author's own recordings. Before you publish this "
            "model, state here their source, speakers and languages, the speakers' consent, and the resulting licence."
        )
    title = record.title if record.address is None else f"[{record.title}]({record.address})"
    return f"{title}: {record.about}"


def _public(value: Any) -> Any:
    """Remove local folders from a value: a local path becomes its last component."""
    if isinstance(value, (list, tuple)):
        return ", ".join(str(_public(item)) for item in value)
    if isinstance(value, PurePath) or (
        isinstance(value, str) and re.search(r"[/\\]", value) and not is_hub_name(value)
    ):
        return re.split(r"[/\\]", str(value).rstrip("/\\"))[-1]
    return value


def _cell(value: Any) -> str:
    """Escape text for a cell of a Markdown table."""
    return re.sub(r"\s+", " ", str(value)).replace("|", "\\|")


def _template() -> Path:
    """Return the template: beside this file in an installed package, otherwise the repository's."""
    packaged = Path(__file__).with_name("template.md")
    return packaged if packaged.exists() else Path(__file__).parents[3] / "model_cards" / "template.md"
