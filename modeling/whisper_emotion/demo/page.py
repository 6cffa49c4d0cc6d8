"""The demo page in Gradio: its layout and its server."""

import html
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path

import gradio as gr
from gradio.themes import Default
from PIL import Image

from whisper_emotion.demo import PURPOSE, TESTED, model_name
from whisper_emotion.demo.listening import Account, describe_seconds, listen
from whisper_emotion.errors import UserError, one_line
from whisper_emotion.head_files import find_model, is_head
from whisper_emotion.inference import EmotionClassifier

logger = logging.getLogger(__name__)

WAITING = 100  # recordings; who comes then is told to come again
KEPT_SECONDS = 1800  # what people upload, and the pictures of it
SESSIONS = 64  # whose last result is kept in memory
EXAMPLES_DIR = Path(__file__).with_name("examples")
EXAMPLES = {  # by the button's text; both are read by espeak-ng, a speech synthesiser
    "Example: slow and low": "slow_low_voice.ogg",
    "Example: fast and high": "fast_high_voice.ogg",
}
HEADINGS = ("Which moment decided", "Emotion over time")
PICTURE = {
    "visible": False, "format": "png", "interactive": False, "buttons": ["fullscreen"], "show_label": False,
    "elem_classes": "picture",
}  # fmt: skip

# Gradio's own fonts need not be sent at all
FONTS = ["system-ui", "sans-serif"]
THEME = Default(primary_hue="blue", font=FONTS, font_mono=FONTS)
CSS = """
.gradio-container { width: 100% !important; max-width: 72rem !important; margin: 0 auto !important; }
.html-container { padding: 0 !important; }
/* Where to record and where to upload: wide enough for a thumb, and in words */
.source-selection { height: auto !important; }
.source-selection button { display: flex; align-items: center; gap: 0.5rem; width: auto; height: 2.75rem;
    padding: 0 0.75rem; }
.source-selection button::after { content: attr(aria-label); }
.source-selection button:not(.selected) { color: var(--body-text-color); }
.source-selection svg { width: 1.25rem; height: 1.25rem; }
#said p { margin: 0; }
#said p.wrong { padding: 0.75rem 1rem; border-left: 4px solid var(--error-border-color);
    background: var(--error-background-fill); color: var(--error-text-color); }
#said p.unsure { padding: 0.75rem 1rem; border-left: 4px solid var(--body-text-color-subdued);
    background: var(--background-fill-secondary); }
.about h2 { margin: 0 0 0.25rem; font-size: var(--text-lg); }
.about p { margin: 0; }
#for { opacity: 0.8; }
/* Ink on paper becomes chalk on a board; hues stay what the captions call them */
.dark .picture img { filter: invert(0.85) hue-rotate(180deg); }
"""


def run_page(
    models: Sequence[str],
    most_minutes: float,
    most_megabytes: float,
    host: str | None = None,
    port: int | None = None,
    device: str = "auto",
    encoder: str | None = None,
) -> None:
    """Serve the page until it is interrupted.

    Args:
        models: Trained folders or Hub names; none is the general model.
        most_minutes: Longer recordings are refused.
        most_megabytes: Larger ones are.
        host: The address to listen on; that of `GRADIO_SERVER_NAME`, or this machine alone, where not given.
        port: The port; that of `GRADIO_SERVER_PORT`, or the first free one from 7860 on, where not given.
        device: Where the models run, as in `EmotionClassifier`.
        encoder: Of the models that are heads, as in `EmotionClassifier`.

    Raises:
        UserError: A model cannot be loaded, or the port is taken.
    """
    page = build_page(load_models(models, device, encoder), most_minutes, most_megabytes)
    print(f"{launch_page(page, most_megabytes, host, port)} (Ctrl+C ends it)", flush=True)
    page.block_thread()


def load_models(
    models: Sequence[str], device: str = "auto", encoder: str | None = None
) -> dict[str, EmotionClassifier]:
    """The models by the names that the page shows; arguments as of `run_page`.

    Raises:
        UserError: A model cannot be loaded, or two have the same name.
    """
    if not models:
        models = ["general"]
    loaded: dict[str, EmotionClassifier] = {}
    for model in models:
        name = model_name(model)
        if name in loaded:
            raise UserError(f"--model {model}: another one is named {name}, too; rename one of the folders")
        loaded[name] = EmotionClassifier(model, encoder if is_head(find_model(model)) else None, device=device)
    return loaded


def build_page(classifiers: Mapping[str, EmotionClassifier], most_minutes: float, most_megabytes: float) -> gr.Blocks:
    """The page.

    Args:
        classifiers: The models by name; the first one is chosen.
        most_minutes: Longer recordings are refused.
        most_megabytes: What the page says of larger ones; `launch_page` refuses them.
    """

    def label(file: str | None, model: str, progress: gr.Progress = gr.Progress()) -> tuple:  # noqa: B008
        """The page's contents for a recording, or for none; Gradio shows progress where a function asks for one so."""
        if file is None:
            return _contents(Account("There is no recording yet: record or upload one."))
        try:
            return _contents(listen(classifiers[model], file, 60 * most_minutes, progress))
        except UserError as error:
            return _contents(Account(str(error)), wrong=True)
        except Exception:
            logger.exception("a recording could not be labelled")
            sorry = "Something went wrong here, and was noted. It may work with another recording."
            return _contents(Account(sorry), wrong=True)

    first = next(iter(classifiers))
    with gr.Blocks(title="Speech emotion", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)) as page:
        gr.Markdown(
            "# Which emotion does it sound like?\n"
            f"Record a sentence, or upload a recording: WAV, FLAC, MP3 or Ogg, up to "
            f"{describe_seconds(60 * most_minutes)} and {most_megabytes:g} MB."
        )
        with gr.Row():
            with gr.Column():
                recording = gr.Audio(
                    sources=["upload", "microphone"], type="filepath", label="Recording", editable=False, buttons=[]
                )
                _refuse_addresses(recording)
                model = gr.Dropdown(list(classifiers), value=first, label="Model", visible=len(classifiers) > 1)
                with gr.Row():
                    examples = [(gr.Button(name, size="sm"), EXAMPLES_DIR / file) for name, file in EXAMPLES.items()]
                again = gr.Button("Name the emotion", variant="primary")
                said = gr.HTML(elem_id="said")
                probabilities = gr.Label(label="Probabilities", visible=False)
            with gr.Column():
                shown = []
                for name in HEADINGS:
                    shown += [
                        gr.HTML(label=name, visible=False, elem_classes="about"),
                        gr.Image(label=name, **PICTURE),
                    ]
        if "general" in classifiers:
            gr.Markdown(TESTED)
        gr.Markdown(f"{PURPOSE} Recordings are deleted after {describe_seconds(KEPT_SECONDS)}.", elem_id="for")
        gr.on(
            [recording.change, model.change, again.click],
            label,
            [recording, model],
            [said, probabilities, *shown],
            api_name="label",
            concurrency_limit=1,  # a model uses all cores
            trigger_mode="always_last",
            show_progress_on=said,
        )
        for button, file in examples:
            button.click(partial(str, file), None, recording, api_visibility="private")
    # Requests wait their turn, and no others are answered
    return page.queue(max_size=WAITING, api_open=False)


def _contents(account: Account, wrong: bool = False) -> tuple:
    """The values of all that is shown, in the page's order; a part without a value is hidden."""
    role, kind = ("alert", "wrong") if wrong else ("status", "right" if account.unsure is None else "unsure")
    shown = [
        f'<p role="{role}" class="{kind}">{html.escape(account.summary)}</p>',
        gr.update(
            value=account.probabilities, visible=account.probabilities is not None, show_heading=account.unsure is None
        ),
    ]
    for heading, picture in zip(HEADINGS, (account.attention, account.timeline), strict=True):
        if picture is None:
            shown += [gr.update(value="", visible=False), gr.update(value=None, visible=False)]
        else:
            about = f"<h2>{heading}</h2><p>{html.escape(picture.caption)}</p>"
            image = Image.open(BytesIO(picture.png))
            shown += [
                gr.update(value=about, visible=True),
                gr.update(value=image, visible=True, alt_text=picture.caption),
            ]
    return tuple(shown)


def _refuse_addresses(component: gr.Audio) -> None:
    """Take uploads only: Gradio would also fetch, without a limit, what a client names by its address.

    In a class of our own this would be a method, but Gradio writes a file beside the source of such a class.
    """
    move = component.async_move_resource_to_block_cache

    async def move_uploads(place: str | Path | None) -> str | None:
        if str(place).startswith(("http://", "https://")):
            raise gr.Error("A recording must be uploaded, not named by its address.", print_exception=False)
        return await move(place)

    component.async_move_resource_to_block_cache = move_uploads


def launch_page(page: gr.Blocks, most_megabytes: float, host: str | None = None, port: int | None = None) -> str:
    """Serve a page from a thread of its own; for the arguments see `run_page`. Returns its address."""
    try:
        _, url, _ = page.launch(
            server_name=host, server_port=port, max_file_size=int(most_megabytes * 2**20), theme=THEME, css=CSS,
            prevent_thread_lock=True, allowed_paths=[str(EXAMPLES_DIR)],
            quiet=True, share=False, show_error=False, footer_links=[], run_history=False,
            enable_monitoring=False, pwa=False, ssr_mode=False, mcp_server=False, state_session_capacity=SESSIONS,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"--port {port}: cannot be listened on, name another ({one_line(error)})") from error
    return url
