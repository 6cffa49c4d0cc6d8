"""Bad input through every entrance: thousands of cases, each of which must be accepted, or refused by name.

    python tests/fuzz/fuzz.py --cases 12000

A case passes if it returns within five seconds, or raises the entrance's error with a message that names the file or
field; and if neither it nor all cases of its entrance together take much memory. Prints a row an entrance, then what
went wrong. Exits with 1 if anything did. The same seed gives the same cases.
"""

import argparse
import contextlib
import ctypes
import faulthandler
import gc
import io
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from conftest import without_privileges  # isort: skip  # sets the environment before other imports
import psutil
import pyarrow
from entrances import ENTRANCES, Attempt, Workplace
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from transformers.utils import logging

MEBIBYTE = 2**20
LONGEST = 5.0  # seconds of a case
MOST_AT_ONCE, MOST_GROWTH = 512, 64  # MiB that one case may take, and that all of an entrance may leave behind


class Hang(BaseException):
    """A case took too long."""


@dataclass
class Tally:
    """What came of an entrance's cases; `wrong` has an example for each place in the code."""

    cases: int = 0
    refused: int = 0
    slowest: float = 0.0
    peak: float = 0.0  # MiB that one case took, as far as it was more than any before it
    growth: float = 0.0  # MiB
    wrong: dict[str, str] = field(default_factory=dict)


def run_entrance(entrance, cases: int, place: Workplace, root: Path, number: int, longest: float) -> Tally:
    """Try an entrance with so many cases."""
    tally = Tally()
    settled = 0  # bytes held when caches are full

    @seed(number)
    @settings(
        max_examples=cases,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(data: st.DataObject) -> None:
        nonlocal settled
        folder = root / "case"
        folder.mkdir()
        folder.chmod(0o777)  # for cases without the superuser's privileges
        try:
            attempt = entrance(place, data.draw, folder)
            before, started = _peak(), time.monotonic()
            complaint = try_once(attempt, folder, longest, tally)
            tally.slowest = max(tally.slowest, time.monotonic() - started)
            taken = (_peak() - before) / MEBIBYTE
            tally.peak = max(tally.peak, taken)
            if taken > MOST_AT_ONCE:
                complaint = complaint or ("memory", f"{taken:.0f} MiB at once")
            if complaint:
                tally.wrong.setdefault(complaint[0], f"case {tally.cases}: {complaint[1]}")
            tally.cases += 1
            if tally.cases == max(1, cases // 3):
                settled = _held()
        finally:
            shutil.rmtree(folder)

    run()
    tally.growth = (_held() - settled) / MEBIBYTE
    if tally.growth > MOST_GROWTH:
        tally.wrong["growth"] = f"{tally.growth:.0f} MiB were left behind"
    return tally


def try_once(attempt: Attempt, folder: Path, longest: float, tally: Tally) -> tuple[str, str] | None:
    """Try a case; where it fails, and how, or None."""

    def stop(*_) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, stop)
    faulthandler.dump_traceback_later(4 * longest, exit=True)  # for what no signal interrupts
    said = io.StringIO()
    try:
        signal.setitimer(signal.ITIMER_REAL, longest)
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(said))
            stack.enter_context(contextlib.redirect_stderr(said))
            if attempt.unprivileged:
                stack.enter_context(without_privileges(folder))
            attempt.call()
    except HypothesisException:
        raise
    except attempt.error as error:
        tally.refused += 1
        if not attempt.names(str(error)):
            return f"unnamed: {_place(error)}", f"expected one of {attempt.named!a:.300}: {error!a:.600}"
    except (Exception, Hang) as error:
        return _place(error), "".join(traceback.format_exception(error)[-8:])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
    return ("traceback", said.getvalue()) if "Traceback" in said.getvalue() else None


def _place(error: BaseException) -> str:
    """Where an exception was raised, by its kind and the last line of ours."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "whisper_emotion" in frame.filename or "scripts" in frame.filename] or frames
    return f"{type(error).__name__} at {Path(ours[-1].filename).name}:{ours[-1].lineno}"


def _peak() -> int:
    """The most bytes of memory that this process has ever taken."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _held() -> int:
    """Bytes of memory that this process holds, without what is free in it and only waits to be used again."""
    gc.collect()
    pyarrow.default_memory_pool().release_unused()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss


def main() -> int:
    """Try all entrances and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=12_000, help="of all entrances together")
    parser.add_argument("--entrance", choices=[entrance.__name__ for entrance in ENTRANCES], help="this one alone")
    parser.add_argument("--seed", type=int, default=0, help="of the cases")
    options = parser.parse_args()
    chosen = [one for one in ENTRANCES if options.entrance in (None, one.__name__)]
    logging.set_verbosity_error()
    started, tallies = time.monotonic(), {}
    rows = [f"{'entrance':<14}{'cases':>7}{'refused':>9}{'accepted':>10}{'slowest':>10}{'at once':>10}{'growth':>10}"]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
        place = Workplace(Path(root))
        for one in chosen:
            cases = max(3, round(options.cases * ENTRANCES[one] / sum(ENTRANCES[other] for other in chosen)))
            tally = tallies[one.__name__] = run_entrance(one, cases, place, Path(root), options.seed, LONGEST)
            rows.append(
                f"{one.__name__:<14}{tally.cases:>7}{tally.refused:>9}{tally.cases - tally.refused:>10}"
                f"{tally.slowest:>8.2f} s{tally.peak:>6.0f} MiB{round(tally.growth):>6} MiB"
            )
            print(rows[-1], flush=True)
    print("\n", *rows, sep="\n")  # again, without what decoders have said in between
    for name, tally in tallies.items():
        for where, what in tally.wrong.items():
            print(f"\n{name}: {where}\n{what}")
    wrong = sum(len(tally.wrong) for tally in tallies.values())
    total = sum(tally.cases for tally in tallies.values())
    print(f"\n{total} cases in {time.monotonic() - started:.0f} s, {wrong} kinds of failure")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
