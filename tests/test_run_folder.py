"""A run's folder takes no other run's leftovers for its own, and holds no half file."""

import shutil

import pytest
from conftest import full_disk

from whisper_emotion.corpora import load_corpus
from whisper_emotion.errors import UserError
from whisper_emotion.run_folder import claim, results_of, write_whole


@pytest.fixture(scope="module")
def corpus(synthetic_dir):
    return load_corpus("synthetic", synthetic_dir)


def test_settings_of_an_unfinished_run_are_not_mixed(corpus, tmp_path):
    claim(tmp_path, corpus, ["encoder"], {"learning_rate": 0.3, "pooling": "mean"})
    work_dir = claim(tmp_path, corpus, ["encoder"], {"learning_rate": 0.1, "pooling": "mean"})
    (work_dir / "seed0_fold1.csv").touch()
    claim(tmp_path, corpus, ["encoder"], {"learning_rate": 0.1, "pooling": "mean"})
    with pytest.raises(UserError, match="unfinished run with pooling=mean, not qkv"):
        claim(tmp_path, corpus, ["encoder"], {"learning_rate": 0.1, "pooling": "qkv"})


def test_an_unfinished_run_is_not_continued_on_another_corpus(corpus, tmp_path):
    (claim(tmp_path, corpus, ["encoder"], {}) / "seed0_fold1.csv").touch()
    with pytest.raises(UserError, match="contents of the corpus and the encoder"):
        claim(tmp_path, corpus.select(range(40)), ["encoder"], {})


def test_a_folder_of_something_else_is_not_written_into(corpus, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        claim(tmp_path, corpus, ["encoder"], {})
    with pytest.raises(UserError, match="is no folder that can be written"):
        claim(tmp_path / "README.md", corpus, ["encoder"], {})


def test_a_file_is_replaced_whole(tmp_path):
    write_whole(tmp_path / "scores.json", "one")
    write_whole(tmp_path / "scores.json", "two")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("scores.json", "two")]


@pytest.mark.parametrize("text", ["{", "[1]", "3", "\ufeffnull"])
def test_damaged_settings_are_named(corpus, tmp_path, text):
    work_dir = claim(tmp_path, corpus, ["encoder"], {})
    (work_dir / "seed0_fold1.csv").touch()
    (work_dir / "settings.json").write_text(text)
    with pytest.raises(UserError, match=r"settings\.json: .*delete its folder"):
        claim(tmp_path, corpus, ["encoder"], {})


def test_what_a_full_disk_cuts_off_is_one_line_and_leaves_what_was_there(tmp_path):
    write_whole(tmp_path / "scores.json", "before")
    with full_disk(), pytest.raises(UserError, match=f"^{tmp_path}: cannot be written \\(File too large\\), expected"):
        write_whole(tmp_path / "scores.json", 10_000 * "after")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("scores.json", "before")]


def test_results_appear_together_when_the_work_is_over(corpus, tmp_path):
    output_dir = tmp_path / "run"
    work_dir = claim(output_dir, corpus, ["encoder"], {})
    with pytest.raises(KeyboardInterrupt), results_of(work_dir) as made:
        (made / "half.json").write_text("{")
        raise KeyboardInterrupt
    assert [path.name for path in output_dir.iterdir()] == ["unfinished"]
    with results_of(claim(output_dir, corpus, ["encoder"], {})) as made:
        assert made.name == "run" and not any(made.iterdir())
        (made / "scores.json").write_text("{}")
        assert not (output_dir / "scores.json").exists()
    assert [path.name for path in output_dir.iterdir()] == ["scores.json"]


def test_a_kill_while_the_work_is_removed_leaves_no_folds_to_a_run_with_other_settings(corpus, tmp_path, monkeypatch):
    work_dir = claim(tmp_path, corpus, ["encoder"], {"pooling": "mean"})
    (work_dir / "seed0_fold1.csv").touch()
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
    work_dir = claim(tmp_path, corpus, ["encoder"], {"pooling": "qkv"})
    assert [path.name for path in work_dir.iterdir()] == ["settings.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.json", "unfinished"]
