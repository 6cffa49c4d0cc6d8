"""The fuzz in short: 55 cases through all entrances, 275 in `make test-all`. `make fuzz` tries thousands."""

import pytest
from entrances import ENTRANCES, Attempt, Workplace
from fuzz import run_entrance

from whisper_emotion.errors import UserError

PATIENCE = 60.0  # seconds of a case: a hang is found, and a busy machine is none


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Workplace(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("cases", [5, pytest.param(25, marks=pytest.mark.slow)])
@pytest.mark.parametrize("entrance", ENTRANCES, ids=lambda entrance: entrance.__name__)
def test_bad_input_is_accepted_or_refused_by_name(entrance, cases, place, tmp_path):
    tally = run_entrance(entrance, cases, place, tmp_path, 1, PATIENCE)
    assert tally.cases > 0.4 * cases and tally.refused > 0
    assert not tally.wrong, "\n".join(f"{where}\n{what}" for where, what in tally.wrong.items())


def _raise(error):
    raise error


@pytest.mark.parametrize(
    ("call", "where"),
    [
        (lambda: _raise(UserError("something is wrong")), "unnamed: UserError"),
        (lambda: _raise(KeyError("x.wav")), "KeyError"),
        (lambda: __import__("time").sleep(10), "Hang"),
    ],
)
def test_the_fuzz_finds_what_it_looks_for(place, tmp_path, call, where):
    tally = run_entrance(lambda *_: Attempt(call, ("x.wav",)), 1, place, tmp_path, 1, 1.0)
    assert [kind.partition(" at ")[0] for kind in tally.wrong] == [where]
