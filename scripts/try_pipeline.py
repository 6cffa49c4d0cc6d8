"""Label one file with a trained folder with transformers alone, as a downloader would run it."""

import sys

# Makes importing the package fail, as on a machine without it
sys.modules["whisper_emotion"] = None  # type: ignore[assignment]

import soundfile  # noqa: E402
from transformers import HfArgumentParser, pipeline  # noqa: E402


def main() -> None:
    """Print each label with its probability."""
    parser = HfArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="trained folder or Hub name")
    parser.add_argument("file", help="mono audio file")
    arguments = parser.parse_args()
    try:
        audio, rate = soundfile.read(arguments.file, dtype="float32")
    except (soundfile.SoundFileError, OSError) as error:
        parser.exit(2, f"try_pipeline.py: error: {arguments.file}: {error}\n")
    classify = pipeline("audio-classification", model=arguments.model, trust_remote_code=True)
    for score in classify({"raw": audio, "sampling_rate": rate}, top_k=None):
        print(f"{score['score']:.3f}  {score['label']}")


if __name__ == "__main__":
    main()
