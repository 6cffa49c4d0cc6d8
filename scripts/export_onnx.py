"""Write a trained model as an ONNX graph, and say how far it is from torch."""

from dataclasses import dataclass, field

from whisper_emotion.arguments import parse_arguments, run_script
from whisper_emotion.export import CHECKED_CLIPS, OPSET, export_onnx
from whisper_emotion.inference import EmotionClassifier


@dataclass
class ExportArguments:
    """What is written where."""

    model: str = field(metadata={"help": "trained folder or Hub name"})
    output: str = field(metadata={"help": "ONNX file to write"})
    quantize: bool = field(default=False, metadata={"help": "store the weights as 8-bit integers"})


def main() -> None:
    """Export, compare, and print the largest deviation."""
    (arguments,) = parse_arguments(ExportArguments)
    trained = EmotionClassifier(arguments.model)
    deviation = export_onnx(trained.model, trained.extractor, arguments.output, arguments.quantize)
    checked = f"over {CHECKED_CLIPS} clips of random lengths"
    print(
        f"{arguments.output}: opset {OPSET}; largest deviation of a probability from torch {checked}: {deviation:.1e}"
    )


if __name__ == "__main__":
    run_script(main, "the same command begins anew")
