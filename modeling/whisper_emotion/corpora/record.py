"""The record of a corpus: all that is known of it, in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

GENDERS = {"f": "female", "F": "female", "female": "female", "W": "female", "m": "male", "M": "male", "male": "male"}


@dataclass(frozen=True)
class Corpus:
    """The record of a corpus.

    Args:
        title: Its name, as people write it.
        layout: The path of a file below the corpus's folder, as an example.
        language: BCP 47 codes, with commas between them.
        license: The licence of the recordings by its Hub identifier; `other` where there is none.
        address: Its owners' page.
        about: Citation, recordings and the owners' terms, for model cards.
        published: How many utterances its owners publish; None where that has no meaning.
        pattern: Matches the end of a file's path below the corpus's folder, without its ending, from the beginning of
            a folder's or the file's name. Groups: `emotion`, `speaker`, and where there are such `gender`, `session`,
            and `other`, which leaves a file out (a song, the sound of a video).
        emotions: The owners' word for each code in a name; an empty word leaves the utterance out.
        other: Words of the owners for which the vocabulary has no class but `other`.
        genders: The gender for each `gender` in a name, or else for each speaker.
        speakers: Other spellings of speakers.
        speaker_table: A file in the folder, and its columns of speakers and genders.
        folds: Published folds: `emobox`, `paper`.
        paper_folds: The folds of arXiv 2602.06000: the test speakers of each by the fold's name.
        classes: The classes that published work uses, where they are not all.
        merge: How published work joins classes; see `load_corpus`.
        reader: `names`, or the module that reads it.
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
