"""Benchmark of training heads on stored frames, against the usual loop over files of whole windows."""

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from whisper_emotion.corpora.splits import Fold
from whisper_emotion.fitting.experiment import Experiment
from whisper_emotion.fitting.fit import Job, fit, load_frames
from whisper_emotion.fitting.new_models import new_head
from whisper_emotion.fitting.selection import scores_of
from whisper_emotion.stored_frames import StoredFrames


def benchmark_heads(experiment: Experiment, folds: list[Fold], plain_folds: int) -> dict[str, Any]:
    """Time the training of the heads of all folds against the plain way.

    The plain way reads one `.pt` file per clip, with all 1,500 frames of its window in float32, through a `DataLoader`
    without workers. The same head pools all frames. Both ways train all epochs and keep the last, without selection.
    The files are read once in advance, so that neither way waits for the disk.

    Args:
        experiment: Encoder, layer, pooling, context and hyper-parameters; its frames are masked.
        folds: The corpus's folds.
        plain_folds: Number of folds to time the plain way on; its total time is scaled by the number of clips.

    Returns:
        `plain` and `ours`, each with `seconds` for all folds and the pooled `unweighted_accuracy` on the timed folds.
        `folds_timed`, and `ratio` of the times.
    """
    experiment = dataclasses.replace(experiment, select_on="last")
    timed = folds[:plain_folds]
    everything = {"encoder_context": "window", "mask_padding": False}
    unmasked = dataclasses.replace(experiment, overrides=experiment.overrides | everything)
    layers = unmasked.config().frame_layers
    store = unmasked.feature_store(layers)  # of frames, even if ours uses pooled vectors
    store.fill()
    with tempfile.TemporaryDirectory() as folder:
        files = _save_clips(store.open(layers), Path(folder))
        started = time.perf_counter()
        predicted = [_train_plainly(unmasked, files, fold) for fold in tqdm(timed, desc="plain way", unit="fold")]
        plain = time.perf_counter() - started
    share = sum(len(fold.train) for fold in timed) / sum(len(fold.train) for fold in folds)

    frames = load_frames(experiment)
    started = time.perf_counter()
    jobs = [Job(fold.train, fold.test, experiment.args.seed, fold.dev) for fold in folds]
    fitted = fit(experiment, frames, jobs, Path())
    ours = time.perf_counter() - started
    ours_predicted = [one.classify(fold.test, False) for one, fold in zip(fitted, timed, strict=False)]
    return {
        "plain": {"seconds": plain / share, "unweighted_accuracy": _pooled(experiment, timed, predicted)},
        "ours": {"seconds": ours, "unweighted_accuracy": _pooled(experiment, timed, ours_predicted)},
        "folds_timed": f"{len(timed)} of {len(folds)}",
        "ratio": plain / share / ours,
    }


def _save_clips(frames: StoredFrames, folder: Path) -> list[Path]:
    """Write all frames of every clip to a separate file, `(frames, layers, d_model)`, and read the files once."""
    files = [folder / f"{row}.pt" for row in range(len(frames))]
    for row, file in enumerate(tqdm(files, desc="writing", unit="clip")):
        torch.save(frames[row].float(), file)
    for file in files:
        torch.load(file, weights_only=True)
    return files


def _train_plainly(experiment: Experiment, files: list[Path], fold: Fold) -> np.ndarray:
    """Train with the usual loop; return logits `(clips, labels)` of the fold's test clips."""
    args, labels = experiment.args, experiment.label_ids.tolist()

    def collate(rows):
        clips = torch.stack([torch.load(files[row], weights_only=True) for row in rows])
        return clips, torch.tensor([labels[row] for row in rows])

    def run(clips):
        mask = torch.ones(clips.shape[:2], dtype=torch.bool, device=args.device)
        return head(clips.to(args.device), mask).logits

    head = new_head(experiment.config(), args.seed).to(args.device)
    batches = DataLoader(fold.train, args.per_device_train_batch_size, shuffle=True, collate_fn=collate)
    optimizer = torch.optim.AdamW(head.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay)
    steps = round(args.num_train_epochs * len(batches))
    scheduler = get_cosine_schedule_with_warmup(optimizer, args.get_warmup_steps(steps), steps)
    head.train()
    for _ in tqdm(range(round(args.num_train_epochs)), desc="epochs", leave=False):
        for clips, targets in batches:
            loss = torch.nn.functional.cross_entropy(run(clips), targets.to(args.device))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), args.max_grad_norm)
            optimizer.step()
            scheduler.step()
    head.eval()
    with torch.inference_mode():
        tests = DataLoader(fold.test, batch_size=16, collate_fn=collate)
        return torch.cat([run(clips) for clips, _ in tests]).cpu().numpy()


def _pooled(experiment: Experiment, folds: list[Fold], logits: list[np.ndarray]) -> float:
    references = np.concatenate([experiment.label_ids[fold.test] for fold in folds])
    return scores_of(np.concatenate(logits), references)["unweighted_accuracy"]
