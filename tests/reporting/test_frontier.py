"""What each context costs: the table by hand, and what is refused."""

import json

import pytest
from matplotlib.image import imread
from test_sweep import ENCODER, usual, write_sweep

from whisper_emotion.errors import UserError
from whisper_emotion.reporting.frontier import read_contexts, write_frontier


def write_context(folder, lost=0, **context):
    write_sweep(folder, lambda *cell: usual(*cell) - lost)
    record = json.loads((folder / "sweep.json").read_text())
    grid = {"encoders": [ENCODER], "layers": {ENCODER: [3, 4]}, "poolings": ["mean", "qkv"], "seeds": [0, 1]}
    (folder / "sweep.json").write_text(json.dumps({**record, **grid, "mask_padding": True, **context}))
    return folder


@pytest.fixture
def folders(tmp_path):
    return [
        write_context(tmp_path / "window", encoder_context="window"),
        write_context(
            tmp_path / "sparse", encoder_context="sparse_window", silence_stride=32, encoder_dtype="bfloat16"
        ),
        write_context(tmp_path / "half", 4, encoder_context="utterance", context_margin=0.5),
        write_context(tmp_path / "one", 2, encoder_context="utterance", context_margin=1.0),
        write_context(tmp_path / "all", 0, encoder_context="utterance", context_margin=1.0, mask_padding=False),
    ]


def test_each_context_stands_beside_the_first(folders, tmp_path):
    seconds = {
        folder: {3: 0.3 / speed, 4: 0.4 / speed} for speed, folder in zip((1, 10, 15, 12, 11), folders, strict=True)
    }
    rows = write_frontier(tmp_path / "frontier.md", read_contexts(folders), seconds)
    table = (tmp_path / "frontier.md").read_text()
    named = {(row["context"], row["layer"], row["pooling"]): row for row in rows}
    half = named["utterance 0.5 s", 3, "mean"]
    # 12 (seed 0) and 13 (seed 1) of 20 right in either class, and 4 fewer
    assert half["unweighted_accuracy"][0] == pytest.approx(8.5 / 20)
    assert half["difference"][0] == pytest.approx(-0.2)
    assert half["speed"] == pytest.approx(15)
    assert half["clips_per_second"] == pytest.approx(50)
    assert "| 3 | mean | utterance 0.5 s | 50.0 | 15.0 | 42.50 (" in table
    assert {context for context, _, _ in named} == {
        "window",
        "sparse window, bfloat16 stride 32",
        "utterance 0.5 s",
        "utterance 1 s",
        "utterance, silence pooled 1 s",
    }
    assert len(rows) == 5 * 2 * 3
    assert imread(tmp_path / "frontier.png").shape[1] > 1000


def test_what_cannot_be_compared_is_refused(folders, tmp_path):
    with pytest.raises(UserError, match="--sweeps .*nowhere: holds no sweep"):
        read_contexts([*folders, tmp_path / "nowhere"])
    record = json.loads((folders[1] / "sweep.json").read_text())
    (folders[1] / "sweep.json").write_text(json.dumps({**record, "layers": {ENCODER: [3]}}))
    with pytest.raises(UserError, match="--sweeps .*sparse: has other layers than"):
        read_contexts(folders)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"encoders": 1}'])
def test_a_damaged_record_is_named(folders, text):
    (folders[1] / "sweep.json").write_text(text)
    with pytest.raises(UserError, match=r"sparse/sweep\.json: .*; expected a file of sweep.py"):
        read_contexts(folders)
