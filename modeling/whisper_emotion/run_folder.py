"""The folder of a run: taken by one set of settings, and never seen with half a file in it."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from whisper_emotion.corpora import utterance_names
from whisper_emotion.errors import UserError, reading

UNFINISHED, CELLS = "unfinished", "cells"  # a run's work, gone when it ends; a sweep's, which stays and may grow


def claim(
    output_dir: Path, corpus: Dataset, encoders: Sequence[str], settings: dict[str, Any], work: str = UNFINISHED
) -> Path:
    """Take a folder for a run, and make sure that what an interrupted one left there was made of the same.

    Args:
        output_dir: Where the results go: a new or empty folder, or one that holds an earlier run.
        corpus: What is trained on; all its rows belong to the settings.
        encoders: The encoders' names; where one is a folder, the sizes of its files belong to the settings, too.
        settings: Options by name.
        work: `UNFINISHED` or `CELLS`.

    Returns:
        The folder of the run's work.

    Raises:
        UserError: The folder cannot be made, holds something else, or a run with other settings; the message names
            the first that differs.
    """
    work_dir = output_dir / work
    record = work_dir / "settings.json"
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        known = work_dir.exists() or (work == UNFINISHED and (output_dir / "scores.json").exists())
        if any(output_dir.iterdir()) and not known:
            raise UserError(f"--output_dir {output_dir}: holds other files; name a new folder, or an earlier run's")
        work_dir.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {output_dir}: is no folder that can be written ({error.strerror})") from error
    settings = {**settings, "contents of the corpus and the encoder": _fingerprint(corpus, encoders)}
    text = json.dumps(settings, indent=2, sort_keys=True, default=str)
    if record.exists() and len(list(work_dir.iterdir())) > 1:
        with reading(record, "what an earlier run wrote: delete its folder, or name another --output_dir"):
            before, now = dict(json.loads(record.read_text(encoding="utf-8"))), json.loads(text)
        for name in sorted(before.keys() & now.keys()):  # an option that only one version has is not at odds
            if before[name] != now[name]:
                raise UserError(
                    f"--output_dir: {work_dir} holds {'a sweep' if work == CELLS else 'an unfinished run'} with "
                    f"{name}={before[name]}, not {now[name]}: finish that one, delete the folder, or name "
                    "another --output_dir"
                )
    else:
        write_whole(record, text)
    return work_dir


def write_whole(path: Path, text: str) -> None:
    """Write a text file that is never seen half written."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _fingerprint(corpus: Dataset, encoders: Sequence[str]) -> str:
    """A hash of all rows of the corpus and of the sizes of the encoders' files, where they are folders."""
    rows = [utterance_names(corpus), *(corpus[column][:] for column in ("label", "speaker", "seconds"))]
    folders = [Path(encoder) for encoder in encoders if Path(encoder).is_dir()]
    files = [sorted((file.name, file.stat().st_size) for file in folder.iterdir()) for folder in folders]
    return hashlib.sha256(json.dumps([rows, files]).encode()).hexdigest()[:16]
