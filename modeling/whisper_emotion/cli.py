"""Parse flags and YAML recipes into dataclasses of options; run a script and turn errors into exit codes."""

import argparse
import dataclasses
import difflib
import logging
import os
import signal
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml

from whisper_emotion.errors import UserError, missing_package, one_line, printable
from whisper_emotion.options import parse_numbers
from whisper_emotion.termination import Terminated, termination

METAVARS = {int: "N", float: "X", str: "TEXT", bool: ""}
ALLOWED = {int: "must be a whole number", float: "must be a number", bool: "must be true or false"}
REFUSED = ("hub_", "push_to_hub")  # prefixes of transformers' options that our scripts do not offer


def parse_arguments(*dataclass_types: type, argv: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Parse `--config FILE.yaml` and flags into dataclasses; a flag wins over the recipe.

    A boolean flag without a value is true. It may be followed by `true` or `false`; any other word is not its value.
    A list in a recipe equals a comma-separated value.

    Args:
        *dataclass_types: Dataclasses whose fields are the options; see `options.option`.
        argv: The command line; default: `sys.argv[1:]`.

    Returns:
        One instance per dataclass.

    Raises:
        UserError: The recipe cannot be read, an option is unknown or missing, or a value is not allowed.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    groups = {kind: _options_of(kind) for kind in dataclass_types}
    options = {option.name: option for group in groups.values() for option in group}
    parser = _build_parser(groups, everything="--help_all" in argv)
    parsed, unknown = parser.parse_known_intermixed_args(_join_booleans(argv, options))
    given = {name: value for name, value in vars(parsed).items() if value or value == ""}
    if unknown:
        _refuse_unknown(unknown, argv, options)
    recipe = given.pop("config", None)
    values = {} if recipe is None else _read_recipe(_find_recipe(recipe), options)
    values |= {name: options[name].convert(value, f"--{name}") for name, value in given.items()}
    lacking = [option for option in options.values() if option.required and option.name not in values]
    if lacking and lacking[0].positional:
        raise UserError(f"{lacking[0].name.upper()}: none given")
    if lacking:
        raise UserError(f"{', '.join(f'--{option.name}' for option in lacking)}: must be given, see --help")
    try:
        return tuple(
            kind(**{option.name: values[option.name] for option in group if option.name in values})
            for kind, group in groups.items()
        )
    except (ValueError, TypeError, KeyError, ImportError) as error:
        message = one_line(error)
        source = "options" if recipe is None else f"--config {recipe}, or flags"
        raise UserError(message if message.startswith("--") else f"{source}: {message}") from error


@dataclass(frozen=True)
class _Option:
    """A dataclass field as the parser sees it.

    Args:
        name: The flag without its dashes.
        kind: Type of its values: bool, int, float or str.
        several: Whether the option takes several values.
        required: Whether the option must be given.
        positional: Whether the option takes the arguments without a flag.
        choices: The allowed values; empty: all.
        help: The line in `--help`.
        shown: Whether `--help` shows the option; if not, only `--help_all` does.
    """

    name: str
    kind: type
    several: bool
    required: bool
    positional: bool
    choices: Sequence[str]
    help: str
    shown: bool

    def convert(self, given: Any, source: str) -> Any:
        """Convert a text, a list of texts, or a recipe's value.

        Raises:
            UserError: The value is not allowed; the message begins with `source`.
        """
        if self.several:
            return [self._convert(one, source) for one in (given if isinstance(given, list) else [given])]
        return self._convert(",".join(map(str, given)) if isinstance(given, list) else given, source)

    def _convert(self, given: Any, source: str) -> Any:
        text = str(given).lower() if isinstance(given, bool) else str(given)
        if self.kind is bool:
            if text.lower() not in ("true", "false"):
                raise UserError(f"{source} {text}: {ALLOWED[bool]}")
            return text.lower() == "true"
        if self.choices and text not in self.choices:
            raise UserError(f"{source} {text}: must be one of {', '.join(self.choices)}")
        try:
            return self.kind(text)
        except ValueError as error:
            raise UserError(f"{source} {text}: {ALLOWED[self.kind]}") from error


def _options_of(kind: type) -> list[_Option]:
    """List the options of a dataclass; only `--help_all` shows options inherited from a library."""
    hints = get_type_hints(kind)
    bases = [base for base in kind.__mro__ if not base.__module__.startswith("transformers.")]
    own = {name for base in bases for name in base.__dict__.get("__annotations__", {})}
    return [_option(field, hints[field.name], field.name in own) for field in dataclasses.fields(kind) if field.init]


def _option(field: dataclasses.Field, hint: Any, own: bool) -> _Option:
    value_type, several = _value_type(hint)
    positional = field.metadata.get("positional", False)
    choices = [str(choice) for choice in field.metadata.get("choices") or ()]
    required = positional or (field.default is MISSING and field.default_factory is MISSING)
    help = " ".join(field.metadata.get("help", "").split()).replace("%%", "%")
    notes = [", ".join(choices)] if not all(choice in help for choice in choices) else []
    notes += ["required"] if required and not positional else []
    if field.default not in (MISSING, None, False, ""):
        notes.append(f"default: {str(field.default).lower() if field.default is True else field.default}")
    shown = own and not field.metadata.get("advanced", False)
    help += f" ({'; '.join(notes)})" if notes else ""
    return _Option(field.name, value_type, several, required, positional, choices, help, shown)


def _value_type(hint: Any) -> tuple[type, bool]:
    """Return an annotation's value type (str if it allows several types) and whether it is a list."""
    allowed = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    allowed = [one for one in allowed if one is not types.NoneType]
    if len(allowed) > 1:
        return str, False
    several = get_origin(allowed[0]) is list
    value_type = get_args(allowed[0])[0] if several else allowed[0]
    return value_type if value_type in METAVARS else str, several


class _Parser(argparse.ArgumentParser):
    """A parser that raises `UserError` instead of exiting."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))


def _build_parser(groups: Mapping[type, Sequence[_Option]], everything: bool) -> _Parser:
    """Build a parser that splits the command line and prints the help, but converts no values."""
    files = [option.name.upper() for group in groups.values() for option in group if option.positional]
    parser = _Parser(
        usage=" ".join(["%(prog)s [--config FILE.yaml] [options]", *(f"{name} [{name} ...]" for name in files)]),
        description=sys.modules["__main__"].__doc__,
        epilog="A recipe sets options as `option: value`. Options without a value are boolean: "
        "`--option`, `--option true`, `--option false`.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--help_all", action="help", help="show all options, including rarely used ones")
    parser.add_argument("--config", metavar="FILE.yaml", help="recipe, or a shipped one's name; flags win")
    for kind, options in groups.items():
        title = getattr(kind, "GROUP", None)
        group = parser if title is None else parser.add_argument_group(title)
        for option in options:
            visible = (option.shown or everything) and not option.name.startswith(REFUSED)
            help = option.help.replace("%", "%%") if visible else argparse.SUPPRESS
            if option.positional:
                group.add_argument(option.name, nargs="*", metavar=option.name.upper(), help=help, default=None)
            else:
                metavar = "NAME" if option.choices else METAVARS[option.kind]
                nargs = "+" if option.several else None
                group.add_argument(f"--{option.name}", nargs=nargs, metavar=metavar, help=help)
    return parser


def _join_booleans(argv: Sequence[str], options: Mapping[str, _Option]) -> list[str]:
    """Rewrite `--plot` and `--plot true` as `--plot=true`, so that argparse takes no other word as the value."""
    booleans = {f"--{option.name}" for option in options.values() if option.kind is bool}
    words, rest = list(argv), []
    while words:
        word = words.pop(0)
        if word == "--":
            return [*rest, word, *words]
        if word in booleans:
            word += f"={words.pop(0)}" if words and words[0].lower() in ("true", "false") else "=true"
        rest.append(word)
    return rest


def _refuse_unknown(unknown: Sequence[str], argv: Sequence[str], options: Mapping[str, _Option]) -> NoReturn:
    """Name the first unknown option, without its value, which may be a secret token."""
    flag = next((word.partition("=")[0] for word in unknown if word.startswith("-")), None)
    if flag is not None:
        raise UserError(f"{flag}: {_no_such_option(flag, [f'--{name}' for name in options])}")
    before = argv[argv.index(unknown[0]) - 1].removeprefix("--")
    if before in options and options[before].kind is bool:
        raise UserError(f"--{before} {unknown[0]}: {ALLOWED[bool]}")
    raise UserError(f"{unknown[0]}: belongs to no option, see --help")


def _no_such_option(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return "no such option" + (f"; did you mean {close[0]}?" if close else ", see --help")


def scripts_folder() -> Path:
    """Return the folder of the scripts: beside this file in an installed package, otherwise the repository's."""
    packaged = Path(__file__).with_name("scripts")
    return packaged if packaged.exists() else Path(__file__).parents[2] / "scripts"


def _find_recipe(name: str) -> Path:
    """Return a recipe's path; a name without a suffix, such as `best`, is a shipped recipe."""
    own = scripts_folder() / "recipes" / f"{name}.yaml"
    return own if not Path(name).suffix and not Path(name).exists() and own.exists() else Path(name)


def _read_recipe(path: Path, options: Mapping[str, _Option]) -> dict[str, Any]:
    """Read a recipe's values by option, converted in the same way as flags."""
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read ({error.strerror}), expected a YAML file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--config {path}: not a text file, expected a YAML file") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the latter two for "\UFFFFFFFF", not a character
        raise UserError(f"--config {path}: is not YAML: {one_line(error)}") from error
    if not isinstance(recipe, dict):
        raise UserError(f"--config {path}: must hold one `option: value` per line")
    values = {}
    for name, value in recipe.items():
        if name not in options:
            raise UserError(f"--config {path}: {name}: {_no_such_option(str(name), options)}")
        if isinstance(value, dict):
            raise UserError(f"--config {path}: {name}: must be a value, not a mapping")
        if value is not None:
            values[name] = options[name].convert(value, f"--config {path}: {name}:")
    return values


def parse_seeds(text: str) -> list[int]:
    """Parse `0,1,2` into seeds.

    Raises:
        UserError: A seed is not a whole number, out of range, or repeated.
    """
    seeds = parse_numbers("seeds", text, int, "comma-separated whole numbers, such as 0,1,2")
    if len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) >= 2**32:
        raise UserError(f"--seeds {text}: must be different seeds from 0 to 2**32 - 1")
    return seeds


def run_script(
    main: Callable[[], int | None],
    resumes: str = "finished work is kept; rerun the same command to resume",
) -> NoReturn:
    """Run a script's `main` and exit with its status.

    A `UserError` prints one line on stderr and exits with 2. SIGTERM prints one line and exits with 143, Ctrl-C with
    130. A closed pipe exits with 141.

    Args:
        main: Returns the status; None is 0.
        resumes: Message about the unfinished work, printed on SIGTERM and Ctrl-C.
    """
    _silence_libraries()
    before = signal.signal(signal.SIGTERM, termination)
    try:
        sys.exit(main() or 0)
    except UserError as error:
        _say(f"error: {printable(str(error))}")
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (hint := missing_package(error)) is None:
            raise
        _say(f"error: {hint}")
        sys.exit(2)
    except Terminated:
        if os.environ.get("RANK", "0") == "0":  # a launcher terminates every process; one message is enough
            _say(f"terminated; {resumes}")
        sys.exit(143)
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # sys.exit flushes stdout
        sys.exit(141)
    except KeyboardInterrupt:
        _say(f"interrupted; {resumes}")
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, before)
        termination.asked = False


def _silence_libraries() -> None:
    """Hide transformers' progress bars for loading and saving; the Trainer's bars stay."""
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # transformers reads it when it is imported
    if "transformers" in sys.modules:
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
    # It warns about the file system when two checkpoints are saved within a second, as happens for heads
    logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)


def _say(message: str) -> None:
    with suppress(OSError):  # stderr may be a file on a full disk
        print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
