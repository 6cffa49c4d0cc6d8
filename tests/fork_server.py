"""Run Python programs in children of a process that has imported the heavy libraries once.

A fresh process takes seconds to import torch and what stands on it, many times what most tests let a script do. The
server listens on a Unix socket. For each program it forks a handler, which forks the program, tells its process id,
and then its exit status. `python fork_server.py SOCKET MODULE...` starts a server; `ForkServer` is its client.
"""

import atexit
import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

# --- the client ------------------------------------------------------------------------------------------------------


class ForkServer:
    """A server with these modules, started at the first program; `environment` is that of its imports."""

    def __init__(self, *modules: str, environment: Mapping[str, str]):
        self.modules, self.environment = modules, dict(environment)
        self._address: str | None = None

    def run(
        self, words: list[str], cwd: str, env: Mapping[str, str], timeout: float
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program to its end, as `subprocess.run([sys.executable, *words], text=True, …)` does.

        Args:
            words: A script and its arguments, or `-c`, a program and its arguments.
            cwd: The child's folder.
            env: All of the child's environment.
            timeout: Seconds, after which the child is killed.
        """
        with (
            socket.socket(socket.AF_UNIX) as connection,
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
        ):
            connection.connect(self._started())
            socket.send_fds(connection, [b"!"], [out.fileno(), err.fileno()])
            connection.sendall(json.dumps({"words": words, "cwd": cwd, "env": dict(env)}).encode() + b"\n")
            answers = connection.makefile()
            child = int(answers.readline())
            connection.settimeout(timeout)
            try:
                status = int(answers.readline())
            except TimeoutError:
                os.kill(child, signal.SIGKILL)
                raise subprocess.TimeoutExpired(words, timeout) from None
            for file in (out, err):
                file.seek(0)
            return subprocess.CompletedProcess(words, status, out.read(), err.read())

    def _started(self) -> str:
        if self._address is None:
            address = os.path.join(tempfile.mkdtemp(prefix="whisper-emotion-tests-"), "fork_server")
            command = [sys.executable, __file__, address, *self.modules]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=self.environment
            )
            while not os.path.exists(address):
                assert self._process.poll() is None, "the fork server could not start"
                time.sleep(0.05)
            self._address = address
        return self._address


# --- the server ------------------------------------------------------------------------------------------------------


def serve(address: str, modules: list[str]) -> NoReturn:
    """Import the modules, then run what is asked for, any number of programs at a time, until stdin is closed."""
    del sys.path[0]  # the tests are no package
    for module in modules:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # handlers leave no zombies
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address + ".part")
        listener.listen(16)
        os.rename(address + ".part", address)
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _handle(connection)
            connection.close()
    sys.exit()


def _handle(connection: socket.socket) -> NoReturn:
    """Fork the program, and say how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, *_ = socket.recv_fds(connection, 1, 2)
    request = json.loads(connection.makefile().readline())
    child = os.fork()
    if child == 0:
        connection.close()
        _become(streams, **request)
    connection.sendall(f"{child}\n".encode())
    connection.sendall(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n".encode())
    os._exit(0)


def _become(streams: list[int], words: list[str], cwd: str, env: dict[str, str]) -> NoReturn:
    """Run the program as the main module of this process, and exit as Python would."""
    for number, stream in enumerate([os.open(os.devnull, os.O_RDONLY), *streams]):
        os.dup2(stream, number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    random.seed()  # or all children would draw the same numbers
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    status = 1
    try:
        status = _run(words)
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        if exit_.code is not None and not isinstance(exit_.code, int):
            print(exit_.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _run(words: list[str]) -> int:
    if words[0] == "-c":
        sys.argv, sys.path[:0] = ["-c", *words[2:]], [""]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.path[:0] = list(words), [str(Path(words[0]).resolve().parent)]
        runpy.run_path(words[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
