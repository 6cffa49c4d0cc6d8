"""Metadata of a model card, from a run and from the user's options; the Hub shows and searches them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from whisper_emotion.corpora.record import Corpus
from whisper_emotion.corpora.records import corpus_record
from whisper_emotion.errors import UserError
from whisper_emotion.options import option

if TYPE_CHECKING:  # the Hub's client takes a second to load, too long for --help
    from huggingface_hub import ModelCardData

LIBRARY, TASK = "transformers", "audio-classification"
TAGS = ("speech-emotion-recognition", "emotion-recognition", "whisper", "whisper-emotion")
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
LANGUAGE = re.compile(r"[a-z]{2,3}(-\w+)*|multilingual")  # BCP 47
UNSTATED_LICENSE = "terms-of-the-training-data"
UNNAMED = ("synthetic", "folder", "table")  # corpora without a dataset name


@dataclass
class CardOptions:
    """Metadata of the model card that a run may not know; a given option replaces the run's value.

    Raises:
        UserError: The Hub does not accept a name or a language.
    """

    GROUP = "model card"

    language: str | None = option(
        None,
        help="card: languages of the recordings, such as de,en",
        influences_results=False,
    )
    license: str | None = option(
        None, help="card: the model's licence, a Hub identifier such as cc-by-4.0", influences_results=False
    )
    datasets: str | None = option(
        None, help="card: the training data's Hub names, such as me/a,me/b", influences_results=False
    )
    base_model: str | None = option(
        None, help="card: the encoder's Hub name, such as openai/whisper-base", influences_results=False
    )

    def __post_init__(self):
        """Refuse values that the Hub would not link."""
        for code in _split(self.language):
            if not LANGUAGE.fullmatch(code):
                raise UserError(f"--language {self.language}: must be language codes, such as de or de,en")
        for name in _split(self.datasets):
            if not HUB_NAME.fullmatch(name):
                raise UserError(f"--datasets {self.datasets}: must be Hub names, such as me/voices")
        if self.base_model is not None and not HUB_NAME.fullmatch(self.base_model):
            raise UserError(f"--base_model {self.base_model}: must be a Hub name, such as openai/whisper-base")

    def update(self, data: ModelCardData) -> None:
        """Write the given options into a card's metadata."""
        if self.language is not None:
            codes = _split(self.language)
            data.language = codes[0] if len(codes) == 1 else codes
        if self.license is not None:
            data.license, data.license_name, data.license_link = self.license, None, None
        if self.datasets is not None:
            data.datasets = _split(self.datasets)
        if self.base_model is not None:
            data.base_model = self.base_model


def missing_options(data: ModelCardData) -> list[str]:
    """Name the fields of `CardOptions` that a card lacks; a licence without a link to its text counts as missing."""
    unstated = data.license_name == UNSTATED_LICENSE and data.license_link is None
    lacking = {"language": not data.language, "license": not data.license or unstated}
    lacking |= {"datasets": not data.datasets, "base_model": not data.base_model}
    return [name for name, lacks in lacking.items() if lacks]


def describe_missing(names: Sequence[str]) -> str:
    """Say in one line which options fill a card's missing fields."""
    flags = ", ".join(f"--{name}" for name in names)
    return f"the model card states no {', '.join(names)}: set {flags} (train.py or push_to_hub.py)"


def corpora_of(names: str) -> list[tuple[str, Corpus]]:
    """Return the names of one or several corpora, as in `load_corpus`, with their records."""
    return [(name.strip(), corpus_record(name.strip())) for name in names.split(",")]


def corpus_title(names: str) -> str:
    """Return the display name of one or several corpora."""
    titles = [record.title for _, record in corpora_of(names)]
    return " and ".join([", ".join(titles[:-1]), titles[-1]] if titles[1:] else titles)


def run_metadata(corpus: str, encoder: str | None, **more: object) -> ModelCardData:
    """Build the metadata of a model that a run trained.

    Args:
        corpus: The corpus or corpora, as in `load_corpus`.
        encoder: The pretrained encoder; a folder sets no `base_model`. None for random weights.
        **more: Other fields of `ModelCardData`.
    """
    from huggingface_hub import ModelCardData

    records = corpora_of(corpus)
    languages = sorted({code for _, record in records for code in record.language.split(",") if code})
    licenses = {record.license for _, record in records}
    license = licenses.pop() if len(licenses) == 1 else "other"
    links = {record.address for _, record in records if record.license == "other"}
    return ModelCardData(
        language=languages[0] if len(languages) == 1 else languages or None,
        library_name=LIBRARY,
        pipeline_tag=TASK,
        base_model=encoder if encoder is not None and is_hub_name(encoder) else None,
        datasets=[name.removeprefix("hub:") for name, _ in records if name not in UNNAMED] or None,
        tags=list(TAGS),
        license=license,
        license_name=UNSTATED_LICENSE if license == "other" else None,
        license_link=links.pop() if license == "other" and len(links) == 1 else None,
        **more,  # type: ignore[arg-type]
    )


def is_hub_name(name: str) -> bool:
    """Whether transformers would look up a name on the Hub; an existing folder takes precedence."""
    return HUB_NAME.fullmatch(name) is not None and not Path(name).exists()


def _split(names: str | None) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()] if names else []
