"""Fixtures that several test files share, and an environment without network or windows on the screen."""

import csv
import dataclasses
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Before any import of datasets, transformers or matplotlib: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="whisper-emotion-tests-")
os.environ["HF_ASSETS_CACHE"] = tempfile.mkdtemp(prefix="whisper-emotion-tests-")  # where the feature store lies
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest-xdist runs a worker a core
os.environ.setdefault("MKL_CBWR", "COMPATIBLE")  # else MKL rounds by where in memory a tensor lies (no AVX-512)
os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="whisper-emotion-tests-")  # where uploads lie

import pytest
from hypothesis import settings
from programs import REPOSITORY as REPOSITORY
from programs import run_python as run_python
from programs import run_ranks as run_ranks
from programs import run_script as run_script
from sound_files import iemocap_files as iemocap_files
from sound_files import media_file as media_file
from sound_files import silent_wav as silent_wav
from sound_files import write_files as write_files

pytest_plugins = ["tool_fixtures"]  # a second conftest.py would hide this one from imports

settings.register_profile("repeatable", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("repeatable")


# The files that take longest, longest first: as the last ones they would keep one worker while the others are done.
LONGEST = (
    "test_guides", "test_grid", "test_encoder_training", "test_browser", "test_benchmark_encoder", "test_publishing",
    "test_predict", "test_security", "test_export", "test_scripts", "test_processes", "test_hub_space",
    "test_hub_corpus", "test_feature_store", "test_evaluation", "test_fit", "test_cross_validation",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest files, and leave IEMOCAP's 10,039 to `make test-all`."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))
    for item in items:
        if "iemocap_dir" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[list[str]]:
    """All `python …` lines of a page's bash blocks, as lists of arguments without `python`."""
    lines = [line for block in blocks(path, "bash") for line in block.replace("\\\n", " ").splitlines()]
    split = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in split if words and words[0] == "python"]


@contextmanager
def without_privileges(folder: Path) -> Iterator[None]:
    """Whoever runs the tests may read no more than permissions say, not even the superuser, who reaches `folder`."""
    if os.geteuid() != 0:
        yield
        return
    for path in (folder, *folder.parents):
        if Path(tempfile.gettempdir()) in path.parents:  # pytest's own folders are their user's alone
            path.chmod(path.stat().st_mode | 0o755)
    nobody = 65_534
    os.setresuid(nobody, nobody, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@contextmanager
def full_disk(size: int = 0) -> Iterator[None]:
    """No file can grow beyond a size: what a library sees of a disk that is full, on any machine with POSIX limits."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with open(path, encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of real encoders, corpora and labels; a test that needs it is skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared"
    path = Path(os.environ.get("WHISPER_EMOTION_SHARED", default))
    if not path.is_dir():
        pytest.skip(f"real corpora and encoders are not here: no folder {path} (WHISPER_EMOTION_SHARED names another)")
    return path


@pytest.fixture(scope="session")
def iemocap_dir(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """IEMOCAP in its owners' layout: all 10,039 utterances and their real labels, silent audio."""
    rows = read_table(shared_dir / "labels" / "iemocap.csv")
    return write_files(tmp_path_factory.mktemp("iemocap"), iemocap_files(rows, silent_wav()))


@pytest.fixture(scope="session")
def shemo_dir(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ShEMO in its owners' layout: all 3,000 names, silent audio at 44.1 kHz."""
    wav = silent_wav(sampling_rate=44_100)
    rows = read_table(shared_dir / "labels" / "shemo.csv")
    return write_files(tmp_path_factory.mktemp("shemo"), {f"{row['gender']}/{row['name']}.wav": wav for row in rows})


@pytest.fixture(scope="session")
def synthetic_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic corpus: 4 speakers, 4 emotions, 3 utterances each."""
    from whisper_emotion.corpora import load_corpus

    path = tmp_path_factory.mktemp("synthetic") / "corpus"
    load_corpus("synthetic", path, speakers=4, utterances=3)
    return path


def save_encoder(path: Path) -> Path:
    """A stock Whisper checkpoint of random weights: 3 encoder layers, 16 wide, in half precision, with its decoder."""
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=16, encoder_layers=3, encoder_attention_heads=2, encoder_ffn_dim=32, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=32, vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=3, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        # Far from the small initial values, so that layers, positions and masks all matter to the output.
        if "embed_positions" not in name and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    model.half().save_pretrained(path)
    WhisperFeatureExtractor().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a checkpoint."""
    return save_encoder(tmp_path_factory.mktemp("tiny") / "encoder")


def load_model(encoder: Path, **fields: Any) -> Any:
    """A model in eval mode whose head is the same each time."""
    import torch

    from whisper_emotion import WhisperForEmotionClassification

    torch.manual_seed(0)
    return WhisperForEmotionClassification.from_pretrained(encoder, **fields).eval()


def small_model(**fields: Any) -> Any:
    """A model of random weights with one layer and three labels, whose classifier tells clips apart."""
    import torch

    from whisper_emotion import WhisperEmotionConfig, WhisperForEmotionClassification

    torch.manual_seed(0)
    shape = {"d_model": 16, "encoder_attention_heads": 2, "encoder_layers": 1, "encoder_ffn_dim": 32}
    model = WhisperForEmotionClassification(WhisperEmotionConfig(**{**shape, "num_labels": 3, **fields})).eval()
    torch.nn.init.normal_(model.head.classifier.weight)
    return model


def noise_clips(*seconds: float, seed: int = 0) -> list[Any]:
    """Noise of these lengths at 16 kHz."""
    import numpy as np

    rng = np.random.default_rng(seed)
    return [(0.1 * rng.standard_normal(round(length * 16_000))).astype(np.float32) for length in seconds]


def extract_features(clips: Any, **options: Any) -> Any:
    """`input_features` and `attention_mask` of clips at 16 kHz, as tensors."""
    from whisper_emotion import WhisperEmotionFeatureExtractor

    return WhisperEmotionFeatureExtractor()(clips, sampling_rate=16_000, return_tensors="pt", **options)


def save_model(encoder: Path, folder: Path, **fields: Any) -> Path:
    """Save a model with an untrained head whose probabilities differ clearly; return the folder."""
    import torch

    from whisper_emotion import WhisperEmotionFeatureExtractor, WhisperForEmotionClassification
    from whisper_emotion.errors import without_loading_report

    torch.manual_seed(0)
    fields = {"id2label": {0: "angry", 1: "calm", 2: "sad"}, "encoder_layer": 2, **fields}
    with without_loading_report():
        model = WhisperForEmotionClassification.from_pretrained(encoder, **fields)
    torch.nn.init.normal_(model.head.classifier.weight, std=0.1)
    model.save_pretrained(folder)
    WhisperEmotionFeatureExtractor.from_pretrained(encoder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_dir(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a folder, with a pooling of several heads."""
    return save_model(
        tiny_encoder, tmp_path_factory.mktemp("tiny") / "model", pooling="qkv", encoder_context="utterance"
    )


@pytest.fixture(scope="session")
def demo_url(model_dir: Path) -> Iterator[str]:
    """The demo page, served on loopback, with limits that a test reaches quickly."""
    pytest.importorskip("gradio", reason="the demo page needs Gradio: pip install 'whisper-emotion[demo]'")
    from whisper_emotion.demo.page import build_page, launch_page, load_models

    page = build_page(load_models([str(model_dir)]), most_minutes=1, most_megabytes=4)
    yield launch_page(page, most_megabytes=4)
    page.close()


@pytest.fixture(scope="module")
def hub():
    """A Hub on loopback, empty at first."""
    from stand_in import Hub

    with Hub() as server:
        yield server


@pytest.fixture(scope="session")
def trained_dir(tiny_encoder: Path, synthetic_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `train.py` leaves behind, by its own command line."""
    output = tmp_path_factory.mktemp("trained") / "model"
    done = run_script(
        "train.py", "--corpus", "synthetic", "--corpus_dir", synthetic_dir, "--folds", "speakers:2", "--test_fold", 1,
        "--encoder", tiny_encoder, "--encoder_layer", 2, "--pooling", "qkv", "--encoder_context", "utterance",
        "--num_train_epochs", 2, "--disable_tqdm", "true", "--output_dir", output,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="session")
def experiment(tiny_encoder: Path, synthetic_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A short training of learned heads on the synthetic corpus, which selects nothing."""
    from whisper_emotion.corpora import load_corpus
    from whisper_emotion.fitting.experiment import Experiment
    from whisper_emotion.fitting.training_arguments import EmotionTrainingArguments

    root = tmp_path_factory.mktemp("run")
    args = EmotionTrainingArguments(output_dir=str(root), num_train_epochs=3, disable_tqdm=True, use_cpu=True)
    overrides = {"encoder_context": "utterance", "encoder_layer": 1, "classifier_proj_size": 16}
    corpus = load_corpus("synthetic", synthetic_dir)
    return Experiment(corpus, str(tiny_encoder), overrides, args, "last", store_dir=str(root / "store"))


@pytest.fixture(scope="session")
def linear(experiment: Any) -> Any:
    """The same with nothing to learn under the classifier."""
    return dataclasses.replace(experiment, overrides=experiment.overrides | {"classifier_proj_size": 0})


@pytest.fixture(scope="session")
def folds(experiment: Any) -> Any:
    """Its folds: one speaker is left out of each."""
    from whisper_emotion.corpora.splits import make_folds

    return make_folds(experiment.corpus, "synthetic", "loso")
