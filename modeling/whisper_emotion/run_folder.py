"""The folder of a run: taken by one set of settings, and never seen with half a file in it."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from safetensors import SafetensorError

from whisper_emotion.corpora import utterance_names
from whisper_emotion.errors import UserError, one_line, reading

UNFINISHED, CELLS = "unfinished", "cells"  # a run's work, gone when it ends; a sweep's, which stays and may grow
FINISHED = UNFINISHED + ".part"  # the work on its way out: its files go one by one, and some must not pass for all


def claim(
    output_dir: Path, corpus: Dataset, encoders: Sequence[str], settings: dict[str, Any], work: str = UNFINISHED
) -> Path:
    """Take a folder for a run, and make sure that what an interrupted one left there was made of the same.

    Of several processes (`torchrun`, `accelerate launch`) the first one does it.

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
    settings = {**settings, "contents of the corpus and the encoder": _fingerprint(corpus, encoders)}
    with PartialState().main_process_first():
        if PartialState().is_main_process:
            _claim(output_dir, work, settings)
    return output_dir / work


def _claim(output_dir: Path, work: str, settings: dict[str, Any]) -> None:
    work_dir = output_dir / work
    record = work_dir / "settings.json"
    try:
        shutil.rmtree(output_dir / FINISHED, ignore_errors=True)
        output_dir.mkdir(parents=True, exist_ok=True)
        known = work_dir.exists() or (work == UNFINISHED and (output_dir / "scores.json").exists())
        if any(output_dir.iterdir()) and not known:
            raise UserError(f"--output_dir {output_dir}: holds other files; name a new folder, or an earlier run's")
        work_dir.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {output_dir}: is no folder that can be written ({error.strerror})") from error
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


@contextmanager
def results_of(work_dir: Path) -> Iterator[Path]:
    """A folder in which a run's results are put together; they move beside its work when they are all there.

    The work is over then, and removed. What a kill leaves goes on to the same results.

    Args:
        work_dir: What `claim` returned.

    Yields:
        The folder; its name is that of the run's.
    """
    output_dir = work_dir.parent
    made = work_dir / "results" / output_dir.resolve().name
    with writing_to(output_dir):
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        yield made
        for file in made.iterdir():
            os.replace(file, output_dir / file.name)
        work_dir.rename(output_dir / FINISHED)
        shutil.rmtree(output_dir / FINISHED)


def write_whole(path: Path, text: str) -> None:
    """Write a text file that is never seen half written.

    Raises:
        UserError: It cannot be written.
    """
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file under, which gets its own when it is whole; one that fails is removed.

    Raises:
        UserError: It cannot be written.
    """
    part = path.with_name(path.name + ".part")  # always the same: what a kill leaves is replaced by the next run
    with writing_to(path.parent):
        try:
            yield part
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn what libraries raise when they cannot write, say for want of room, into one line that names the folder.

    Raises:
        UserError: In their place.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, OSError):
            reason = error.strerror or one_line(error)
        elif isinstance(error, SafetensorError):
            reason = one_line(error)
        elif "inline_container" in str(error):  # torch.save's, which says nothing of the disk
            reason = "a checkpoint was cut off, is the disk full?"
        else:
            raise
        raise UserError(
            f"{folder}: cannot be written ({reason}), expected a folder with room that may be written to; what was "
            "finished is kept"
        ) from error


def _fingerprint(corpus: Dataset, encoders: Sequence[str]) -> str:
    """A hash of all rows of the corpus and of the sizes of the encoders' files, where they are folders."""
    rows = [utterance_names(corpus), *(corpus[column][:] for column in ("label", "speaker", "seconds"))]
    folders = [Path(encoder) for encoder in encoders if Path(encoder).is_dir()]
    files = [sorted((file.name, file.stat().st_size) for file in folder.iterdir()) for folder in folders]
    return hashlib.sha256(json.dumps([rows, files]).encode()).hexdigest()[:16]
