"""Measure the accuracy that 8-bit weights cost: ONNX graphs against their models, on the test clips of every fold.

    python tests/measure_eight_bits.py --config scripts/recipes/best.yaml --corpus_dir EMODB --adaptation none

Options are those of `cross_validate.py`, with one seed. Every clip goes through both alone, from audio to its label.
"""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from whisper_emotion import export
from whisper_emotion.audio import SAMPLING_RATE, read_audio
from whisper_emotion.cli import parse_arguments, run_script
from whisper_emotion.corpora.splits import make_folds
from whisper_emotion.fitting.experiment import load_experiment
from whisper_emotion.fitting.fit import Job, fit, load_frames
from whisper_emotion.fitting.new_models import build_extractor
from whisper_emotion.fitting.training_arguments import EmotionTrainingArguments
from whisper_emotion.options import CorpusOptions, ModelOptions, ProtocolOptions
from whisper_emotion.scoring import bootstrap, interval


def main() -> None:
    """Train, export, classify, and print both accuracies and their difference."""
    corpus, protocol, model, training = parse_arguments(
        CorpusOptions, ProtocolOptions, ModelOptions, EmotionTrainingArguments
    )
    export.CHECKED_CLIPS = 1  # the folds' own clips are what is compared here
    experiment = load_experiment(corpus, protocol, model, dataclasses.replace(training, disable_tqdm=True))
    frames, extractor, labels = load_frames(experiment), build_extractor(experiment.encoder), experiment.label_ids
    audio, rows, predicted = experiment.corpus["audio"], [], []
    for fold in tqdm(make_folds(experiment.corpus, corpus.corpus, corpus.folds), desc="folds", unit="fold"):
        with tempfile.TemporaryDirectory() as folder:
            (fitted,) = fit(experiment, frames, [Job(fold.train, fold.test, training.seed)], Path(folder))
            own = fitted.whole_model(experiment).cpu().eval()
            graph = Path(folder) / "int8.onnx"
            export.export_onnx(own, extractor, graph, quantize=True)
            session = export.open_session(graph)
            for row in fold.test:
                clip = [read_audio(audio[row])]
                inputs = extractor(clip, sampling_rate=SAMPLING_RATE, padding="longest", return_tensors="pt")
                with torch.inference_mode():
                    expected = own(**inputs).logits.argmax().item()
                found = session.run(["probabilities"], {name: inputs[name].numpy() for name in export.INPUTS})[0]
                predicted.append((expected, int(found.argmax())))
        rows += fold.test
    systems = np.array(predicted).T[:, None]
    drawn = bootstrap(systems, labels[rows], len(experiment.labels))["unweighted_accuracy"]
    for name, values in (("torch", drawn[:, 0]), ("8-bit graph", drawn[:, 1]), ("less", drawn[:, 1] - drawn[:, 0])):
        value, low, high = (100 * one for one in interval(values))
        print(f"{name}: UA {value:.1f} ({low:.1f} to {high:.1f})")
    print(f"{int((systems[0] != systems[1]).sum())} of {len(rows)} clips have another label")


if __name__ == "__main__":
    run_script(main, "the same command starts again")
