"""Cross-validation: train and test every fold with every seed, and tabulate the predictions."""

import shutil
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from whisper_emotion.corpora import utterance_names
from whisper_emotion.corpora.splits import Fold, speakers_known
from whisper_emotion.fitting.experiment import Experiment
from whisper_emotion.fitting.fit import Job, fit, load_frames
from whisper_emotion.fitting.fitted import Fitted
from whisper_emotion.fitting.regression import DEFAULT_START_STRENGTH
from whisper_emotion.processes import leave_group
from whisper_emotion.run_folder import write_whole

PROBABILITY = "p_"  # prefix of a class's column in predictions.csv
UNADAPTED = "unadapted_"  # prefix of the columns without adaptation


def predict(fitted: Fitted, experiment: Experiment, fold: Fold, seed: int) -> pd.DataFrame:
    """Classify a fold's test clips.

    Returns:
        One row per clip: `name, fold, seed, label, predicted`, and one probability per class, `p_` and its name.

        `sure`, if clips were held out: the clip resembles the training clips and its probability is high enough.

        `temperature`, with temperature scaling. `adapted`, with adaptation, together with the columns of the clip
        without adaptation, prefixed by `UNADAPTED`.
    """
    adapted = fitted.decision.adapted
    columns, config = probability_columns(experiment.labels), fitted.head.config
    familiar = np.ones(len(fold.test), bool)
    if fitted.novelty is not None and config.novelty_limit is not None:
        familiar = fitted.novelty(fold.test) <= config.novelty_limit

    def tabulate(adapted: bool) -> pd.DataFrame:
        table = prediction_table(experiment, fitted.classify(fold.test, adapted), fold, seed)
        least = config.sure_probability_of(adapted)
        return table if least is None else table.assign(sure=familiar & (table[columns].max(axis=1) >= least))

    table = tabulate(adapted)
    if experiment.adaptation != "none":
        alone = tabulate(False) if adapted else table
        table = table.assign(adapted=adapted).join(
            alone[alone.columns.intersection(["predicted", *columns, "sure"])].add_prefix(UNADAPTED)
        )
    if experiment.temperature_scaling:
        table["temperature"] = fitted.head.config.temperature_of(adapted)
    return table


def prediction_table(experiment: Experiment, logits: np.ndarray | torch.Tensor, fold: Fold, seed: int) -> pd.DataFrame:
    """Tabulate logits `(clips, labels)` of a fold's test clips; columns as in `predict`.

    With several corpora, classes that a clip's corpus lacks get probability 0.
    """
    logits = experiment.restrict(torch.as_tensor(logits, dtype=torch.float64), fold.test)
    probabilities = logits.softmax(dim=-1).numpy()
    names, labels, classes = utterance_names(experiment.corpus), experiment.label_ids, experiment.labels
    table = pd.DataFrame(
        {
            "name": [names[row] for row in fold.test],
            "fold": fold.number,
            "seed": seed,
            "label": [classes[labels[row]] for row in fold.test],
            "predicted": [classes[index] for index in probabilities.argmax(axis=1)],
        }
    )
    table[probability_columns(classes)] = probabilities
    return table


def probability_columns(labels: Sequence[str]) -> list[str]:
    """Return the names of the probability columns."""
    return [PROBABILITY + label for label in labels]


def read_predictions(path: Path) -> pd.DataFrame:
    """Read predictions, with names and labels as text even if they look like numbers."""
    text = dict.fromkeys(("name", "label", "predicted", UNADAPTED + "predicted"), str)
    return pd.read_csv(path, keep_default_na=False, dtype=text)


def warn_of_unknown_speakers(experiment: Experiment, folds: Sequence[Fold]) -> None:
    """Warn that clips are held out instead of speakers, if speakers are unknown or there is only one."""
    if experiment.select_on != "dev" or not PartialState().is_main_process:
        return
    if experiment.initial is not None and any(experiment.one_voice(fold.train) for fold in folds):
        tqdm.write(
            "training has one speaker, or speakers are unknown: clips are held out, so training stays close to "
            f"the --init model (strength {DEFAULT_START_STRENGTH:g} or more); --speaker_pattern finds speakers"
        )
    elif not speakers_known(experiment.corpus):
        tqdm.write(
            "speakers are unknown: clips are held out instead, so the confidence may be too high; "
            "--speaker_pattern finds speakers"
        )


def cross_validate(experiment: Experiment, folds: list[Fold], seeds: list[int], work_dir: Path) -> pd.DataFrame | None:
    """Train and test every fold with every seed; results that are already in `work_dir` are reused.

    Heads of one seed are trained in parallel and finish together, so that a resumed run has the same results.

    Returns:
        The predictions of all folds and seeds, in order; None in processes other than the main process.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    cells = {work_dir / f"seed{seed}_fold{fold.number}.csv": (seed, fold) for seed in seeds for fold in folds}
    missing = [(path, *cell) for path, cell in cells.items() if not path.exists()]
    if missing:
        warn_of_unknown_speakers(experiment, folds)
        for _, _, fold in missing:
            experiment.check_speakers(fold)
        frames = load_frames(experiment)
        if frames is not None and not leave_group():
            return None
        if frames is not None and not experiment.is_linear:
            begun = {seed for _, seed, _ in missing}  # whole seeds, so that the same heads are trained together
            missing = [(path, *cell) for path, cell in cells.items() if cell[0] in begun]

        def together(cell):
            """Return the key of cells that are fitted together."""
            path, seed, fold = cell
            return path if frames is None else fold.number if experiment.is_linear else seed

        missing.sort(key=together)
        bar = tqdm(
            desc="cross-validation", unit="fold", initial=len(cells) - len(missing), total=len(cells),
            disable=not PartialState().is_main_process,
        )  # fmt: skip
        for _, group in groupby(missing, together):
            cell_group = list(group)
            jobs = [Job(fold.train, fold.test, seed, fold.dev) for _, seed, fold in cell_group]
            folder = cell_group[0][0].with_suffix("")
            finished = fit(experiment, frames, jobs, folder)
            tables = [
                predict(one, experiment, fold, seed) for one, (_, seed, fold) in zip(finished, cell_group, strict=True)
            ]
            if PartialState().is_main_process:
                for (path, _, _), table in zip(cell_group, tables, strict=True):
                    write_whole(path, table.to_csv(index=False))
                shutil.rmtree(folder, ignore_errors=True)
            bar.update(len(cell_group))
        bar.close()
    if not PartialState().is_main_process:
        return None
    return pd.concat([read_predictions(path) for path in cells], ignore_index=True)
