"""Serve the demo page: record or upload speech, and see the emotions that a trained model predicts over time."""

from dataclasses import dataclass
from pathlib import Path

from whisper_emotion.cli import parse_arguments, run_script
from whisper_emotion.demo import MOST_MEGABYTES, MOST_MINUTES
from whisper_emotion.errors import UserError
from whisper_emotion.options import DEVICE_HELP, ENCODER_HELP, option


@dataclass
class DemoOptions:
    """Options of the page: models, address and limits."""

    model: list[str] = option(
        [], help="trained folders or Hub names; with several, the page offers a choice; default: the general model"
    )
    encoder: str | None = option(None, help=ENCODER_HELP)
    device: str = option("auto", help=DEVICE_HELP)
    host: str = option(
        "127.0.0.1", help="address to listen on: 127.0.0.1 (this machine only) or 0.0.0.0 (all networks)"
    )
    port: int | None = option(None, help="port to listen on; default: the first free port from 7860")
    max_minutes: float = option(MOST_MINUTES, help="refuse longer recordings")
    max_megabytes: float = option(MOST_MEGABYTES, help="refuse larger files")
    space: str | None = option(
        None, help="do not serve; write the page and its models to this folder, for a Hub Space"
    )

    def __post_init__(self):
        for flag, value in (("--max_minutes", self.max_minutes), ("--max_megabytes", self.max_megabytes)):
            if not 0 < value < float("inf"):
                raise UserError(f"{flag} {value:g}: must be more than 0 and finite")
        if self.port is not None and not 0 < self.port < 2**16:
            raise UserError(f"--port {self.port}: must be from 1 to 65535")


def main() -> None:
    """Serve the page, or write it as a Space."""
    (arguments,) = parse_arguments(DemoOptions)
    try:
        from whisper_emotion.demo.page import load_models, run_page  # Gradio takes seconds to load
    except ModuleNotFoundError as error:
        raise UserError(f"--model: the page needs {error.name}, pip install 'whisper-emotion[demo]'") from error
    limits = (arguments.max_minutes, arguments.max_megabytes)
    if arguments.space is None:
        run_page(arguments.model, *limits, arguments.host, arguments.port, arguments.device, arguments.encoder)
        return
    from whisper_emotion.demo.space import write_space

    load_models(arguments.model, arguments.device, arguments.encoder)  # check that the models load
    write_space(Path(arguments.space), arguments.model, *limits)
    print(f"{arguments.space}: python {arguments.space}/app.py serves it; push_to_hub.py --space uploads it")


if __name__ == "__main__":
    run_script(main, "the page is no longer served")
