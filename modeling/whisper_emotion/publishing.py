"""Check a model folder or a Space, and upload it to the Hugging Face Hub in one commit."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, constants, get_token
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of requests, httpx or httpx2, by the Hub's version
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import logging, validate_repo_id

from whisper_emotion.card_metadata import LIBRARY, TAGS, TASK, CardOptions, describe_missing, missing_options
from whisper_emotion.errors import UserError, errors_only, one_line, reading
from whisper_emotion.head_files import is_head, load_head
from whisper_emotion.inference import EmotionClassifier

CODE = tuple(sorted(path.name for path in Path(__file__).parent.glob("*_whisper_emotion.py")))
REQUIRED = ("config.json", "preprocessor_config.json", *CODE)
# Only these files are published. A folder may also hold checkpoints, or predictions.csv with the corpus's labels.
PUBLISHED = (
    "*.safetensors", "model.safetensors.index.json", "*.png", "LICENSE*", "README.md", "scores.json", *REQUIRED
)  # fmt: skip
EXAMPLE = re.compile(r'(pipeline\("audio-classification", model=)"[^"\n]*"')
HEAD_USE = re.compile(r"(?<=## How to use\n\n).*?(?=\n## )", re.DOTALL)  # a head's section, replaced for whole models
HOW_TO_USE = """```python
import soundfile
from transformers import pipeline

recognise = pipeline("audio-classification", model="{name}", trust_remote_code=True)
audio, rate = soundfile.read("speech.wav", dtype="float32")  # 16 kHz, mono, at most 30 s
print(recognise({{"raw": audio, "sampling_rate": rate}}, top_k=None))
```

`trust_remote_code=True` runs the Python files of this repository. Read them, and pin their `revision`.
"""
UNTESTED_CARD = """---
{{}}
---

# {name}

Labels the emotion of a spoken utterance: {labels}. The model pools the frames of a Whisper encoder into one
vector. A linear classifier gives one probability per class.

## How to use

{how_to_use}
## Results

**No test of this model is recorded here.** Its accuracy on new speakers is unknown.

## Intended use

Research on speech emotion recognition. Do not base decisions about a person on it. Do not use it to infer emotions at
work or in education: article 5(1)(f) of the EU AI Act (Regulation 2024/1689) forbids that, except for medical and
safety reasons.
"""


@dataclass(frozen=True)
class Upload:
    """The files of an upload and their repository.

    Args:
        repo_id: The repository, `namespace/name`.
        files: By name, a path, or bytes that replace the file's content.
        left_out: Names of files and folders that are not uploaded.
        remarks: Lines to show the user before the upload.
        repo_type: `model` or `space`.
    """

    repo_id: str
    files: dict[str, Path | bytes]
    left_out: list[str]
    remarks: tuple[str, ...] = ()
    repo_type: str = "model"

    def sizes(self) -> dict[str, int]:
        """Return the size of each file in bytes, by name."""
        return {
            name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in self.files.items()
        }


@contextmanager
def whole_model(folder: str | os.PathLike[str], encoder: str | None = None) -> Iterator[Path]:
    """Yield the folder of a model with its encoder; for a head, a temporary folder with both.

    Args:
        folder: A whole model, or a head without its encoder.
        encoder: For a head: the encoder's folder or Hub name, as in `load_head`.

    Raises:
        UserError: The head or the encoder cannot be loaded, or `encoder` is given for a whole model.
    """
    folder = Path(folder)
    if not is_head(folder):
        if encoder is not None:
            raise UserError(f"--encoder {encoder}: not needed, because {folder} contains its encoder; leave it out")
        yield folder
        return
    with tempfile.TemporaryDirectory() as work:
        made = Path(work) / folder.name
        model, extractor = load_head(folder, encoder)
        model.save_pretrained(made)
        extractor.save_pretrained(made)
        for path in (*folder.glob("*.png"), *folder.glob("scores.json")):
            shutil.copyfile(path, made / path.name)
        for card in folder.glob("README.md"):
            text = HEAD_USE.sub(lambda _: HOW_TO_USE.format(name=folder.name), card.read_text(encoding="utf-8"))
            (made / "README.md").write_text(text, encoding="utf-8")
        yield made


def prepare_upload(folder: str | os.PathLike[str], repo_id: str, card: CardOptions | None = None) -> Upload:
    """Check that a folder is a complete model with a valid card, and list the files of its upload.

    A folder without a `README.md`, as `Trainer` and `save_pretrained` write it, gets a short card, which says that no
    test is recorded. The folder itself is not changed, and the network is not used.

    Args:
        folder: A folder that `train.py`, a `Trainer` or `save_pretrained` wrote.
        repo_id: The repository, `namespace/name`; used in the card's example.
        card: Metadata that replace the card's own.

    Raises:
        UserError: The name is not allowed, a file is missing, the model does not load, or the Hub would not take the
            card's metadata.
    """
    folder = _check_target("--model", Path(folder), repo_id, "train.py or a Trainer")
    missing = [name for name in REQUIRED if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"--model {folder}: lacks {', '.join(missing)}, expected a complete model; save_pretrained(folder) of the "
            "model and of its feature extractor writes these files"
        )
    classifier = EmotionClassifier(folder)  # fails for truncated weights, or weights of another configuration
    scores = folder / "scores.json"
    if scores.is_file():
        with reading(scores, "a file of train.py"):
            labels = json.loads(scores.read_text(encoding="utf-8"))["labels"]
        if classifier.labels != labels:
            raise UserError(f"{scores}: has other labels than the model, expected the file of the same training")
    paths = {path for pattern in PUBLISHED for path in folder.glob(pattern) if path.is_file()}
    files: dict[str, Path | bytes] = {path.name: path for path in sorted(paths)}
    readme, remarks = folder / "README.md", []
    if not readme.is_file():
        remarks.append("README.md: missing, so a short card is uploaded, which says that no test is recorded")
    files["README.md"], lacking = _published_card(readme, repo_id, classifier.labels, card or CardOptions())
    if lacking:
        remarks.append(describe_missing(lacking))
    if classifier.model.config.adapted:
        remarks.append(
            "config.json: the model is adapted to a domain, and treats all recordings as part of that domain"
        )
    left_out = sorted(path.name for path in folder.iterdir() if path.name not in files)
    return Upload(repo_id, dict(sorted(files.items())), left_out, tuple(remarks))


def prepare_space(folder: str | os.PathLike[str], repo_id: str) -> Upload:
    """Check that a folder is a Gradio Space, and list the files of its upload, all but hidden ones.

    Args:
        folder: A folder that `demo.py --space` wrote.
        repo_id: The repository, `namespace/name`.

    Raises:
        UserError: The name is not allowed, or the folder is not a Gradio Space.
    """
    folder = _check_target("--space", Path(folder), repo_id, "demo.py --space")
    readme = folder / "README.md"
    data = _read_card(readme, readme.read_bytes()).data.to_dict() if readme.is_file() else {}
    if data.get("sdk") != "gradio" or not (folder / str(data.get("app_file"))).is_file():
        raise UserError(f"--space {folder}: is not a Gradio Space, expected a folder that demo.py --space wrote")
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files: dict[str, Path | bytes] = {
        name: path
        for name, path in paths.items()
        if not any(part.startswith(".") or part == "__pycache__" for part in name.split("/"))
    }
    sent = {name.partition("/")[0] for name in files}
    left_out = sorted(path.name for path in folder.iterdir() if path.name not in sent)
    return Upload(repo_id, files, left_out, repo_type="space")


def push_upload(upload: Upload, private: bool = False, revision: str | None = None) -> str:
    """Upload in one commit to the Hub of `HF_ENDPOINT`, with the token of `HF_TOKEN` or `hf auth login`.

    Args:
        upload: Output of `prepare_upload` or `prepare_space`.
        private: Create a private repository; an existing one must be private already.
        revision: The branch (default: `main`); created from `main` if missing.

    Returns:
        The commit's URL.

    Raises:
        UserError: There is no token, the Hub refuses the token, the repository or the files, or cannot be reached.
    """
    repo_id, kind, token = upload.repo_id, upload.repo_type, get_token()
    if token is None:
        raise UserError("HF_TOKEN: not set: set a token with write access, or log in with `hf auth login`")
    if not token.isascii() or not token.isprintable():  # the HTTP library's error message would show the token
        raise UserError("HF_TOKEN: contains invalid characters, copy it again")
    api = HfApi(token=token, library_name="whisper_emotion")
    with _one_line_errors(repo_id, token):
        # None keeps an organisation's own default
        sdk = "gradio" if kind == "space" else None
        api.create_repo(repo_id, repo_type=kind, space_sdk=sdk, private=private or None, exist_ok=True)
        if private and not api.repo_info(repo_id, repo_type=kind).private:
            raise UserError(f"--private: {repo_id} is public, make it private in its settings or name another")
        if revision is not None:
            api.create_branch(repo_id, repo_type=kind, branch=revision, exist_ok=True)
        commit = api.create_commit(
            repo_id,
            [CommitOperationAdd(name, file) for name, file in upload.files.items()],
            repo_type=kind,
            commit_message=f"Upload {kind}",
            revision=revision,
        )
    return commit.commit_url


def _check_target(option: str, folder: Path, repo_id: str, writer: str) -> Path:
    """Return the folder; raise if it is not a folder, or if the repository's name is not allowed."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"--repo_id {repo_id}: {one_line(error)}") from error
    if "/" not in repo_id:
        raise UserError(f"--repo_id {repo_id}: has no namespace, expected NAMESPACE/NAME such as me/{repo_id}")
    if not folder.is_dir():
        raise UserError(f"{option} {folder}: is not a folder, expected one that {writer} wrote")
    return folder


def _published_card(path: Path, repo_id: str, labels: list[str], options: CardOptions) -> tuple[bytes, list[str]]:
    """Complete the card's metadata and its example; return the card and the names of missing options."""
    if path.is_file():
        content = path.read_bytes()
    else:
        name = repo_id.partition("/")[2]
        how_to_use = HOW_TO_USE.format(name=name)
        content = UNTESTED_CARD.format(name=name, labels=", ".join(labels), how_to_use=how_to_use).encode()
    card = _read_card(path, content)
    data, before = card.data, card.data.to_dict()
    data.library_name, data.pipeline_tag = data.library_name or LIBRARY, data.pipeline_tag or TASK
    data.tags = data.tags or list(TAGS)
    options.update(data)
    text = content.decode() if data.to_dict() == before else str(card)
    return EXAMPLE.sub(rf'\1"{repo_id}"', text).encode(), missing_options(data)


def _read_card(path: Path, content: bytes) -> ModelCard:
    """Read a card with the Hub's own class; a card without metadata gets an empty block."""
    try:
        text = content.decode()
        return ModelCard(text if text.startswith("---") else f"---\n{{}}\n---\n\n{text}")
    except Exception as error:  # the YAML parser raises various classes
        raise UserError(f"{path}: its metadata are not valid: {one_line(error)}") from error


@contextmanager
def _one_line_errors(repo_id: str, token: str) -> Iterator[None]:
    """Turn the Hub client's errors into a `UserError` without the token; silence its log of retries."""
    try:
        with errors_only(logging):
            yield
    except UserError:
        raise
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        raise UserError(_explain(error, repo_id).replace(token, "…")) from error


def _explain(error: BaseException, repo_id: str) -> str:
    """Explain an error and its fix in one line."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__  # the upload's threads wrap their errors
    response = getattr(error, "response", None)
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE: is set, unset it to upload"
    if response is None and isinstance(error, ValueError):  # invalid metadata, or the server is not a Hub
        return f"--repo_id {repo_id}: {constants.ENDPOINT} refused the upload: {one_line(error)}"
    if response is None:
        return (
            f"--repo_id {repo_id}: the upload to {constants.ENDPOINT} broke off ({one_line(error)}); "
            "the local folder is unchanged, rerun the same command"
        )
    said = " ".join((getattr(error, "server_message", None) or response.reason_phrase).split())
    if response.status_code == 401:
        return f"HF_TOKEN: {constants.ENDPOINT} rejects this token ({said}), set a valid one with write access"
    if response.status_code == 403:
        return f"--repo_id {repo_id}: this token has no write access ({said}), name a repository of your own"
    return f"--repo_id {repo_id}: {constants.ENDPOINT} refused the upload with status {response.status_code} ({said})"
