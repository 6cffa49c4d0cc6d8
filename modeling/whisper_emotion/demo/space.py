"""The demo page as a folder that a Hugging Face Space runs: the page's code, its requirements, and its models."""

import platform
import re
import shutil
import tempfile
from collections.abc import Sequence
from importlib.metadata import requires, version
from pathlib import Path

from huggingface_hub import SpaceCardData

import whisper_emotion
from whisper_emotion.demo import PURPOSE, model_name
from whisper_emotion.errors import UserError

PACKAGE = Path(whisper_emotion.__file__).parent
# Files for labelling, and the card: people should be able to read what the model is for
MODEL_FILES = ("*.safetensors", "model.safetensors.index.json", "config.json", "preprocessor_config.json", "README.md")
APP = '''"""The demo page of whisper-emotion; made by its `scripts/demo.py --space`."""

from pathlib import Path

from whisper_emotion.demo.page import run_page

HERE = Path(__file__).resolve().parent
MODELS = [{models}]

if __name__ == "__main__":
    run_page(MODELS, most_minutes={most_minutes!r}, most_megabytes={most_megabytes!r})
'''
README = """---
{metadata}---

# Speech emotion

Record or upload speech, and see which emotion a model hears in it, which moment decided, and how it goes over time.

Made by `scripts/demo.py --space` of whisper-emotion. Elsewhere it runs as it does on the Hub:
`pip install gradio=={gradio} -r requirements.txt`, then `python app.py`.

{purpose}
"""


def write_space(folder: Path, models: Sequence[str], most_minutes: float, most_megabytes: float) -> None:
    """Write the folder, whole or not at all. It holds this package, since a Space has nothing else to get it from.

    Args:
        folder: A new folder, or an empty one.
        models: Trained folders, which are copied, and Hub names, which the Space loads when it starts. None is the
            general model, whose encoder it loads.
        most_minutes: Longer recordings are refused.
        most_megabytes: Larger ones are.

    Raises:
        UserError: The folder holds something, or cannot be written; two models have the same name.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--space {folder}: exists, name a new folder")
    local = {model_name(model): Path(model) for model in models if Path(model).is_dir()}
    hub = [model for model in models if not Path(model).is_dir()]
    places = [f'str(HERE / "models" / {name!r})' for name in local] + [repr(name) for name in hub]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as work:
            made = Path(work) / "space"
            shutil.copytree(PACKAGE, made / "whisper_emotion", ignore=shutil.ignore_patterns("__pycache__"))
            for name, model in local.items():
                (made / "models" / name).mkdir(parents=True)
                for path in sorted({path for pattern in MODEL_FILES for path in model.glob(pattern)}):
                    shutil.copyfile(path, made / "models" / name / path.name)
            (made / "requirements.txt").write_text(_requirements(), encoding="utf-8")
            (made / "README.md").write_text(_readme(hub), encoding="utf-8")
            app = APP.format(models=", ".join(places), most_minutes=most_minutes, most_megabytes=most_megabytes)
            (made / "app.py").write_text(app, encoding="utf-8")
            made.replace(folder)
    except OSError as error:
        raise UserError(f"--space {folder}: cannot be written ({error.strerror})") from error


def _requirements() -> str:
    """This package's dependencies in the versions that are installed here; Gradio is the Space's own."""
    lines = [line for line in requires("whisper-emotion") or [] if "extra ==" not in line]
    names = sorted(re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in lines)
    return "".join(f"{name}=={version(name).split('+')[0]}\n" for name in names)  # +cpu is no version on the index


def _readme(hub: Sequence[str]) -> str:
    metadata = SpaceCardData(
        title="Speech emotion", emoji="🎙️", colorFrom="blue", colorTo="indigo", sdk="gradio",
        sdk_version=version("gradio"), python_version=".".join(platform.python_version_tuple()[:2]), app_file="app.py",
        models=list(hub) or None, short_description="Which emotion a Whisper encoder hears, where, and when",
    )  # fmt: skip
    return README.format(metadata=f"{metadata.to_yaml()}\n", gradio=version("gradio"), purpose=PURPOSE)
