"""Serve the demo page: record or upload speech, and see which emotion a trained model hears in it, where, and when."""

from dataclasses import dataclass, field
from pathlib import Path

from whisper_emotion.arguments import parse_arguments, run_script
from whisper_emotion.demo import MOST_MEGABYTES, MOST_MINUTES
from whisper_emotion.demo.space import write_space
from whisper_emotion.errors import UserError


@dataclass
class DemoArguments:
    """Which models are shown, where, and what the page takes."""

    model: list[str] = field(
        metadata={"help": "trained folders or Hub names; of several, the page lets people choose"}
    )
    host: str = field(
        default="127.0.0.1",
        metadata={"help": "address to listen on: 127.0.0.1 is for this machine alone, 0.0.0.0 for all that reach it"},
    )
    port: int | None = field(
        default=None, metadata={"help": "port to listen on; the first free one from 7860 on where not given"}
    )
    max_minutes: float = field(default=MOST_MINUTES, metadata={"help": "refuse longer recordings"})
    max_megabytes: float = field(default=MOST_MEGABYTES, metadata={"help": "refuse larger files"})
    space: str | None = field(
        default=None,
        metadata={"help": "serve nothing, and write the page and its models as this folder, which a Hub Space runs"},
    )

    def __post_init__(self):
        for option, value in (("--max_minutes", self.max_minutes), ("--max_megabytes", self.max_megabytes)):
            if not 0 < value < float("inf"):
                raise UserError(f"{option} {value:g}: must be more than 0, and finite")
        if self.port is not None and not 0 < self.port < 2**16:
            raise UserError(f"--port {self.port}: must be from 1 to 65535")


def main() -> None:
    """Serve the page, or write it as a Space."""
    (arguments,) = parse_arguments(DemoArguments)
    try:
        from whisper_emotion.demo.page import load_models, run_page  # Gradio takes seconds to load
    except ModuleNotFoundError as error:
        raise UserError(f"--model: the page needs {error.name}, pip install 'whisper-emotion[demo]'") from error
    limits = (arguments.max_minutes, arguments.max_megabytes)
    if arguments.space is None:
        run_page(arguments.model, *limits, arguments.host, arguments.port)
        return
    load_models(arguments.model)  # what does not load here would not there
    write_space(Path(arguments.space), arguments.model, *limits)
    print(f"{arguments.space}: python {arguments.space}/app.py serves it; push_to_hub.py --space uploads it")


if __name__ == "__main__":
    run_script(main, "the page is no longer served")
