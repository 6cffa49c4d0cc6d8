"""A run's folder takes no other run's leftovers for its own, and holds no half file."""

import shutil

import pytest
from conftest import full_disk

from whisper_emotion.corpora import load_corpus
from whisper_emotion.errors import UserError
from whisper_emotion.run_folder import CELLS, UNFINISHED, claim, results_of, write_whole


@pytest.fixture(scope="module")
def corpus(synthetic_dir):
    return load_corpus("synthetic", synthetic_dir)


def work_on(output_dir, corpus, settings=None, work=True):
    """A run that is cut off after some work."""
    with claim(output_dir, corpus, ["encoder"], settings or {}) as work_dir:
        if work:
            (work_dir / "seed0_fold1.csv").touch()
    return work_dir


def files_in(folder):
    return {path.relative_to(folder).as_posix(): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def test_settings_of_an_unfinished_run_are_not_mixed(corpus, tmp_path):
    work_on(tmp_path, corpus, {"learning_rate": 0.3, "pooling": "mean"}, work=False)
    work_on(tmp_path, corpus, {"learning_rate": 0.1, "pooling": "mean"})
    work_on(tmp_path, corpus, {"learning_rate": 0.1, "pooling": "mean"})
    with pytest.raises(UserError, match="unfinished run with pooling=mean, not qkv"):
        work_on(tmp_path, corpus, {"learning_rate": 0.1, "pooling": "qkv"})


def test_an_unfinished_run_is_not_continued_on_another_corpus(corpus, tmp_path):
    work_on(tmp_path, corpus)
    with pytest.raises(UserError, match="contents of the corpus and the encoder"):
        work_on(tmp_path, corpus.select(range(40)))


def test_a_folder_of_something_else_is_not_written_into(corpus, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    for output_dir, said in (
        (tmp_path, "holds other files"),
        (tmp_path / "README.md", "expected a writable folder"),
        (tmp_path / "README.md" / "run", "expected a writable folder"),
    ):
        with pytest.raises(UserError, match=said):
            work_on(output_dir, corpus)
    assert files_in(tmp_path) == {"README.md": b"mine"}


@pytest.mark.parametrize("name", ["", "new", "new/inner"])
@pytest.mark.parametrize("work", [UNFINISHED, CELLS])
def test_a_run_that_ends_before_any_work_leaves_the_folder_as_it_was(corpus, tmp_path, name, work):
    if not name and work == UNFINISHED:
        (tmp_path / "scores.json").write_text("{}")
    before = files_in(tmp_path)
    for error in (UserError("--encoder x: lacks a layer"), KeyboardInterrupt()):
        with pytest.raises(type(error)), claim(tmp_path / name, corpus, ["x"], {}, work) as work_dir:
            (work_dir / "select").mkdir()
            raise error
    assert tmp_path.exists() and files_in(tmp_path) == before


def test_a_run_that_is_refused_leaves_an_earlier_run_as_it_was(corpus, tmp_path):
    work_on(tmp_path, corpus, {"pooling": "mean"})
    before = files_in(tmp_path)
    with pytest.raises(UserError):
        work_on(tmp_path, corpus, {"pooling": "qkv"})
    with pytest.raises(UserError, match="x"), claim(tmp_path, corpus, ["encoder"], {"pooling": "mean"}):
        raise UserError("x")
    assert files_in(tmp_path) == before


def test_a_file_is_replaced_whole(tmp_path):
    write_whole(tmp_path / "scores.json", "one")
    write_whole(tmp_path / "scores.json", "two")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("scores.json", "two")]


@pytest.mark.parametrize("text", ["{", "[1]", "3", "\ufeffnull"])
def test_damaged_settings_are_named(corpus, tmp_path, text):
    (work_on(tmp_path, corpus) / "settings.json").write_text(text)
    with pytest.raises(UserError, match=r"settings\.json: .*delete its folder"):
        work_on(tmp_path, corpus)


def test_what_a_full_disk_cuts_off_is_one_line_and_leaves_what_was_there(tmp_path):
    write_whole(tmp_path / "scores.json", "before")
    with full_disk(), pytest.raises(UserError, match=f"^{tmp_path}: cannot be written \\(File too large\\), expected"):
        write_whole(tmp_path / "scores.json", 10_000 * "after")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("scores.json", "before")]


def test_results_appear_together_when_the_work_is_over(corpus, tmp_path):
    output_dir = tmp_path / "run"
    work_dir = work_on(output_dir, corpus)
    with pytest.raises(KeyboardInterrupt), results_of(work_dir) as made:
        (made / "half.json").write_text("{")
        raise KeyboardInterrupt
    assert [path.name for path in output_dir.iterdir()] == ["unfinished"]
    with claim(output_dir, corpus, ["encoder"], {}) as work_dir, results_of(work_dir) as made:
        assert made.name == "run" and not any(made.iterdir())
        (made / "scores.json").write_text("{}")
        assert not (output_dir / "scores.json").exists()
    assert [path.name for path in output_dir.iterdir()] == ["scores.json"]


def test_a_kill_while_the_work_is_removed_leaves_no_folds_to_a_run_with_other_settings(corpus, tmp_path, monkeypatch):
    work_dir = work_on(tmp_path, corpus, {"pooling": "mean"})
    remove = shutil.rmtree

    def cut_off(path, **options):
        if path.name == "unfinished.part":
            (path / "settings.json").unlink()  # as a kill leaves it: the record is gone, the folds are not
            raise KeyboardInterrupt
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", cut_off)
    with pytest.raises(KeyboardInterrupt), results_of(work_dir) as made:
        (made / "scores.json").write_text("{}")
    monkeypatch.undo()
    with claim(tmp_path, corpus, ["encoder"], {"pooling": "qkv"}) as work_dir:
        assert [path.name for path in work_dir.iterdir()] == ["settings.json"]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.json", "unfinished"]
