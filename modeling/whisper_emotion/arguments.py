"""Command lines and YAML recipes: every option is a flag and a key of the same name, and flags win."""

import argparse
import dataclasses
import difflib
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml
from datasets import Dataset
from transformers import HfArgumentParser
from transformers.utils import logging

from whisper_emotion.configuration_whisper_emotion import WhisperEmotionConfig
from whisper_emotion.corpora import load_corpus
from whisper_emotion.corpora.splits import speakers_known
from whisper_emotion.errors import UserError, one_line, printable
from whisper_emotion.protocol import ADAPTATIONS, ENCODER_DTYPES, PROJECTORS, SELECTIONS, Experiment
from whisper_emotion.termination import Terminated, termination
from whisper_emotion.training import EmotionTrainingArguments

HYPER_PARAMETERS = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "per_device_train_batch_size",
    "gradient_accumulation_steps", "weight_decay", "max_grad_norm", "optim", "seed", "metric_for_best_model",
)  # fmt: skip
# Options that say where and how a run reports, not what it computes.
WITHOUT_INFLUENCE = (
    "output_dir", "logging_dir", "run_name", "disable_tqdm", "report_to", "log_level", "hub_token", "store_dir",
    "compare_with",
)  # fmt: skip


@dataclass
class CorpusArguments:
    """Which recordings, with which labels, in which folds."""

    _argument_group_name = "recordings"

    corpus: str = field(metadata={"help": "emodb, ravdess, iemocap, shemo, synthetic, folder or hub:NAMESPACE/NAME"})
    corpus_dir: str | None = field(default=None, metadata={"help": "folder of the recordings; none with hub:"})
    classes: str | None = field(
        default=None, metadata={"help": "comma-separated classes to keep; all where not given"}
    )
    improvised_only: bool | None = field(default=None, metadata={"help": "iemocap: true leaves scripted speech out"})
    speaker_pattern: str | None = field(
        default=None, metadata={"help": "folder: regular expression in the file name whose group 1 is the speaker"}
    )
    folds: str = field(default="loso", metadata={"help": "loso, paper, emobox or speakers:K"})


@dataclass
class ProtocolArguments:
    """Which encoder, and what chooses the epoch."""

    _argument_group_name = "encoder and protocol"

    encoder: str = field(metadata={"help": "Whisper checkpoint: a folder or a Hub name"})
    from_scratch: bool = field(
        default=False, metadata={"help": "use the encoder's configuration only and train all weights from random ones"}
    )
    select_on: str = field(
        default="dev",
        metadata={
            "help": "what chooses the epoch: dev (speakers held out of the training folds), last (nothing), test (the "
            "test fold, as the paper's released code does: the figures are then optimistic)",
            "choices": SELECTIONS,
        },
    )
    projector: str = field(
        default="learned",
        metadata={
            "help": "learned with the head, or pca: the principal components of the training frames, fixed",
            "choices": PROJECTORS,
        },
    )
    refit: bool = field(
        default=True,
        metadata={"help": "dev: train anew on all training speakers for as many epochs as dev has chosen"},
    )
    encoder_dtype: str = field(
        default="float32",
        metadata={
            "help": "precision of a frozen encoder: float32, or bfloat16, which is faster where the processor or "
            "accelerator has it",
            "choices": ENCODER_DTYPES,
        },
    )
    speaker_adaptation: str = field(
        default="never",
        metadata={
            "help": "classify a test speaker's utterances with the mean frame of all of them, without their labels, "
            "taken into account: never, always, or where it helps on held-out training speakers (dev)",
            "choices": ADAPTATIONS,
        },
    )
    temperature_scaling: bool = field(
        default=False, metadata={"help": "scale the logits by what gives the least loss on held-out training speakers"}
    )
    store_dir: str | None = field(
        default=None,
        metadata={"help": "folder of the feature store; among Hugging Face's assets where not given"},
    )


# The fields of WhisperEmotionConfig as optional flags: one that is not given keeps the checkpoint's value.
ModelArguments = dataclasses.make_dataclass(
    "ModelArguments",
    [
        (
            option.name,
            # "balanced", or numbers with commas between them: told apart after parsing
            str | None if option.name in ("class_weights", "concatenated_layers") else option.type | None,  # type: ignore[operator]
            field(default=None, metadata={"help": option.metadata["help"]}),
        )
        for option in dataclasses.fields(WhisperEmotionConfig)
        if "help" in option.metadata
    ],
    namespace={"_argument_group_name": "model, where it is to differ from the checkpoint"},
)


class _Parser(HfArgumentParser):
    """A parser whose complaints are one line, and which knows fields that are no `--name value`.

    A field with `"positional": True` in its metadata takes what stands without a flag; one with `"flag": True` is true
    where it is named, and takes no value, which would be taken for one of these.
    """

    def _parse_dataclass_field(self, parser: argparse.ArgumentParser, field: dataclasses.Field) -> None:
        if field.metadata.get("positional"):
            parser.add_argument(field.name, nargs="*", metavar=field.name.upper(), help=field.metadata["help"])
        elif field.metadata.get("flag"):
            parser.add_argument(f"--{field.name}", action="store_true", help=field.metadata["help"])
        else:
            super()._parse_dataclass_field(parser, field)

    words: Sequence[str] = ()  # the command line

    def error(self, message: str) -> NoReturn:
        flags = [word.partition("=")[0] for word in self.words if word.startswith("--")]
        mistyped = next((flag for flag in flags if " " not in flag and flag not in self._option_string_actions), None)
        if mistyped and message.startswith("the following arguments are required"):  # because of it, probably
            message = f"{mistyped}: {_unknown(mistyped, self._option_string_actions)}"
        number = re.fullmatch(r"argument (--\w+)\S*: invalid (int|float) value: (.*)", message, re.DOTALL)
        if number:
            name, kind, value = number.groups()
            message = f"{name} {value}: must be a {'whole ' if kind == 'int' else ''}number"
        self.exit(2, f"{self.prog}: error: {message}\n")


def parse_arguments(*dataclass_types: type, argv: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Parse `--config FILE.yaml` and flags into dataclasses.

    Args:
        *dataclass_types: Dataclasses whose fields are the options.
        argv: The command line, `sys.argv[1:]` where not given.

    Returns:
        One instance a dataclass.

    Raises:
        UserError: The recipe cannot be read, names an option that there is not, or a value is not allowed.
    """
    parser = _Parser(dataclass_types, allow_abbrev=False, description=sys.modules["__main__"].__doc__)
    parser.add_argument("--config", metavar="FILE.yaml", help="recipe: options by name, which flags override")
    for action in parser._actions:
        if action.dest.startswith(("hub_", "push_to_hub")) or f"--no_{action.dest}" in action.option_strings:
            action.help = argparse.SUPPRESS  # refused, or said by --name false
    known = {
        action.dest: action
        for action in parser._actions
        # an option that is true by default has a second action, --no_…, which a recipe does not name
        if action.dest not in ("help", "config") and f"--no_{action.dest}" not in action.option_strings
    }
    argv = list(sys.argv[1:] if argv is None else argv)

    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    recipe = finder.parse_known_args(argv)[0].config
    if recipe is not None:
        argv = _recipe_flags(Path(recipe), known) + argv
    parser.words = argv
    namespace, unknown = parser.parse_known_intermixed_args(argv)
    if unknown:
        flag = unknown[0].partition("=")[0]  # without its value, which may be a token
        parser.error(f"{flag}: {_unknown(flag, parser._option_string_actions)}")
    for name, action in known.items():
        if not action.option_strings and not getattr(namespace, name):
            parser.error(f"{action.metavar}: none given")
    values = vars(namespace)
    try:
        return tuple(
            kind(**{option.name: values[option.name] for option in dataclasses.fields(kind) if option.init})
            for kind in dataclass_types
        )
    except (ValueError, TypeError, KeyError, ImportError) as error:
        message = one_line(error)
        source = "options" if recipe is None else f"--config {recipe}, or flags"
        raise UserError(message if message.startswith("--") else f"{source}: {message}") from error


def _recipe_flags(path: Path, known: dict[str, argparse.Action]) -> list[str]:
    """A recipe's options as flags, so that they are parsed and checked as those are."""
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read ({error.strerror}), expected a YAML file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--config {path}: is no text, expected a YAML file") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the latter two for "\UFFFFFFFF": no character
        raise UserError(f"--config {path}: is not YAML: {one_line(error)}") from error
    if not isinstance(recipe, dict):
        raise UserError(f"--config {path}: must hold options by name, one `option: value` a line")
    flags: list[str] = []
    for name, value in recipe.items():
        if name not in known:
            raise UserError(f"--config {path}: {name}: {_unknown(str(name), known)}")
        if isinstance(value, dict):
            raise UserError(f"--config {path}: {name}: must be a value, not a table of options")
        if value is not None:
            values = [str(one) for one in (value if isinstance(value, list) else [value])]
            if not known[name].option_strings:
                known[name].default = values
            elif known[name].nargs == 0:
                if not isinstance(value, bool):
                    raise UserError(f"--config {path}: {name}: must be true or false")
                flags += [f"--{name}"] * value
            else:
                # --name=value, for a value may begin with a dash
                flags += [f"--{name}", *values] if known[name].nargs == "+" else [f"--{name}={','.join(values)}"]
    return flags


def _unknown(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return "no such option" + (f"; did you mean {close[0]}?" if close else ", see --help")


def load_experiment(corpus: CorpusArguments, protocol: ProtocolArguments, model: Any, training: Any) -> Experiment:
    """Load the corpus that the options name, and put it together with them.

    Raises:
        UserError: The corpus cannot be read, or an option is not allowed.
    """
    options = {name: getattr(corpus, name) for name in ("classes", "improvised_only", "speaker_pattern")}
    loaded = load_corpus(corpus.corpus, corpus.corpus_dir, **options)
    if os.environ.get("RANK", "0") == "0":
        print(_describe_corpus(loaded))
    return Experiment(
        corpus=loaded,
        encoder=protocol.encoder,
        overrides=_overrides(model),
        args=training,
        select_on=protocol.select_on,
        refit=protocol.refit,
        from_scratch=protocol.from_scratch,
        projector=protocol.projector,
        encoder_dtype=protocol.encoder_dtype,
        speaker_adaptation=protocol.speaker_adaptation,
        temperature_scaling=protocol.temperature_scaling,
        store_dir=protocol.store_dir,
    )


def _describe_corpus(corpus: Dataset) -> str:
    """What was read, so that a wrong folder or pattern is seen before hours of training."""
    clips = Counter(corpus["label"][:])
    classes = ", ".join(f"{name} {clips[index]}" for index, name in enumerate(corpus.features["label"].names))
    speakers = f"{len(set(corpus['speaker'][:]))} speakers" if speakers_known(corpus) else "speakers not known"
    return f"{len(corpus)} utterances ({classes}), {speakers}"


def settings(*arguments: Any) -> dict[str, Any]:
    """All options that a result depends on, by name."""
    values: dict[str, Any] = {}
    for group in arguments:
        values |= group.to_dict() if isinstance(group, EmotionTrainingArguments) else vars(group)
    return {name: value for name, value in values.items() if name not in WITHOUT_INFLUENCE}


def hyper_parameters(training: EmotionTrainingArguments) -> dict[str, Any]:
    """The training options that a model card shows, by name."""
    values = training.to_dict()
    return {name: values[name] for name in HYPER_PARAMETERS}


def _overrides(model: Any) -> dict[str, Any]:
    """The model fields that were given, by name, with lists as numbers; `class_weights` may be `"balanced"`."""
    given = {name: value for name, value in vars(model).items() if value is not None}
    if given.get("class_weights", "balanced") != "balanced":
        given["class_weights"] = _numbers(
            "class_weights", given["class_weights"], float, "balanced, or a number a class, such as 1,2,1"
        )
    if "concatenated_layers" in given:
        given["concatenated_layers"] = _numbers(
            "concatenated_layers", given["concatenated_layers"], int, "layers with commas between them, such as 2,3,4"
        )
    return given


def _numbers(name: str, text: str, kind: Callable[[str], Any], allowed: str) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"--{name} {text}: give {allowed}") from error


def parse_seeds(text: str) -> list[int]:
    """Parse `0,1,2` into seeds.

    Raises:
        UserError: A seed is no whole number, or stands there twice.
    """
    seeds = _numbers("seeds", text, int, "whole numbers with commas between them, such as 0,1,2")
    if len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) >= 2**32:
        raise UserError(f"--seeds {text}: give each seed once, none below 0, and all less than 2**32")
    return seeds


def run_script(
    main: Callable[[], int | None],
    resumes: str = "what was done so far is kept, and the same command goes on from there",
) -> NoReturn:
    """Run a script's `main` and exit with its status; a user's mistake is one line on stderr and status 2.

    SIGTERM and Ctrl-C end it with one line, too, and the statuses 143 and 130.

    Args:
        main: Returns the status; None is 0.
        resumes: What becomes of the work if it is interrupted.
    """
    logging.disable_progress_bar()  # transformers' bars of loading and saving; the Trainer's stay
    # It doubts the file system where checkpoints are saved within a second, as a head's are
    logging.get_logger("transformers.trainer_utils").setLevel(logging.ERROR)
    before = signal.signal(signal.SIGTERM, termination)
    try:
        sys.exit(main() or 0)
    except UserError as error:
        _say(f"error: {printable(str(error))}")
        sys.exit(2)
    except Terminated:
        if os.environ.get("RANK", "0") == "0":  # under a launcher the others are told as well
            _say(f"terminated; {resumes}")
        sys.exit(143)
    except BrokenPipeError:  # who read what is printed, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        sys.exit(141)
    except KeyboardInterrupt:
        _say(f"interrupted; {resumes}")
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, before)
        termination.asked = False


def _say(message: str) -> None:
    with suppress(OSError):  # on a disk that is full the status has to do
        print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
