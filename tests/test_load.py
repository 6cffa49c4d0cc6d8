"""A short version of `load.py`: clients of one classifier, and clips one behind another, are answered as alone."""

import re
from pathlib import Path

import pytest
from conftest import run_python

pytest.importorskip("gradio", reason="load.py needs Gradio: pip install 'whisper-emotion[demo]'")
SCRIPT = Path(__file__).with_name("load.py")


@pytest.mark.slow
def test_clients_of_a_stream_and_many_clips_are_answered_as_alone():
    options = ["--parts", "stream,clips", "--clients", "4", "--minutes", "0.05", "--clips", "300"]
    done = run_python(SCRIPT, *options)
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert set(said) == {"stream", "clips"}, done.stdout + done.stderr
    # Memory is no matter within seconds, so that the status is none
    assert re.match(r"4 clients, \d+ answers, [1-9]\d* to ", said["stream"]) and " 0 failures" in said["stream"], said
    assert said["clips"].startswith("300 of 300")
    for line in said.values():
        assert float(re.search(r"difference at most ([\d.e+-]+)", line)[1]) < 1e-5, line
