"""What is said of a model that cannot be loaded."""

from threading import Event, Thread

import pytest
from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging

from whisper_emotion.errors import not_loaded, without_loading_report


def raised(cause, text="it said.\nthis."):
    """What transformers makes of an error of the Hub's."""
    error = OSError(text)
    error.__cause__ = cause and cause.__new__(cause)  # some want the Hub's answer
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (raised(HFValidationError), "is not a folder"),
        (raised(LocalEntryNotFoundError), "is not a folder, and the Hub could not be reached"),
        (
            raised(RepositoryNotFoundError),
            "is not a folder, and was not found on the Hub (set HF_TOKEN for private repositories)",
        ),
        (
            raised(GatedRepoError, "ask its owner."),
            "is not a folder, and could not be loaded from the Hub: ask its owner",
        ),
        (KeyError("odd"), "is not a folder, and could not be loaded from the Hub: KeyError: 'odd'"),
    ],
)
def test_what_is_no_folder_may_have_been_asked_of_the_hub(error, said):
    assert not_loaded("me/mood", error) == said


def test_what_is_here_was_not_asked_of_the_hub(tmp_path):
    error = raised(None, f"Error no file named model.safetensors found in directory {tmp_path}.")
    assert not_loaded(tmp_path, error) == (
        f"holds no model to load: no file named model.safetensors found in directory {tmp_path}"
    )
    (tmp_path / "model.safetensors").touch()
    assert not_loaded(tmp_path / "model.safetensors", error) == "is a file, not a folder"


def test_libraries_are_quiet_for_as_long_as_something_is_loaded():
    before = logging.get_verbosity(), hub_logging.get_verbosity()
    with pytest.raises(KeyError), without_loading_report():
        assert logging.get_verbosity() == logging.ERROR and hub_logging.get_verbosity() == hub_logging.ERROR
        raise KeyError
    assert (logging.get_verbosity(), hub_logging.get_verbosity()) == before


def test_threads_that_load_at_once_leave_the_verbosity_as_it_was():
    before, first_is_in, second_is_in, first_is_out = logging.get_verbosity(), Event(), Event(), Event()

    def load(mine, to_await):
        with without_loading_report():
            mine.set()
            to_await.wait(timeout=0.2)  # the second is let in after the first: then this one waits in vain

    first = Thread(target=load, args=(first_is_in, second_is_in))
    second = Thread(target=load, args=(second_is_in, first_is_out))
    first.start()
    first_is_in.wait()
    second.start()
    first.join()
    first_is_out.set()
    second.join()
    assert logging.get_verbosity() == before
