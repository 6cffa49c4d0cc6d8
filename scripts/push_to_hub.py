"""Upload a model folder or a Space to the Hub in one commit, with `HF_TOKEN` and `HF_ENDPOINT`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from whisper_emotion.card_metadata import CardOptions
from whisper_emotion.cli import parse_arguments, run_script
from whisper_emotion.errors import UserError
from whisper_emotion.options import ENCODER_HELP, option

if TYPE_CHECKING:
    from whisper_emotion.publishing import Upload


@dataclass
class PushOptions:
    """Options of the upload."""

    repo_id: str = option(help="repository, NAMESPACE/NAME; created if missing")
    model: str | None = option(
        None, help="folder written by train.py, a Trainer or save_pretrained; default: the general model"
    )
    encoder: str | None = option(None, help=ENCODER_HELP)
    space: str | None = option(None, help="folder written by demo.py --space, instead of --model")
    private: bool = option(False, help="make the repository private")
    revision: str | None = option(None, help="branch, created if missing; default: main")
    dry_run: bool = option(False, help="only check and list the files, without network")

    def __post_init__(self):
        if self.space is not None and (self.model is not None or self.encoder is not None):
            raise UserError(f"--space {self.space}: contains its models, leave out --model and --encoder")


def main() -> None:
    """Check the folder, list its files, and upload them."""
    arguments, card = parse_arguments(PushOptions, CardOptions)
    from whisper_emotion.head_files import find_model  # torch takes seconds to load
    from whisper_emotion.publishing import prepare_space, prepare_upload, whole_model

    if arguments.space is not None:
        _upload(prepare_space(arguments.space, arguments.repo_id), arguments)
        return
    with whole_model(find_model(arguments.model), arguments.encoder) as folder:
        _upload(prepare_upload(folder, arguments.repo_id, card), arguments)


def _upload(upload: "Upload", arguments: PushOptions) -> None:
    """List the files, and upload them unless it is a dry run."""
    from whisper_emotion.publishing import push_upload

    for name, size in upload.sizes().items():
        print(f"{size:>14,}  {name}")
    print(f"{sum(upload.sizes().values()):>14,}  bytes in {len(upload.files)} files for {arguments.repo_id}")
    if upload.left_out:
        print(f"left out: {', '.join(upload.left_out)}")
    for remark in upload.remarks:
        print(remark)
    if arguments.dry_run:
        print("nothing was uploaded")
        return
    print(f"uploaded: {push_upload(upload, arguments.private, arguments.revision)}")


if __name__ == "__main__":
    run_script(main, "the same command starts again")
