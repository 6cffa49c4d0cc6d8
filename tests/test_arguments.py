"""Options from flags and recipes, and what is said of those that do not fit."""

import os
import signal
import time
from dataclasses import dataclass, field

import pytest

from whisper_emotion.arguments import (
    CorpusArguments,
    ModelArguments,
    ProtocolArguments,
    _overrides,
    parse_arguments,
    parse_seeds,
    run_script,
    settings,
)
from whisper_emotion.configuration_whisper_emotion import WhisperEmotionConfig
from whisper_emotion.errors import UserError
from whisper_emotion.termination import termination
from whisper_emotion.training import EmotionTrainingArguments

ALL = (CorpusArguments, ProtocolArguments, ModelArguments, EmotionTrainingArguments)
NEEDED = ["--corpus", "emodb", "--corpus_dir", "d", "--encoder", "e"]


@dataclass
class Few:
    """Two options."""

    number: int = field(default=1)
    words: list[str] = field(default_factory=list)


def recipe(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return str(path)


def test_every_config_field_and_hyper_parameter_is_a_flag_and_a_key(tmp_path):
    path = recipe(
        tmp_path,
        "corpus: emodb\ncorpus_dir: d\nencoder: e\nencoder_layer: -3\npooling: qkv\nmask_padding: false\n"
        "class_weights: [1, 2.5]\nlearning_rate: 0.01\nseed: 7\noutput_dir: o\nclasses: [anger, fear]\n",
    )
    corpus, protocol, model, training = parse_arguments(*ALL, argv=["--config", path, "--pooling", "mean"])
    assert corpus.classes == "anger,fear"
    assert (protocol.encoder, protocol.select_on, protocol.refit) == ("e", "dev", True)
    assert _overrides(model) == {
        "encoder_layer": -3,
        "pooling": "mean",  # flags win
        "mask_padding": False,
        "class_weights": [1.0, 2.5],
    }
    assert (training.learning_rate, training.seed, training.output_dir) == (0.01, 7, "o")
    own = {name for name in WhisperEmotionConfig.__annotations__ if name != "is_encoder_decoder"}
    assert own == set(vars(model))


def test_the_defaults_are_the_paper_s():
    training = parse_arguments(*ALL, argv=[*NEEDED, "--output_dir", "o"])[-1]
    assert (training.learning_rate, training.num_train_epochs, training.per_device_train_batch_size) == (1e-3, 30, 16)
    assert (training.lr_scheduler_type, training.warmup_steps, training.seed) == ("cosine", 0.1, 42)
    assert training.report_to == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("poolling: qkv", "poolling: no such option; did you mean pooling?"),
        ("- pooling", "must hold options by name"),
        ("pooling: {name: qkv}", "pooling: must be a value"),
        ("pooling: [", "is not YAML"),
        (r'pooling: "\UFFFFFFFF"', "is not YAML"),
        ("", "must hold options by name"),
    ],
)
def test_a_recipe_that_does_not_fit_is_named(tmp_path, text, said):
    path = recipe(tmp_path, text)
    with pytest.raises(UserError) as error:
        parse_arguments(*ALL, argv=["--config", path, *NEEDED])
    assert said in str(error.value)
    assert path in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_recipe_is_named():
    with pytest.raises(UserError, match="--config nowhere.yaml: cannot be read"):
        parse_arguments(Few, argv=["--config", "nowhere.yaml"])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--numbr", "2"], "--numbr: no such option; did you mean --number?"),
        (["--number", "two"], "--number 'two': must be a whole number"),
    ],
)
def test_a_flag_that_does_not_fit_is_one_line_and_status_2(argv, said, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse_arguments(Few, argv=argv)
    message = capsys.readouterr().err
    assert exit_.value.code == 2
    assert said in message
    assert message.count("\n") == 1


def test_a_mistyped_flag_is_named_before_the_one_that_is_lacking_because_of_it(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(*ALL, argv=["--corpos", *NEEDED[1:]])
    assert "--corpos: no such option; did you mean --corpus?" in capsys.readouterr().err


def test_a_recipe_s_value_may_begin_with_a_dash(tmp_path):
    path = recipe(tmp_path, "speaker_pattern: '-(\\d+)$'\n")
    corpus, *_ = parse_arguments(*ALL, argv=["--config", path, *NEEDED])
    assert corpus.speaker_pattern == r"-(\d+)$"


def test_lists_in_recipes(tmp_path):
    (few,) = parse_arguments(Few, argv=["--config", recipe(tmp_path, "words: [a, b]\nnumber: 3")])
    assert (few.number, few.words) == (3, ["a", "b"])


@pytest.mark.parametrize("text", ["", "0,x", "1,1", "-1"])
def test_seeds_that_do_not_fit_are_refused(text):
    with pytest.raises(UserError, match="--seeds"):
        parse_seeds(text)


def test_seeds():
    assert parse_seeds("0,1, 2") == [0, 1, 2]


def test_settings_are_all_options_but_where_it_reports():
    values = settings(*parse_arguments(*ALL, argv=[*NEEDED, "--output_dir", "o"]))
    assert values["learning_rate"] == 1e-3
    assert values["corpus"] == "emodb"
    assert "output_dir" not in values


def test_a_user_s_mistake_is_one_line_and_status_2(capsys):
    def main():
        raise UserError("file: is wrong")

    with pytest.raises(SystemExit) as exit_:
        run_script(main)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.endswith(": error: file: is wrong\n")


@dataclass
class WithFiles:
    """What stands without a flag, an option, and a flag without a value."""

    files: list[str] = field(default_factory=list, metadata={"help": "files", "positional": True})
    number: int = 1
    draw: bool = field(default=False, metadata={"help": "draw", "flag": True})


@pytest.mark.parametrize(
    "argv",
    [["a", "b", "--draw", "--number=3"], ["--draw", "a", "b", "--number", "3"], ["a", "--number=3", "--draw", "b"]],
)
def test_what_stands_without_a_flag_may_stand_anywhere(argv):
    (options,) = parse_arguments(WithFiles, argv=argv)
    assert vars(options) == {"files": ["a", "b"], "number": 3, "draw": True}


def test_a_recipe_names_files_and_sets_flags(tmp_path, capsys):
    path = recipe(tmp_path, "files: [a, -b c]\ndraw: true\n")
    assert vars(parse_arguments(WithFiles, argv=["--config", path])[0]) == {
        "files": ["a", "-b c"], "number": 1, "draw": True,
    }  # fmt: skip
    assert parse_arguments(WithFiles, argv=["d", "--config", path])[0].files == ["d"]
    assert parse_arguments(WithFiles, argv=["--config", recipe(tmp_path, "draw: false\nfiles: a\n")])[0].draw is False
    with pytest.raises(UserError, match="draw: must be true or false"):
        parse_arguments(WithFiles, argv=["--config", recipe(tmp_path, "draw: 3\n")])
    with pytest.raises(SystemExit):
        parse_arguments(WithFiles, argv=["--draw"])
    assert capsys.readouterr().err.endswith("error: FILES: none given\n")


def test_sigterm_is_one_line_and_status_143(capsys):
    before = signal.getsignal(signal.SIGTERM)

    def main():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    with pytest.raises(SystemExit) as exit_:
        run_script(main, "all is kept")
    assert exit_.value.code == 143
    assert capsys.readouterr().err.endswith(": terminated; all is kept\n")
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_waits_until_work_is_kept(capsys):
    kept = []

    def main():
        with termination.held():
            os.kill(os.getpid(), signal.SIGTERM)
            kept.append(termination.asked)
        kept.append("never")

    with pytest.raises(SystemExit) as exit_:
        run_script(main)
    assert exit_.value.code == 143 and kept == [True]
