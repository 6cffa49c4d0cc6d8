"""Figures and report of the encoder's benchmark; no test depends on speed."""

import json
import runpy

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, run_script
from torch.utils.flop_counter import FlopCounterMode

from whisper_emotion.benchmarks import encoder, ways
from whisper_emotion.benchmarks.encoder import Clips, benchmark_encoder, describe_encoder
from whisper_emotion.benchmarks.products import encoder_flops
from whisper_emotion.benchmarks.ways import STOCK, Way, list_ways, load_way

SPARSE = (("encoder_context", "sparse_window"), ("silence_stride", 32))


def noise(*seconds):
    rng = np.random.default_rng(0)
    return Clips([(0.1 * rng.standard_normal(round(16_000 * one))).astype(np.float32) for one in seconds])


def test_clips_are_batched_by_length_and_cut_from_one_another():
    clips = noise(2, 1, 4, 3)
    assert [[len(clip) // 16_000 for clip in batch] for batch in clips.batches(2)] == [[1, 2], [3, 4]]
    assert clips.mean_seconds == 2.5
    assert clips.padding(2)["by length"] == pytest.approx(1 - 10 / 12)
    assert clips.padding(2)["random order"] >= clips.padding(2)["by length"]
    assert [len(clip) for clip in clips.cut(3.5, 4).audio] == [56_000] * 4
    np.testing.assert_array_equal(clips.cut(1, 1).audio[0], clips.audio[0])


def test_the_operations_are_those_that_torch_counts_without_padding(tiny_encoder):
    model, _ = load_way(Way(context=SPARSE), str(tiny_encoder), 2, torch.device("cpu"))
    model.set_attn_implementation("eager")  # all of whose products torch counts
    mel = 400
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        frames = model.encoder(torch.zeros(1, 80, mel), torch.ones(1, mel)).frames
    flops, rows = encoder_flops(model.config, [mel, mel])
    assert rows == 2 * frames.shape[1]
    # torch's convolutions also see the silence behind the clip: 8 mel frames of 408
    assert flops / 2 == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_the_context_that_is_asked_for_is_measured_in_every_form_and_no_way_twice():
    wider = (("encoder_context", "sparse_window"), ("silence_stride", 128))
    names = [way.name for way in list_ways(wider)]
    assert [name.partition(", ")[0] for name in names if "128" in name] == ["torch", "torch", "onnx", "onnx int8"]
    window = list_ways((("encoder_context", "window"),))
    assert len(window) == len(set(window)) == len(names) - 2
    assert {way.context for way in window[-4:]} == {(("encoder_context", "window"),)}  # its products are measured, too


@pytest.fixture
def short_clips(monkeypatch):
    """Clips of 1 and 3 s alone: the stock class pads each of them to 30 s."""
    monkeypatch.setattr(encoder, "LENGTHS", (1, 3))


def test_benchmark_encoder_measures_every_way_beside_the_stock_class(tiny_encoder, short_clips):
    chosen = [STOCK, Way(context=SPARSE), Way(context=SPARSE, dtype="bfloat16")]
    figures = benchmark_encoder(str(tiny_encoder), noise(0.5, 1), 2, 1, torch.device("cpu"), chosen)
    names = ["stock, float32", "torch, sparse_window 32, float32", "torch, sparse_window 32, bfloat16"]
    for kind, column, values in (("batches", "batch_size", {1, 16}), ("lengths", "clip_seconds", {1, 3})):
        rows = figures[kind]
        assert list(dict.fromkeys(row["way"] for row in rows)) == names
        for value in values:
            stock, *others = [row for row in rows if row[column] == value]
            assert stock["ratio"] == 1
            for row in others:
                assert row["ratio"] == pytest.approx(stock["seconds"] / row["seconds"])
    assert set(figures["products"]) == {"float32", "bfloat16"}
    assert list(figures["memory"]) == names
    table = describe_encoder(figures)
    for name in names:
        assert f"| {name} |" in table
    assert "through `pipeline`" in table


@pytest.mark.slow
def test_benchmark_script_writes_the_encoders_figures(
    tiny_encoder, synthetic_dir, tmp_path, short_clips, monkeypatch, capfd
):
    monkeypatch.setattr(ways, "list_ways", lambda context: [STOCK, list_ways(context)[-1]])  # each graph takes seconds
    script = REPOSITORY / "scripts" / "benchmark.py"
    options = [
        "--corpus", "synthetic", "--corpus_dir", synthetic_dir, "--encoder", tiny_encoder, "--encoder_layer", 1,
        "--clips", 2, "--repetitions", 1, "--output", tmp_path / "b.json", "--output_dir", tmp_path / "o",
    ]  # fmt: skip
    monkeypatch.setattr("sys.argv", [str(script), *map(str, options)])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(script), run_name="__main__")
    assert not exit_.value.code
    record = json.loads((tmp_path / "b.json").read_text())
    assert record["encoder"]["clips"]["number"] == 2
    assert "onnx int8" in capfd.readouterr().out


@pytest.mark.parametrize(("flag", "value", "reason"), [("--measure", "decoder", "must be"), ("--clips", 0, "1 or")])
def test_a_mistake_is_one_line(tiny_encoder, synthetic_dir, flag, value, reason):
    done = run_script(
        "benchmark.py", "--corpus", "synthetic", "--corpus_dir", synthetic_dir, "--encoder", tiny_encoder, flag, value
    )
    assert done.returncode == 2
    assert flag in done.stderr and reason in done.stderr and len(done.stderr.splitlines()) == 1
