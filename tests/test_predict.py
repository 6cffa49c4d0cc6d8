"""`predict.py` as people run it: what it writes, what it prints, and its exit codes."""

import csv
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import full_disk, run_script, save_model
from matplotlib.image import imread

from whisper_emotion.inference import EmotionClassifier

REPOSITORY = Path(__file__).resolve().parents[1]
ODD = 'two\nlines, "quoted".wav'


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    """A folder with a clip of every format, one with an odd name, and a recording of 35 s with a pause of 10 s."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "recordings"
    (folder / "inner").mkdir(parents=True)

    def noise(seconds, rate):
        return rng.normal(0, 0.1, round(seconds * rate)).clip(-1, 1)

    soundfile.write(folder / "a.wav", noise(1.5, 44_100), 44_100)
    soundfile.write(folder / ODD, noise(1, 16_000), 16_000)
    soundfile.write(folder / "inner" / "b.flac", noise(2, 8_000), 8_000)
    soundfile.write(folder / "inner" / "c.mp3", noise(3, 48_000), 48_000)
    soundfile.write(folder / "inner" / "d.ogg", noise(0.5, 22_050), 22_050)
    samples = noise(35, 16_000)
    samples[160_000:320_000] = 0
    soundfile.write(tmp_path / "long.flac", samples, 16_000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def predict(model_dir, recordings, monkeypatch, capfd):
    """Runs the script in this process, which is faster; returns its status, what it printed, and its complaints."""

    def run(*options):
        script = str(REPOSITORY / "scripts" / "predict.py")
        monkeypatch.setattr("sys.argv", [script, "--model", str(model_dir), *map(str, options)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(script, run_name="__main__")
        printed = capfd.readouterr()
        return exit_.value.code, printed.out.splitlines(), printed.err.splitlines()

    return run


def test_a_folder_in_a_process_of_its_own(model_dir, recordings):
    done = run_script("predict.py", "--model", model_dir, "recordings", "--output", "labels.csv", cwd=recordings)
    assert (done.returncode, done.stdout) == (0, "labels.csv: 5 rows\n"), done.stderr
    with open("labels.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    files = ["a.wav", "inner/b.flac", "inner/c.mp3", "inner/d.ogg", ODD]
    assert [row["file"] for row in rows] == [f"recordings/{name}" for name in files]
    classifier = EmotionClassifier(model_dir)
    for row, expected in zip(rows, classifier([row["file"] for row in rows]), strict=True):
        assert row["label"] == next(iter(expected)) and row["silence"] == "false"
        assert {name: float(row[f"p_{name}"]) for name in expected} == pytest.approx(expected, abs=1e-4)
    assert [float(row["end"]) for row in rows] == pytest.approx([1.5, 2, 3, 0.5, 1], abs=0.1)


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv"])
def test_windows_and_segments_of_a_long_recording(predict, ending):
    status, out, err = predict(
        "long.flac", "--window", 5, "--hop", "2.5", "--output", f"w.{ending}", "--segments", f"s.{ending}"
    )
    windows, segments = (read_rows(Path(f"{name}.{ending}")) for name in "ws")
    assert (status, err) == (0, [])
    assert out == [f"w.{ending}: {len(windows)} rows", f"s.{ending}: {len(segments)} rows"]
    assert [(row["start"], row["end"]) for row in windows] == [(2.5 * k, 2.5 * k + 5) for k in range(13)]
    assert [row["label"] for row in windows if row["silence"]] == [None] * 3  # of 10 to 15, 12.5 to 17.5, 15 to 20
    assert segments[0]["start"] == 0 and segments[-1]["end"] == 35
    assert [(row["start"], row["end"]) for row in segments if row["silence"]] == [(10, 20)]
    assert all(one["end"] == other["start"] for one, other in zip(segments, segments[1:], strict=False))


def read_rows(path):
    if path.suffix == ".csv":
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return [
            {"start": float(row["start"]), "end": float(row["end"]), "label": row["label"] or None,
             "silence": row["silence"] == "true"}
            for row in rows
        ]  # fmt: skip
    text = path.read_text()
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def test_without_an_output_a_table_is_printed(predict):
    status, out, _ = predict("recordings/*.wav", "long.flac")
    assert status == 0
    assert out[0].split() == ["start", "end", "label", "angry", "calm", "sad", "file"]
    assert out[1].endswith("  recordings/a.wav") and out[2].endswith('  recordings/two\\nlines, "quoted".wav')
    assert any(line.split()[2] == "(silence)" and line.endswith("long.flac") for line in out[3:])
    assert out[-1].split()[1] == "35.00"


def test_bad_files_are_named_at_the_end_and_the_rest_is_done(predict):
    Path("text.wav").write_text("no sound")
    Path("new\nline.wav").write_text("no sound")
    names = ["gone.wav", "recordings/a.wav", "text.wav", "new\nline.wav", "no*.wav", "recordings/inner/b.flac"]
    status, out, err = predict(*names, "--output", "o.json")
    assert status == 1 and out == ["o.json: 2 rows"]
    assert [row["file"] for row in json.loads(Path("o.json").read_text())] == names[1::4]
    assert sorted(line.split(": ")[1] for line in err) == ["gone.wav", "new\\nline.wav", "no*.wav", "text.wav"]
    assert all(line.startswith("predict.py: ") for line in err)


def test_where_nothing_is_labelled_there_is_no_heading(predict):
    assert predict("gone.wav")[:2] == (1, [])


def test_an_encoder_that_nobody_trained_on_is_one_line(tiny_encoder, recordings):
    """transformers would report all weights that are missing before it."""
    done = run_script("predict.py", "--model", tiny_encoder, recordings / "a.wav")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "is not a trained emotion classifier" in line


def test_options_may_stand_between_the_files_and_in_a_recipe(predict, model_dir):
    status, out, _ = predict("recordings/a.wav", "--silence_dbfs", "0", "recordings/inner/b.flac")
    assert status == 0 and [line.split()[2] for line in out[1:]] == ["(silence)"] * 2
    _, out, _ = predict("long.flac", "--silence_dbfs=-inf")
    assert "(silence)" not in "".join(out)
    Path("recipe.yaml").write_text("files: [recordings/a.wav, long.flac]\nwindow: 10\nplot: false\noutput: o.jsonl\n")
    assert predict("--config", "recipe.yaml")[:2] == (0, ["o.jsonl: 7 rows"])
    rows = read_rows(Path("o.jsonl"))
    assert [row["file"] for row in rows] == ["recordings/a.wav", *["long.flac"] * 6]
    assert predict("--config", "recipe.yaml", "recordings/a.wav")[0] == 0  # what the command names wins
    assert [row["file"] for row in read_rows(Path("o.jsonl"))] == ["recordings/a.wav"]


def test_pictures(predict):
    status, out, _ = predict(
        "--plot", "--explain", "--picture_dir", "p", "long.flac", "recordings/" + ODD, "recordings/a.wav"
    )
    assert status == 0
    stem = "two_lines_ _quoted_"
    assert {path.name for path in Path("p").iterdir()} == {
        f"{name}_{kind}.png" for name in ("long", stem, "a") for kind in ("timeline", "explanation")
    }
    for path in Path("p").iterdir():
        assert imread(path).std() > 0.05  # something is drawn
    said = ("timeline.png: emotion over time", "explanation.png: the moments that speak for ")
    lines = [line for line in out if line.startswith("p/")]
    starts = [f"p/{name}_{kind}" for name in ("long", stem, "a") for kind in said]
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True))


def test_explain_at_draws_the_window_around_a_moment(predict, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "whisper_emotion.reporting.attention.plot_explanation",
        lambda *arguments: drawn.append((arguments[2], arguments[4])),
    )
    for moment, start, end in ((0, 0, 4), (9.1, 8, 12), (1000, 32, 35)):  # windows of 4 s, one every 2 s
        assert predict("long.flac", "--explain_at", str(moment))[0] == 0
        settings, place = drawn.pop()
        assert place == start and settings.endswith(f"Window: {start:.2f} to {end:.2f} s")


def test_a_picture_that_cannot_be_written_is_one_line(predict):
    with full_disk(10_000):
        status, _, err = predict("recordings/a.wav", "--explain", "--picture_dir", "p")
    assert status == 2 and len(err) == 1
    assert err[0].startswith(
        "predict.py: error: p: cannot be written (File too large), expected a writable folder with"
    )
    assert not list(Path("p").iterdir())


def test_pictures_of_files_of_one_name_are_told_apart_by_their_folders_and_silence_has_none(predict):
    for folder in ("x", "y"):
        Path(folder).mkdir()
        soundfile.write(f"{folder}/a.wav", np.zeros(16_000), 16_000)
    soundfile.write("y/a.wav", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    status, out, _ = predict("x", "y", "recordings/a.wav", "--explain", "--output", "x/o.json")
    assert status == 0
    assert "x/a.wav: nothing to explain: the window is silent" in out
    assert {path.name for path in Path("x").glob("*.png")} == {"y_a_explanation.png", "recordings_a_explanation.png"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "FILES: none given"),
        (["long.flac", "--explain_at", "-1"], "--explain_at -1: must be 0 or more seconds"),
        (["long.flac", "--window", "0.01"], "--window 0.01: must be from 0.025 to 30 seconds"),
        (["long.flac", "--window", "2", "--hop", "3"], "--hop 3: must be"),
        (["long.flac", "--hop", "3"], "--hop 3: needs --window"),
        (["long.flac", "--silence_dbfs", "nan"], "--silence_dbfs nan: must be a number"),
        (["long.flac", "--batch_size", "0"], "--batch_size 0: must be 1 or more"),
        (["long.flac", "--output", "o.txt"], "--output o.txt: must end in .json, .jsonl or .csv"),
        (["long.flac", "--output", "no/where/o.csv"], "--output no/where/o.csv: cannot be written"),
        (["long.flac", "--output", "o.csv", "--segments", "o.csv"], "--segments o.csv: is --output, too"),
        (["long.flac", "--plot", "--picture_dir", "long.flac"], "--picture_dir long.flac: cannot be made"),
        (["long.flac", "--model", "nowhere/at/all"], "nowhere/at/all: is not a folder; expected a folder"),
        (["long.flac", "--windows", "3"], "--windows: no such option; did you mean --window?"),
        (["long.flac", "--encoder_dtype", "int8"], "--encoder_dtype"),
        (["long.flac", "--device", "tpu"], "--device tpu: does not exist: it must be auto or one of cpu"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(predict, options, said):
    status, _, err = predict(*options)
    assert status == 2
    assert said in err[-1] and len(err) == 1, err


def test_an_interrupted_run_keeps_what_was_labelled(predict, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("whisper_emotion.windows.join_moments", interrupt)
    status, _, err = predict("recordings/a.wav", "--output", "o.json")
    assert status == 130 and not Path("o.json").exists() and not Path("o.json.part").exists()
    kept = "files that end in .jsonl or .csv hold the results so far; the same command labels all files again"
    assert f"predict.py: interrupted; {kept}" in err


def test_who_closes_the_pipe_early_sees_no_traceback_and_that_windows_were_used(model_dir, recordings):
    script = REPOSITORY / "scripts" / "predict.py"
    Path("many").mkdir()
    for number in range(200):  # so that there is more to write, however late the pipe is closed
        shutil.copy("recordings/a.wav", f"many/{number}.wav")
    command = [sys.executable, str(script), "--model", str(model_dir), "recordings/a.wav", "long.flac", "many"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.stdout.close()
        (line,) = process.stderr.read().splitlines()[-1:]
    assert line == "long.flac lasts 35.0 s: files of more than 30 s are labelled in windows of 4 s, one every 2 s"
    assert process.returncode == 141


def test_recordings_of_the_speaker_adapt_the_model(predict, recordings, tiny_encoder, monkeypatch):
    folder = save_model(tiny_encoder, recordings / "model", encoder_context="utterance")
    model = EmotionClassifier(folder).model
    torch.nn.init.ones_(model.head.adaptation.population_mean)
    model.save_pretrained(folder)
    options = ("--model", folder, "recordings/a.wav", "--output", "labels.json")
    assert predict(*options)[0] == 0
    alone = json.loads(Path("labels.json").read_text())[0]["probabilities"]
    assert predict(*options, "--adapt", "recordings/inner/*")[0] == 0
    adapted = json.loads(Path("labels.json").read_text())[0]["probabilities"]
    classifier = EmotionClassifier(folder)
    classifier.adapt([f"recordings/inner/{name}" for name in ("b.flac", "c.mp3", "d.ogg")])
    assert adapted == pytest.approx(classifier("recordings/a.wav")[0], abs=1e-4) != pytest.approx(alone, abs=1e-3)

    files = [f"recordings/{name}" for name in ("a.wav", "inner/b.flac", "inner/c.mp3", "inner/d.ogg")]
    status, _, said = predict(*options, "recordings/inner", "--adapt", "self")
    assert status == 0 and "adapted to 4 of these recordings" in said
    assert classifier.adapt(iter(files)) == 4
    own = {row["file"]: row["probabilities"] for row in json.loads(Path("labels.json").read_text())}
    assert own["recordings/a.wav"] == pytest.approx(classifier(files[0])[0], abs=1e-4)
    status, _, said = predict("--model", folder, "long.flac", "--adapt", "self")
    assert status == 0 and "adapted to 13 windows of 1 recordings" in said

    status, _, (line,) = predict(*options, "--adapt", "absent/*")
    assert status == 2 and "absent/*: matches no file" in line
    status, _, (line,) = predict("recordings/a.wav", "--adapt", "recordings/inner")
    assert status == 2 and "has no mean of its training speakers" in line
