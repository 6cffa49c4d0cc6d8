"""`UserError`, the exception for users' mistakes, and helpers for its one-line messages."""

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
    """A mistake that the user can fix: a wrong path, option, file or value.

    The message is one line. It names the file or option, the error, and the fix. Scripts print the message on stderr
    without a traceback and exit with 2. Every other exception is a bug and keeps its traceback.
    """


@contextmanager
def reading(source: object, expected: str) -> Iterator[None]:
    """Turn any exception while reading a user's file into a `UserError` that names the file.

    A damaged file can raise any exception, even KeyError and TypeError, so put nothing but the reading in this block.

    Args:
        source: The file or folder, or the option that names it.
        expected: The expected content, for the message.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        lacking = f"{error.filename} is missing" if error.filename else one_line(error)
        raise UserError(f"{source}: {lacking}; expected {expected}") from error
    except Exception as error:
        raise UserError(f"{source}: {error.__class__.__name__}: {one_line(error)}; expected {expected}") from error


def one_line(error: Exception) -> str:
    """Return an exception's message as one line, for use in a `UserError`."""
    return " ".join(str(error).split())


def printable(text: str) -> str:
    """Escape the unprintable characters of a file name or message, so that it prints as one line."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)


@contextmanager
def without_loading_report() -> Iterator[None]:
    """Silence the libraries' loading reports (missing weights, retries to the Hub); the caller reports errors.

    Verbosity belongs to the whole process, so threads load one after another: two at once would leave the libraries
    silent.
    """
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    with _loading, errors_only(logging, hub_logging):
        yield


@contextmanager
def errors_only(*libraries: Any) -> Iterator[None]:
    """Set libraries to log errors only, through their `get_verbosity` and `set_verbosity_error`."""
    before = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, verbosity in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)


def missing_package(error: ModuleNotFoundError) -> str | None:
    """Say what to install for a missing module of the extra `train`; None for any other module."""
    name = (error.name or "").partition(".")[0]
    if name not in TRAINING:
        return None
    return f"this needs {name}, which comes with pip install 'whisper-emotion[train]'"


def not_loaded(name: str | os.PathLike[str], error: Exception) -> str:
    """Explain why a model could not be loaded, as the end of a `UserError`'s message.

    Args:
        name: A folder or a Hub name.
        error: The exception of `from_pretrained`.
    """
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    if os.path.isfile(name):
        return "is a file, not a folder"
    said = one_line(error).removeprefix("Error ").removesuffix(".")
    if not isinstance(error, OSError):
        said = f"{error.__class__.__name__}: {said}"
    if os.path.isdir(name):
        return f"holds no model to load: {said}"
    cause = error.__cause__
    if isinstance(cause, HFValidationError):
        return "is not a folder"
    if isinstance(cause, LocalEntryNotFoundError):
        return "is not a folder, and the Hub could not be reached"
    if type(cause) is RepositoryNotFoundError:  # its subclass means a gated repository
        return "is not a folder, and was not found on the Hub (set HF_TOKEN for private repositories)"
    return f"is not a folder, and could not be loaded from the Hub: {said}"
