"""Options from flags and recipes, one line for each mistake, and the exit codes."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest
from conftest import REPOSITORY
from conftest import run_script as run_in_process_of_its_own
from hypothesis import given
from hypothesis import strategies as st

from whisper_emotion.cli import parse_arguments, parse_seeds, run_script
from whisper_emotion.errors import UserError
from whisper_emotion.fitting.training_arguments import EmotionTrainingArguments
from whisper_emotion.options import CorpusOptions, ModelOptions, ProtocolOptions, option
from whisper_emotion.termination import termination

ALL = (CorpusOptions, ProtocolOptions, ModelOptions, EmotionTrainingArguments)
NEEDED = ["--corpus", "emodb", "--corpus_dir", "d", "--encoder", "e"]


@dataclass
class Some:
    """An option of each kind, and what stands without a flag."""

    files: list[str] = option([], help="files", positional=True)
    number: int = option(1, help="a whole number")
    share: float | None = option(None, help="a number, 92 % of them")
    name: str | None = option(None, help="text", advanced=True)
    words: list[str] = option([], help="texts")
    kind: str = option("one", help="a choice", choices=("one", "two"))
    draw: bool = option(False, help="false where not given")
    refit: bool | None = option(None, help="None where not given")
    keep: bool = option(True, help="true where not given")


def parse(*argv):
    return parse_arguments(Some, argv=["a", *argv])[0]


def recipe(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return str(path)


def test_flags_convert_to_the_types_of_the_fields():
    argv = ["--number", "-3", "--share=0.5", "--name", "7", "--words", "x", "y", "--kind", "two"]
    assert vars(parse(*argv)) == {
        "files": ["a"], "number": -3, "share": 0.5, "name": "7", "words": ["x", "y"], "kind": "two", "draw": False,
        "refit": None, "keep": True,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["draw", "refit", "keep"])
@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--{}"], True), (["--{}", "true"], True), (["--{}", "false"], False), (["--{}=false"], False),
        (["--{}", "True"], True), (["--{}", "false", "--{}"], True),
    ],
)  # fmt: skip
def test_every_boolean_option_stands_alone_or_takes_true_or_false(name, words, value):
    options = parse(*(word.format(name) for word in words))
    assert getattr(options, name) is value and options.files == ["a"]


@pytest.mark.parametrize("training", [["--bf16_full_eval"], ["--tf32"]])
def test_booleans_of_transformers_are_spelled_the_same(training):
    name = training[0].removeprefix("--")
    for words, value in ((training, True), ([*training, "true"], True), ([*training, "false"], False)):
        if (name, value) != ("tf32", True):  # which transformers refuses on most hardware
            assert getattr(parse_arguments(*ALL, argv=[*NEEDED, "--output_dir", "o", *words])[-1], name) is value


@pytest.mark.parametrize(
    "argv",
    [
        ["a", "b", "--draw", "--number=3"], ["--draw", "a", "b", "--number", "3"], ["a", "--number=3", "--draw", "b"],
        ["--number", "3", "--draw", "true", "a", "b"], ["--draw", "--number=3", "--", "a", "b"],
    ],
)  # fmt: skip
def test_files_stand_anywhere_and_are_not_taken_for_a_boolean(argv):
    (options,) = parse_arguments(Some, argv=argv)
    assert (options.files, options.number, options.draw) == (["a", "b"], 3, True)


def test_recipes_hold_every_option_and_flags_win(tmp_path):
    text = (
        "files: [a, -b c]\nnumber: 2\nshare: 1e-3\nname: true\nwords: x\nkind: two\ndraw: true\nrefit: false\nkeep:\n"
    )
    path = recipe(tmp_path, text)
    expected = {
        "files": ["a", "-b c"], "number": 2, "share": 0.001, "name": "true", "words": ["x"], "kind": "two",
        "draw": True, "refit": False, "keep": True,
    }  # fmt: skip
    assert vars(parse_arguments(Some, argv=["--config", path])[0]) == expected
    given = parse_arguments(Some, argv=["d", "--config", path, "--number", "5", "--draw", "false", "--refit"])[0]
    assert vars(given) == expected | {"files": ["d"], "number": 5, "draw": False, "refit": True}


def test_our_recipes_are_found_by_their_names_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (protocol,) = parse_arguments(ProtocolOptions, argv=["--config", str(recipe(tmp_path, "encoder: mine"))])
    assert protocol.encoder == "mine"
    kinds = (CorpusOptions, ProtocolOptions, ModelOptions, EmotionTrainingArguments)
    corpus, protocol, *_ = parse_arguments(*kinds, argv=["--config", "best"])
    assert (corpus.corpus, protocol.adaptation) == ("emodb", "dev")
    with pytest.raises(UserError, match="--config bset: cannot be read"):
        parse_arguments(*kinds, argv=["--config", "bset"])


def test_recipes_of_training_hold_lists_and_values_that_begin_with_a_dash(tmp_path):
    path = recipe(
        tmp_path,
        "corpus: emodb\nencoder: e\nclasses: [anger, fear]\nspeaker_pattern: '-(\\d+)$'\nclass_weights: [1, 2.5]\n"
        "encoder_layer: -3\nfreeze_encoder: false\nlearning_rate: 0.01\nlr_scheduler_kwargs: '{\"num_cycles\": 2}'\n",
    )
    corpus, protocol, model, training = parse_arguments(*ALL, argv=["--config", path, "--output_dir", "o"])
    assert (corpus.classes, corpus.speaker_pattern) == ("anger,fear", r"-(\d+)$")
    assert (protocol.class_weights, protocol.freeze_encoder, model.encoder_layer) == ("1,2.5", False, -3)
    assert (training.learning_rate, training.lr_scheduler_kwargs) == (0.01, {"num_cycles": 2})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("numbr: 2", "numbr: no such option; did you mean number?"),
        ("- number", "must hold one `option: value` per line"),
        ("name: {of: x}", "name: must be a value"),
        ("name: [", "is not YAML"),
        (r'name: "\UFFFFFFFF"', "is not YAML"),
        ("", "must hold one `option: value` per line"),
        ("draw: 3", "draw: 3: must be true or false"),
        ("number: two", "number: two: must be a whole number"),
        ("kind: three", "kind: three: must be one of one, two"),
    ],
)
def test_a_mistake_in_a_recipe_names_recipe_and_option(tmp_path, text, said):
    path = recipe(tmp_path, text)
    with pytest.raises(UserError) as error:
        parse("--config", path)
    assert str(error.value).startswith(f"--config {path}: {said}" if "YAML" not in said else f"--config {path}: ")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_missing_recipe_is_named():
    with pytest.raises(UserError, match="--config nowhere.yaml: cannot be read"):
        parse("--config", "nowhere.yaml")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--numbr", "2"], "--numbr: no such option; did you mean --number?"),
        (["--zzzzzz=2"], "--zzzzzz: no such option, see --help"),
        (["--number", "two"], "--number two: must be a whole number"),
        (["--number", "1.5"], "--number 1.5: must be a whole number"),
        (["--share", r"\d"], r"--share \d: must be a number"),
        (["--kind", r"\d"], r"--kind \d: must be one of one, two"),
        (["--keep=maybe"], "--keep maybe: must be true or false"),
        (["--number"], "--number: expected one argument"),
    ],
)
def test_a_mistaken_flag_is_echoed_as_typed(argv, said):
    with pytest.raises(UserError) as error:
        parse(*argv)
    assert str(error.value) == said


def test_a_word_that_belongs_to_no_option_is_named():
    for argv, said in (
        (["--refit", "flase"], "--refit flase: must be true or false"),
        (["stray"], "stray: belongs to no option, see --help"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            parse_arguments(*ALL, argv=[*NEEDED, *argv])


def test_lacking_options_are_named_together():
    needed = dataclasses.make_dataclass("Needed", [("one", str), ("other", str)])
    with pytest.raises(UserError, match="^--one, --other: must be given"):
        parse_arguments(needed, argv=[])
    with pytest.raises(UserError, match="^--corpus: must be given"):
        parse_arguments(*ALL, argv=[])
    with pytest.raises(UserError, match="^--encoder: missing: give a Whisper checkpoint"):
        parse_arguments(*ALL, argv=["--corpus", "emodb"])
    with pytest.raises(UserError, match="^FILES: none given"):
        parse_arguments(Some, argv=["--draw"])


def test_a_mistyped_flag_is_named_before_the_option_that_it_leaves_lacking():
    with pytest.raises(UserError, match="--corpos: no such option; did you mean --corpus?"):
        parse_arguments(*ALL, argv=["--corpos", *NEEDED[1:]])


@given(
    st.text(alphabet=st.characters(exclude_categories=("Cs",))),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
)
def test_values_survive_the_command_line(text, flag, number, share):
    options = parse(f"--name={text}", f"--keep={str(flag).lower()}", f"--number={number}", f"--share={share}")
    assert (options.name, options.keep, options.number, options.share) == (text, flag, number, share)


@pytest.mark.parametrize("text", ["", "0,x", "1,1", "-1"])
def test_seeds_that_do_not_fit_are_refused(text):
    with pytest.raises(UserError, match="--seeds"):
        parse_seeds(text)


def test_seeds_are_whole_numbers_with_commas_between_them():
    assert parse_seeds("0,1, 2") == [0, 1, 2]


def help_of(flag, monkeypatch, capsys, *kinds):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exit_:
        parse_arguments(*kinds, argv=[flag])
    assert exit_.value.code == 0
    return capsys.readouterr().out


def test_help_shows_defaults_and_choices_and_leaves_advanced_options_to_help_all(monkeypatch, capsys):
    shown = " ".join(help_of("--help", monkeypatch, capsys, Some).split())
    assert "--number N a whole number (default: 1)" in shown
    assert "a number, 92 % of them" in shown
    assert "a choice (one, two; default: one)" in shown
    assert "--keep true where not given (default: true)" in shown
    assert "--name" not in shown and "--name TEXT" in help_of("--help_all", monkeypatch, capsys, Some)


def test_help_of_training_hides_what_transformers_alone_declares_and_what_is_refused(monkeypatch, capsys):
    short, whole = (help_of(flag, monkeypatch, capsys, *ALL) for flag in ("--help", "--help_all"))
    assert "--learning_rate" in short and "--adam_beta2" not in short
    assert "--adam_beta2" in whole and "--hub_token" not in whole and "--push_to_hub" not in whole


@pytest.mark.parametrize("script", ["train", "cross_validate", "sweep", "benchmark"])
def test_help_of_training_scripts_has_at_most_80_lines(script, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = run_in_process_of_its_own(f"{script}.py", "--help")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) <= 80


HEAVY = {"torch", "transformers", "huggingface_hub", "datasets", "sklearn", "matplotlib", "pandas", "accelerate"}
LIGHT = """
import runpy, sys
for words in ({script!r}, "--help"), ({script!r}, "--no_such_option"):
    sys.argv = list(words)
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as exit_:
        print("status", exit_.code)
print("loaded", *sorted({heavy!r} & sys.modules.keys()))
"""


@pytest.mark.parametrize("script", ["predict", "export_onnx", "push_to_hub", "demo"])
def test_help_and_mistakes_load_nothing_heavy(script):
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    program = LIGHT.format(script=str(REPOSITORY / "scripts" / f"{script}.py"), heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith(("status", "loaded"))] == [
        "status 0", "status 2", "loaded",
    ]  # fmt: skip
    assert seconds < 1.5


def test_a_users_mistake_is_one_line_and_status_2(capsys):
    def main():
        raise UserError("file: is wrong")

    with pytest.raises(SystemExit) as exit_:
        run_script(main)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.endswith(": error: file: is wrong\n")


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


def test_sigterm_waits_until_work_is_kept():
    kept = []

    def main():
        with termination.held():
            os.kill(os.getpid(), signal.SIGTERM)
            kept.append(termination.asked)
        kept.append("never")

    with pytest.raises(SystemExit) as exit_:
        run_script(main)
    assert exit_.value.code == 143 and kept == [True]
