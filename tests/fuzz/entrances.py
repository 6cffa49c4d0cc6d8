"""Every entrance for what others have made, and the cases of each: bad input, and what an error about it must name."""

import contextlib
import dataclasses
import inspect
import io
import json
import runpy
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mutations
import numpy as np
import pandas as pd
import torch
import yaml
from conftest import iemocap_files, save_encoder, save_model, silent_wav, without_privileges, write_files
from datasets import Audio, ClassLabel, Dataset, load_dataset
from hypothesis import reject
from hypothesis import strategies as st
from mutations import Draw

from whisper_emotion import cli
from whisper_emotion.audio import audio_seconds, read_audio, read_stretch, stream_audio
from whisper_emotion.corpora import hub, load_corpus, utterance_names
from whisper_emotion.corpora.splits import make_folds
from whisper_emotion.errors import UserError, printable
from whisper_emotion.feature_store import FeatureStore
from whisper_emotion.fitting.experiment import load_experiment
from whisper_emotion.fitting.grid import RECORD, Grid, finished_cells
from whisper_emotion.fitting.new_models import build_extractor, build_model, load_config, new_head
from whisper_emotion.fitting.stacked_training import check_arguments
from whisper_emotion.fitting.training_arguments import EmotionTrainingArguments
from whisper_emotion.inference import EmotionClassifier
from whisper_emotion.options import CorpusOptions, ModelOptions, ProtocolOptions, hyper_parameters, settings
from whisper_emotion.publishing import prepare_upload
from whisper_emotion.reporting.frontier import read_contexts
from whisper_emotion.reporting.sweep_results import SweepResults
from whisper_emotion.run_folder import CELLS, claim
from whisper_emotion.scoring import read_compared

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@dataclass
class Attempt:
    """A call with bad input.

    Args:
        call: What is tried. It may succeed, for not all that is odd is wrong.
        named: An error's message must hold one of these.
        error: What it may raise.
        unprivileged: Whether a file's permissions are a part of it, which the superuser would not notice.
    """

    call: Callable[[], object]
    named: tuple[object, ...]
    error: type[Exception] = UserError
    unprivileged: bool = False

    def names(self, message: str) -> bool:
        """Whether an error's message says which input it is about."""
        return any(
            form in message
            for one in self.named
            for form in (str(one), repr(str(one))[1:-1], ascii(str(one))[1:-1], printable(str(one)))
        )


class Workplace:
    """What the cases need that is not damaged, made once: an encoder, a model, a corpus, a feature store, a sweep."""

    def __init__(self, root: Path):
        self.corpus_dir = root / "corpus"
        self.corpus = load_corpus("synthetic", self.corpus_dir, speakers=4, utterances=2)
        self.encoder = save_encoder(root / "encoder")
        self.model = save_model(self.encoder, root / "model", encoder_context="utterance")
        self.classifier = EmotionClassifier(self.model)
        self.options = {
            "corpus": "synthetic",
            "corpus_dir": str(self.corpus_dir),
            "folds": "speakers:2",
            "encoder": str(self.encoder),
            "encoder_context": "utterance",
            "num_train_epochs": 1,
            "seed": 1,
            "disable_tqdm": True,
            "select_on": "last",
        }
        self.sweep, self.run = root / "sweep", root / "run"
        grid = {"layers": "1,2", "poolings": "mean", "store_dir": str(root / "store")}
        script("sweep.py", self.options | grid | {"output_dir": str(self.sweep)})
        script("cross_validate.py", self.options | {"store_dir": grid["store_dir"], "output_dir": str(self.run)})
        self.store = root / "store"
        fields = {"encoder_context": "utterance", "encoder_layer": 2}
        self.features = build_model(str(self.encoder), load_config(str(self.encoder), ["a", "b"], fields), 0)
        self.extractor = build_extractor(str(self.encoder))
        with without_privileges(root):  # opens the way to the folder, for cases that stay without them
            pass
        for path in root.rglob("*"):
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))


def script(name: str, options: dict[str, Any], *words: str) -> None:
    """Run a script in this process; what it says of a mistake, or of unreadable files, becomes a `UserError`."""
    flags = [f"--{option}={value}" for option, value in options.items()]
    before, sys.argv = sys.argv, [str(SCRIPTS / name), *flags, *words]
    try:
        _exits(lambda: runpy.run_path(str(SCRIPTS / name), run_name="__main__"))
    finally:
        sys.argv = before


def _exits(call: Callable[[], object]) -> None:
    """Call what may end the process; status 2 must come with one line of complaint, and 1 with lines of them."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            call()
    except SystemExit as end:
        complaints = [line for line in said.getvalue().splitlines() if ".py: " in line]
        if end.code in (1, 2):
            assert len(complaints) == 1 or end.code == 1, said.getvalue()
            raise UserError("\n".join(complaints)) from end
        assert not end.code, said.getvalue()


# --- sound files -----------------------------------------------------------------------------------------------------


SHAPES = ((3200,), (2, 3200), (3200, 2), (0,), (1, 0), (), (2, 2, 800), (300,))


def audio(place: Workplace, draw: Draw, folder: Path) -> Attempt:
    """One file, its bytes or an array as a dataset has them, read whole, in blocks, in part, or measured."""
    path = folder / f"{mutations.file_name(draw)[:60]}.wav"
    content = mutations.sound(draw)
    read = draw(
        st.sampled_from(
            (
                lambda source: _finite(read_audio(source)),
                lambda source: [_finite(block) for block in stream_audio(source)],
                lambda source: _finite(read_stretch(source, 0.05, 0.15)),
                lambda source: 1 / audio_seconds(source),
            )
        )
    )
    kind = draw(st.integers(0, 9))
    if kind == 0:
        source = {"path": str(path), "array": mutations.array(draw, draw(st.sampled_from(SHAPES)))}
        source["sampling_rate"] = draw(st.sampled_from((16_000, 44_100.0)) | mutations.scalars)
        return Attempt(lambda: read(source), (path,))
    if kind == 1:
        return Attempt(lambda: _finite(read_audio({"path": str(path), "bytes": content})), (path,))
    unreadable = mutations.put(draw, path, content)
    return Attempt(lambda: read(path), (path,), unprivileged=unreadable)


def _finite(samples: np.ndarray) -> None:
    assert samples.dtype == np.float32 and samples.ndim == 1 and np.isfinite(samples).all()


def classifier(place: Workplace, draw: Draw, folder: Path) -> Attempt:
    """`EmotionClassifier` on several files, one of them good."""
    good, bad = folder / "good.wav", folder / f"{mutations.file_name(draw)[:60]}.flac"
    good.write_bytes(mutations.intact_sounds()[0])
    unreadable = mutations.put(draw, bad, mutations.sound(draw))
    options = draw(st.sampled_from(({}, {"window": 0.1}, {"window": 0.05, "hop": 0.05, "silence_dbfs": -np.inf})))

    def predict() -> None:
        found = list(place.classifier.predict([good, bad], **options))
        assert all(one.probabilities is None or abs(sum(one.probabilities.values()) - 1) < 1e-3 for one in found)

    def label() -> None:
        for one in place.classifier([bad, good, (np.linspace(-1, 1, 4000), 8000)]):
            assert abs(sum(one.values()) - 1) < 1e-3

    return Attempt(draw(st.sampled_from((predict, label))), (bad,), unprivileged=unreadable)


def predict(place: Workplace, draw: Draw, folder: Path) -> Attempt:
    """`predict.py` on a folder with several bad files, or on their names, with odd options."""
    unreadable, files = False, []
    for _ in range(draw(st.integers(1, 3))):
        path = folder / "in" / f"{mutations.file_name(draw)[:60]}.wav"
        unreadable |= mutations.put(draw, path, mutations.sound(draw))
        files.append(path)
    options: dict[str, Any] = {"model": place.model, "output": folder / "out.csv"}
    odd = draw(
        st.dictionaries(
            st.sampled_from(("window", "hop", "silence_dbfs", "batch_size", "output")), mutations.scalars, max_size=1
        )
    )
    names = [str(folder / "in")] if draw(st.booleans()) else [str(path) for path in files]
    odd = {name: folder / str(value).replace("\0", "") if name == "output" else value for name, value in odd.items()}
    return Attempt(
        lambda: script("predict.py", options | odd, "--", *names),
        (*names, *files, *(f"--{name}" for name in odd)),
        unprivileged=unreadable,
    )


# --- corpora ---------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "emodb": ("wav/03a01Wa.wav", "wav/08a02Fb.wav", "wav/09b01Nc.wav"),
    "ravdess": ("Actor_01/03-01-05-01-01-01-01.wav", "Actor_02/03-01-04-01-01-01-02.wav"),
    "shemo": ("female/F03S02.wav", "male/M32A01.wav"),
    "folder": ("angry/anna_01.wav", "sad/bert_02.wav", "sad/anna_03.wav"),
}
IEMOCAP_ROWS = [
    {"name": name, "emotion": emotion, "valence": "2", "activation": "3", "dominance": "2", "start": "1", "end": "2"}
    for name, emotion in (
        ("Ses01F_impro01_F000", "ang"),
        ("Ses01F_impro01_M000", "sad"),
        ("Ses02M_script01_F001", "neu"),
    )
]
FOLDS = ("loso", "paper", "emobox", "speakers:2", "speakers:x", "speakers:99", "speakers:²", "", "x")


def corpora(place: Workplace, draw: Draw, folder: Path) -> Attempt:
    """A corpus's folder with bad files, names, sheets or options among good ones, read, named, divided and heard."""
    name = draw(st.sampled_from((*LAYOUTS, "iemocap", "synthetic")))
    if name == "iemocap":
        files = iemocap_files(IEMOCAP_ROWS, silent_wav())
    elif name == "synthetic":
        files = {"synthetic.json": b'{"speakers": 2, "utterances": 1, "seed": 0}'}
    else:
        files = dict.fromkeys(LAYOUTS[name], silent_wav())
    root, unreadable = write_files(folder / "corpus", files), False
    for _ in range(draw(st.integers(0, 2))):
        path = root / draw(st.sampled_from(list(files)))
        if path.suffix in (".txt", ".json"):
            path.write_bytes(mutations.mangle_bytes(draw, path.read_bytes()))
            continue
        if draw(st.booleans()):
            path = path.with_name(mutations.file_name(draw) + draw(st.sampled_from((".wav", ".WAV", ".flac"))))
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            path.unlink()
        unreadable |= mutations.put(draw, path, mutations.sound(draw))
    odd = draw(
        st.dictionaries(
            st.sampled_from(("classes", "speaker_pattern", "improvised_only", "speakers", "x")),
            mutations.values | st.sampled_from(("^([a-z]+)_", "(", "(?P<x>.)", "angry,sad")),
            max_size=1,
        )
    )
    if draw(st.integers(0, 2)):
        odd = {}
    folds = draw(st.sampled_from(FOLDS))

    def read() -> None:
        corpus = load_corpus(name, root, **odd)
        assert len(set(utterance_names(corpus))) == len(corpus)
        for row in corpus["audio"]:
            read_audio(row)
        make_folds(corpus, name, folds)

    return Attempt(read, (root, "folds: ", "classes: ", *(f"{option}: " for option in odd)), unprivileged=unreadable)


def from_hub(place: Workplace, draw: Draw, folder: Path) -> Attempt:
    """A dataset as the Hub may have it: odd columns, or damaged files; a folder stands for the Hub."""
    name = "hub:me/voices"
    if draw(st.integers(0, 9)) == 0:
        name = draw(st.sampled_from(("hub:", "hub:../..", "hub:a/../../b", "hub:me/voices\n", "hub:/etc/passwd")))
    clips = [
        {
            "path": draw(st.sampled_from((None, "a.wav", "../../a.wav", "/etc/passwd", str(place.corpus_dir)))),
            "bytes": draw(st.sampled_from((silent_wav(), silent_wav(), mutations.sound(draw), None))),
        }
        for _ in range(3)
    ]
    odd = st.lists(mutations.scalars, min_size=3, max_size=3)
    columns = {
        "audio": clips,
        "label": draw(odd | st.just(["a", "b", "a"])),
        "speaker": draw(odd | st.just(["x", "y", "y"])),
    }
    for column in ("gender", "session", "seconds", "x"):
        if draw(st.integers(0, 3)) == 0:
            columns[column] = draw(odd | st.just([0.5, 0.5, 0.5]))
    if draw(st.integers(0, 9)) == 0:
        del columns[draw(st.sampled_from(list(columns)))]
    classes = draw(st.sampled_from((None, None, ["a", "b"], ["../../x", "/y", "z"])))
    as_audio, ending = draw(st.integers(0, 9)) > 0, draw(st.sampled_from(("",) * 27 + ("parquet", "csv", "json")))
    try:
        table = Dataset.from_dict(columns)
        table = table.cast_column("audio", Audio(decode=False)) if as_audio else table
        table = table.cast_column("label", ClassLabel(names=classes)) if classes else table
        if ending:
            with contextlib.redirect_stderr(io.StringIO()):
                getattr(table, f"to_{ending}")(folder / f"train.{ending}")
    except Exception:  # not to be had as a dataset
        reject()
    if ending:  # its files, through the library's own readers
        file = folder / f"train.{ending}"
        file.write_bytes(mutations.mangle_bytes(draw, file.read_bytes()))

        def download(address: str) -> dict[str, Dataset]:
            return load_dataset(str(folder), cache_dir=str(folder / "cache"))
    else:

        def download(address: str) -> dict[str, Dataset]:
            return {"train": table}

    def read() -> None:
        before, hub.load_dataset = hub.load_dataset, download
        try:
            corpus = load_corpus(name)
        finally:
            hub.load_dataset = before
        assert len(set(utterance_names(corpus))) == len(corpus)
        for row in corpus["audio"]:
            read_audio(row)
        make_folds(corpus, name, "loso")

    return Attempt(
        read,
        (
            name.strip(),
            repr(name),
            "classes: ",
            "folds: ",
            "audio bytes",
            *(clip["path"] for clip in clips if clip["path"]),
        ),
    )


# --- extractor and model ---------------------------------------------------------------------------------------------


def extractor(place: Workplace, draw: Draw, folder: Path) -> Attempt:
    """Arrays and tensors of any shape, type and value, with odd options."""
    shapes = st.sampled_from(((8000,), (400,), (399,), (0,), (1,), (2, 8000), (8000, 2), (1, 1, 8000), (500_000,), ()))
    clips = [mutations.array(draw, draw(shapes)) for _ in range(draw(st.integers(0, 3)))]
    speech: Any = clips
    if clips and draw(st.booleans()):
        speech = clips[0]
        if speech.dtype.kind in "fiub" and draw(st.booleans()):
            speech = torch.from_numpy(speech)
        elif draw(st.booleans()):
            speech = speech.tolist()
    options = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "sampling_rate": st.sampled_from((16_000, 8_000, 0, None, "x")),
                "padding": st.sampled_from(("longest", "max_length", True, False, None, "x", 3)),
                "max_length": st.sampled_from((16_000, 0, -160, 399, 401, 10**12, "x", 1600.0)),
                "pad_to_multiple_of": st.sampled_from((320, 0, -1, 7, 10**12, "x")),
                "truncation": st.booleans(),
                "do_normalize": st.booleans(),
                "return_tensors": st.sampled_from(("pt", "np", None, "x")),
            },
        )
    )

    def extract() -> None:
        features = place.extractor(speech, **options)
        assert np.isfinite(np.asarray(features["input_features"])).all()
        assert np.asarray(features["attention_mask"]).any(axis=1).all()

    return Attempt(extract, ("audio ", "raw_speech", *(f"{option}=" for option in options)), ValueError)


def model(place: Workplace, draw: Draw, folder: Path) -> Attempt:
    """Tensors of any shape, type and value, alone and together."""
    batch, mel, frames = (
        draw(st.sampled_from(sizes)) for sizes in ((1, 2, 0), (80, 80, 80, 1, 128), (60, 60, 1, 0, 3001))
    )
    shape = draw(st.sampled_from(((batch, mel, frames),) * 4 + ((mel, frames), (batch, 1, mel, frames), ())))
    kinds = (torch.float32,) * 4 + (
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.bool,
        torch.complex64,
    )
    features = torch.randn(shape).to(draw(st.sampled_from(kinds)))
    if features.numel() and features.is_floating_point() and draw(st.booleans()):
        features.view(-1)[draw(st.integers(0, features.numel() - 1))] = draw(st.sampled_from(mutations.ODD_SAMPLES))
    lengths = [draw(st.integers(0, max(frames, 1))) for _ in range(batch)]
    masks = {
        "none": None,
        "prefix": torch.arange(frames) < torch.tensor(lengths or [1])[:, None],
        "empty": torch.zeros(batch, frames),
        "holes": torch.arange(frames).remainder(2).expand(batch, -1),
        "other width": torch.ones(batch, frames + 1),
        "flat": torch.ones(frames),
        "twos": torch.full((batch, frames), 2),
        "nan": torch.full((batch, frames), torch.nan),
    }
    inputs: dict[str, Any] = {"input_features": features, "attention_mask": masks[draw(st.sampled_from(list(masks)))]}
    labels = (
        torch.zeros(batch, dtype=torch.long),
        torch.zeros(batch, 3),
        torch.zeros(batch + 1, dtype=torch.long),
        torch.full((batch,), 0.5),
        torch.zeros(batch, 9),
    )
    if draw(st.integers(0, 3)) == 0:
        inputs["labels"] = draw(st.sampled_from(labels))

    @torch.no_grad()
    def forward() -> None:
        output = place.classifier.model(**inputs)
        assert output.logits.shape == (batch, 3)  # values are the extractor's to check

    return Attempt(forward, ("input_features", "attention_mask", "labels"), ValueError)


# --- recipes ---------------------------------------------------------------------------------------------------------

KINDS = (CorpusOptions, ProtocolOptions, ModelOptions, EmotionTrainingArguments)
OPTIONS = sorted({field.name for kind in KINDS for field in dataclasses.fields(kind) if field.init})
OWN_OPTIONS = sorted({field.name for kind in KINDS[:3] for field in dataclasses.fields(kind)})


def recipe(place: Workplace, draw: Draw, folder: Path) -> Attempt:
    """A recipe with wrong types, unknown keys or damage, followed up to where training would begin."""
    odd = draw(
        st.dictionaries(
            st.sampled_from(OWN_OPTIONS) | st.sampled_from(OPTIONS) | st.text(max_size=5), mutations.values, max_size=2
        )
    )
    # The generated corpus as anyone's folder: a wrong `corpus_dir` would otherwise have it generated there
    files = {"corpus": "folder", "speaker_pattern": "_([a-z]+)_", "output_dir": str(folder / "out")}
    options = place.options | files | odd
    if draw(st.integers(0, 3)) == 0:  # a checkpoint of ours, whose labels are others
        options["encoder"] = str(place.model)
    text = yaml.safe_dump(options, allow_unicode=True).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 4)) == 0:
        text, odd = mutations.mangle_bytes(draw, text), options
    path = folder / "recipe.yaml"
    path.write_bytes(text)

    def follow() -> None:
        given = cli.parse_arguments(*KINDS, argv=["--config", str(path)])
        corpus, protocol, model, training = given
        experiment = load_experiment(corpus, protocol, model, training)
        folds = make_folds(experiment.corpus, corpus.corpus, corpus.folds)
        experiment.check_speakers(folds[0])
        experiment.class_weights_of(folds[0].train)
        new_head(experiment.config(), training.seed)
        check_arguments(training)
        json.dumps(settings(*given), default=str)
        hyper_parameters(training)

    # As a message begins with them: a value such as "x" is in any. A list is its values with commas between them
    given = [",".join(map(str, one)) if isinstance(one, list) else str(one) for one in odd.values()]
    named = [*odd, *(name.replace("_", "-") for name in odd), path, place.corpus_dir, *(f"{one}: " for one in given)]
    return Attempt(lambda: _exits(follow), tuple(one for one in named if one) or (path,))


# --- folders that scripts left behind --------------------------------------------------------------------------------


def _damaged(draw: Draw, source: Path, target: Path, files: tuple[str, ...]) -> Path:
    """A copy of a folder in which one of some files is damaged or gone; returns that file."""
    shutil.copytree(source, target)
    path = draw(st.sampled_from(sorted(path for pattern in files for path in target.glob(pattern))))
    if draw(st.integers(0, 14)) == 0:
        path.unlink()
        return path
    mangle = {".json": mutations.mangle_json, ".csv": mutations.mangle_csv}.get(path.suffix, mutations.mangle_bytes)
    path.write_bytes(mangle(draw, path.read_bytes()))
    return path


def model_folder(place: Workplace, draw: Draw, folder: Path) -> Attempt:
    """A model's folder with a damaged or foreign configuration, weights, or scores."""
    target = folder / "model"
    path = _damaged(draw, place.model, target, ("config.json", "preprocessor_config.json", "model.safetensors"))
    clip = folder / "clip.wav"
    clip.write_bytes(mutations.intact_sounds()[0])

    def use() -> None:
        EmotionClassifier(target)([clip])

    def train_on() -> None:
        build_extractor(str(target))
        build_model(str(target), load_config(str(target), ["x", "y"], {"encoder_layer": 1}), 0)

    return Attempt(draw(st.sampled_from((use, use, train_on))), (target, f"{path.name}", "is not allowed"))


def results(place: Workplace, draw: Draw, folder: Path) -> Attempt:
    """What runs left behind, of an older version or damaged, compared with, continued, or published."""
    kind = draw(st.sampled_from(("compared", "sweep", "cells", "claim", "frontier", "publish")))
    target, fold = folder / "other", make_folds(place.corpus, "synthetic", "speakers:2")
    if kind == "compared":
        _damaged(draw, place.run, target, ("predictions.csv",))
        clips = pd.read_csv(place.sweep / CELLS / "clips.csv", dtype=str, keep_default_na=False)
        return Attempt(lambda: read_compared(target, clips, [1], place.corpus.features["label"].names), (target,))
    if kind == "publish":
        shutil.copytree(place.model, folder / "whole")
        (folder / "whole" / "README.md").write_text("---\nlicense: other\nlibrary_name: x\npipeline_tag: y\n---\n")
        (folder / "whole" / "scores.json").write_text(json.dumps({"labels": place.classifier.labels}))
        path = _damaged(draw, folder / "whole", target, ("README.md", "scores.json"))
        return Attempt(lambda: prepare_upload(target, "me/x"), (path, path.name))
    if kind == "claim":
        path = _damaged(draw, place.sweep, target, (f"{CELLS}/settings.json",))
        options = json.loads((place.sweep / CELLS / "settings.json").read_text())

        def take() -> None:
            with claim(target, place.corpus, [str(place.encoder)], options, CELLS):
                pass

        return Attempt(take, (target,))
    patterns = (
        (f"{CELLS}/*.npz",) if kind == "cells" else (RECORD, "results.csv", f"{CELLS}/clips.csv", f"{CELLS}/*.npz")
    )
    _damaged(draw, place.sweep, target, patterns)
    if kind == "cells":
        grid = Grid({"encoder": None}, {"encoder": [1, 2]}, ["mean"], fold, [1])
        return Attempt(lambda: finished_cells(grid, target), (target,))
    if kind == "frontier":
        return Attempt(lambda: read_contexts([place.sweep, target]), (target,))
    labels = place.corpus.features["label"].names
    return Attempt(lambda: SweepResults(target, labels, "last"), (target,))


def store(place: Workplace, draw: Draw, folder: Path) -> Attempt:
    """A feature store, of another version or damaged."""
    target = folder / "store"
    _damaged(draw, place.store, target, ("*/index.json", "*/index.json", "*/done", "*/frames.f16"))

    def fill() -> None:
        made = FeatureStore(place.features, place.extractor, place.corpus, [1, 2], target)
        made.fill()
        frames = made.open([1, 2])
        mean = frames.means
        assert len(frames) == len(place.corpus) == len(mean)
        assert all(len(frames[row]) == frames.lengths[row] for row in range(len(frames)))

    return Attempt(fill, (target,))


ENTRANCES = {  # by name: how many of a thousand cases
    audio: 160,
    classifier: 120,
    predict: 60,
    corpora: 150,
    from_hub: 90,
    extractor: 90,
    model: 90,
    recipe: 90,
    model_folder: 60,
    results: 60,
    store: 30,
}
assert inspect.signature(audio).parameters.keys() == {"place", "draw", "folder"}
