"""Every code block of the pages that people copy from runs as it stands."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "model_cards" / "long_recordings.md"


def blocks(path, language):
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def commands(path):
    """All `python …` lines of a page's bash blocks, as lists of arguments without `python`."""
    lines = [line for block in blocks(path, "bash") for line in block.replace("\\\n", " ").splitlines()]
    split = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in split if words and words[0] == "python"]


@pytest.fixture
def place(model_dir, synthetic_dir, tmp_path, monkeypatch):
    """A folder in which the pages' commands find what they name."""
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "interview.flac", rng.normal(0, 0.1, 40 * 16_000).clip(-1, 1), 16_000)
    for name, target in {
        "scripts": REPOSITORY / "scripts", "tests": REPOSITORY / "tests", "data/synthetic": synthetic_dir,
        "runs/mine": model_dir, "runs/demo": model_dir,
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words, monkeypatch):
    """Run a script in this process; it must end with status 0."""
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(words[0], run_name="__main__")
    assert not exit_.value.code, words


def test_the_page_on_long_recordings(place, monkeypatch, capfd):
    assert len(re.findall("^```", PAGE.read_text(), flags=re.MULTILINE)) == 2 * (3 + 1)  # all are bash or Python
    first, second, measure = commands(PAGE)
    run(first, monkeypatch)
    assert capfd.readouterr().out.splitlines()[-1].split()[1] == "40.00"
    run(second, monkeypatch)
    assert len(Path("windows.csv").read_text().splitlines()) == 1 + 36
    assert {"segments.json", "interview_timeline.png", "interview_attention.png"} <= set(os.listdir())

    (python,) = blocks(PAGE, "python")
    capfd.readouterr()
    exec(compile(python, str(PAGE), "exec"), {})
    assert capfd.readouterr().out.splitlines()[-1].split()[1] == "40.00"

    # Less of it: the whole takes minutes. The size of the model and what is compared are the page's.
    hours = measure.index("--hours") + 1
    done = subprocess.run(
        [sys.executable, *measure[:hours], "0.02", *measure[hours + 1 :]], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0.02 h, 35 windows" in done.stdout


def test_predictions_on_the_front_page(place, monkeypatch, capfd):
    words = [words for words in commands(REPOSITORY / "README.md") if words[0] == "scripts/predict.py"]
    assert len(words) == 2
    for one in words:
        run(one, monkeypatch)
    assert len(Path("labels.csv").read_text().splitlines()) == 1 + 48
    assert {"S01F_angry_01_timeline.png", "S01F_angry_01_attention.png"} <= set(os.listdir())


def test_the_space_on_the_front_page(place, monkeypatch, capfd):
    pytest.importorskip("gradio", reason="the demo page needs Gradio: pip install 'whisper-emotion[demo]'")
    lines = commands(REPOSITORY / "README.md")
    served, written = (words for words in lines if words[0] == "scripts/demo.py")
    assert served == written[: len(served)]  # tests/demo serves one
    run(written, monkeypatch)
    (pushed,) = (words for words in lines if "--space" in words and words[0] == "scripts/push_to_hub.py")
    capfd.readouterr()
    run([*pushed, "--dry_run"], monkeypatch)
    assert re.search(r"^ .* app\.py$", capfd.readouterr().out, flags=re.MULTILINE)
