"""Python programs and our scripts in processes of their own: forked ones where a fresh Python would prove no more."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from fork_server import ForkServer

REPOSITORY = Path(__file__).resolve().parents[1]
# Imports that no environment variable changes, and those of the scripts, which read HF_ENDPOINT and the like.
LIBRARIES = (
    "torch.distributed.tensor", "torch._dynamo", "pandas", "pyarrow.parquet", "scipy.stats", "sklearn.linear_model",
    "sklearn.model_selection", "matplotlib.pyplot",
)  # fmt: skip
SCRIPTS = (
    "datasets", "transformers.trainer", "transformers.pipelines", "whisper_emotion.evaluation",
    "whisper_emotion.fairness", "whisper_emotion.fitting.cross_validation", "whisper_emotion.fitting.grid",
    "whisper_emotion.inference", "whisper_emotion.publishing", "whisper_emotion.reporting.card",
    "whisper_emotion.reporting.sweep", "whisper_emotion.robustness",
)  # fmt: skip


SERVERS = {
    "scripts": ForkServer(*LIBRARIES, *SCRIPTS, environment=os.environ),
    "libraries": ForkServer(*LIBRARIES, environment=os.environ),
}


def run_python(
    *words: object,
    cwd: Path | None = None,
    env: Mapping[str, str] = os.environ,
    imported: Literal["scripts", "libraries", "nothing"] = "scripts",
) -> "subprocess.CompletedProcess[str]":
    """Run a script, or `-c` and a program, in a process of its own.

    Args:
        *words: What `python` gets.
        cwd: Where; default: here.
        env: All of its environment.
        imported: What the process has imported: `nothing` is a fresh Python, which takes seconds. An environment that
            Hugging Face's libraries would read otherwise is given to a process that has not imported them.
    """
    command = [str(word) for word in words]
    if imported == "nothing":
        command.insert(0, sys.executable)
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=600)
    if _read_at_import(env) != _read_at_import(SERVERS["scripts"].environment):
        imported = "libraries"
    return SERVERS[imported].run(command, str(cwd or Path.cwd()), env, timeout=600)


def _read_at_import(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that Hugging Face's libraries read when they are imported, where tests change them."""
    read = {name for name in environment if name.startswith(("HF_", "TRANSFORMERS_")) or name == "HOME"}
    return {name: environment[name] for name in read - {"HF_TOKEN", "HF_HUB_DISABLE_PROGRESS_BARS"}}


def run_script(name: str, *options: object, **where: Any) -> "subprocess.CompletedProcess[str]":
    """Run one of our scripts in a process of its own, as `run_python` does."""
    return run_python(REPOSITORY / "scripts" / name, *options, **where)


def run_ranks(count: int, *words: object, cwd: Path) -> list["subprocess.CompletedProcess[str]"]:
    """Run the processes that a launcher such as `torchrun` starts, and wait for them; one needs no launcher."""
    if count == 1:
        return [run_python(*words, cwd=cwd)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": f"{count}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}

    def run(rank: int) -> "subprocess.CompletedProcess[str]":
        return run_python(*words, cwd=cwd, env={**os.environ, **group, "RANK": f"{rank}", "LOCAL_RANK": f"{rank}"})

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))
