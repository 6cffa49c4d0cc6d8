"""Upload a model folder or a Space to the Hub in one commit; `HF_TOKEN` and `HF_ENDPOINT` say as whom and where."""

from dataclasses import dataclass

from whisper_emotion.card_metadata import CardOptions
from whisper_emotion.cli import parse_arguments, run_script
from whisper_emotion.errors import UserError
from whisper_emotion.options import option


@dataclass
class PushOptions:
    """What is uploaded where."""

    repo_id: str = option(help="repository, NAMESPACE/NAME; made where it does not exist")
    model: str | None = option(None, help="folder that train.py, a Trainer or save_pretrained wrote")
    space: str | None = option(None, help="in place of --model: what demo.py --space wrote")
    private: bool = option(False, help="make the repository private")
    revision: str | None = option(None, help="branch, made where it does not exist; default: main")
    dry_run: bool = option(False, help="check, list what would be uploaded, and use no network")

    def __post_init__(self):
        if (self.model is None) == (self.space is None):
            raise UserError("--model: give either this or --space")


def main() -> None:
    """Check the folder, list what goes, and upload it."""
    arguments, card = parse_arguments(PushOptions, CardOptions)
    from whisper_emotion.publishing import prepare_space, prepare_upload, push_upload  # torch takes seconds to load

    if arguments.space is None:
        upload = prepare_upload(arguments.model, arguments.repo_id, card)
    else:
        upload = prepare_space(arguments.space, arguments.repo_id)
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
    run_script(main, "the same command begins anew")
