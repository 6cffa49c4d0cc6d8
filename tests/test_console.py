"""The console command runs the scripts, and refuses unknown commands."""

import subprocess
import sys

import pytest

from whisper_emotion import __version__, console
from whisper_emotion.cli import scripts_folder


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["whisper-emotion", *words])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # which a command replaces
    with pytest.raises(SystemExit) as exit_:
        console.main()
    return exit_.value.code


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_says_what_each_command_does(words, monkeypatch, capsys):
    run(monkeypatch, *words)
    said = capsys.readouterr().out
    assert "predict         Label recordings of any number and length with a trained model." in said
    assert [line.split()[0] for line in said.splitlines()[2:]] == list(console.COMMANDS)


def test_version(monkeypatch, capsys):
    run(monkeypatch, "--version")
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(
    ("command", "hint"), [("predcit", "did you mean predict?"), ("x", "expected one of predict, train, evaluate")]
)
def test_an_unknown_command_is_one_line(command, hint, monkeypatch, capsys):
    assert run(monkeypatch, command) == 2
    assert capsys.readouterr().err.startswith(f"whisper-emotion: error: {command}: no such command; {hint}")


def test_each_command_has_its_script():
    assert all((scripts_folder() / f"{script}.py").is_file() for script in console.COMMANDS.values())


def test_a_command_is_its_script(monkeypatch, capsys):
    assert run(monkeypatch, "predict", "--help") == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: whisper-emotion predict [--config FILE.yaml] [options]")
    assert "Label recordings of any number and length" in said
    assert run(monkeypatch, "push", "--model", "nowhere") == 2
    assert "whisper-emotion push: error: --repo_id: must be given" in capsys.readouterr().err


WITHOUT = """
import sys
sys.modules.update(dict.fromkeys({missing!r}))  # None: an import fails as if it were not installed
from whisper_emotion import console
sys.argv = ["whisper-emotion", *{words!r}]
console.main()
"""


def test_the_small_install_labels_and_names_what_training_needs(tiny_encoder, model_dir, synthetic_dir):
    from whisper_emotion.errors import TRAINING

    clip = str(next(synthetic_dir.rglob("*.wav")))
    for words, status, said in (
        (["predict", "--model", str(model_dir), clip], 0, "angry"),
        (["train", "--help"], 2, "this needs pandas, which comes with pip install 'whisper-emotion[train]'"),
        (["predict", "--model", str(model_dir), "--plot", clip], 2, "this needs matplotlib, which comes with"),
    ):
        program = WITHOUT.format(missing=sorted(TRAINING), words=words)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        assert said in done.stdout + done.stderr and "Traceback" not in done.stderr
