"""A corpus on the Hub, `hub:NAMESPACE/NAME`: pushed as Parquet, trained on by the scripts, and refused in words."""

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import silent_wav
from datasets import Audio, ClassLabel, Dataset, Features, Value
from huggingface_hub import metadata_load

from whisper_emotion.audio import read_audio
from whisper_emotion.corpora import hub as hub_corpus
from whisper_emotion.corpora import load_corpus, utterance_names
from whisper_emotion.corpora.splits import make_folds, speakers_known
from whisper_emotion.errors import UserError
from whisper_emotion.inference import EmotionClassifier

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

# --- the way over the Hub --------------------------------------------------------------------------------------------

UPLOAD = """
import sys
from whisper_emotion.corpora import load_corpus
corpus = load_corpus("synthetic", sys.argv[1])
corpus.push_to_hub("me/voices", private=True)
corpus.select_columns(["audio", "label"]).push_to_hub("me/nobody")
"""


@pytest.fixture(scope="module")
def trained(hub, tiny_encoder, synthetic_dir, tmp_path_factory) -> Path:
    """A folder in which `train.py` has left a model, and `cross_validate.py` its results, both of `hub:me/voices`."""
    home = tmp_path_factory.mktemp("home")
    done = hub.run(home, "-c", UPLOAD, synthetic_dir)
    assert done.returncode == 0, done.stderr
    options = [
        "--corpus", "hub:me/voices", "--folds", "speakers:2", "--encoder", tiny_encoder, "--encoder_layer", 2,
        "--pooling", "qkv", "--encoder_context", "utterance", "--num_train_epochs", 2, "--disable_tqdm", "true",
    ]  # fmt: skip
    for script, *own in (("train.py", "--test_fold", 1), ("cross_validate.py", "--seeds", "0")):
        output = home / script.removesuffix(".py")
        done = hub.run(home, SCRIPTS / script, *options, *own, "--output_dir", output)
        assert done.returncode == 0, done.stderr
    return home


def test_a_corpus_is_pushed_as_parquet_with_its_recordings(hub, trained, synthetic_dir):
    files = hub.repos["dataset", "me/voices"].files()
    (parquet,) = (path for path in files if path.endswith(".parquet"))
    assert any(path.read_bytes() in files[parquet] for path in synthetic_dir.rglob("*_01.wav"))


def test_the_model_of_the_hub_s_corpus_is_that_of_the_folder(trained, trained_dir):
    """The same recordings, whether they are files or bytes in a table, give the same predictions."""
    here, there = (pd.read_csv(folder / "predictions.csv") for folder in (trained_dir, trained / "train"))
    pd.testing.assert_frame_equal(here, there)


def test_results_and_card_name_the_dataset(trained):
    scores = json.loads((trained / "train" / "scores.json").read_text())
    assert (scores["corpus"], scores["speakers_shared"]) == ("hub:me/voices", [0])
    card = (trained / "train" / "README.md").read_text()
    metadata = metadata_load(trained / "train" / "README.md")
    assert metadata is not None
    assert metadata["datasets"] == ["me/voices"]
    (result,) = metadata["model-index"][0]["results"]
    assert result["dataset"]["type"] == result["dataset"]["name"] == "me/voices"
    assert "[me/voices](https://huggingface.co/datasets/me/voices)" in card
    assert "0, as far as the dataset tells." in card


def test_every_clip_is_tested_once_under_its_own_name(trained, synthetic_dir):
    table = pd.read_csv(trained / "cross_validate" / "predictions.csv")
    assert sorted(table["name"]) == sorted(path.stem for path in synthetic_dir.rglob("*.wav"))
    names = table["name"].head(3)
    probabilities = EmotionClassifier(trained / "train")([next(synthetic_dir.rglob(f"{name}.wav")) for name in names])
    assert [len(one) for one in probabilities] == [4, 4, 4]


REFUSED = """
import contextlib, io, json, os, runpy, sys
script, commands = sys.argv[1], json.loads(sys.argv[2])
for token, options in commands:
    os.environ["HF_TOKEN"] = token
    sys.argv = [script, *options]
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(None):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as exit_:
            code = exit_.code
    print(json.dumps([code, err.getvalue()]))
"""
MISTAKES = [
    ("", ["--corpus", "hub:me/voices"], "hub:me/voices: cannot be loaded from the Hub: "),  # private, and no token
    ("", ["--corpus", "hub:me/none"], "hub:me/none: cannot be loaded from the Hub: "),
    ("", ["--corpus", "hub:voices"], "'hub:voices' is not a dataset on the Hub, expected hub:NAMESPACE/NAME"),
    ("", ["--corpus", "hub:me/nobody"], "folds: loso needs known speakers"),
    ("", ["--corpus", "hub:me/nobody", "--corpus_dir", "x"], "corpus_dir: hub:me/nobody comes from the Hub"),
    ("", ["--corpus", "hub:me/nobody", "--speaker_pattern", "x"], "speaker_pattern: not an option of corpus hub:me/n"),
    (
        "",
        ["--corpus", "hub:me/nobody", "--classes", "gloom,sad"],
        "classes: there are no recordings of class 'gloom', expected some of angry",
    ),
    ("", ["--corpus", "emodb"], "corpus_dir: missing, expected the folder of emodb"),
]


def test_a_mistake_is_one_line_and_status_2(hub, trained, tiny_encoder, tmp_path):
    rest = ["--test_fold", "1", "--encoder", str(tiny_encoder), "--output_dir", str(tmp_path / "o")]
    (tmp_path / "me" / "none").mkdir(parents=True)  # a folder of that name is not what hub: means
    (tmp_path / "me" / "none" / "rows.csv").write_text("audio,label\n1,2\n")
    commands = [(token, [*options, *rest]) for token, options, _ in MISTAKES]
    done = hub.run(tmp_path, "-c", REFUSED, SCRIPTS / "train.py", json.dumps(commands))
    assert done.returncode == 0, done.stderr
    for (_, _, said), line in zip(MISTAKES, done.stdout.splitlines(), strict=True):
        code, err = json.loads(line)
        assert code == 2
        assert said in err.splitlines()[-1]
        assert "Traceback" not in err


# --- what a dataset may look like ------------------------------------------------------------------------------------


@pytest.fixture
def served(monkeypatch):
    """Puts rows in the place of what the Hub would give for `hub:me/corpus`, and loads them."""

    def load(columns, kinds=None, **options):
        recording = {"bytes": Value("binary"), "path": Value("string")}
        kinds = {name: Value("string") for name in columns} | (kinds or {}) | {"audio": recording}
        table = Dataset.from_dict(columns, features=Features({name: kinds[name] for name in columns}))
        table = table.cast_column("audio", Audio(decode=False))
        monkeypatch.setattr(hub_corpus, "_download", lambda name: {"train": table})
        return load_corpus("hub:me/corpus", **options)

    return load


def clips(*names, seconds=0.5):
    return [{"path": name, "bytes": silent_wav(seconds)} for name in names]


def test_text_labels_and_measured_seconds(served):
    corpus = served(
        {
            "audio": clips("a.wav", "b.wav"),
            "label": ["sad", "angry"],
            "speaker": ["x/1", "y"],
            "gender": ["Female", "?"],
            "notes": ["", ""],
        }
    )
    assert list(corpus.features) == ["audio", "label", "speaker", "gender", "session", "seconds", "corpus", "split"]
    assert corpus.features["audio"] == Audio(decode=False)
    assert corpus.features["label"].names == ["angry", "sad"]
    assert corpus["label"][:] == [1, 0]
    assert corpus["speaker"][:] == ["x_1", "y"]  # a slash would stand for a speaker that nobody knows
    assert corpus["gender"][:] == ["female", None]
    assert corpus["session"][:] == [None, None]
    assert corpus["seconds"][:] == [0.5, 0.5]
    assert read_audio(corpus[1]["audio"]).shape == (8000,)
    assert utterance_names(corpus) == ["a", "b"]


def test_class_labels_take_the_vocabularys_order_and_given_columns_their_values(served):
    kinds = {
        "label": ClassLabel(names=["sad", "calm", "angry"]),
        "speaker": Value("int64"),
        "gender": ClassLabel(names=["male", "female"]),
        "seconds": Value("float64"),
    }
    columns = {
        "audio": clips("a.wav", "b.wav", "c.wav"),
        "label": [2, 0, 1],
        "speaker": [7, 7, 8],
        "gender": [1, 0, -1],
        "session": ["1", "1", None],
        "seconds": [1.0, 2.0, 3.0],
    }
    corpus = served(columns, kinds)
    assert corpus.features["label"].names == ["angry", "sad", "calm"]
    assert corpus["label"][:] == [0, 1, 2]
    assert corpus["speaker"][:] == ["7", "7", "8"]
    assert corpus["gender"][:] == ["female", "male", None]
    assert corpus["session"][:] == ["1", "1", None]
    assert corpus["seconds"][:] == [1.0, 2.0, 3.0]
    some = served(columns, kinds, classes="angry,sad")
    assert some.features["label"].names == ["angry", "sad"]
    assert (some["label"][:], some["seconds"][:], utterance_names(some)) == ([0, 1], [1.0, 2.0], ["a", "b"])


def test_without_speakers_every_clip_is_its_own(served):
    corpus = served({"audio": clips("a.wav", "b.wav"), "label": ["sad", "angry"]})
    assert len(set(corpus["speaker"][:])) == 2
    assert not speakers_known(corpus)
    with pytest.raises(UserError, match="needs known speakers, .* or a dataset with a column speaker"):
        make_folds(corpus, "hub:me/corpus", "speakers:2")


@pytest.mark.parametrize("names", [("a.wav", "a.wav", "b.wav"), (None, None, None), ("a.wav", "x/a.wav", "")])
def test_recordings_without_names_of_their_own_are_numbered(served, names):
    corpus = served({"audio": clips(*names), "label": ["sad", "angry", "sad"]})
    found = utterance_names(corpus)
    assert len(set(found)) == 3
    assert [name[0] for name in found] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("columns", "kinds", "said"),
    [
        ({"label": ["a", None]}, {}, "hub:me/corpus: row 1 has no label"),
        ({"label": ["a", ""]}, {}, "row 1 has no label"),
        ({"label": [0, -1]}, {"label": ClassLabel(names=["a", "b"])}, "row 1 has no label"),
        ({"label": [0, 1]}, {"label": Value("int64")}, "its labels are numbers without names"),
        ({"label": ["a", "a"]}, {}, "classes: a alone, expected two or more"),
        ({"emotion": ["a", "b"]}, {}, "has no column label, expected the columns audio and label"),
        ({"label": ["a", "b"], "speaker": ["x", None]}, {}, "row 1 has no speaker"),
        ({"label": ["a", "b"], "seconds": [1.0, 0.0]}, {"seconds": Value("float64")}, "row 1 lasts 0.0 seconds"),
        ({"label": ["a", "b"], "seconds": ["1", "2"]}, {}, "row 0 lasts 1 seconds, expected a number above 0"),
        ({"label": ["a", "b"], "audio": [*clips("a.wav"), {"path": "b.wav", "bytes": b"?"}]}, {},
         "hub:me/corpus: row 1: b.wav: cannot be decoded"),
    ],
)  # fmt: skip
def test_a_dataset_that_does_not_fit_is_refused(served, columns, kinds, said):
    columns = {"audio": clips("a.wav", "b.wav"), **columns}
    with pytest.raises(UserError) as error:
        served(columns, kinds)
    assert said in str(error.value)


def test_a_column_of_text_holds_no_recordings(monkeypatch):
    monkeypatch.setattr(
        hub_corpus, "_download", lambda name: {"train": Dataset.from_dict({"audio": ["a.wav"], "label": ["sad"]})}
    )
    with pytest.raises(UserError, match="its column audio holds no recordings, expected the type Audio"):
        load_corpus("hub:me/corpus")
