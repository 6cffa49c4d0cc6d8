"""What the benchmarks measure; how fast it is decides no test."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import run_script

from whisper_emotion.benchmarks import heads
from whisper_emotion.benchmarks.heads import benchmark_heads
from whisper_emotion.corpora import load_corpus
from whisper_emotion.corpora.splits import make_folds
from whisper_emotion.fitting.experiment import Experiment
from whisper_emotion.fitting.fit import Job, fit, load_frames
from whisper_emotion.fitting.training_arguments import EmotionTrainingArguments


def test_both_ways_train_on_the_same_rows_and_the_plain_one_hears_the_silence(
    tiny_encoder, synthetic_dir, tmp_path, monkeypatch
):
    corpus = load_corpus("synthetic", synthetic_dir)
    args = EmotionTrainingArguments(output_dir=str(tmp_path), num_train_epochs=2, disable_tqdm=True, use_cpu=True)
    overrides = {"encoder_layer": 1, "pooling": "mean", "classifier_proj_size": 16, "encoder_context": "utterance"}
    experiment = Experiment(corpus, str(tiny_encoder), overrides, args, store_dir=str(tmp_path / "store"))
    folds = make_folds(corpus, "synthetic", "speakers:2")
    seen = []
    real = heads._train_plainly

    def watch(unmasked, files, fold):
        seen.append((unmasked.overrides["mask_padding"], len(files), fold.number))
        return real(unmasked, files, fold)

    monkeypatch.setattr(heads, "_train_plainly", watch)
    figures = benchmark_heads(experiment, folds, plain_folds=1)
    assert seen == [(False, 48, 1)]
    assert figures["folds_timed"] == "1 of 2"
    assert figures["ratio"] == pytest.approx(figures["plain"]["seconds"] / figures["ours"]["seconds"])
    for way in ("plain", "ours"):
        assert figures[way]["seconds"] > 0
        assert 0 <= figures[way]["unweighted_accuracy"] <= 1


def test_the_plain_way_is_the_trainer_s_of_all_frames(tiny_encoder, synthetic_dir, tmp_path):
    """One batch an epoch: the order has no influence. The learning rate is high, so rounding grows to 0.002."""

    corpus = load_corpus("synthetic", synthetic_dir)
    args = EmotionTrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=30, disable_tqdm=True, use_cpu=True,
        per_device_train_batch_size=48, learning_rate=0.05,
    )  # fmt: skip
    overrides = {"encoder_layer": 1, "pooling": "mean", "classifier_proj_size": 16}
    overrides |= {"encoder_context": "window", "mask_padding": False}
    experiment = Experiment(corpus, str(tiny_encoder), overrides, args, "last", store_dir=str(tmp_path / "store"))
    fold = make_folds(corpus, "synthetic", "speakers:2")[0]
    frames = load_frames(experiment)
    files = heads._save_clips(frames, tmp_path)
    assert torch.load(files[0]).shape == (1500, 1, 16)
    plain = heads._train_plainly(experiment, files, fold)
    (ours,) = fit(experiment, frames, [Job(fold.train, fold.test, args.seed)], tmp_path)
    np.testing.assert_allclose(plain, ours.classify(fold.test, False), atol=1e-2)
    assert len(np.unique(plain.argmax(axis=1))) > 1


def test_the_script_writes_its_figures(tiny_encoder, synthetic_dir, tmp_path):
    done = run_script(
        "benchmark.py", "--corpus", "synthetic", "--corpus_dir", synthetic_dir, "--folds", "speakers:2", "--encoder",
        tiny_encoder, "--encoder_layer", 1, "--num_train_epochs", 1, "--plain_folds", 1,
        "--measure", "heads", "--output", tmp_path / "figures.json",
        "--store_dir", tmp_path / "store", "--output_dir", tmp_path / "o",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())["heads"]
    assert pd.Series(figures).index.tolist() == ["plain", "ours", "folds_timed", "ratio"]
    assert f"ratio {figures['ratio']:.1f}" in done.stdout
