"""Each block of the README runs as it stands and prints what the README says."""

import json
import re
import shlex
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import REPOSITORY, blocks, silent_wav, write_files

import whisper_emotion
from whisper_emotion import console
from whisper_emotion.corpora.splits import read_emobox

PAGE = REPOSITORY / "README.md"
PYTHON_OUTPUT, PREDICT_OUTPUT, TRAINING_OUTPUT = blocks(PAGE, "text")[:3]


def prose(text):
    """Return a page's text without its code blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def commands():
    """Return the `whisper-emotion` commands of the page, as lists of arguments."""
    lines = [shlex.split(line, comments=True) for block in blocks(PAGE, "bash") for line in block.splitlines()]
    return [words for words in lines if words and words[0] == "whisper-emotion"]


def run(words, monkeypatch, *options):
    """Run a command in this process. It must end with status 0."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # which a command replaces
    monkeypatch.setattr("sys.argv", [*words, *map(str, options)])
    with pytest.raises(SystemExit) as exit_:
        console.main()
    assert not exit_.value.code, words


@pytest.fixture
def real_encoder(shared_dir):
    """Whisper base, as the Hub has it."""
    return shared_dir / "encoders" / "whisper-base-encoder"


@pytest.fixture
def real_corpus(shared_dir, tmp_path, monkeypatch):
    """EMO-DB in the current folder, in its owners' format."""
    monkeypatch.chdir(tmp_path)
    Path("EMODB/wav").mkdir(parents=True)

    def convert(pattern):
        for path in (shared_dir / "corpora" / "emodb" / "wav").glob(f"{pattern}.flac"):
            soundfile.write(f"EMODB/wav/{path.stem}.wav", *soundfile.read(path, dtype="int16"))

    return convert


def same_table(printed, expected):
    """Whether the first rows of a printed table are those expected, with probabilities within 0.01."""
    for found, row in zip(printed, expected, strict=False):
        for one, other in zip(found.split(), row.split(), strict=True):
            number = re.fullmatch(r"[0-9.]+", other)
            assert float(one) == pytest.approx(float(other), abs=0.01) if number else one == other
    assert len(printed) >= len(expected)


def test_readme_has_at_most_700_words_and_known_blocks():
    text = PAGE.read_text(encoding="utf-8")
    assert len(prose(text).split()) <= 700
    assert set(re.findall(r"^```(\w*)$", text, flags=re.MULTILINE)[::2]) == {"bash", "python", "text", "bibtex"}


def test_readme_python_prints_its_output(real_corpus, real_encoder, monkeypatch, capsys):
    real_corpus("03a0[12][WT]a")
    classifier = partial(whisper_emotion.EmotionClassifier, encoder=real_encoder)
    monkeypatch.setattr(whisper_emotion, "EmotionClassifier", classifier)
    (block,) = blocks(PAGE, "python")
    exec(compile(block, str(PAGE), "exec"), {"__name__": "__main__"})
    same_table(capsys.readouterr().out.splitlines(), PYTHON_OUTPUT.splitlines())


@pytest.mark.slow
def test_readme_predict_prints_its_output(real_corpus, real_encoder, monkeypatch, capsys):
    real_corpus("03*")
    predict = commands()[0]
    assert predict[1] == "predict"
    run(predict, monkeypatch, "--encoder", real_encoder)
    same_table(capsys.readouterr().out.splitlines(), PREDICT_OUTPUT.splitlines()[:-1])  # the last line is …


def test_readme_evaluates_labelled_clips(real_corpus, real_encoder, monkeypatch):
    real_corpus("03a0[12]*")
    moods = {"W": "angry", "T": "sad", "F": "happy", "N": "neutral"}
    rows = [f"{path},{moods[path.stem[5]]}" for path in sorted(Path("EMODB/wav").glob("*.wav"))]
    Path("clips.csv").write_text("\n".join(["file,label", *rows]))
    (evaluate,) = (words for words in commands() if words[1] == "evaluate")
    run(evaluate, monkeypatch, "--encoder", real_encoder)
    scores = json.loads(Path("runs/check/scores.json").read_text())
    assert (scores["model"], scores["adaptation"], scores["in_training"]) == ("general", "domain", [])


def test_readme_trains_on_emodb(tiny_encoder, tmp_path, monkeypatch, capsys):
    """Published names and labels, silent audio, and an encoder of random weights."""
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path, {f"EMODB/wav/{row['name']}.wav": silent_wav() for row in read_emobox("emodb")})
    cross_validate, train = (words for words in commands() if words[1] in ("cross-validate", "train"))
    small = ("--encoder", tiny_encoder, "--concatenated_layers", "1,2", "--encoder_context", "utterance")
    run(cross_validate, monkeypatch, *small, "--store_dir", "store")
    assert capsys.readouterr().out.splitlines()[0] == TRAINING_OUTPUT.splitlines()[0]
    run(train, monkeypatch, *small, "--store_dir", "store")
    assert Path("runs/emodb/model.safetensors").exists()


@pytest.mark.slow
def test_readme_training_prints_its_figures(real_corpus, real_encoder, monkeypatch, capsys):
    real_corpus("*")
    (cross_validate,) = (words for words in commands() if words[1] == "cross-validate")
    run(cross_validate, monkeypatch, "--encoder", real_encoder, "--store_dir", "store")
    printed = capsys.readouterr().out.replace("whisper-base-encoder", "openai/whisper-base").splitlines()
    for line in TRAINING_OUTPUT.splitlines():
        start = re.sub(r"\d+\.\d+", "#", line.removesuffix("…"))
        (found,) = (one for one in printed if re.sub(r"\d+\.\d+", "#", one).startswith(start)) if start else (line,)
        # Processors and kernels round differently, which may move a clip or two of 535
        expected = [float(number) for number in re.findall(r"\d+\.\d+", line)]
        figures = [float(number) for number in re.findall(r"\d+\.\d+", found)][: len(expected)]
        assert figures == pytest.approx(expected, abs=0.5)


def test_readme_options_for_own_recordings_load(synthetic_dir, tmp_path, monkeypatch):
    """The rows of the table name options that read a folder and a table."""
    from whisper_emotion.corpora import load_corpus

    monkeypatch.chdir(tmp_path)
    for number, path in enumerate(sorted(synthetic_dir.rglob("*.wav"))[:4]):
        write_files(tmp_path, {f"my_clips/{('angry', 'sad')[number % 2]}/anna_{number}.wav": path.read_bytes()})
    files = sorted(Path("my_clips").rglob("*.wav"))
    Path("clips.csv").write_text("\n".join(["file,label,speaker", *(f"{p},{p.parent.name},anna" for p in files)]))
    options = re.findall(r"^\| .* \| `(--corpus .*)` \|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for given in map(shlex.split, options):
        named = dict(zip((name.removeprefix("--") for name in given[::2]), given[1::2], strict=True))
        corpus = load_corpus(named.pop("corpus"), named.pop("corpus_dir"), **named)
        assert len(corpus) == 4 and set(corpus["speaker"]) == {"anna"}
    assert len(options) == 2


def numbers(text):
    """Return all numbers of a text."""
    return re.findall(r"\d+\.\d+|\d+", text)


def table_rows(page, beginning):
    """Return the rows of a page's tables that begin with some text."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.startswith(f"| {beginning}")]


def test_readme_results_are_the_guide_s():
    guide = (REPOSITORY / "model_cards/guides/results.md").read_text(encoding="utf-8")
    for row in ("`best`, single clips", "`best`, adapted"):
        (line,) = table_rows("README.md", row)
        figures = re.findall(r"\d+\.\d \(\d+\.\d to \d+\.\d\)", line)
        assert len(figures) == 3 and all(figure in guide for figure in figures)
    (published,) = table_rows("README.md", "best in [EmoBox]")
    assert {"92.6", "75.3"} <= set(numbers(published))
    assert all(figure in guide for figure in ("| 92.6 |", "| 75.3 |"))


def test_readme_figures_for_other_speech_are_the_guide_s_rounded():
    guide = "model_cards/guides/cross_corpus.md"
    for row, column in (("single clips |", 3), ("adapted to the corpus", 4)):
        (line,) = table_rows("README.md", row)
        shown = [int(cell) for cell in line.split("|")[2:-1]]
        corpora = ("EMO-DB", "RAVDESS", "EMOVO", "ASED", "TESS", "nEMO", "**mean**")
        seven = [table_rows(guide, name)[1] for name in corpora]  # the second table
        exact = [float(numbers(cells.split("|")[column])[0]) for cells in seven]
        assert shown == [int(np.floor(figure + 0.5)) for figure in exact]


def test_version_is_the_same_everywhere():
    version = whisper_emotion.__version__
    assert f"\nversion: {version}\n" in (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8").startswith(f"# Changelog\n\n## {version}")


def test_pre_commit_uses_the_ruff_of_the_constraints():
    (pinned,) = re.findall(r"^(ruff==.*)$", (REPOSITORY / "constraints.txt").read_text(), flags=re.MULTILINE)
    hooks = (REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"\[(ruff==.*)\]", hooks) == [pinned, pinned]
