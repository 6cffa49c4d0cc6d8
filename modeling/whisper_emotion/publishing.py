"""A trained folder, or a Space, to the Hugging Face Hub: checked before anything is sent, uploaded in one commit."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, constants, get_token
from huggingface_hub.errors import HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import logging, validate_repo_id

from whisper_emotion.errors import UserError, errors_only, one_line, reading
from whisper_emotion.inference import EmotionClassifier

CODE = tuple(sorted(path.name for path in Path(__file__).parent.glob("*_whisper_emotion.py")))
REQUIRED = ("README.md", "config.json", "preprocessor_config.json", "scores.json", *CODE)
# What is published and no more: a folder may also hold checkpoints, caches, or predictions.csv, which names every test
# recording and its label, and these belong to the corpus's owners.
PUBLISHED = ("*.safetensors", "model.safetensors.index.json", "*.png", "LICENSE*", *REQUIRED)
CARD_FIELDS = ("license", "library_name", "pipeline_tag")


@dataclass(frozen=True)
class Upload:
    """What would be uploaded where.

    Args:
        repo_id: The repository, `namespace/name`.
        files: By name, the file itself, or its content where that differs from the file's.
        left_out: Names of the other files and folders, which stay where they are.
        repo_type: `model` or `space`.
    """

    repo_id: str
    files: dict[str, Path | bytes]
    left_out: list[str]
    repo_type: str = "model"

    def sizes(self) -> dict[str, int]:
        """Bytes of each file, by name."""
        return {
            name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in self.files.items()
        }


def prepare_upload(folder: str | os.PathLike[str], repo_id: str) -> Upload:
    """Check that a folder is a complete trained model with a valid card, and list what would be uploaded.

    Nothing in the folder is changed, and no network is used.

    Args:
        folder: What `train.py` left behind.
        repo_id: The repository, `namespace/name`; the card's example gets this name.

    Raises:
        UserError: The name is not allowed, a file is missing, the model does not load, or the card's metadata are not
            what the Hub takes.
    """
    folder = Path(folder)
    _check_repo_id(repo_id)
    if not folder.is_dir():
        raise UserError(f"--model {folder}: is no folder, expected one that train.py wrote")
    missing = [name for name in REQUIRED if not (folder / name).is_file()]
    if missing:
        raise UserError(f"--model {folder}: lacks {', '.join(missing)}, expected a folder that train.py finished")
    with reading(folder / "scores.json", "what train.py wrote"):
        labels = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["labels"]
    classifier = EmotionClassifier(folder)  # weights that are cut off, or not of this configuration, do not load
    if classifier.labels != labels:
        raise UserError(f"{folder / 'scores.json'}: has other labels than the model, expected what train.py wrote")
    paths = {path for pattern in PUBLISHED for path in folder.glob(pattern) if path.is_file()}
    files: dict[str, Path | bytes] = {path.name: path for path in sorted(paths)}
    files["README.md"] = _published_card(folder / "README.md", repo_id)
    return Upload(repo_id, files, sorted(path.name for path in folder.iterdir() if path.name not in files))


def prepare_space(folder: str | os.PathLike[str], repo_id: str) -> Upload:
    """Check that a folder is a Gradio Space, and list what would be uploaded: all that is not hidden.

    Args:
        folder: What `demo.py --space` left behind.
        repo_id: The repository, `namespace/name`.

    Raises:
        UserError: The name is not allowed, or the folder is no such Space.
    """
    folder = Path(folder)
    _check_repo_id(repo_id)
    if not folder.is_dir():
        raise UserError(f"--space {folder}: is no folder, expected one that demo.py --space wrote")
    readme = folder / "README.md"
    data = _read_metadata(readme) if readme.is_file() else {}
    if data.get("sdk") != "gradio" or not (folder / str(data.get("app_file"))).is_file():
        raise UserError(f"--space {folder}: is no Gradio Space, expected a folder that demo.py --space wrote")
    files: dict[str, Path | bytes] = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in parts):
            files["/".join(parts)] = path
    sent = {name.split("/")[0] for name in files}
    return Upload(repo_id, files, sorted(path.name for path in folder.iterdir() if path.name not in sent), "space")


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


def _check_repo_id(repo_id: str) -> None:
    """Raise unless a repository may have this name."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"--repo_id {repo_id}: {one_line(error)}") from error
    if "/" not in repo_id:
        raise UserError(f"--repo_id {repo_id}: has no namespace, expected NAMESPACE/NAME such as me/{repo_id}")


def _published_card(path: Path, repo_id: str) -> bytes:
    """The card with the repository's name in its example, if its metadata are valid and complete."""
    data = _read_metadata(path)
    missing = [name for name in CARD_FIELDS if not data.get(name)]
    if missing:
        raise UserError(f"{path}: its metadata lack {', '.join(missing)}, expected them between the lines of ---")
    return re.sub(r'"<namespace>/[^"\n]*"', f'"{repo_id}"', path.read_bytes().decode()).encode()


def _read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a card, as the Hub's own classes read them."""
    try:
        text = path.read_bytes().decode()
        return ModelCard(text).data.to_dict() if text.startswith("---") else {}
    except Exception as error:  # whatever a parser of YAML raises on what a person has typed
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
