"""The model card of a trained folder: metadata that the Hub reads, text that a person reads."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData

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


class _Corpus(NamedTuple):
    """What the metadata says of a corpus; its notes are in the template, under the same key."""

    name: str
    language: str | None = None
    license: str = "other"
    license_link: str | None = None


CORPORA = {
    "emodb": _Corpus("EMO-DB", "de", license_link="http://emodb.bilderbar.info/docu/"),
    "ravdess": _Corpus("RAVDESS", "en", "cc-by-nc-sa-4.0"),
    "iemocap": _Corpus("IEMOCAP", "en", license_link="https://sail.usc.edu/iemocap/"),
    "shemo": _Corpus("ShEMO", "fa", license_link="https://github.com/pariajm/sharif-emotional-speech-database"),
    "synthetic": _Corpus("synthetic speech", license="apache-2.0"),
    "folder": _Corpus("a folder of recordings"),
}


def write_model_card(
    folder: str | os.PathLike[str],
    scores: Mapping[str, Any] | None,
    config: Any,
    training: Mapping[str, Any],
    speed: str,
) -> None:
    """Writes the `README.md` of a trained folder.

    Args:
        folder: the Hub folder; its name is the model's. The card shows its `confusion_matrix.png`.
        scores: what `scores.json` holds, or None when the model was trained on everything and no test was held out.
        config: the model's `WhisperEmotionConfig`.
        training: hyper-parameters by name, shown in their order (None is left out); `test_fold` names the fold that
            was held out. Without `scores`, its `corpus` and `encoder` say what the model was trained on.
            Local paths among the values are shown by their last component only.
        speed: what a clip takes, and where that was measured, in words.
    """
    folder = Path(folder).resolve()
    run = scores or training
    corpus = _corpus(run["corpus"])
    metadata = ModelCardData(
        language=corpus.language,
        library_name="transformers",
        pipeline_tag="audio-classification",
        base_model=run["encoder"] if _is_hub_id(run["encoder"]) and not training.get("from_scratch") else None,
        datasets=None if run["corpus"] in ("synthetic", "folder") else [run["corpus"].removeprefix("hub:")],
        metrics=None if scores is None else [hub_metric for _, hub_metric, _ in METRICS.values()],
        tags=["speech-emotion-recognition", "emotion-recognition", "whisper", "whisper-emotion"],
        model_name=None if scores is None else folder.name,
        eval_results=None if scores is None else _eval_results(scores, corpus),
        license=corpus.license,
        license_name="terms-of-the-training-data" if corpus.license == "other" else None,
        license_link=corpus.license_link,
    )
    rows = {name: value for name, value in training.items() if name not in ("corpus", "encoder", "test_fold")}
    card = ModelCard.from_template(
        metadata,
        template_path=str(_template()),
        model_name=folder.name,
        corpus=run["corpus"].partition(":")[0],
        corpus_name=corpus.name,
        encoder=_public(run["encoder"]),
        config=config,
        labels=[_cell(config.id2label[index]) for index in range(config.num_labels)],
        held_out="clips" if "speakers" in rows else "speakers",
        training={name: _cell(_public(value)) for name, value in rows.items() if value is not None},
        test_fold=training.get("test_fold"),
        speed=_cell(speed),
        **({"scores": None} if scores is None else _results(scores)),
    )
    card.save(folder / "README.md")


def describe_scores(scores: Mapping[str, Any]) -> str:
    """Says in one caption what was tested, how, how well, and how many test speakers were heard in training.

    Args:
        scores: what `scores.json` holds.
    """
    return (
        f"{_corpus(scores['corpus']).name}, {_plural(len(scores['speakers_shared']), 'test fold')} "
        f"({scores['folds']}), "
        f"{_layers(scores)} of {_public(scores['encoder'])}, {scores['pooling']} pooling: "
        f"pooled UA {_percent(scores['pooled']['unweighted_accuracy'])} %, "
        f"WA {_percent(scores['pooled']['weighted_accuracy'])} %; {SELECTION[scores['select_on']]}. "
        f"{describe_adaptation(scores)}{describe_leakage(scores['corpus'], scores['speakers_shared'])}"
    )


def describe_adaptation(scores: Mapping[str, Any]) -> str:
    """Says in a sentence, with a space behind it, whether test clips were adapted to their speakers; nothing if not.

    Args:
        scores: what `scores.json` holds.
    """
    adapted = [cell for seed in scores.get("adapted", []) for cell in seed]
    if not any(adapted):
        return ""
    which = "" if all(adapted) else f" in {sum(adapted)} of {len(adapted)} trainings, where held-out speakers gained"
    return f"Test clips adapted to their speaker by the mean of all the speaker's clips, without labels{which}. "


def corpus_title(name: str) -> str:
    """A corpus's name as its owners write it."""
    return _corpus(name).name


def describe_leakage(corpus: str, shared: Sequence[int]) -> str:
    """Says in a sentence how many test speakers were heard in training.

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
        "spread": f"{_plural(len(scores['speakers_shared']), 'fold')}, {_plural(len(scores['seeds']), 'seed')}",
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
        "ece_unscaled": _percent(scores["ece_unscaled"]) if "ece_unscaled" in scores else None,
        "adaptation": describe_adaptation(scores).strip(),
        "alone": _alone(scores) if any(map(any, scores.get("adapted", []))) else None,
    }


def _eval_results(scores: Mapping[str, Any], corpus: _Corpus) -> list[EvalResult]:
    shared = list(scores["speakers_shared"])
    return [
        EvalResult(
            task_type="audio-classification",
            task_name="Speech emotion recognition",
            dataset_type=scores["corpus"].removeprefix("hub:"),
            dataset_name=corpus.name,
            dataset_config=scores["folds"],
            dataset_split="test",
            dataset_args={"select_on": scores["select_on"], "speakers_shared": shared},
            metric_type=hub_metric,
            # With several folds a text, for a mean without its spread says too little
            metric_value=_figure(scores, key) if _count_runs(scores) > 1 else float(_figure(scores, key)),
            metric_name=f"{name}, %" + (", chosen on the test fold: optimistic" * (scores["select_on"] == "test")),
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
    """Says in a line how well the same models do on each clip by itself, where they could be adapted to speakers.

    Args:
        scores: what `scores.json` holds.
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


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _speakers_are_known(corpus: str) -> bool:
    return corpus in CORPORA and corpus != "folder"


def _corpus(name: str) -> _Corpus:
    return CORPORA.get(name) or _Corpus(name.removeprefix("hub:"))


def _is_hub_id(name: str) -> bool:
    # As transformers decides it: a folder that exists comes before a repository of the same name
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None and not Path(name).exists()


def _public(value: Any) -> Any:
    """A value without the user's folders: a local path is cut to its last component."""
    if isinstance(value, (list, tuple)):
        return ", ".join(str(_public(item)) for item in value)
    if isinstance(value, PurePath) or (
        isinstance(value, str) and re.search(r"[/\\]", value) and not _is_hub_id(value)
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
