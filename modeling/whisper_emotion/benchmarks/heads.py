"""Heads trained on stored frames, against the usual loop over files of whole windows."""

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from whisper_emotion.corpora.splits import Fold
from whisper_emotion.features import StoredFrames
from whisper_emotion.metrics import compute_scores
from whisper_emotion.protocol import Experiment
from whisper_emotion.run_folder import CELLS
from whisper_emotion.sweeps import Cell, Grid, read_cells, run_grid


def benchmark_heads(experiment: Experiment, folds: list[Fold], plain_folds: int, workers: int) -> dict[str, Any]:
    """Time the training of one cell's heads, every fold once, against the plain way.

    The plain way is the usual one: a `.pt` file an utterance with all 1,500 frames of its window in float32, read by a
    `DataLoader` without workers, all of them pooled by the same head. Both train all epochs and keep the last, so
    nothing is selected. The files are read once before, so that neither way waits for the disk.

    Args:
        experiment: Encoder, layer, pooling, context and hyper-parameters; its frames are masked.
        folds: The corpus's folds.
        plain_folds: How many of them the plain way is timed on; its time for all follows by their numbers of clips.
        workers: Processes of this package's way, in whose place an accelerator trains all heads side by side. The
            plain way has all the processor's threads.

    Returns:
        `plain` and `ours`, each with `seconds` for all folds and the `unweighted_accuracy` on the folds that were
        timed, pooled; `folds_timed`; and `ratio` of the times.
    """
    experiment = dataclasses.replace(experiment, select_on="last")
    config = experiment.model([0], 0, head_only=True).config
    layer, pooling = config.encoder_layer, config.pooling
    timed = folds[:plain_folds]
    everything = {"encoder_context": "window", "mask_padding": False}
    unmasked = dataclasses.replace(experiment, overrides=experiment.overrides | everything)
    with tempfile.TemporaryDirectory() as folder:
        frames, files = _save_clips(unmasked, Path(folder))
        started = time.perf_counter()
        predicted = [
            _train_plainly(unmasked, frames, files, fold) for fold in tqdm(timed, desc="plain way", unit="fold")
        ]
        plain = time.perf_counter() - started
    share = sum(len(fold.train) for fold in timed) / sum(len(fold.train) for fold in folds)

    name, stored = "encoder", _stored(experiment)
    grid = Grid({name: experiment}, {name: [layer]}, [pooling], folds, [experiment.args.seed], reference=False)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / CELLS).mkdir()
        started = time.perf_counter()
        side_by_side = experiment.args.device.type != "cpu"
        run_grid(grid, {name: {layer: stored}}, Path(folder), workers, side_by_side)
        ours = time.perf_counter() - started
        logits = read_cells(Path(folder))[1]
    ours_predicted = [
        logits[Cell(name, layer, pooling, fold.number, experiment.args.seed)].argmax(axis=1) for fold in timed
    ]
    return {
        "plain": {"seconds": plain / share, "unweighted_accuracy": _pooled(experiment, timed, predicted)},
        "ours": {"seconds": ours, "unweighted_accuracy": _pooled(experiment, timed, ours_predicted)},
        "folds_timed": f"{len(timed)} of {len(folds)}",
        "ratio": plain / share / ours,
    }


class _Files(Dataset):
    """A tensor file an utterance."""

    def __init__(self, files: list[Path], labels: list[int]):
        self.files, self.labels = files, labels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return torch.load(self.files[row], weights_only=True), self.labels[row]


def _save_clips(experiment: Experiment, folder: Path) -> tuple[StoredFrames, list[Path]]:
    """All frames of every utterance as a file of its own, too."""
    frames = _stored(experiment)
    files = [folder / f"{row}.pt" for row in range(len(frames))]
    for row, file in enumerate(tqdm(files, desc="writing", unit="clip")):
        torch.save(frames[row]["encoder_outputs"].float(), file)
    for file in files:
        torch.load(file, weights_only=True)
    return frames, files


def _stored(experiment: Experiment) -> StoredFrames:
    """The frames of the experiment's layer."""
    layer = experiment.model([0], 0, head_only=True).config.encoder_layer
    return experiment.feature_store([layer]).fill()[layer]


def _train_plainly(experiment: Experiment, frames: StoredFrames, files: list[Path], fold: Fold) -> np.ndarray:
    """The usual loop; returns the classes it gives to the fold's test utterances."""
    args, labels = experiment.args, experiment.corpus["label"][:]

    def loader(rows, **options):
        return DataLoader(_Files([files[row] for row in rows], [labels[row] for row in rows]), **options)

    model = experiment.model_for(frames, fold.train, args.seed, head_only=True).to(args.device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    batches = loader(fold.train, batch_size=args.per_device_train_batch_size, shuffle=True)
    optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, weight_decay=args.weight_decay)
    steps = round(args.num_train_epochs * len(batches))
    scheduler = get_cosine_schedule_with_warmup(optimizer, args.get_warmup_steps(steps), steps)
    model.train()
    for _ in tqdm(range(round(args.num_train_epochs)), desc="epochs", leave=False):
        for clips, targets in batches:
            loss = model(encoder_outputs=clips.to(args.device), labels=targets.to(args.device)).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, args.max_grad_norm)
            optimizer.step()
            scheduler.step()
    model.eval()
    with torch.inference_mode():
        logits = [model(encoder_outputs=clips.to(args.device)).logits for clips, _ in loader(fold.test, batch_size=16)]
    return torch.cat(logits).argmax(dim=1).cpu().numpy()


def _pooled(experiment: Experiment, folds: list[Fold], predicted: list[np.ndarray]) -> float:
    labels = np.asarray(experiment.corpus["label"][:])
    references = np.concatenate([labels[fold.test] for fold in folds])
    scores = compute_scores(np.concatenate(predicted), references, num_classes=len(experiment.labels))
    return scores["unweighted_accuracy"]
