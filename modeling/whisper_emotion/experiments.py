"""From options to an experiment: the corpus that they name, and all that decides what a model becomes."""

import os
from collections import Counter
from typing import Any

from datasets import Dataset

from whisper_emotion.corpora import load_corpus
from whisper_emotion.corpora.splits import speakers_known
from whisper_emotion.options import CorpusOptions, ModelOptions, ProtocolOptions
from whisper_emotion.protocol import Experiment


def load_experiment(
    corpus: CorpusOptions, protocol: ProtocolOptions, model: ModelOptions, training: Any
) -> Experiment:
    """Load the corpus that the options name, and put it together with them.

    Raises:
        UserError: The corpus cannot be read, or an option is not allowed.
    """
    overrides = {**model.overrides(), "freeze_encoder": protocol.freeze_encoder, "class_weights": protocol.weights()}
    options = {name: getattr(corpus, name) for name in ("classes", "improvised_only", "speaker_pattern")}
    loaded = load_corpus(corpus.corpus, corpus.corpus_dir, **options)
    if os.environ.get("RANK", "0") == "0":
        print(_describe_corpus(loaded))
    return Experiment(
        corpus=loaded,
        encoder=protocol.encoder,
        overrides=overrides,
        args=training,
        select_on=protocol.select_on,
        refit=protocol.refit,
        from_scratch=protocol.from_scratch,
        projector=protocol.projector,
        encoder_dtype=protocol.encoder_dtype,
        speaker_adaptation=protocol.speaker_adaptation,
        temperature_scaling=protocol.temperature_scaling,
        store_dir=protocol.store_dir,
    )


def _describe_corpus(corpus: Dataset) -> str:
    """The corpus in one line, so that a wrong folder or pattern shows before hours of training."""
    clips = Counter(corpus["label"][:])
    classes = ", ".join(f"{name} {clips[index]}" for index, name in enumerate(corpus.features["label"].names))
    speakers = f"{len(set(corpus['speaker'][:]))} speakers" if speakers_known(corpus) else "speakers not known"
    return f"{len(corpus)} utterances ({classes}), {speakers}"
