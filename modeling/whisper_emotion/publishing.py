"""Upload a model folder or a Space to the Hugging Face Hub, checked before anything is sent, in one commit."""

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
# Only these are published: a folder may also hold checkpoints, caches, or predictions.csv, which names every test
# recording and its label, and these belong to the corpus's owners.
PUBLISHED = (
    "*.safetensors", "model.safetensors.index.json", "*.png", "LICENSE*", "README.md", "scores.json", *REQUIRED
)  # fmt: skip
EXAMPLE = re.compile(r'(pipeline\("audio-classification", model=)"[^"\n]*"')
HEAD_USE = re.compile(r"(?<=## How to use\n\n).*?(?=\n## )", re.DOTALL)  # a card's section on a head alone
HOW_TO_USE = """```python
import soundfile
from transformers import pipeline

recognise = pipeline("audio-classification", model="{name}", trust_remote_code=True)
audio, rate = soundfile.read("speech.wav", dtype="float32")  # 16 kHz, mono, at most 30 s
print(recognise({{"raw": audio, "sampling_rate": rate}}, top_k=None))
```

`trust_remote_code=True` runs the Python files of this repository: read them, or pin a `revision` that you have read.
"""
UNTESTED_CARD = """---
{{}}
---

# {name}

Names the emotion of a spoken utterance: {labels}. The frames of a Whisper encoder are pooled into one
vector, and a linear classifier gives one probability a class.

## How to use

{how_to_use}
## Results

**No test of this model is recorded here.** How well it does on speakers that it was not trained on is not known.

## Intended use

Research on speech emotion recognition. Decisions about a person must not rest on it. It must not be used to infer the
emotions of people at work or in education: article 5(1)(f) of the EU AI Act (Regulation 2024/1689) forbids that,
medical and safety reasons excepted.
"""


@dataclass(frozen=True)
class Upload:
    """The files of an upload and where they go.

    Args:
        repo_id: The repository, `namespace/name`.
        files: By name, the file itself, or its content where that differs from the file's.
        left_out: Names of the other files and folders, which stay where they are.
        remarks: Lines that the user should read before the upload.
        repo_type: `model` or `space`.
    """

    repo_id: str
    files: dict[str, Path | bytes]
    left_out: list[str]
    remarks: tuple[str, ...] = ()
    repo_type: str = "model"

    def sizes(self) -> dict[str, int]:
        """Bytes of each file, by name."""
        return {
            name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in self.files.items()
        }


@contextmanager
def whole_model(folder: str | os.PathLike[str], encoder: str | None = None) -> Iterator[Path]:
    """Give the folder of a model with its encoder: of a head, a temporary one that holds both.

    Args:
        folder: A whole model, or a head without its encoder.
        encoder: Of a head: the encoder's folder or Hub name, as of `load_head`.

    Raises:
        UserError: The head or the encoder cannot be loaded, or a whole model has an encoder of its own.
    """
    folder = Path(folder)
    if not is_head(folder):
        if encoder is not None:
            raise UserError(f"--encoder {encoder}: is given, but {folder} has an encoder of its own; leave it out")
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

    A folder that `Trainer` or `save_pretrained` wrote has no `scores.json` and often no `README.md`: it gets a short
    card that says that no test is recorded. Nothing in the folder is changed, and no network is used.

    Args:
        folder: A folder that `train.py`, a `Trainer` or `save_pretrained` wrote.
        repo_id: The repository, `namespace/name`; the card's example gets this name.
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
    classifier = EmotionClassifier(folder)  # weights that are cut off, or not of this configuration, do not load
    scores = folder / "scores.json"
    if scores.is_file():
        with reading(scores, "what train.py wrote"):
            labels = json.loads(scores.read_text(encoding="utf-8"))["labels"]
        if classifier.labels != labels:
            raise UserError(f"{scores}: has other labels than the model, expected what train.py wrote")
    paths = {path for pattern in PUBLISHED for path in folder.glob(pattern) if path.is_file()}
    files: dict[str, Path | bytes] = {path.name: path for path in sorted(paths)}
    readme, remarks = folder / "README.md", []
    if not readme.is_file():
        remarks.append("README.md: is not there, so a short card is uploaded; it says that no test is recorded")
    files["README.md"], lacking = _published_card(readme, repo_id, classifier.labels, card or CardOptions())
    if lacking:
        remarks.append(describe_missing(lacking))
    if classifier.model.config.adapted:
        remarks.append(
            "config.json: the model is adapted to a domain, and takes all recordings as ones of that domain"
        )
    left_out = sorted(path.name for path in folder.iterdir() if path.name not in files)
    return Upload(repo_id, dict(sorted(files.items())), left_out, tuple(remarks))


def prepare_space(folder: str | os.PathLike[str], repo_id: str) -> Upload:
    """Check that a folder is a Gradio Space, and list what would be uploaded: all that is not hidden.

    Args:
        folder: What `demo.py --space` left behind.
        repo_id: The repository, `namespace/name`.

    Raises:
        UserError: The name is not allowed, or the folder is no such Space.
    """
    folder = _check_target("--space", Path(folder), repo_id, "demo.py --space")
    readme = folder / "README.md"
    data = _read_card(readme, readme.read_bytes()).data.to_dict() if readme.is_file() else {}
    if data.get("sdk") != "gradio" or not (folder / str(data.get("app_file"))).is_file():
        raise UserError(f"--space {folder}: is no Gradio Space, expected a folder that demo.py --space wrote")
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
    """Upload in one commit, with the token of `HF_TOKEN` or of `hf auth login`, to the Hub of `HF_ENDPOINT`.

    Args:
        upload: What `prepare_upload` or `prepare_space` returned.
        private: Make the repository private; one that exists must be so already.
        revision: The branch, made from `main` where it does not exist; `main` where not given.

    Returns:
        The commit's address.

    Raises:
        UserError: There is no token, the Hub refuses it, the repository or the files, or it cannot be reached.
    """
    repo_id, kind, token = upload.repo_id, upload.repo_type, get_token()
    if token is None:
        raise UserError("HF_TOKEN: is not set, give a token that may write, or log in with `hf auth login`")
    if not token.isascii() or not token.isprintable():  # which HTTP's library would refuse, and show
        raise UserError("HF_TOKEN: holds characters that no token has, copy it again")
    api = HfApi(token=token, library_name="whisper_emotion")
    with _one_line_errors(repo_id, token):
        # Without --private an organisation's own default holds
        sdk = "gradio" if kind == "space" else None
        api.create_repo(repo_id, repo_type=kind, space_sdk=sdk, private=private or None, exist_ok=True)
        if private and not api.repo_info(repo_id, repo_type=kind).private:
            raise UserError(f"--private: {repo_id} exists and is public, change that in its settings or name another")
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
    """Return the folder if it is one and a repository may have this name."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"--repo_id {repo_id}: {one_line(error)}") from error
    if "/" not in repo_id:
        raise UserError(f"--repo_id {repo_id}: has no namespace, expected NAMESPACE/NAME such as me/{repo_id}")
    if not folder.is_dir():
        raise UserError(f"{option} {folder}: is no folder, expected one that {writer} wrote")
    return folder


def _published_card(path: Path, repo_id: str, labels: list[str], options: CardOptions) -> tuple[bytes, list[str]]:
    """The card with complete metadata and the repository's name in its example, and the options that it lacks."""
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
    """Read a card as the Hub's own classes do; one without metadata gets an empty block of them."""
    try:
        text = content.decode()
        return ModelCard(text if text.startswith("---") else f"---\n{{}}\n---\n\n{text}")
    except Exception as error:  # a YAML parser raises any class on a person's typing
        raise UserError(f"{path}: its metadata are not valid: {one_line(error)}") from error


@contextmanager
def _one_line_errors(repo_id: str, token: str) -> Iterator[None]:
    """Turn what the Hub's client raises into a `UserError` without the token, and keep its log of retries quiet."""
    try:
        with errors_only(logging):
            yield
    except UserError:
        raise
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        raise UserError(_explain(error, repo_id).replace(token, "…")) from error


def _explain(error: BaseException, repo_id: str) -> str:
    """What went wrong and what would be right, in one line."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__  # the upload's threads wrap what they meet
    response = getattr(error, "response", None)
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE: is set, unset it to upload"
    if response is None and isinstance(error, ValueError):  # of the card's metadata, or an answer that is no Hub's
        return f"--repo_id {repo_id}: {constants.ENDPOINT} did not take the upload: {one_line(error)}"
    if response is None:
        return (
            f"--repo_id {repo_id}: the upload to {constants.ENDPOINT} broke off ({one_line(error)}); "
            "the local folder is whole, give the same command again"
        )
    said = " ".join((getattr(error, "server_message", None) or response.reason_phrase).split())
    if response.status_code == 401:
        return f"HF_TOKEN: {constants.ENDPOINT} does not accept this token ({said}), give a valid one that may write"
    if response.status_code == 403:
        return f"--repo_id {repo_id}: this token may not write there ({said}), name a repository of your own"
    return f"--repo_id {repo_id}: {constants.ENDPOINT} refused the upload with status {response.status_code} ({said})"
