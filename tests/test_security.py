"""No pickle is read, no token is shown, and nothing is written outside the folders that were named."""

import ast
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import run_python, run_script, save_model
from datasets import Audio, Dataset
from stand_in import Hub

from whisper_emotion.cli import parse_arguments
from whisper_emotion.corpora import hub as hub_corpora
from whisper_emotion.corpora import load_corpus
from whisper_emotion.corpora.splits import Fold
from whisper_emotion.errors import UserError
from whisper_emotion.fitting.grid import Grid, finished_cells
from whisper_emotion.fitting.new_models import build_model, load_config
from whisper_emotion.fitting.training_arguments import EmotionTrainingArguments
from whisper_emotion.inference import EmotionClassifier
from whisper_emotion.options import CorpusOptions, ModelOptions, ProtocolOptions

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(REPOSITORY / "modeling").rglob("*.py"), *(REPOSITORY / "scripts").rglob("*.py")])
SECRET = "hf_" + "SecretMarker" * 3


class Payload:
    """What, unpickled, makes a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


# --- pickles ---------------------------------------------------------------------------------------------------------


def test_sources_read_arrays_and_tensors_without_pickles():
    """ruff forbids pickle's modules, `eval`, `exec` and unsafe YAML; these two are options of allowed calls."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                options = {one.arg: ast.unparse(one.value) for one in node.keywords}
                assert ast.unparse(node.func) != "torch.load" or options.get("weights_only") == "True", path
                assert options.get("allow_pickle", "False") == "False", path


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_model_folder_with_a_pickle_for_weights_is_refused(tiny_encoder, tmp_path, name):
    folder, mark = save_model(tiny_encoder, tmp_path / "model"), tmp_path / "mark"
    weights = folder / "model.safetensors"
    weights.unlink()
    (folder / name).write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(UserError, match=str(folder)):
        EmotionClassifier(folder)
    with pytest.raises(UserError, match=str(folder)):
        build_model(str(folder), load_config(str(folder), ["x", "y"], {}), 0)
    assert not mark.exists()


def test_honest_weights_in_a_pickle_are_refused_too(tiny_encoder, tmp_path):
    folder = save_model(tiny_encoder, tmp_path / "model")
    torch.save(EmotionClassifier(folder).model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="model.safetensors"):
        EmotionClassifier(folder)


@pytest.mark.parametrize("saved", ["pickle", "object array"])
def test_a_cell_with_a_pickle_is_refused(tmp_path, saved):
    grid, mark = Grid({"e": None}, {"e": [1]}, ["mean"], [Fold(1, [], [])], [0], reference=False), tmp_path / "mark"
    (tmp_path / "cells").mkdir()
    path = tmp_path / "cells" / grid.cells()[0].file
    if saved == "pickle":
        path.write_bytes(pickle.dumps(Payload(mark)))
    else:
        np.savez(path, row=np.array([Payload(mark)], dtype=object), logits=np.zeros((1, 2)))
    with pytest.raises(UserError, match=path.name):
        finished_cells(grid, tmp_path)
    assert not mark.exists()


def options(tiny_encoder, synthetic_dir, output):
    return [
        "--corpus", "synthetic", "--corpus_dir", synthetic_dir, "--encoder", tiny_encoder, "--encoder_layer", 1,
        "--encoder_context", "utterance", "--num_train_epochs", 4, "--select_on", "last", "--output_dir", output,
        "--folds", "speakers:2", "--test_fold", 1, "--freeze_encoder", "false",
    ]  # fmt: skip


KILLED = """
import os, runpy, sys
from transformers import Trainer
save = Trainer._save_checkpoint

def die_after_one(self, *arguments, **options):
    save(self, *arguments, **options)
    os._exit(9)

Trainer._save_checkpoint = die_after_one
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def cut_off(tiny_encoder, synthetic_dir, tmp_path_factory):
    """What a training leaves that ended after its first checkpoint."""
    output = tmp_path_factory.mktemp("cut") / "run"
    script = REPOSITORY / "scripts" / "train.py"
    done = run_python("-c", KILLED, script, *options(tiny_encoder, synthetic_dir, output))
    assert done.returncode == 9, done.stderr
    return output


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("optimizer.pt", True),
        ("scheduler.pt", True),
        ("rng_state.pth", True),
        ("pytorch_model.bin", True),
        ("training_args.bin", False),
    ],
)
def test_going_on_runs_no_pickle_of_a_checkpoint(cut_off, tiny_encoder, synthetic_dir, tmp_path, name, refused):
    output, mark = tmp_path / "run", tmp_path / "mark"
    shutil.copytree(cut_off, output)
    (checkpoint,) = output.rglob("checkpoint-*")
    if name == "pytorch_model.bin":
        (checkpoint / "model.safetensors").unlink()
    (checkpoint / name).write_bytes(pickle.dumps(Payload(mark)))
    done = run_script("train.py", *options(tiny_encoder, synthetic_dir, output), "--disable_tqdm", "true")
    assert not mark.exists()
    if refused:
        assert done.returncode == 2, done.stderr
        assert checkpoint.name in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    else:
        assert done.returncode == 0, done.stderr


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_a_training_writes_no_token_anywhere(tiny_encoder, synthetic_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    output = tmp_path / "run"
    done = run_script("train.py", *options(tiny_encoder, synthetic_dir, output), "--log_level", "debug")
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    files = [path for path in output.rglob("*") if path.is_file()]
    assert len(files) > 5 and not [path for path in files if SECRET.encode() in path.read_bytes()]


KINDS = (CorpusOptions, ProtocolOptions, ModelOptions, EmotionTrainingArguments)


@pytest.mark.parametrize(
    "flags",
    [
        [f"--hub_token={SECRET}"],
        ["--hub_token", SECRET, "--push_to_hub", "true"],
        ["--push_to_hub", "true"],
        [f"--hub_tokn={SECRET}"],
        ["--hub_tokn", SECRET],
    ],
)
def test_a_token_among_the_options_is_refused_and_not_shown(flags, tmp_path):
    argv = ["--corpus", "emodb", "--encoder", "e", "--output_dir", str(tmp_path), *flags]
    with pytest.raises(UserError) as caught:
        parse_arguments(*KINDS, argv=argv)
    said = str(caught.value)
    assert flags[0].partition("=")[0] in said
    assert SECRET not in said


def test_a_token_in_a_recipe_is_refused_and_not_shown(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"hub_token: {SECRET}\n")
    argv = ["--config", str(recipe), "--corpus", "emodb", "--encoder", "e", "--output_dir", str(tmp_path)]
    with pytest.raises(UserError, match="--hub_token") as caught:
        parse_arguments(*KINDS, argv=argv)
    assert SECRET not in str(caught.value)


# Scripts one behind another in one process: what they import takes longer than what they do here
ONE_BY_ONE = """
import json, runpy, sys
for script, *words in json.loads(sys.argv[1]):
    sys.argv = [script, *words]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        print(script, end.code)
"""


@pytest.mark.parametrize("token", [SECRET, SECRET + " x\x07", SECRET + "\u00e9"])
def test_what_the_hub_refuses_shows_no_token(tiny_encoder, synthetic_dir, trained_dir, tmp_path, token):
    commands = {
        "train.py": ["--corpus", "hub:me/none", "--encoder", tiny_encoder, "--output_dir", tmp_path / "a"],
        "cross_validate.py": [
            "--corpus", "synthetic", "--corpus_dir", synthetic_dir, "--encoder", "me/none",
            "--output_dir", tmp_path / "b",
        ],
        "predict.py": ["--model", "me/none", trained_dir],
        "push_to_hub.py": ["--model", trained_dir, "--repo_id", "me/none"],
    }  # fmt: skip
    words = [[str(word) for word in (REPOSITORY / "scripts" / name, *rest)] for name, rest in commands.items()]
    with Hub() as hub:
        done = hub.run(tmp_path, "-c", ONE_BY_ONE, json.dumps(words), token=token)
    assert done.returncode == 0, done.stderr
    for script, *_ in words:
        assert f"{script} 2" in done.stdout.splitlines()
    assert SECRET not in done.stdout + done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]


# --- paths -----------------------------------------------------------------------------------------------------------


def tree(root: Path) -> set[Path]:
    return {path.relative_to(root) for path in root.rglob("*")}


@pytest.mark.parametrize("script", ["train.py", "cross_validate.py", "sweep.py"])
def test_names_of_classes_and_runs_lead_nowhere_else(tiny_encoder, tmp_path, script):
    corpus, home = tmp_path / "in" / "corpus", tmp_path / "home"
    rng = np.random.default_rng(0)
    for label in ("..x\n", "a|b<c>", "\u202e..\\..\\y", "%s/".rstrip("/")):
        for speaker in "ab":
            (corpus / label).mkdir(parents=True, exist_ok=True)
            soundfile.write(corpus / label / f"{speaker}_{len(label)}.wav", rng.normal(0, 0.1, 8000), 16_000)
    home.mkdir()
    before = tree(tmp_path)
    own = {
        "train.py": ["--encoder_layer", 1, "--test_fold", 1],
        "cross_validate.py": ["--encoder_layer", 1],
        "sweep.py": ["--layers", 1, "--poolings", "mean"],
    }[script]
    done = run_script(
        script, "--corpus", "folder", "--corpus_dir", corpus, "--speaker_pattern", "^(.)_", "--encoder", tiny_encoder,
        "--encoder_context", "utterance", "--num_train_epochs", 1, "--select_on", "last", "--run_name", "../../x",
        "--folds", "loso", "--output_dir", home / "run", "--store_dir", home / "store", *own, cwd=home,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    new = tree(tmp_path) - before
    assert new and all(path.parts[:2] in (("home", "run"), ("home", "store")) for path in new), new


EVIL = """
import io, sys, zipfile
from huggingface_hub import HfApi
clip = open(sys.argv[1], "rb").read()
packed = io.BytesIO()
with zipfile.ZipFile(packed, "w") as archive:
    archive.writestr("a/one.wav", clip)
    archive.writestr("b/two.wav", clip)
    archive.writestr("../../../../../evil.wav", clip)
    archive.writestr(sys.argv[2] + "/evil.wav", clip)
api = HfApi()
api.create_repo("me/evil", repo_type="dataset")
api.upload_file(path_or_fileobj=packed.getvalue(), path_in_repo="train.zip", repo_id="me/evil", repo_type="dataset")
"""


def test_an_archive_on_the_hub_is_not_unpacked_elsewhere(synthetic_dir, tmp_path):
    clip, home, target = next(synthetic_dir.rglob("*.wav")), tmp_path / "home", tmp_path / "target"
    home.mkdir()
    target.mkdir()
    with Hub() as hub:
        done = hub.run(home, "-c", EVIL, clip, target)
        assert done.returncode == 0, done.stderr
        load = "import sys; from whisper_emotion.corpora import load_corpus; print(load_corpus('hub:me/evil'))"
        done = hub.run(home, "-c", load)
    assert "UserError: hub:me/evil: cannot be loaded from the Hub: " in done.stderr, done.stderr
    outside = [path for path in tmp_path.rglob("evil*") if home / "hf" not in path.parents]
    assert not outside and not list(target.iterdir()), outside


@pytest.mark.parametrize("path", ["/etc/hostname", "../../secret.wav", "secret.wav"])
def test_a_dataset_on_the_hub_names_no_file_of_this_machine(synthetic_dir, tmp_path, monkeypatch, path):
    clip = next(synthetic_dir.rglob("*.wav")).read_bytes()
    (tmp_path / "secret.wav").write_bytes(clip)
    monkeypatch.chdir(tmp_path)
    rows = [{"path": "fine.wav", "bytes": clip}, {"path": path, "bytes": None}]
    table = Dataset.from_dict({"audio": rows, "label": ["a", "b"], "seconds": [1.0, 1.0]})
    monkeypatch.setattr(
        hub_corpora, "load_dataset", lambda *_, **__: {"train": table.cast_column("audio", Audio(decode=False))}
    )
    with pytest.raises(UserError, match="row 1 has no recording, and .* is not part of the dataset") as caught:
        load_corpus("hub:me/voices")
    assert "hub:me/voices" in str(caught.value)
