"""The folder of a run: tied to one set of settings, and free of half-written files."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from whisper_emotion.errors import UserError, one_line, reading

if TYPE_CHECKING:
    from datasets import Dataset

UNFINISHED, CELLS = "unfinished", "cells"  # a run's work, removed at its end; a sweep's, which stays and may grow
SETTINGS = "settings.json"
FINISHED = UNFINISHED + ".part"  # work that is being deleted: a partly deleted folder must not be resumed


@contextmanager
def claim(
    output_dir: Path, corpus: "Dataset", encoders: Sequence[str], settings: dict[str, Any], work: str = UNFINISHED
) -> Iterator[Path]:
    """Reserve an output folder for a run; an interrupted run there can be resumed with the same settings.

    A run that ends before it writes any work leaves the folder unchanged. Of several processes (`torchrun`,
    `accelerate launch`), only the main process writes.

    Args:
        output_dir: Folder of the results: new, empty, or of an earlier run.
        corpus: The corpus of the run; its rows are part of the settings.
        encoders: Names of the encoders; the file sizes of a local encoder are part of the settings.
        settings: Options by name.
        work: `UNFINISHED` or `CELLS`.

    Yields:
        The folder of the run's work.

    Raises:
        UserError: The folder cannot be made, holds other files, or an unfinished run with other settings; the message
            names the first setting that differs.
    """
    settings = {**settings, "contents of the corpus and the encoder": _fingerprint(corpus, encoders)}
    from accelerate import PartialState  # this module also writes files for light commands

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
    """Refuse a folder that a run with these settings may not use; write nothing."""
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
    with reading(record, "a file of an earlier run: delete its folder, or name another --output_dir"):
        before, now = dict(json.loads(record.read_text(encoding="utf-8"))), json.loads(_as_text(settings))
    for name in sorted(before.keys() & now.keys()):  # ignore options that only one version of the package has
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
    """Remove the record and the new folders of a run that has written no work."""
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
    return UserError(f"--output_dir {output_dir}: cannot be written ({error.strerror}), expected a writable folder")


@contextmanager
def results_of(work_dir: Path) -> Iterator[Path]:
    """Collect a run's results in a temporary folder; move them to the output folder when they are complete.

    The folder of the work is removed then. A killed run resumes to the same results.

    Args:
        work_dir: The folder that `claim` yields.

    Yields:
        The temporary folder; it has the output folder's name.
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
    """Write a text file atomically.

    Raises:
        UserError: The file cannot be written.
    """
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to `path` at the end of the block; an error deletes the file.

    Raises:
        UserError: The file cannot be written.
    """
    part = path.with_name(path.name + ".part")  # a fixed name, so that the next run overwrites a killed run's file
    with writing_to(path.parent):
        try:
            yield part
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn a library's writing error, such as a full disk, into a `UserError` that names the folder.

    Raises:
        UserError: The block could not write.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, OSError):
            reason = error.strerror or one_line(error)
        elif isinstance(error, SafetensorError):
            reason = one_line(error)
        elif "inline_container" in str(error):  # torch.save's message does not mention the disk
            reason = "a checkpoint was cut off, is the disk full?"
        else:
            raise
        raise UserError(
            f"{folder}: cannot be written ({reason}), expected a writable folder with free space; finished work is "
            "kept"
        ) from error


def _fingerprint(corpus: "Dataset", encoders: Sequence[str]) -> str:
    """Hash all rows of the corpus and the file sizes of local encoders."""
    from whisper_emotion.corpora import utterance_names

    rows = [utterance_names(corpus), *(corpus[column][:] for column in ("label", "speaker", "seconds"))]
    folders = [Path(encoder) for encoder in encoders if Path(encoder).is_dir()]
    files = [sorted((file.name, file.stat().st_size) for file in folder.iterdir()) for folder in folders]
    return hashlib.sha256(json.dumps([rows, files]).encode()).hexdigest()[:16]
