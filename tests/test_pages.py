"""Every code block of the pages that people copy from runs as it stands."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from conftest import REPOSITORY, blocks, commands, iemocap_files, read_table, silent_wav, write_files

from whisper_emotion import console
from whisper_emotion.corpora.splits import read_emobox

PAGES = REPOSITORY / "model_cards"


def run_python(block, path):
    """Run a Python block of a page."""
    exec(compile(block, str(path), "exec"), {"__name__": "__main__"})


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


def test_every_block_of_a_page_is_of_a_kind_that_is_run():
    for page in (*PAGES.glob("*.md"), REPOSITORY / "README.md"):
        if page.name != "template.md":  # whose one block a test of the pipeline has
            opened = re.findall(r"^```(\w*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[::2]
            assert set(opened) <= {"bash", "python", "yaml", "text", "bibtex"}, page


def test_the_page_on_long_recordings(place, monkeypatch, capfd):
    page = PAGES / "long_recordings.md"
    first, second, measure = commands(page)
    run(first, monkeypatch)
    assert capfd.readouterr().out.splitlines()[-1].split()[1] == "40.00"
    run(second, monkeypatch)
    assert len(Path("windows.csv").read_text().splitlines()) == 1 + 36
    assert {"segments.json", "interview_timeline.png", "interview_attention.png"} <= set(os.listdir())

    (python,) = blocks(page, "python")
    capfd.readouterr()
    run_python(python, page)
    assert capfd.readouterr().out.splitlines()[-1].split()[1] == "40.00"

    # Less of it: the whole takes minutes. The size of the model and what is compared are the page's.
    hours = measure.index("--hours") + 1
    done = subprocess.run(
        [sys.executable, *measure[:hours], "0.02", *measure[hours + 1 :]], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0.02 h, 35 windows" in done.stdout


def test_the_page_on_deploying(place, monkeypatch, capfd):
    pytest.importorskip("onnxruntime")
    page = PAGES / "deploying.md"
    for words in commands(page):
        if words[0] == "scripts/export_onnx.py":  # what is pushed, a test of the Hub runs
            run(words, monkeypatch)
    assert {"mine.onnx", "mine_int8.onnx"} <= set(os.listdir())
    capfd.readouterr()
    printed = []
    for block in blocks(page, "python"):
        run_python(block, page)
        printed.append(capfd.readouterr().out)
    alone, windows, graph = printed
    by_pipeline = {one["label"]: one["score"] for one in eval(alone)}
    assert eval(graph) == pytest.approx(by_pipeline, abs=1e-4)
    assert windows.splitlines()[-1].startswith("36.0 s ")


@pytest.fixture
def own_place(tmp_path, monkeypatch):
    """A place with an encoder and a small corpus that lie where the page on training says they do."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    from whisper_emotion.corpora import load_corpus

    corpus = load_corpus("synthetic", tmp_path / "synthetic", speakers=5, utterances=3)
    speakers = sorted(set(corpus["speaker"]))
    labels = corpus.features["label"].names
    for row in corpus:
        number = 2 * int(row["audio"]["path"][-6:-4])
        label, number = {"angry": ("angry", number - 1), "neutral": ("calm", number)}.get(
            labels[row["label"]], (None, 0)
        )
        if label:
            name = ("anna", "ben", "chloe", "dan", "eve")[speakers.index(row["speaker"])]
            write_files(
                tmp_path, {f"my_clips/{label}/{name}_{number:02}.wav": Path(row["audio"]["path"]).read_bytes()}
            )
    shape = {"d_model": 192, "encoder_layers": 6, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    torch.manual_seed(0)
    WhisperModel(WhisperConfig(**shape, decoder_layers=0)).save_pretrained(tmp_path / "openai" / "whisper-base")
    WhisperFeatureExtractor().save_pretrained(tmp_path / "openai" / "whisper-base")
    (tmp_path / "scripts").symlink_to(REPOSITORY / "scripts")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_on_training_on_your_own_corpus(own_place, monkeypatch, capfd):
    page = PAGES / "own_corpus.md"
    Path("my.yaml").write_text(*blocks(page, "yaml"))
    look, adapt, loop, shapes = blocks(page, "python")
    run_python(look, page)
    assert "\nanna         3     3\n" in capfd.readouterr().out
    table, folds, compared, train, predict = commands(page)
    rows = [f"{path},{path.parent.name},{path.name.split('_')[0]}" for path in sorted(Path("my_clips").rglob("*.wav"))]
    splits = ["test" if "anna" in row else "train" for row in rows]
    named = [f"{row},{split}" for row, split in zip(rows, splits, strict=True)]
    Path("talks.csv").write_text("\n".join(["file,label,speaker,split", *named]))
    short = ["--num_train_epochs", "1", "--disable_tqdm", "true"]  # the last of an option counts
    run([*table, *short, "--output_dir", "runs/talks"], monkeypatch)
    assert json.loads(Path("runs/talks/scores.json").read_text())["folds"] == "split"
    run([*folds, *short, "--seeds", "0"], monkeypatch)
    run([*compared, *short, "--seeds", "0"], monkeypatch)
    scores = json.loads(Path("runs/my_256/scores.json").read_text())
    assert scores["less"].keys() == {"my_folds"} and scores["speakers_shared"] == [0] * 5
    run([*train, *short], monkeypatch)
    assert "No test was held out" in " ".join(Path("runs/mine/README.md").read_text().split())
    run(predict, monkeypatch)
    assert len(Path("labels.csv").read_text().splitlines()) == 1 + 15
    # What the page's last sentence says, and the same in Python
    capfd.readouterr()
    run_python(adapt, page)
    assert "angry" in capfd.readouterr().out
    run_python(loop, page)
    assert "eval_unweighted_accuracy" in capfd.readouterr().out
    run_python(shapes, page)
    assert "torch.Size([1, 4]) torch.Size([1, 6, 200])" in capfd.readouterr().out
    options = re.search(r"`(--freeze_encoder false[^`]*)` after the recipe", page.read_text()).group(1)
    run([*train, *options.split(), *short, "--test_fold", "1"], monkeypatch)
    assert {"model.safetensors", "scores.json"} <= set(os.listdir("runs/mine"))


def test_the_page_on_reproducing_the_paper(shared_dir, tiny_encoder, tmp_path, monkeypatch):
    """Some utterances of the corpora under their real names and labels, a moment of silence each."""
    monkeypatch.chdir(tmp_path)
    shemo, iemocap = (read_table(shared_dir / "labels" / f"{corpus}.csv")[::20] for corpus in ("shemo", "iemocap"))
    wav = silent_wav()
    write_files(tmp_path / "ShEMO", {f"{row['name']}.wav": wav for row in shemo})
    write_files(tmp_path / "IEMOCAP_full_release", iemocap_files(iemocap, wav))
    write_files(tmp_path / "EMODB", {f"{row['name']}.wav": wav for row in read_emobox("emodb")[::5]})
    write_files(tmp_path / "RAVDESS", {f"{row['name']}.wav": wav for row in read_emobox("ravdess")})
    (tmp_path / "scripts").symlink_to(REPOSITORY / "scripts")
    page = PAGES / "reproducing.md"
    short = [
        "--encoder", str(tiny_encoder), "--layers", "1", "--poolings", "qkv", "--seeds", "0",
        "--num_train_epochs", "1", "--encoder_context", "utterance", "--context_margin", "0.1", "--store_dir", "store",
    ]  # fmt: skip
    for words in commands(page):
        run([*words, *short], monkeypatch)
    for name, folds in {"shemo": 10, "iemocap": 5, "emodb": 10, "ravdess": 6}.items():
        folder = tmp_path / "runs" / f"{name}_table1"
        assert pd.read_csv(folder / "results.csv")["fold"].nunique() == folds
        optimistic = "epoch chosen on the test fold: optimistic" in (folder / "table.md").read_text()
        assert optimistic == (name in ("shemo", "iemocap"))
    for name, compared in {
        "shemo_dev": "shemo_table1",
        "unmasked": "emodb_table1",
        "released": "emodb_table1",
    }.items():
        assert compared in (tmp_path / "runs" / name / "table.md").read_text()


def test_the_front_page_labels(place, monkeypatch, capfd):
    page = REPOSITORY / "README.md"
    done = []
    for words in commands(page):
        if words[0] in ("scripts/predict.py", "scripts/export_onnx.py") and "runs/demo" in words:
            run(words, monkeypatch)
            done.append(words[0])
    assert done == ["scripts/predict.py", "scripts/predict.py", "scripts/export_onnx.py"]
    assert len(Path("labels.csv").read_text().splitlines()) == 1 + 48
    assert {"S01F_angry_01_timeline.png", "S01F_angry_01_attention.png"} <= set(os.listdir())
    assert Path("runs/demo.onnx").exists()

    capfd.readouterr()
    for block in blocks(page, "python"):
        run_python(block, page)
    alone, together = capfd.readouterr().out.splitlines()
    by_pipeline = {one["label"]: one["score"] for one in eval(alone)}
    assert eval(together)[0] == pytest.approx(by_pipeline, abs=1e-4)


def test_the_front_page_labels_with_the_general_model(shared_dir, tmp_path, monkeypatch, capsys):
    lines = [line for block in blocks(REPOSITORY / "README.md", "bash") for line in block.splitlines()]
    one, many, measured = (shlex.split(line, comments=True) for line in lines if line.startswith("whisper-emotion "))
    monkeypatch.chdir(tmp_path)
    Path("my_clips").mkdir()
    for number, name in enumerate(("03a01Wa", "03a01Fa", "03a02Ta")):
        samples, rate = soundfile.read(shared_dir / "corpora" / "emodb" / "wav" / f"{name}.flac")
        soundfile.write("speech.mp3" if number == 0 else f"my_clips/{name}.wav", samples, rate)
    Path("clips.csv").write_text("file,label\nmy_clips/03a01Fa.wav,happy\nmy_clips/03a02Ta.wav,sad\n")
    for words, files in (
        (one, ["speech.mp3"]), (many, ["my_clips/03a01Fa.wav", "my_clips/03a02Ta.wav"]), (measured, None),
    ):  # fmt: skip
        monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # which a command replaces
        monkeypatch.setattr("sys.argv", [*words, "--encoder", str(shared_dir / "encoders" / "whisper-base-encoder")])
        with pytest.raises(SystemExit) as exit_:
            console.main()
        assert not exit_.value.code
        if files is None:
            scores = json.loads(Path("runs/check/scores.json").read_text())
            assert (scores["model"], scores["adaptation"], scores["in_training"]) == ("general", "domain", [])
            continue
        labelled = {row[-1]: row[2].rstrip("?") for row in map(str.split, capsys.readouterr().out.splitlines()[1:])}
        assert sorted(labelled) == files
        assert labelled.get("speech.mp3", "angry") == "angry" and labelled.get("my_clips/03a02Ta.wav", "sad") == "sad"


def test_the_front_page_trains(own_place, monkeypatch):
    """Real names, folds and labels, a moment of noise each, and one epoch; the Hub's tests push."""
    rng = np.random.default_rng(0)
    for folder, names in {"EMODB": read_emobox("emodb"), "RAVDESS": read_emobox("ravdess")}.items():
        (own_place / folder).mkdir()
        for row in names:
            soundfile.write(own_place / folder / f"{row['name']}.wav", rng.normal(0, 0.1, 800).clip(-1, 1), 16_000)
    splits = {"03": "dev", "15": "test", "16": "test"}
    rows = [(row["name"], row["label"]) for row in read_emobox("emodb")]
    table = [f"EMODB/{name}.wav,{label},{name[:2]},{splits.get(name[:2], 'train')}" for name, label in rows]
    Path("clips.csv").write_text("\n".join(["file,label,speaker,split", *table]))
    for name in ("speech.mp3", "new.wav"):
        soundfile.write(own_place / name, rng.normal(0, 0.1, 16_000).clip(-1, 1), 16_000)
    short = ["--num_train_epochs", "1", "--encoder_context", "utterance", "--context_margin", "0.1"]
    short += ["--classifier_proj_size", "64", "--store_dir", "store", "--disable_tqdm", "true"]
    done = []
    for words in commands(REPOSITORY / "README.md"):
        if words[0] in ("scripts/cross_validate.py", "scripts/train.py"):
            own = ["--seeds", "0"] * words[0].endswith("validate.py")
            run([*words, *short, *own], monkeypatch)
            done.append(words[0])
        if words[0] in ("scripts/predict.py", "scripts/evaluate.py") and "runs/demo" not in words:
            run(words, monkeypatch)
            done.append(words[0])
    names = ("cross_validate", "train", "predict", "evaluate")
    assert [done.count(f"scripts/{name}.py") for name in names] == [6, 3, 2, 1]
    scores = {path.parent.name: json.loads(path.read_text()) for path in Path("runs").glob("*/scores.json")}
    assert scores["ravdess"]["folds"] == "emobox" and scores["emodb1"]["test_fold"] == 1


def test_the_demo_page_and_its_space(place, monkeypatch, capfd):
    pytest.importorskip("gradio", reason="the demo page needs Gradio: pip install 'whisper-emotion[demo]'")
    lines = commands(PAGES / "deploying.md")
    served, written = (words for words in lines if words[0] == "scripts/demo.py")
    assert served == written[: len(served)]  # tests/demo serves one
    front = [words for words in commands(REPOSITORY / "README.md") if words[0] == "scripts/demo.py"]
    assert front == [[*served[:2], "runs/demo"]]
    run(written, monkeypatch)
    (pushed,) = (words for words in lines if "--space" in words and words[0] == "scripts/push_to_hub.py")
    capfd.readouterr()
    run([*pushed, "--dry_run"], monkeypatch)
    assert re.search(r"^ .* app\.py$", capfd.readouterr().out, flags=re.MULTILINE)
