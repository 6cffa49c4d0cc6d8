"""Every code block of the guides runs as it stands, and every link of a page leads somewhere."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from conftest import REPOSITORY, blocks, commands, iemocap_files, read_table, silent_wav, write_files

from whisper_emotion import cli
from whisper_emotion.cli import parse_arguments
from whisper_emotion.corpora import load_corpus
from whisper_emotion.corpora.record import Corpus
from whisper_emotion.corpora.records import CORPORA
from whisper_emotion.corpora.splits import read_emobox

CARDS = REPOSITORY / "model_cards"
GUIDES = CARDS / "guides"
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "tests" / "README.md",
    *sorted(CARDS.rglob("*.md")),
    *sorted((REPOSITORY / "modeling").rglob("heads/*/README.md")),
]
PAGES.remove(CARDS / "template.md")  # a form that is filled in


def prose(page):
    """Return a page's text without its code blocks and tables."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return "\n".join(line for line in text.splitlines() if not line.startswith("|"))


def anchors(page):
    """Return the anchors that GitHub gives a page's headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_page_links_resolve(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors(linked), f"{target}: no such heading"


@pytest.mark.parametrize("guide", sorted(GUIDES.glob("*.md")), ids=lambda guide: guide.stem)
def test_guide_has_at_most_900_words(guide):
    assert len(prose(guide).split()) <= 900


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_page_figures_lie_in_their_intervals(page):
    text = page.read_text(encoding="utf-8").replace("\n", " ")
    for figure in re.findall(r"([+-]?\d+\.\d+) ?%? \(([+-]?\d+\.\d+) to ([+-]?\d+\.\d+)\)", text):
        value, low, high = map(float, figure)
        assert low <= value <= high, figure


def test_guide_blocks_are_of_a_kind_that_is_tested():
    for guide in GUIDES.glob("*.md"):
        opened = re.findall(r"^```(\w*)$", guide.read_text(encoding="utf-8"), flags=re.MULTILINE)[::2]
        assert set(opened) <= {"bash", "python", "yaml", "text"}, guide


def run_python(block, path):
    """Run a Python block of a page."""
    exec(compile(block, str(path), "exec"), {"__name__": "__main__"})


def run(words, monkeypatch):
    """Run a script in this process. It must end with status 0."""
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(words[0], run_name="__main__")
    assert not exit_.value.code, words


class Parsed(BaseException):
    """A script has taken its options."""


def shell_commands(page):
    """Return the arguments of all commands of a page's bash blocks, as bash expands them."""
    stubs = "".join(
        f"{name}() {{ printf '%s\\0' {name} \"$@\" $'\\n'; }}\n"
        for name in ("python", "torchrun", "whisper-emotion", "pip", "make")
    )
    lines = []
    for block in blocks(page, "bash"):
        done = subprocess.run(["bash", "-euc", stubs + block], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        lines += [line.strip("\0").split("\0") for line in done.stdout.split("\n\0")]
    return [words for words in lines if words != [""]]


CODE_PAGES = [page for page in [*sorted(GUIDES.glob("*.md")), CARDS / "runs" / "README.md"] if blocks(page, "bash")]


@pytest.mark.parametrize("page", CODE_PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_page_commands_have_options_that_scripts_take(page, tmp_path, monkeypatch):
    def parse_only(*kinds):
        parse_arguments(*kinds)
        raise Parsed

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "parse_arguments", parse_only)
    Path("scripts").symlink_to(REPOSITORY / "scripts")
    for recipe in blocks(page, "yaml"):
        Path("my.yaml").write_text(recipe)
    for program, *words in shell_commands(page):
        if program == "whisper-emotion":
            words[0] = f"scripts/{words[0].replace('-', '_')}.py"
        if program == "torchrun":
            words = words[words.index("scripts/sweep.py") :]
        if words[0].startswith("scripts/"):
            monkeypatch.setattr("sys.argv", words)
            with pytest.raises(Parsed):
                runpy.run_path(words[0], run_name="__main__")


@pytest.fixture
def place(model_dir, synthetic_dir, tmp_path, monkeypatch):
    """A folder with a trained model, generated speech and a recording of 40 s."""
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "interview.flac", rng.normal(0, 0.1, 40 * 16_000).clip(-1, 1), 16_000)
    for name, target in {
        "scripts": REPOSITORY / "scripts", "tests": REPOSITORY / "tests", "data/synthetic": synthetic_dir,
        "runs/mine": model_dir,
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def own_place(tmp_path, monkeypatch):
    """A folder with `my_clips`, five speakers of two classes, and a small encoder under Whisper base's name."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

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
    shape = {"d_model": 64, "encoder_layers": 6, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    torch.manual_seed(0)
    WhisperModel(WhisperConfig(**shape, decoder_layers=0)).save_pretrained(tmp_path / "openai" / "whisper-base")
    WhisperFeatureExtractor().save_pretrained(tmp_path / "openai" / "whisper-base")
    (tmp_path / "scripts").symlink_to(REPOSITORY / "scripts")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_deploying_guide_writes_a_space(place, monkeypatch, capfd):
    pytest.importorskip("gradio", reason="the demo page needs Gradio: pip install 'whisper-emotion[demo]'")
    lines = commands(GUIDES / "deploying.md")
    served, written = (words for words in lines if words[0] == "scripts/demo.py")
    assert served == written[: len(served)]  # tests/demo serves one
    run(written, monkeypatch)
    (pushed,) = (words for words in lines if "--space" in words and words[0] == "scripts/push_to_hub.py")
    capfd.readouterr()
    run([*pushed, "--dry_run"], monkeypatch)
    assert re.search(r"^ .* app\.py$", capfd.readouterr().out, flags=re.MULTILINE)


def test_long_recordings_guide_labels_windows(place, monkeypatch, capfd):
    page = GUIDES / "long_recordings.md"
    first, second, _, train, draw = commands(page)
    run(first, monkeypatch)
    assert capfd.readouterr().out.splitlines()[-1].split()[1] == "40.00"
    run(second, monkeypatch)
    assert len(Path("windows.csv").read_text().splitlines()) == 1 + 36
    assert {"segments.json", "interview_timeline.png", "interview_explanation.png"} <= set(os.listdir())

    python, join = blocks(page, "python")
    capfd.readouterr()
    run_python(python, page)
    assert capfd.readouterr().out.splitlines()[-1].split()[1] == "40.00"

    names = re.findall(r"03[ab]\d\d[A-Z][a-f]", join)
    write_files(place, {f"EMODB/wav/{name}.wav": silent_wav(0.5) for name in names})
    run_python(join, page)
    assert soundfile.info("eight_clips.wav").duration == 8 and train[-1] == draw[2]
    run([*draw[:2], "runs/mine", *draw[3:]], monkeypatch)  # the training is that of the guide on your own corpus
    assert Path("eight_clips_timeline.png").exists()


@pytest.mark.slow
def test_long_recordings_guide_measures_time_and_memory(place):
    """Less of it: the whole takes minutes. The size of the model and the comparison are the page's."""
    measure = commands(GUIDES / "long_recordings.md")[2]
    hours = measure.index("--hours") + 1
    words = [sys.executable, *measure[:hours], "0.01", *measure[hours + 1 :]]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0.01 h, 17 windows" in done.stdout


@pytest.mark.slow
def test_deploying_guide_gives_the_same_probabilities_each_way(place, monkeypatch, capfd):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("whisper_emotion.export.CHECKED_CLIPS", 5)
    page = GUIDES / "deploying.md"
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


def test_own_corpus_guide_trains_and_tests(own_place, monkeypatch, capfd):
    page = GUIDES / "own_corpus.md"
    Path("my.yaml").write_text(*blocks(page, "yaml"))
    run_python(*blocks(page, "python"), page)
    assert "\nanna         3     3\n" in capfd.readouterr().out
    folds, table, compared, train, predict = commands(page)
    rows = [f"{path},{path.parent.name},{path.name.split('_')[0]}" for path in sorted(Path("my_clips").rglob("*.wav"))]
    splits = ["test" if "anna" in row else "train" for row in rows]
    named = [f"{row},{split}" for row, split in zip(rows, splits, strict=True)]
    Path("talks.csv").write_text("\n".join(["file,label,speaker,split", *named]))
    short = ["--disable_tqdm", "true"]
    run([*table, *short, "--output_dir", "runs/talks"], monkeypatch)
    assert json.loads(Path("runs/talks/scores.json").read_text())["folds"] == "split"
    run([*folds, *short, "--seeds", "0"], monkeypatch)
    run([*compared, *short, "--seeds", "0"], monkeypatch)
    scores = json.loads(Path("runs/my_layer3/scores.json").read_text())
    assert scores["less"].keys() == {"my_folds"} and scores["speakers_shared"] == [0] * 5
    run([*train, *short], monkeypatch)
    assert "No test was held out" in " ".join(Path("runs/mine/README.md").read_text().split())
    run(predict, monkeypatch)
    assert len(Path("labels.csv").read_text().splitlines()) == 1 + 15


@pytest.mark.slow
def test_python_guide_trains_with_either_trainer(own_place, monkeypatch, capfd):
    page = GUIDES / "python.md"
    shapes, loop, stock, adapt = blocks(page, "python")
    train = [
        "scripts/train.py",
        "--config",
        "scripts/recipes/best.yaml",
        "--corpus",
        "folder",
        "--corpus_dir",
        "my_clips",
    ]
    train += ["--speaker_pattern", "^([a-z]+)_", "--disable_tqdm", "true", "--output_dir", "runs/mine"]
    run(train, monkeypatch)
    for block, printed in (
        (shapes, "torch.Size([1, 4]) torch.Size([1, 6, 200])"), (loop, "eval_unweighted_accuracy"),
        (stock, "eval_loss"), (adapt, "angry"),
    ):  # fmt: skip
        capfd.readouterr()
        run_python(block, page)
        assert printed in capfd.readouterr().out
    options = re.search(r"`(--freeze_encoder false[^`]*)` after the recipe", page.read_text()).group(1)
    run(
        [*train, *options.split(), "--num_train_epochs", "1", "--folds", "speakers:5", "--test_fold", "1"], monkeypatch
    )
    assert {"model.safetensors", "scores.json"} <= set(os.listdir("runs/mine"))


def test_corpora_guide_describes_a_corpus_by_a_record(tmp_path, monkeypatch):
    (record,) = (block for block in blocks(GUIDES / "corpora.md", "text") if "Corpus(" in block)
    monkeypatch.setitem(CORPORA, "tones", eval(f"{{{record}}}", {"Corpus": Corpus})["tones"])
    files = {f"s{speaker:02}-{code}-3.wav": silent_wav() for speaker in (1, 2) for code in "AHN"}
    corpus = load_corpus("tones", write_files(tmp_path / "tones", files))
    assert set(corpus["speaker"]) == {"s01", "s02"}
    assert corpus.features["label"].names == ["angry", "happy", "neutral"]


@pytest.mark.slow
def test_reproducing_guide_runs_every_sweep(shared_dir, tiny_encoder, tmp_path, monkeypatch):
    """Some utterances of the corpora under their real names and labels, a moment of silence each."""
    monkeypatch.chdir(tmp_path)
    shemo, iemocap = (read_table(shared_dir / "labels" / f"{corpus}.csv")[::20] for corpus in ("shemo", "iemocap"))
    wav = silent_wav()
    write_files(tmp_path / "ShEMO", {f"{row['name']}.wav": wav for row in shemo})
    write_files(tmp_path / "IEMOCAP_full_release", iemocap_files(iemocap, wav))
    write_files(tmp_path / "EMODB", {f"{row['name']}.wav": wav for row in read_emobox("emodb")[::5]})
    write_files(tmp_path / "RAVDESS", {f"{row['name']}.wav": wav for row in read_emobox("ravdess")})
    (tmp_path / "scripts").symlink_to(REPOSITORY / "scripts")
    page = GUIDES / "reproducing.md"
    short = [
        "--encoder", str(tiny_encoder), "--layers", "1", "--poolings", "qkv", "--seeds", "0",
        "--num_train_epochs", "1", "--encoder_context", "utterance", "--context_margin", "0.1", "--store_dir", "store",
    ]  # fmt: skip
    for words in commands(page):
        if words[0] == "scripts/sweep.py":
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
