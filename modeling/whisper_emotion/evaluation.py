"""Score a trained model, or another model's predictions, on labelled recordings, over the shared classes."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from whisper_emotion.audio import SAMPLING_RATE
from whisper_emotion.card_metadata import corpora_of
from whisper_emotion.collator import read_utterance
from whisper_emotion.configuration_whisper_emotion import WhisperEmotionConfig
from whisper_emotion.corpora import utterance_names
from whisper_emotion.corpora.splits import speakers_known
from whisper_emotion.corpora.vocabulary import canonical
from whisper_emotion.errors import UserError, reading
from whisper_emotion.fitting.adaptation import group_means
from whisper_emotion.fitting.cross_validation import probability_columns
from whisper_emotion.fitting.selection import HeldOut, decide
from whisper_emotion.head_files import find_model
from whisper_emotion.inference import BATCH_SIZE, EmotionClassifier
from whisper_emotion.windows import LONGEST_SECONDS

SMALLEST = 1e-30  # added to probabilities before the logarithm
WRITTEN = (
    'a list of rows with "file" and one number per label, as predict.py writes, or an object that maps each file '
    'name to the list of {"label", "score"} that a pipeline returns'
)


@dataclass
class Classified:
    """Probabilities of every utterance of a corpus: one dict from label to probability per row.

    Args:
        found: Probabilities of the clips, adapted if requested.
        unadapted: Probabilities without adaptation; None without adaptation.
        familiar: Which clips resemble the training clips, `(clips,)`; None if the model has no novelty limit.
    """

    found: list[dict[str, float]]
    unadapted: list[dict[str, float]] | None = None
    familiar: np.ndarray | None = None


@torch.inference_mode()
def classify_corpus(
    classifier: EmotionClassifier,
    corpus: Dataset,
    adaptation: str = "none",
    change: Callable[[np.ndarray, int], np.ndarray] | None = None,
    description: str = "classifying",
) -> Classified:
    """Classify every utterance of a corpus.

    With a linear head on mean frames, each clip is encoded once. Other heads encode adapted clips twice.

    Args:
        classifier: The model. A domain that it stores also applies to unadapted clips.
        corpus: Output of `load_corpus`.
        adaptation: `none`, or the domain to adapt to, without labels: all clips of a `speaker`, or of a corpus
            (`domain`).
        change: Function of (samples, row) that distorts a clip.
        description: Text of the progress bar.

    Raises:
        UserError: A recording cannot be read, the speakers are unknown, or the model cannot adapt.
    """
    if adaptation == "speaker" and not speakers_known(corpus):
        raise UserError("--adaptation speaker: needs known speakers, give --speaker_pattern or a speaker column")
    head, device = classifier.model.head, classifier.model.device
    if adaptation != "none" and not head.adaptation.population_mean.any():
        raise UserError(f"--adaptation {adaptation}: the model has no mean of its training speakers")
    logits = torch.empty(len(corpus), head.config.num_labels)
    limit = head.config.novelty_limit
    means = np.empty((len(corpus), head.config.frame_size), np.float32)
    with tqdm(total=len(corpus), desc=description, unit="clip", disable=None) as bar:
        for rows, frames, mask in _encode(classifier, corpus, change):
            logits[rows] = head(frames, mask).logits.float().cpu()
            means[rows] = head.mean_frames(frames, mask).cpu().numpy()
            bar.update(len(rows))
    alone = _by_label(logits, classifier.labels)
    familiar = None
    if limit is not None:
        familiar = (head.novelty(torch.from_numpy(means).to(device)) <= limit).cpu().numpy()
    if adaptation == "none":
        return Classified(alone, None, familiar)
    groups = np.asarray(corpus[{"speaker": "speaker", "domain": "corpus"}[adaptation]][:])
    domains = torch.from_numpy(group_means(means, groups, np.arange(len(corpus)))).to(device)
    config = head.config
    if config.pooling == "mean" and config.classifier_proj_size == 0 and not config.use_weighted_layer_sum:
        averages = torch.from_numpy(means).to(device).unflatten(1, (len(config.frame_layers), -1))[:, None]
        mask = torch.ones(averages.shape[:2], dtype=torch.bool, device=device)
        logits = head(averages, mask, domains).logits
    else:
        for rows, frames, mask in _encode(classifier, corpus, change):
            logits[rows] = head(frames, mask, domains[rows]).logits.float().cpu()
    return Classified(_by_label(logits, classifier.labels), alone, familiar)


def _encode(
    classifier: EmotionClassifier, corpus: Dataset, change: Callable[[np.ndarray, int], np.ndarray] | None
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Encode clips in batches of similar length; yield rows, frames for the head, and mask."""
    order = np.argsort(corpus["seconds"][:], kind="stable")
    longest = LONGEST_SECONDS * SAMPLING_RATE
    for start in range(0, len(order), BATCH_SIZE):
        rows = order[start : start + BATCH_SIZE].tolist()
        clips = [read_utterance(corpus[row])[:longest] for row in rows]
        if change is not None:
            clips = [change(clip, row)[:longest] for clip, row in zip(clips, rows, strict=True)]
        encoded = classifier.model.encoder(**classifier._extract(clips))
        yield rows, classifier.model._to_head(encoded.frames), encoded.mask


def _by_label(logits: torch.Tensor, labels: Sequence[str]) -> list[dict[str, float]]:
    return [dict(zip(labels, row, strict=True)) for row in logits.float().softmax(dim=-1).tolist()]


def trained_on(model: str | None, corpora: str) -> list[str]:
    """Return which corpora were in a model's training, according to its `scores.json`.

    Args:
        model: A folder or a Hub name; None for the general model.
        corpora: Names, as `load_corpus` takes them.

    Raises:
        UserError: The file is damaged.
    """
    path = Path(find_model(model)) / "scores.json"
    if not path.is_file():
        return []
    with reading(path, "a file of train.py"):
        record = json.loads(path.read_text(encoding="utf-8"))
        trained = {name for name, _ in corpora_of(record["corpus"])}
        if record.get("folds") == "loco":
            trained -= set(record["corpora"])  # tested corpora were left out of training
    return [name for name, _ in corpora_of(corpora) if name in trained]


def read_other(path: Path, corpus: Dataset) -> list[dict[str, float]]:
    """Read the predictions of another model.

    Args:
        path: A JSON file, see `WRITTEN`. Recordings match by file name without folder and suffix.
        corpus: Output of `load_corpus`.

    Returns:
        One dict from label to probability per row.

    Raises:
        UserError: The file cannot be read, or lacks a recording.
    """
    with reading(path, WRITTEN):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, Mapping):
            named = {name: {one["label"]: float(one["score"]) for one in scores} for name, scores in content.items()}
        else:
            named = {row["file"]: _probabilities(row) for row in content if row.get("label", "") is not None}
    by_stem = {Path(name).stem: scores for name, scores in named.items()}
    names = [Path(name).name for name in utterance_names(corpus)]
    lacking = [name for name in names if name not in by_stem]
    if lacking:
        raise UserError(f"{path}: lacks {lacking[0]} and {len(lacking) - 1} more of {len(names)} recordings")
    return [by_stem[name] for name in names]


def _probabilities(row: Mapping[str, Any]) -> dict[str, float]:
    """Read a row's probabilities: its numbers, or the numbers under `probabilities`, as predict.py writes them."""
    numbers = row.get("probabilities")
    return {
        name: float(value)
        for name, value in (row if numbers is None else numbers).items()
        if name not in ("start", "end") and isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def calibrate(
    config: WhisperEmotionConfig,
    table: pd.DataFrame,
    alone: pd.DataFrame | None,
    labels: Sequence[str],
    corpora: pd.Series,
) -> dict[str, float]:
    """Find temperatures and sure probabilities on the evaluated clips; all corpora have equal weight.

    Args:
        config: The model's configuration.
        table: Output of `tabulate`.
        alone: Output of `tabulate` without adaptation; None unless `table` has adapted clips.
        labels: The shared classes.
        corpora: Corpus of each clip, by its name.

    Returns:
        Values of the configuration's fields by name.
    """
    logits = [
        None if one is None else torch.from_numpy(np.log(one[probability_columns(labels)].to_numpy() + SMALLEST))
        for one in ((table, None) if alone is None else (alone, table))
    ]
    own = table["name"].map(corpora)
    weights = torch.from_numpy(1 / own.map(own.value_counts()).to_numpy())
    targets = torch.tensor([labels.index(label) for label in table["label"]])
    found = decide(HeldOut(*logits, targets, weights), "none", True, "loss").calibration
    for prefix, adapted in (("", False), ("adapted_", True)):
        if f"{prefix}logit_temperature" in found:
            found[f"{prefix}logit_temperature"] *= config.temperature_of(adapted)
    return found


def tabulate(
    corpus: Dataset,
    probabilities: Sequence[Mapping[str, float]],
    sure_probability: float | None = None,
    familiar: np.ndarray | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """Restrict predictions to the classes that model and corpus share, and tabulate them.

    The model's labels are mapped to the vocabulary: `hap` is `happy`. Each clip's probabilities sum to 1 over the
    shared classes in its corpus. Clips of other classes are left out.

    Args:
        corpus: Output of `load_corpus`.
        probabilities: One dict from label to probability per row.
        sure_probability: Least probability of a sure label of a `familiar` clip; None omits the column `sure`.
        familiar: As in `Classified`; None: all clips.

    Returns:
        The table, with the columns of `cross_validation.predict`, and the shared classes in the corpus's order.

    Raises:
        UserError: Fewer than two classes are shared.
    """
    labels = corpus.features["label"].names
    words = {word for named in probabilities for word in named}
    spoken = {word: word if word in labels else canonical(word) or word for word in words}
    shared = [label for label in labels if label in spoken.values()]
    if len(shared) < 2:
        raise UserError(
            f"the model has {', '.join(sorted(spoken.values()))}, the corpus {', '.join(labels)}: expected two or "
            "more shared classes; --labels_map renames the corpus's classes"
        )
    matrix = np.zeros((len(corpus), len(shared)))
    for row, named in enumerate(probabilities):
        for word, value in named.items():
            if spoken[word] in shared:
                matrix[row, shared.index(spoken[word])] += value
    table = pd.DataFrame({"name": utterance_names(corpus), "fold": 1, "seed": 0})
    table["label"] = [labels[label] for label in corpus["label"]]
    kept = table["label"].isin(shared).to_numpy()
    corpora = np.asarray(corpus["corpus"][:])
    for name in np.unique(corpora):
        own = corpora == name
        matrix[np.ix_(own, ~np.isin(shared, table["label"][own]))] = 0
    matrix /= np.maximum(matrix.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    table["predicted"] = [shared[index] for index in matrix.argmax(axis=1)]
    table[probability_columns(shared)] = matrix
    if sure_probability is not None:
        table["sure"] = (matrix.max(axis=1) >= sure_probability) & (True if familiar is None else familiar)
    return pd.DataFrame(table[kept]).reset_index(drop=True), shared
