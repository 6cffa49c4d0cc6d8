"""The folder of a run: taken by one set of settings, and never seen with half a file in it."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from safetensors import SafetensorError

from whisper_emotion.corpora import utterance_names
from whisper_emotion.errors import UserError, one_line, reading

UNFINISHED, CELLS = "unfinished", "cells"  # a run's work, gone when it ends; a sweep's, which stays and may grow
SETTINGS = "settings.json"
FINISHED = UNFINISHED + ".part"  # the work on its way out: its files go one by one, and some must not pass for all


@contextmanager
def claim(
    output_dir: Path, corpus: Dataset, encoders: Sequence[str], settings: dict[str, Any], work: str = UNFINISHED
) -> Iterator[Path]:
    """Take a folder for a run, if what an interrupted run left there was made with the same settings.

    A run that ends before it has written any work leaves the folder as it was. Of several processes (`torchrun`,
    `accelerate launch`) the first one does all of it.

    Args:
        output_dir: Where the results go: a new or empty folder, or one that holds an earlier run.
        corpus: What is trained on; all its rows belong to the settings.
        encoders: The encoders' names; where one is a folder, the sizes of its files belong to the settings, too.
        settings: Options by name.
        work: `UNFINISHED` or `CELLS`.

    Yields:
        The folder of the run's work.

    Raises:
        UserError: The folder cannot be made, holds something else, or a run with other settings; the message names
            the first that differs.
    """
    settings = {**settings, "contents of the corpus and the encoder": _fingerprint(corpus, encoders)}
    work_dir, is_first = output_dir / work, PartialState().is_main_process
    missing = [folder for folder in (work_dir, output_dir, *output_dir.parents) if not folder.exists()]
    try:
        with PartialState().main_process_first():
            if is_first:
                _check(output_dir, work_dir, settings)
                _make(output_dir, work_dir, settings)
        yield work_dir
    finally:
        if is_first:
            _give_back(work_dir, missing)


def _check(output_dir: Path, work_dir: Path, settings: dict[str, Any]) -> None:
    """Refuse a folder that a run with these settings may not use; nothing is written."""
    work = work_dir.name
    record = work_dir / SETTINGS
    try:
        known = work_dir.exists() or (work == UNFINISHED and (output_dir / "scores.json").exists())
        others = [path for path in output_dir.iterdir() if path.name != FINISHED] if output_dir.exists() else []
    except OSError as error:
        raise _not_writable(output_dir, error) from error
    if others and not known:
        raise UserError(f"--output_dir {output_dir}: holds other files; name a new folder, or an earlier run's")
    if not (record.exists() and _holds_work(work_dir)):
        return
    with reading(record, "what an earlier run wrote: delete its folder, or name another --output_dir"):
        before, now = dict(json.loads(record.read_text(encoding="utf-8"))), json.loads(_as_text(settings))
    for name in sorted(before.keys() & now.keys()):  # an option that only one version has is not at odds
        if before[name] != now[name]:
            raise UserError(
                f"--output_dir: {work_dir} holds {'a sweep' if work == CELLS else 'an unfinished run'} with "
                f"{name}={before[name]}, not {now[name]}: finish that one, delete the folder, or name "
                "another --output_dir"
            )


def _make(output_dir: Path, work_dir: Path, settings: dict[str, Any]) -> None:
    """Make the folder, with a record of the settings."""
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(output_dir / FINISHED, ignore_errors=True)
    except OSError as error:
        raise _not_writable(output_dir, error) from error
    if not ((work_dir / SETTINGS).exists() and _holds_work(work_dir)):
        write_whole(work_dir / SETTINGS, _as_text(settings))


def _give_back(work_dir: Path, missing: Sequence[Path]) -> None:
    """Remove what a run that has done no work left there: its record, and the folders that were missing before it."""
    if work_dir not in missing or not work_dir.exists() or _holds_work(work_dir):
        return
    shutil.rmtree(work_dir)
    for folder in missing[1:]:  # from the inside out
        with suppress(OSError):  # something else was written there since
            folder.rmdir()


def _holds_work(work_dir: Path) -> bool:
    """Whether a run's folder holds any file but the record of its settings."""
    return any(path.is_file() and path != work_dir / SETTINGS for path in work_dir.rglob("*"))


def _as_text(settings: dict[str, Any]) -> str:
    return json.dumps(settings, indent=2, sort_keys=True, default=str)


def _not_writable(output_dir: Path, error: OSError) -> UserError:
    return UserError(f"--output_dir {output_dir}: is no folder that can be written ({error.strerror})")


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
