"""Every code block of the pages that people copy from runs as it stands."""

import json
import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import REPOSITORY, blocks, commands, write_files

from whisper_emotion import console
from whisper_emotion.corpora.splits import read_emobox


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


def test_every_block_of_the_front_page_is_of_a_kind_that_is_run():
    page = REPOSITORY / "README.md"
    opened = re.findall(r"^```(\w*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[::2]
    assert set(opened) <= {"bash", "python", "yaml", "text", "bibtex"}


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


def test_the_front_page_serves_the_demo():
    (served,) = (words for words in commands(REPOSITORY / "README.md") if words[0] == "scripts/demo.py")
    assert served == ["scripts/demo.py", "--model", "runs/demo"]  # tests/demo serves one
