"""Memory and time of `predict.py` on a long recording, and its windows against one-by-one prediction.

    python tests/measure_long_recording.py --hours 3 --folder /tmp/long

The recording is generated speech with pauses; the model has Whisper base's shape up to layer 3, and random weights.
Other options, such as --hop 1 or --plot, go to `predict.py`. Exits with 1 if that took a GiB or more, or if a window
differs by more than 1e-4.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

from whisper_emotion import WhisperEmotionConfig, WhisperEmotionFeatureExtractor, WhisperForEmotionClassification
from whisper_emotion.audio import SAMPLING_RATE, read_audio
from whisper_emotion.corpora import load_corpus
from whisper_emotion.inference import EmotionClassifier

REPOSITORY = Path(__file__).resolve().parents[1]
CHECKED, TOLERANCE, MOST_MEMORY = 100, 1e-4, 2**30
PAUSES = (0.2, 0.5, 1.0, 12.0)  # seconds; the last one has silent windows in it


def generate(path: Path, hours: float) -> None:
    """A recording of generated speech with pauses, 16-bit FLAC at 16 kHz."""
    corpus = load_corpus("synthetic", path.parent / "synthetic", speakers=4, utterances=5)
    clips = [read_audio(audio) for audio in corpus["audio"][:]]
    draw, left = random.Random(0), round(hours * 3600 * SAMPLING_RATE)
    with soundfile.SoundFile(path, "w", SAMPLING_RATE, 1) as file:
        while left > 0:
            pause = np.zeros(round(draw.choice(PAUSES) * SAMPLING_RATE), np.float32)
            block = np.concatenate([draw.choice(clips), pause])[:left]
            file.write(block)
            left -= len(block)


def build(folder: Path, context: str) -> None:
    """A model of Whisper base's shape with random weights."""
    torch.manual_seed(0)
    config = WhisperEmotionConfig(
        d_model=512, encoder_layers=6, encoder_attention_heads=8, encoder_ffn_dim=2048, encoder_layer=3,
        encoder_context=context, pooling="qkv", id2label=dict(enumerate(["angry", "happy", "neutral", "sad"])),
    )  # fmt: skip
    model = WhisperForEmotionClassification(config)
    torch.nn.init.normal_(model.head.classifier.weight, std=1.0)  # so that probabilities are not all alike
    model.save_pretrained(folder)
    WhisperEmotionFeatureExtractor().save_pretrained(folder)


def main() -> int:
    """Generate, label, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--folder", type=Path, required=True, help="where the recording and the model go")
    parser.add_argument("--encoder_context", default="sparse_window")
    arguments, options = parser.parse_known_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    recording, model, output = folder / "recording.flac", folder / arguments.encoder_context, folder / "windows.jsonl"
    generate(recording, arguments.hours)
    build(model, arguments.encoder_context)

    started = time.monotonic()
    command = [
        sys.executable, str(REPOSITORY / "scripts" / "predict.py"), "--model", str(model), str(recording),
        "--output", str(output), "--segments", str(folder / "segments.csv"), *options,
    ]  # fmt: skip
    subprocess.run(command, check=True)
    seconds = time.monotonic() - started
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # Linux counts kibibytes

    windows = [json.loads(line) for line in output.read_text().splitlines()]
    loud = [window for window in windows if not window["silence"]]
    classifier, difference = EmotionClassifier(model), 0.0
    alone = folder / "window.wav"
    for window in random.Random(0).sample(loud, min(CHECKED, len(loud))):
        start, end = (round(window[name] * SAMPLING_RATE) for name in ("start", "end"))
        samples, _ = soundfile.read(recording, start=start, stop=end, dtype="float32")
        soundfile.write(alone, samples, SAMPLING_RATE, subtype="FLOAT")
        (expected,) = classifier([alone])
        difference = max(difference, *(abs(expected[name] - value) for name, value in window["probabilities"].items()))
    checked, silent = min(CHECKED, len(loud)), len(windows) - len(loud)
    print(
        f"{arguments.hours:g} h, {len(windows)} windows ({silent} silent), {arguments.encoder_context}: "
        f"{seconds:.0f} s, at most {memory / 2**20:.0f} MiB resident; {checked} windows differ from one-by-one "
        f"prediction by at most {difference:.1e}"
    )
    return int(memory >= MOST_MEMORY or difference > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
