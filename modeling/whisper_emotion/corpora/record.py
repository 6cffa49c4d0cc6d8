"""The record of a corpus: all facts about it in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

GENDERS = {"f": "female", "F": "female", "female": "female", "W": "female", "m": "male", "M": "male", "male": "male"}


@dataclass(frozen=True)
class Corpus:
    """The record of a corpus.

    Args:
        title: Display name.
        layout: Example path of a file below the corpus's folder.
        language: BCP 47 codes, comma-separated.
        license: Licence of the recordings, a Hub identifier; `other` without an identifier.
        address: The owners' page.
        about: Citation, recordings and the owners' terms, for model cards.
        published: Number of utterances that the owners publish; None if undefined.
        pattern: Regular expression for the end of a file's path without suffix, starting at a folder's or file's name.
            Required groups: `emotion`, `speaker`. Optional groups: `gender`, `session`, and `other`, which excludes a
            file (a song, the sound of a video).
        emotions: The owners' label for each code in a name; an empty label excludes the utterance.
        other: The owners' labels that map to the class `other`.
        genders: Gender for each `gender` group, or for each speaker.
        speakers: Alternative spellings of speakers.
        speaker_table: A file in the folder, and its columns of speakers and genders.
        folds: Published folds: `emobox`, `paper`.
        paper_folds: Folds of arXiv 2602.06000: the test speakers by name of the fold.
        classes: Classes of published work, if not all.
        merge: Merged classes of published work; see `load_corpus`.
        reader: `names`, or another module that reads the corpus.
        table: Options of the reader `table`: the `file` and its `audio_dir`, below the corpus's folder.
    """

    title: str
    layout: str
    language: str = ""
    license: str = "other"
    address: str | None = None
    about: str = ""
    published: int | None = None
    pattern: str = ""
    emotions: Mapping[str, str] = field(default_factory=dict)
    other: Sequence[str] = ()
    genders: Mapping[str, str] = field(default_factory=GENDERS.copy)
    speakers: Mapping[str, str] = field(default_factory=dict)
    speaker_table: tuple[str, str, str] | None = None
    folds: tuple[str, ...] = ()
    paper_folds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    classes: Sequence[str] = ()
    merge: Mapping[str, str] = field(default_factory=dict)
    reader: str = "names"
    table: Mapping[str, str] = field(default_factory=dict)
