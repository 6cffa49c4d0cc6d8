"""The one exception that stands for a user's mistake, and the one line that it says."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_loading = threading.RLock()
TRAINING = frozenset(
    ("accelerate", "datasets", "evaluate", "matplotlib", "pandas", "pyarrow", "scipy", "sklearn", "threadpoolctl")
)  # modules of the extra `train`


class UserError(ValueError):
    """Something that the user can mend: a wrong path, option, file or value.

    The message is one line that names the file or option, what is wrong, and what would be right. Scripts print it
    on stderr without a traceback and exit with 2; every other exception is a defect and keeps its traceback.
    """


@contextmanager
def reading(source: object, expected: str) -> Iterator[None]:
    """Turn whatever a library raises on what others have written into a `UserError` that names it.

    A damaged or foreign file makes KeyErrors and TypeErrors of any depth; only that file's reading belongs in here.

    Args:
        source: The file or folder, or the option that names it.
        expected: What would be right.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        lacking = f"{error.filename} is not there" if error.filename else one_line(error)
        raise UserError(f"{source}: {lacking}; expected {expected}") from error
    except Exception as error:
        raise UserError(f"{source}: {error.__class__.__name__}: {one_line(error)}; expected {expected}") from error


def one_line(error: Exception) -> str:
    """An exception's message with its line breaks and runs of blanks folded, to be part of a `UserError`'s."""
    return " ".join(str(error).split())


def printable(text: str) -> str:
    """A file's name, or a message with one in it, as one line for a terminal: what is not printable is escaped."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)


@contextmanager
def without_loading_report() -> Iterator[None]:
    """Keep what loading reports from users, for whom the caller puts it into one line.

    That is, what a checkpoint lacks, and each of the attempts to reach the Hub. Threads load one behind another: how
    much the libraries say is the whole process's, and two at once would leave them silent.
    """
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    with _loading, errors_only(logging, hub_logging):
        yield


@contextmanager
def errors_only(*libraries: Any) -> Iterator[None]:
    """Let libraries log nothing but errors, as their `get_verbosity` and `set_verbosity_error` have it."""
    before = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, verbosity in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)


def missing_package(error: ModuleNotFoundError) -> str | None:
    """What to install for a module of the extra `train` that is missing; None for any other module."""
    name = (error.name or "").partition(".")[0]
    if name not in TRAINING:
        return None
    return f"this needs {name}, which comes with pip install 'whisper-emotion[train]'"


def not_loaded(name: str | os.PathLike[str], error: Exception) -> str:
    """Why a model could not be loaded, from what transformers raised: the end of a `UserError`'s message.

    Args:
        name: A folder, or what may be a name on the Hub.
        error: What `from_pretrained` raised.
    """
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    if os.path.isfile(name):
        return "is a file and no folder"
    said = one_line(error).removeprefix("Error ").removesuffix(".")
    if not isinstance(error, OSError):
        said = f"{error.__class__.__name__}: {said}"
    if os.path.isdir(name):
        return f"holds no model to load: {said}"
    cause = error.__cause__
    if isinstance(cause, HFValidationError):
        return "is no folder here"
    if isinstance(cause, LocalEntryNotFoundError):
        return "is no folder here, and the Hub could not be reached"
    if type(cause) is RepositoryNotFoundError:  # and not one of those who may be read by some
        return "is no folder here, and was not found on the Hub (HF_TOKEN opens what is private)"
    return f"is no folder here, and could not be loaded from the Hub: {said}"
