"""The scripts as people run them: what they leave behind, and what they say of a mistake."""

import json
import re
import runpy
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import run_script, write_files
from huggingface_hub import metadata_load

from whisper_emotion.cli import parse_arguments
from whisper_emotion.errors import UserError
from whisper_emotion.fitting.training_arguments import EmotionTrainingArguments
from whisper_emotion.inference import EmotionClassifier
from whisper_emotion.options import CorpusOptions, ModelOptions, ProtocolOptions


@dataclass
class Others:
    """Options that only one of the scripts takes."""

    test_fold: int | None = None
    seeds: str | None = None
    layers: str = "all"
    poolings: str = "mean"


REPOSITORY = Path(__file__).resolve().parents[1]
KEYS = {
    "refit", "from_scratch", "freeze_encoder", "encoder_dtype", "adaptation", "train_adaptation", "augmented_copies",
    "held_out", "normalize_speech", "temperature_scaling", "init", "clips_per_class",
    "concatenated_layers", "encoder_context", "context_margin", "mask_padding", "classifier_proj_size",
    "corpus", "folds", "select_on", "encoder", "encoder_layer", "pooling", "seeds", "labels", "weighted_accuracy",
    "unweighted_accuracy", "macro_f1", "pooled", "interval", "confusion_matrix", "ece", "mean_confidence",
    "speakers_shared", "seconds", "selected", "sure",
}  # fmt: skip


def options(tiny_encoder, synthetic_dir, output):
    return [
        "--corpus", "synthetic", "--corpus_dir", synthetic_dir, "--encoder", tiny_encoder, "--encoder_layer", 1,
        "--encoder_context", "utterance", "--num_train_epochs", 2, "--disable_tqdm", "true", "--output_dir", output,
    ]  # fmt: skip


def test_cross_validation(tiny_encoder, synthetic_dir, tmp_path):
    command = ["cross_validate.py", *options(tiny_encoder, synthetic_dir, tmp_path / "run")]
    command += ["--folds", "speakers:2", "--seeds", "0,1", "--select_on", "dev"]
    command += ["--classifier_proj_size", 0]
    done = run_script(*command)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "scores.json", "predictions.csv", "confusion_matrix.png", "coverage.png",
    }  # fmt: skip
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert set(scores) == KEYS
    assert scores["selected"] == "strength"
    assert "strength chosen on speakers held out of the training folds" in done.stdout
    assert scores["seeds"] == [0, 1]
    assert [len(folds) for folds in scores["unweighted_accuracy"]["folds"]] == [2, 2]
    assert scores["speakers_shared"] == [0, 0]
    assert sum(map(sum, scores["confusion_matrix"])) == 2 * 48
    header, *rows = (tmp_path / "run" / "predictions.csv").read_text().splitlines()
    assert header == "name,fold,seed,label,predicted,p_angry,p_happy,p_neutral,p_sad,sure"
    assert len(rows) == 2 * 48

    # the model to use, and a card with what the recipe was found to be worth
    train = ["train.py", *options(tiny_encoder, synthetic_dir, tmp_path / "model"), "--select_on", "dev"]
    train += ["--cross_validation", tmp_path / "run"]
    done = run_script(*train)
    assert done.returncode == 2
    assert "was made with classifier_proj_size=0, not 256: its scores are of another recipe" in done.stderr
    older = tmp_path / "older"
    older.mkdir()
    (older / "scores.json").write_text(json.dumps({name: scores[name] for name in scores if name != "interval"}))
    done = run_script(*train, "--classifier_proj_size", 0, "--cross_validation", older)
    assert done.returncode == 2
    assert "holds no confusion_matrix.png, expected a finished cross-validation" in done.stderr
    shutil.copy(tmp_path / "run" / "confusion_matrix.png", older)
    done = run_script(*train, "--classifier_proj_size", 0, "--cross_validation", older)
    assert done.returncode == 2
    assert f"{older / 'scores.json'}: " in done.stderr and "interval" in done.stderr
    done = run_script(*train, "--classifier_proj_size", 0)
    assert done.returncode == 0, done.stderr
    card = " ".join((tmp_path / "model" / "README.md").read_text().split())
    assert f"| {100 * scores['pooled']['unweighted_accuracy']:.1f} |" in card
    assert "The weights in this folder are one result of it, trained on every clip." in card
    assert "Selection: the strength was chosen on speakers held out of the training folds." in card
    assert "| `strength` |" in card and "learning_rate" not in card  # L-BFGS has none
    picture = "confusion_matrix.png"
    assert (tmp_path / "model" / picture).read_bytes() == (tmp_path / "run" / picture).read_bytes()
    assert "unweighted_accuracy" not in json.loads((tmp_path / "model" / "scores.json").read_text())


def test_the_same_seed_gives_the_same_weights_and_predictions_and_selection_on_test_is_said(
    tiny_encoder, synthetic_dir, tmp_path
):
    left = []
    for name, imported in (("one", "scripts"), ("two", "nothing")):
        output = tmp_path / name
        done = run_script(
            "train.py", *options(tiny_encoder, synthetic_dir, output), "--folds", "loso", "--test_fold", 2,
            "--select_on", "test", imported=imported,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "optimistic" in done.stdout
        assert "optimistic" in (output / "README.md").read_text()
        scores = json.loads((output / "scores.json").read_text())
        assert (scores["select_on"], scores["selected"]) == ("test", "epoch")
        left.append([(output / file).read_bytes() for file in ("predictions.csv", "model.safetensors")])
    assert left[0] == left[1]


@pytest.mark.slow
def test_the_same_seeds_give_the_same_cross_validation_whatever_the_processes_around_it(
    tiny_encoder, synthetic_dir, tmp_path
):
    left = []
    for name, imported in (("one", "scripts"), ("two", "nothing")):
        command = [*options(tiny_encoder, synthetic_dir, tmp_path / name), "--folds", "speakers:2", "--seeds", "0,1"]
        command += ["--store_dir", tmp_path / f"store of {name}"]
        done = run_script("cross_validate.py", *command, imported=imported)
        assert done.returncode == 0, done.stderr
        left.append((tmp_path / name / "predictions.csv").read_bytes())
    assert left[0] == left[1]


def test_a_model_without_a_trained_head_labels_nothing(tiny_encoder):
    with pytest.raises(UserError, match="is not a trained emotion classifier"):
        EmotionClassifier(tiny_encoder)


def test_training_on_everything_says_that_nothing_was_held_out(tiny_encoder, synthetic_dir, tmp_path):
    write_files(tmp_path, {"config.json": b"{}", "scores.json": b"{}"})  # an earlier model's
    changes = ["--corpus", "folder", "--speaker_pattern", "_([a-z]+)_", "--select_on", "last"]
    card_options = ["--language", "de", "--license", "mit", "--normalize_speech"]
    done = run_script("train.py", *options(tiny_encoder, synthetic_dir, tmp_path), *changes, *card_options)
    assert done.returncode == 0, done.stderr
    read, replaced, *_ = done.stdout.splitlines()
    assert re.fullmatch(r"\d+ utterances \(S01F \d+, .*\), \d+ speakers", read)
    assert (
        "the model card states no datasets, base_model: set --datasets, --base_model" in done.stdout.splitlines()[-3]
    )
    assert replaced == f"{tmp_path}: the existing model will be replaced when this one is finished"
    assert "no test was held out: cross_validate.py" in done.stdout.splitlines()[-1]  # and no clips chose anything
    assert (tmp_path / "model.safetensors").exists()
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["test_fold"] is None and scores["normalize_speech"] is True
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["normalize_speech"] is True
    assert "unweighted_accuracy" not in scores
    card = " ".join((tmp_path / "README.md").read_text().split())
    assert "No test was held out" in card
    metadata = metadata_load(tmp_path / "README.md") or {}
    assert (metadata["language"], metadata["license"]) == ("de", "mit")


def test_a_trained_folder_scores_its_test_files_as_training_did(trained_dir, synthetic_dir):
    table = pd.read_csv(trained_dir / "predictions.csv").iloc[::5]
    files = [next(synthetic_dir.rglob(f"{name}.wav")) for name in table["name"]]
    for probabilities, (_, row) in zip(EmotionClassifier(trained_dir)(files), table.iterrows(), strict=True):
        assert next(iter(probabilities)) == row["predicted"]
        for label, value in probabilities.items():
            assert value == pytest.approx(row[f"p_{label}"], abs=2e-3)  # training stored frames in half precision


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--corpus", "emodbb"], "emodbb"),
        (["--corpus", "emodb", "--corpus_dir", "no/where"], "no/where"),
        (["--output_dir", str(REPOSITORY / "README.md")], "expected a writable folder"),
        (["--output_dir", str(REPOSITORY)], "holds other files"),
        (["--seed", "-1"], "--seed -1"),
        (["--num_train_epochs", "0"], "--num_train_epochs 0"),
        (["--per_device_train_batch_size", "0"], "--per_device_train_batch_size 0"),
        (["--learning_rate", "nan"], "--learning_rate nan"),
        (["--metric_for_best_model", "luck"], "--metric_for_best_model luck: must be one of loss"),
        (["--torch_compile_backend", "2"], "--torch_compile_backend 2: must be one of NO, EAGER"),
        (["--folds", "paper"], "paper"),
        (["--folds", "speakers:99"], "speakers:99"),
        (["--test_fold", "3"], "--test_fold 3: speakers:2 has the folds 1 to 2"),
        (["--pooling", "max"], "pooling='max' is not allowed"),
        (["--encoder_layer", "4"], "encoder_layer=4 is not allowed"),
        (["--encoder", "nowhere/at/all"], "nowhere/at/all"),
        (["--select_on", "luck"], "--select_on"),
        (["--learning_rate", "fast"], "--learning_rate"),
        (["--lr_scheduler_type", "sometimes"], "sometimes"),
        (["--class_weights", "1,2"], "class_weights"),
        (["--class_weights", "even"], "--class_weights even"),
        (["--class_weights", "1,1,1,nan"], "numbers from 1e-6 to 1e6"),
        (["--label_smoothing_factor", "1.5"], "--label_smoothing_factor 1.5: must be in [0, 1)"),
        (["--classes", "angry,bored"], "bored"),
        (["--speaker_pattern", "x"], "speaker_pattern"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--language", "German"], "--language German: must be language codes"),
        (["--from_scratch"], "--freeze_encoder false"),
        (["--projector", "pca"], "--projector: no such option"),
        (["--adaptation", "dev", "--freeze_encoder", "false"], "--freeze_encoder true"),
        (["--adaptation", "always"], "--adaptation always"),
        (
            ["--gradient_accumulation_steps", "2"],
            "must be 1 for heads on stored frames",
        ),
    ],
)
def test_a_mistake_is_one_line_and_status_2(tiny_encoder, synthetic_dir, tmp_path, changes, said, monkeypatch, capfd):
    script = REPOSITORY / "scripts" / "train.py"
    command = [
        script,
        *options(tiny_encoder, synthetic_dir, tmp_path / "o"),
        "--folds",
        "speakers:2",
        "--test_fold",
        1,
    ]
    monkeypatch.setattr("sys.argv", [str(part) for part in (*command, *changes)])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(script), run_name="__main__")
    lines = capfd.readouterr().err.strip().splitlines()
    assert exit_.value.code == 2, lines
    assert said in lines[-1]
    assert len(lines) == 1, lines
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--pooling", "max"], "pooling='max' is not allowed"),
        (["--class_weights", "1,2"], "class_weights"),
        (["--classifier_proj_size", "-1"], "classifier_proj_size=-1"),
        (["--encoder", "{model_dir}", "--encoder_layer", "3"], "lacks encoder."),
    ],
)
@pytest.mark.parametrize("script", ["train.py", "cross_validate.py"])
def test_a_refused_command_leaves_a_finished_folder_as_it_was(
    tiny_encoder, synthetic_dir, model_dir, tmp_path, script, changes, said, monkeypatch, capfd
):
    write_files(tmp_path, {"config.json": "{}", "scores.json": "{}"})
    command = [REPOSITORY / "scripts" / script, *options(tiny_encoder, synthetic_dir, tmp_path)]
    command += [change.format(model_dir=model_dir) for change in changes]
    monkeypatch.setattr("sys.argv", [str(part) for part in command])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(command[0]), run_name="__main__")
    assert exit_.value.code == 2 and said in capfd.readouterr().err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"config.json": "{}", "scores.json": "{}"}


def test_one_speaker_is_refused_with_what_would_do_before_the_encoder_runs(
    tiny_encoder, synthetic_dir, tmp_path, monkeypatch, capfd
):
    sound = next(synthetic_dir.rglob("*.wav")).read_bytes()
    write_files(tmp_path, {f"mine/{label}/anna_{number}.wav": sound for label in "ab" for number in range(3)})
    script, changes = REPOSITORY / "scripts" / "train.py", ["--corpus", "folder", "--speaker_pattern", "^([a-z]+)_"]
    command = [script, *options(tiny_encoder, tmp_path / "mine", tmp_path / "o"), *changes]
    monkeypatch.setattr("sys.argv", [str(part) for part in command])
    with pytest.raises(SystemExit):
        runpy.run_path(str(script), run_name="__main__")
    (line,) = capfd.readouterr().err.strip().splitlines()
    for part in ("found 1", "--select_on last", "--temperature_scaling false", "--adaptation none"):
        assert part in line
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "scripts" / "recipes").glob("*.yaml")), ids=lambda path: path.stem
)
def test_recipes_name_options_that_there_are(path, tmp_path):

    kinds = (CorpusOptions, ProtocolOptions, Others, ModelOptions, EmotionTrainingArguments)
    given = yaml.safe_load(path.read_text())
    missing = [f"--{name}=x" for name in ("corpus_dir", "encoder") if name not in given]
    corpus, protocol, _, model, training = parse_arguments(
        *kinds, argv=["--config", str(path), *missing, "--output_dir", str(tmp_path)]
    )
    values = vars(corpus) | vars(protocol) | vars(model) | vars(training)
    for name, value in given.items():
        if name in values and name != "output_dir":
            assert values[name] == value or str(values[name]) == str(value), name
