"""Export a trained model as an ONNX graph, and print its deviation from torch."""

import sys
from dataclasses import dataclass

from whisper_emotion.cli import parse_arguments, run_script
from whisper_emotion.options import ENCODER_HELP, MODEL_HELP, option
from whisper_emotion.recordings import find_domain

FAR = 0.1  # deviation of a probability that exceeds rounding and may change a decision


@dataclass
class ExportOptions:
    """Options of the export."""

    output: str = option(help="ONNX file to write")
    model: str | None = option(None, help=MODEL_HELP)
    encoder: str | None = option(None, help=ENCODER_HELP)
    adapt: str | None = option(None, help="folder or pattern of recordings to adapt the graph to, see predict.py")
    quantize: bool = option(False, help="store the weights as 8-bit integers")


def main() -> None:
    """Export, compare, and print the largest deviation."""
    (arguments,) = parse_arguments(ExportOptions)
    from whisper_emotion.export import CHECKED_CLIPS, OPSET, export_onnx  # torch takes seconds to load
    from whisper_emotion.inference import EmotionClassifier

    trained = EmotionClassifier(arguments.model, arguments.encoder, device="cpu")
    if arguments.adapt is not None:
        recordings = find_domain(arguments.adapt)
        trained.adapt(recordings)
        print(f"adapted to {len(recordings)} recordings of {arguments.adapt}")
    deviation, relabelled = export_onnx(trained.model, trained.extractor, arguments.output, arguments.quantize)
    print(
        f"{arguments.output}: opset {OPSET}; largest deviation of a probability from torch over {CHECKED_CLIPS} clips "
        f"of generated speech: {deviation:.1e}, the same label for {CHECKED_CLIPS - relabelled}"
    )
    if not deviation <= FAR or relabelled:  # also true for NaN
        print(
            f"export_onnx.py: warning: {arguments.output} differs from the model: probabilities change by up to "
            f"{deviation:.2f}, and {relabelled} of {CHECKED_CLIPS} labels change; compare the two on your own clips"
            + (", or leave out --quantize" if arguments.quantize else ""),
            file=sys.stderr,
        )


if __name__ == "__main__":
    run_script(main, "the same command starts again")
