"""A forked program behaves as a fresh Python would; other tests rely on that."""

import os
import signal
import subprocess
import sys

import pytest
from fork_server import ForkServer


@pytest.fixture(scope="module")
def server():
    return ForkServer("decimal", environment=os.environ)


def run(server, *words, cwd=".", env=os.environ, timeout=60):
    return server.run([str(word) for word in words], str(cwd), env, timeout)


@pytest.mark.parametrize(
    "program",
    [
        "print('out')",
        "import sys; print('err', file=sys.stderr); sys.exit(3)",
        "import sys; sys.exit('said')",
        "raise SystemExit",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os; print('lost', end=''); os._exit(9)",
        "import os; os.write(1, b'raw'); print(os.getcwd(), os.environ['NAME'], __name__)",
        "import sys; print(sys.argv, sys.stdin.read(), sys.stdout.isatty(), sys.path[0])",
        "import atexit; atexit.register(print, 'last')",
        "import multiprocessing; print(multiprocessing.current_process().name)",
    ],
)
def test_forked_program_ends_as_a_fresh_one(server, tmp_path, program):
    env = {**os.environ, "NAME": "value"}
    fresh = subprocess.run(
        [sys.executable, "-c", program, "a", "-b"],
        capture_output=True, text=True, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    forked = run(server, "-c", program, "a", "-b", cwd=tmp_path, env=env)
    assert (forked.returncode, forked.stdout, forked.stderr) == (fresh.returncode, fresh.stdout, fresh.stderr)


def test_forked_script_is_the_main_module_beside_its_own_modules(server, tmp_path):
    (tmp_path / "beside.py").write_text("NAME = 'beside'")
    (tmp_path / "script.py").write_text(
        '"""Doc."""\nimport sys, beside\nprint(sys.modules["__main__"].__doc__, beside.NAME)'
    )
    assert run(server, tmp_path / "script.py").stdout == "Doc. beside\n"


def test_forked_traceback_goes_to_stderr_with_status_1(server):
    done = run(server, "-c", "1 / 0")
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_forked_programs_have_the_modules_and_draw_different_numbers(server):
    program = "import random, sys; print('decimal' in sys.modules, random.random())"
    one, other = (run(server, "-c", program).stdout.split() for _ in range(2))
    assert one[0] == other[0] == "True" and one[1] != other[1]


def test_forked_program_is_killed_at_its_timeout(server, tmp_path):
    program = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    with pytest.raises(subprocess.TimeoutExpired):
        run(server, "-c", program, timeout=2)
    child = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):  # once its handler has taken note
        for _ in range(200):
            os.kill(child, 0)
            signal.sigtimedwait([], 0.05)
