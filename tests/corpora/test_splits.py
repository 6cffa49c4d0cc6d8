from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import iemocap_files, read_table, silent_wav, write_files
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import given
from hypothesis import strategies as st

from whisper_emotion.corpora import load_corpus, utterance_names
from whisper_emotion.corpora.held_out import hold_out_speakers
from whisper_emotion.corpora.splits import (
    Fold,
    make_folds,
    read_emobox,
    speaker_groups,
    speakers_known,
    speakers_shared,
)
from whisper_emotion.errors import UserError


def table(speakers: Sequence[str], labels: Sequence[int]) -> Dataset:
    """The two columns of a corpus that folds by speaker look at."""
    features = Features(speaker=Value("string"), label=ClassLabel(num_classes=3))
    return Dataset.from_dict({"speaker": list(speakers), "label": list(labels)}, features=features)


class Published(dict):
    """Published corpora, loaded when asked for: every name is real, every recording is silent."""

    def __init__(self, root: Path, request: pytest.FixtureRequest):
        self.root, self.request = root, request

    def folder(self, name: str) -> Path:
        """The corpus as its owners lay it out; IEMOCAP's labels are in files that only a real copy has."""
        if name == "iemocap":
            return self.request.getfixturevalue("iemocap_dir")
        if not (self.root / name).exists():
            wav = silent_wav(sampling_rate=8_000)
            below = {"shemo": {"F": "female/", "M": "male/"}}.get(name, {})
            names = [row["name"] for row in read_emobox(name)]
            write_files(self.root / name, {f"{below.get(one[0], '')}{one}.wav": wav for one in names})
        return self.root / name

    def __missing__(self, name: str) -> Dataset:
        self[name] = load_corpus(name, self.folder(name))
        return self[name]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory, request):
    return Published(tmp_path_factory.mktemp("published"), request)


IEMOCAP = pytest.param("iemocap", marks=pytest.mark.slow)  # thousands of files


def check_partition(folds: list[Fold], rows: set[int]):
    """Numbered from 1; tests disjoint and together all rows; each fold trains on what it does not test."""
    assert [fold.number for fold in folds] == list(range(1, len(folds) + 1))
    assert Counter(row for fold in folds for row in fold.test) == dict.fromkeys(rows, 1)
    for fold in folds:
        assert fold.test and fold.train
        assert fold.test == sorted(fold.test) and fold.train == sorted(fold.train)
        assert set(fold.train) == rows - set(fold.test)


@pytest.mark.parametrize(
    "corpus, folds, count, disjoint",
    [
        ("emodb", "loso", 10, True),
        ("emodb", "emobox", 5, False),
        ("emodb", "speakers:4", 4, True),
        ("ravdess", "loso", 24, True),
        ("ravdess", "emobox", 6, True),
        ("ravdess", "speakers:5", 5, True),
        pytest.param("iemocap", "loso", 10, True, marks=pytest.mark.slow),
        pytest.param("iemocap", "paper", 5, True, marks=pytest.mark.slow),
        pytest.param("iemocap", "emobox", 5, True, marks=pytest.mark.slow),
        pytest.param("iemocap", "speakers:3", 3, True, marks=pytest.mark.slow),
        ("shemo", "loso", 87, True),
        ("shemo", "paper", 10, True),
        ("shemo", "speakers:10", 10, True),
    ],
)
def test_folds_partition_the_corpus(corpora, corpus, folds, count, disjoint):
    dataset = corpora[corpus]
    made = make_folds(dataset, corpus, folds)
    assert len(made) == count
    check_partition(made, set(range(len(dataset))))
    assert [speakers_shared(dataset, fold) == 0 for fold in made] == [disjoint] * count


def test_emobox_divides_shemo_once_and_shares_speakers(corpora):
    (fold,) = make_folds(corpora["shemo"], "shemo", "emobox")
    assert (len(fold.train), len(fold.test)) == (2131, 707)
    assert not set(fold.train) & set(fold.test)
    assert speakers_shared(corpora["shemo"], fold) > 0
    assert len(corpora["shemo"]) == len(fold.train) + len(fold.test)


def test_emobox_leaves_162_utterances_of_the_whole_shemo_out(shemo_dir):
    whole = load_corpus("shemo", shemo_dir)
    (fold,) = make_folds(whole, "shemo", "emobox")
    assert len(whole) - len(fold.train) - len(fold.test) == 162


@pytest.mark.parametrize("corpus", ["emodb", "ravdess", IEMOCAP, "shemo"])
def test_emobox_tables_agree_with_their_source(corpora, shared_dir, corpus):
    dataset = corpora[corpus]
    names = utterance_names(dataset)
    made = {
        (str(fold.number), part, names[row])
        for fold in make_folds(dataset, corpus, "emobox")
        for part, rows in (("train", fold.train), ("test", fold.test))
        for row in rows
    }
    source = read_table(shared_dir / "splits" / f"emobox_{corpus}.csv")
    assert made == {(row["fold"], row["part"], row["name"]) for row in source}
    # The same partition into emotions under other names, but that happy and excited are one class here.
    label = dict(zip(names, map(dataset.features["label"].int2str, dataset["label"]), strict=True))
    pairs = {(row["emotion"], label[row["name"]]) for row in source}
    assert len({emotion for emotion, _ in pairs}) == len(pairs)
    assert len({name for _, name in pairs}) == len(pairs) - (corpus == "iemocap")


@pytest.mark.parametrize("corpus", ["emodb", "ravdess", IEMOCAP, "shemo"])
def test_emobox_labels_of_the_package_are_the_loaders(corpora, corpus):
    dataset = corpora[corpus]
    label = dict(zip(utterance_names(dataset), map(dataset.features["label"].int2str, dataset["label"]), strict=True))
    assert all(label[entry["name"]] == entry["label"] for entry in read_emobox(corpus))


def test_shemo_paper_folds_are_the_published_ranges(corpora):
    published = (
        "F01-03 M01-06 | F04-06 M07-12 | F07-09 M13-18 | F10-12 M19-24 | F13-15 M25-30 | F16-18 M31-36 | "
        "F19-21 M37-41 | F22-24 M42-46 | F25-27 M47-51 | F28-31 M52-56"
    )
    expected = []
    for group in published.split(" | "):
        ranges = [(part[0], *map(int, part[1:].split("-"))) for part in group.split()]
        expected.append(
            {f"{letter}{number:02d}" for letter, first, last in ranges for number in range(first, last + 1)}
        )
    speakers = corpora["shemo"]["speaker"][:]
    made = make_folds(corpora["shemo"], "shemo", "paper")
    assert [{speakers[row] for row in fold.test} for fold in made] == expected


def test_paper_folds_of_iemocap_test_one_session_each(tmp_path):
    """Every twentieth name and label of the corpus; the ratings are not."""
    emotions = {"angry": "ang", "happy": "hap", "neutral": "neu", "sad": "sad"}
    rows = [
        {"name": row["name"], "emotion": emotions[row["label"]], "start": "0", "end": "1", "valence": "3",
         "activation": "3", "dominance": "3"}
        for row in read_emobox("iemocap")[::20]
    ]  # fmt: skip
    dataset = load_corpus("iemocap", write_files(tmp_path, iemocap_files(rows, silent_wav())))
    folds = make_folds(dataset, "iemocap", "paper")
    check_partition(folds, set(range(len(rows))))
    tested = [{dataset["session"][row] for row in fold.test} for fold in folds]
    assert tested == [{f"Ses0{number}"} for number in range(1, 6)]
    with pytest.raises(UserError, match="paper needs all of iemocap, but it lacks Ses02, Ses03, Ses04, Ses05"):
        make_folds(dataset.select(range(20)), "iemocap", "paper")


@pytest.mark.slow
def test_iemocap_paper_folds_are_its_sessions(corpora):
    sessions = corpora["iemocap"]["session"][:]
    made = make_folds(corpora["iemocap"], "iemocap", "paper")
    assert [{sessions[row] for row in fold.test} for fold in made] == [{f"Ses0{number}"} for number in range(1, 6)]
    assert [len(fold.test) for fold in made] == [1085, 1023, 1151, 1031, 1241]
    assert made == make_folds(corpora["iemocap"], "iemocap", "emobox")


def test_folds_of_fewer_classes_keep_their_rows(corpora):
    whole = corpora["emodb"]
    part = load_corpus("emodb", corpora.folder("emodb"), classes="angry,sad")
    tested = [
        [{utterance_names(dataset)[row] for row in fold.test} for fold in make_folds(dataset, "emodb", "emobox")]
        for dataset in (whole, part)
    ]
    kept = set(utterance_names(part))
    assert tested[1] == [names & kept for names in tested[0]]
    check_partition(make_folds(part, "emodb", "emobox"), set(range(len(part))))


def test_emobox_names_what_is_missing(corpora):
    dataset = corpora["emodb"].select(range(2, 535))
    with pytest.raises(UserError, match=r"emobox needs all of emodb, but it lacks 03a01\w+ \(2 are missing\)"):
        make_folds(dataset, "emodb", "emobox")


def test_paper_names_what_is_missing(corpora):
    with pytest.raises(UserError, match="paper needs all of shemo, but it lacks F04 to M12, "):
        make_folds(corpora["shemo"].select(range(100)), "shemo", "paper")


@pytest.mark.parametrize(
    "corpus, folds, message",
    [
        ("emodb", "paper", "paper is defined for iemocap, shemo only, not for emodb"),
        ("folder", "emobox", "emobox is defined for emodb, ravdess, iemocap, shemo only, not for folder"),
        (
            "synthetic",
            "kfold",
            "unknown value 'kfold', expected one of loso, speakers:K, split, loco, cross for synthetic",
        ),
        (
            "shemo",
            "",
            "unknown value '', expected one of loso, paper, emobox, speakers:K, split, loco, cross for shemo",
        ),
        ("emodb", "speakers:4", "'speakers:4' does not apply, expected speakers:K with K from 2 to 3"),
        ("emodb", "speakers:1", "'speakers:1' does not apply"),
        ("emodb", "speakers:-2", "'speakers:-2' does not apply"),
        ("emodb", "speakers:two", "'speakers:two' does not apply"),
        ("emodb", "speakers:", "'speakers:' does not apply"),
        ("emodb", "speakers:²", "does not apply"),
    ],
)
def test_folds_that_do_not_apply_are_refused(corpus, folds, message):
    with pytest.raises(UserError, match=message):
        make_folds(table("aabbcc", [0, 1] * 3), corpus, folds)


def dataset_of(**columns) -> Dataset:
    """Eight clips of four speakers, with further columns."""
    features = Features(
        speaker=Value("string"), label=ClassLabel(num_classes=2), **dict.fromkeys(columns, Value("string"))
    )
    return Dataset.from_dict({"speaker": list("aabbccdd"), "label": [0, 1] * 4, **columns}, features=features)


def test_loco_leaves_one_corpus_out_in_the_order_of_the_corpora():
    folds = make_folds(
        dataset_of(corpus=["one", "two", "one", "one", "two", "three", "three", "three"]), "one,two,three", "loco"
    )
    assert [fold.test for fold in folds] == [[0, 2, 3], [1, 4], [5, 6, 7]]
    check_partition(folds, set(range(8)))
    with pytest.raises(UserError, match="loco needs two or more corpora, found one: --corpus emodb,ravdess"):
        make_folds(dataset_of(corpus=["one"] * 8), "one", "loco")


def test_cross_trains_on_each_corpus_and_tests_on_each_other():
    dataset = dataset_of(corpus=["one", "two", "one", "one", "two", "three", "three", "three"])
    folds = make_folds(dataset, "one,two,three", "cross")
    rows = {"one": [0, 2, 3], "two": [1, 4], "three": [5, 6, 7]}
    pairs = [(first, second) for first in rows for second in rows if first != second]
    assert [(fold.train, fold.test) for fold in folds] == [(rows[first], rows[second]) for first, second in pairs]
    assert [fold.number for fold in folds] == list(range(1, 7))


def test_test_clips_of_unknown_classes_are_left_out(caplog):
    features = Features(speaker=Value("string"), label=ClassLabel(names=["sad", "calm"]), corpus=Value("string"))
    columns = {"speaker": list("abcd"), "label": [0, 0, 0, 1], "corpus": ["one", "one", "two", "two"]}
    first, second = make_folds(Dataset.from_dict(columns, features=features), "one,two", "loco")
    assert (first.test, second.test) == ([0, 1], [2])
    assert "fold 2: left out test clips of calm, which has no training clips" in caplog.text


def test_split_keeps_the_corpus_s_own_parts(caplog):
    splits = ["train", "test", "dev", None, "train", "test", "dev", "train"]
    (fold,) = make_folds(dataset_of(split=splits, corpus=["table"] * 8), "table", "split")
    assert (fold.number, fold.train, fold.dev, fold.test) == (1, [0, 4, 7], [2, 6], [1, 5])
    assert "folds: split leaves out 1 of 8 clips of " in caplog.text
    (fold,) = make_folds(dataset_of(split=["train"] * 4 + ["test"] * 4, corpus=["table"] * 8), "table", "split")
    assert fold.dev is None
    with pytest.raises(UserError, match="split needs a corpus with its own parts, but no recording belongs to test"):
        make_folds(dataset_of(split=["train"] * 8, corpus=["table"] * 8), "table", "split")


def test_copies_of_a_recording_are_on_one_side_of_a_fold(tmp_path, caplog):
    rng = np.random.default_rng(0)
    clips = {f"{speaker}_{number}": rng.bytes(3200) for speaker in ("anna", "bert", "cleo") for number in (1, 2, 3)}
    clips["cleo_1"] = clips["anna_1"]
    head = silent_wav(0.1)[:44]
    files = {f"{'sad' if name[-1] == '1' else 'angry'}/{name}.wav": head + clip for name, clip in clips.items()}
    known = load_corpus("folder", write_files(tmp_path, files), speaker_pattern="^([a-z]+)")
    rows = {name: row for row, name in enumerate(utterance_names(known))}
    anna, bert, cleo = make_folds(known, "folder", "loso")
    assert rows["anna_1"] in anna.test and rows["cleo_1"] not in anna.train
    assert rows["cleo_1"] in cleo.test and rows["anna_1"] not in cleo.train
    assert len(anna.train) == 5 and len(bert.train) == 6
    assert "1 recordings are byte-identical copies of others (cleo_1 of anna_1)" in caplog.text
    unknown = load_corpus("folder", tmp_path)
    groups = speaker_groups(unknown)
    assert groups[rows["anna_1"]] == groups[rows["cleo_1"]] and len(set(groups)) == 8


def test_copies_in_ogg_files_are_found(shared_dir, caplog):
    ased = load_corpus("ased", shared_dir / "corpora" / "ased")
    check_partition(make_folds(ased, "ased", "speakers:5"), set(range(2474)))  # each pair is of one speaker
    assert "4 recordings are byte-identical copies of others (" in caplog.text


def test_one_speaker_makes_no_folds():
    for folds in ("loso", "speakers:2"):
        with pytest.raises(UserError, match="needs two or more speakers, found 1"):
            make_folds(table("aaa", [0, 1, 2]), "folder", folds)


def test_unknown_speakers_make_no_folds(tmp_path):
    files = [f"{label}/{name}.wav" for label in ("angry", "sad") for name in ("anna_1", "anna_2", "bert_1", "bert_2")]
    write_files(tmp_path, {name: silent_wav() for name in files})
    unknown, known = (load_corpus("folder", tmp_path, speaker_pattern=pattern) for pattern in (None, "^([a-z]+)"))
    assert speakers_known(known) and not speakers_known(unknown)
    for folds in ("loso", "speakers:2"):
        with pytest.raises(UserError, match=f"{folds} needs known speakers, give --speaker_pattern"):
            make_folds(unknown, "folder", folds)
        check_partition(make_folds(known, "folder", folds), set(range(8)))
    train, dev = hold_out_speakers(unknown, range(8), seed=0, fraction=0.25)
    assert len(dev) == 2 and {unknown[row]["label"] for row in dev} == {0, 1}
    assert sorted(train + dev) == list(range(8))


@given(st.lists(st.integers(0, 12), min_size=2, max_size=80), st.integers(2, 13))
def test_speakers_k_is_disjoint_balanced_and_repeatable(numbers, count):
    dataset = table([f"s{number}" for number in numbers], [0] * len(numbers))
    clips = Counter(numbers)
    if count > len(clips):
        with pytest.raises(UserError):
            make_folds(dataset, "folder", f"speakers:{count}")
        return
    folds = make_folds(dataset, "folder", f"speakers:{count}")
    assert len(folds) == count
    check_partition(folds, set(range(len(numbers))))
    assert all(speakers_shared(dataset, fold) == 0 for fold in folds)
    sizes = [len(fold.test) for fold in folds]
    # The largest group got its last and smallest speaker when it was the smallest.
    assert max(sizes) - min(sizes) <= max(clips.values())
    assert folds == make_folds(dataset, "folder", f"speakers:{count}")


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2)), min_size=2, max_size=80),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.1, 0.2, 0.5]),
    st.data(),
)
def test_hold_out_speakers_is_disjoint_and_repeatable(clips, seed, fraction, data):
    dataset = table([f"s{speaker}" for speaker, _ in clips], [label for _, label in clips])
    rows = sorted(data.draw(st.sets(st.integers(0, len(clips) - 1), min_size=2)))
    speakers = [clips[row][0] for row in rows]
    if len(set(speakers)) < 2:
        with pytest.raises(UserError, match="found 1: use --select_on last"):
            hold_out_speakers(dataset, rows, seed, fraction)
        return
    train, dev = hold_out_speakers(dataset, rows, seed, fraction)
    assert train and dev and sorted(train + dev) == rows
    assert not {clips[row][0] for row in train} & {clips[row][0] for row in dev}
    # A single speaker may be more than the fraction, but no more than one speaker is ever too many.
    assert len(dev) - fraction * len(rows) <= max(Counter(speakers).values())
    assert (train, dev) == hold_out_speakers(dataset, rows, seed, fraction)


def test_hold_out_speakers_finds_the_rare_class():
    # 30 speakers say class 0; only three say class 1 as well: it must be heard on both sides.
    speakers = [f"s{number:02d}" for number in range(30) for _ in range(4)]
    rare = ("s03", "s11", "s27")
    dataset = table(speakers, [int(name in rare and row % 4 == 0) for row, name in enumerate(speakers)])
    for seed in range(10):
        train, dev = hold_out_speakers(dataset, range(len(dataset)), seed)
        assert {dataset[row]["label"] for row in dev} == {dataset[row]["label"] for row in train} == {0, 1}
        assert len(dev) == 24


@pytest.mark.parametrize("corpus", ["emodb", "ravdess", IEMOCAP, "shemo"])
def test_hold_out_speakers_of_real_corpora(corpora, corpus):
    dataset = corpora[corpus]
    labels, speakers = dataset["label"][:], dataset["speaker"][:]
    held_out = set()
    for seed in range(3):
        train, dev = hold_out_speakers(dataset, range(len(dataset)), seed)
        assert set(labels) == {labels[row] for row in dev} == {labels[row] for row in train}
        assert 0.12 < len(dev) / len(dataset) < 0.28
        assert not {speakers[row] for row in dev} & {speakers[row] for row in train}
        held_out.add(tuple(dev))
    assert len(held_out) == 3 or len(set(speakers)) == 10
