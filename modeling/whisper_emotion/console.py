"""The console command: `whisper-emotion train …` runs `scripts/train.py …` of the installed package."""

import ast
import difflib
import importlib.util
import sys
from pathlib import Path
from typing import NoReturn

from whisper_emotion import __version__
from whisper_emotion.cli import run_script, scripts_folder
from whisper_emotion.errors import UserError

COMMANDS = {
    "predict": "predict",
    "train": "train",
    "evaluate": "evaluate",
    "cross-validate": "cross_validate",
    "sweep": "sweep",
    "export": "export_onnx",
    "push": "push_to_hub",
    "demo": "demo",
    "benchmark": "benchmark",
}
"""The script of each command."""


def main() -> NoReturn:
    """Run the script that the first argument names with the remaining arguments."""
    run_script(_command)


def _command() -> None:
    command, *words = sys.argv[1:] or ["--help"]
    if command in ("--help", "-h"):
        print(_help())
    elif command == "--version":
        print(__version__)
    elif command in COMMANDS:
        sys.argv = [f"whisper-emotion {command}", *words]
        _run(scripts_folder() / f"{COMMANDS[command]}.py")
    else:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(COMMANDS)}"
        raise UserError(f"{command}: no such command; {hint}")


def _run(script: Path) -> None:
    """Run a file as the main module. `runpy` would replace the command's name by the file's."""
    spec = importlib.util.spec_from_file_location("__main__", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__spec__ = None  # as for any script; argparse and multiprocessing read it
    sys.modules["__main__"] = module
    spec.loader.exec_module(module)


def _help() -> str:
    """List the commands, each with the first docstring line of its script."""
    lines = ["usage: whisper-emotion COMMAND [options]; --version; --help, also after a command", ""]
    for command, script in COMMANDS.items():
        source = (scripts_folder() / f"{script}.py").read_text(encoding="utf-8")
        said = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        lines.append(f"  {command:15} {said}")
    return "\n".join(lines)
