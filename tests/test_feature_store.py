"""The feature store: the encoder's frames as they are, found again, never stale, and the same after a kill."""

import json
import math
import shutil
import signal
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from conftest import full_disk, noise_clips, run_python, run_ranks, write_files

from whisper_emotion import feature_store
from whisper_emotion.collator import AudioCollator, read_utterance
from whisper_emotion.corpora import load_corpus
from whisper_emotion.distortion import distort
from whisper_emotion.encoder_whisper_emotion import WhisperEmotionEncoder
from whisper_emotion.errors import UserError
from whisper_emotion.feature_store import FeatureStore
from whisper_emotion.fitting.new_models import build_extractor, build_model, load_config
from whisper_emotion.pooling_whisper_emotion import POOLING_CLASSES
from whisper_emotion.stored_frames import KINDS, StoredFrames, read_index

LABELS = ["angry", "happy", "neutral", "sad"]


@pytest.fixture(scope="module")
def corpus(synthetic_dir):
    return load_corpus("synthetic", synthetic_dir).select(range(0, 48, 2))


@pytest.fixture(scope="module")
def extractor(tiny_encoder):
    return build_extractor(str(tiny_encoder))


def model_of(tiny_encoder, **overrides):
    config = load_config(str(tiny_encoder), LABELS, {"encoder_context": "utterance", **overrides})
    return build_model(str(tiny_encoder), config, seed=0)


def filled(model, extractor, corpus, layers, folder, kind="frames"):
    store = FeatureStore(model, extractor, corpus, layers, folder, kind)
    store.fill()
    return store.open(layers)


def bits(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("mask_padding", [True, False])
def test_every_layer_holds_the_frames_that_the_encoder_pools(tiny_encoder, corpus, extractor, tmp_path, mask_padding):
    model = model_of(tiny_encoder, mask_padding=mask_padding)
    stored = filled(model, extractor, corpus, [0, 1, 3], tmp_path)
    assert len(stored) == len(corpus)
    means, deviations = stored.means, stored.deviations
    assert means.shape == deviations.shape == (len(corpus), 3 * 16)
    for index, row in enumerate(corpus):
        batch = AudioCollator(extractor)([row])
        with torch.no_grad():
            encoded = model.encoder(batch["input_features"], batch["attention_mask"], layers=[0, 1, 3])
        expected = encoded.frames[0, encoded.mask[0]]
        assert stored[index].dtype == torch.float16
        torch.testing.assert_close(stored[index].float(), expected, atol=5e-3, rtol=5e-3)
        np.testing.assert_allclose(means[index], expected.mean(0).flatten(), atol=5e-3)
        np.testing.assert_allclose(deviations[index], expected.std(0, correction=0).flatten(), atol=1e-2)


def test_store_has_room_for_the_frames_of_normalized_speech(tiny_encoder, tmp_path):
    clips = [np.pad(clip, 16_000) for clip in noise_clips(1.0, 0.5)]  # a second of silence on either side
    for number, clip in enumerate(clips):
        write_files(tmp_path, {f"corpus/{('angry', 'sad')[number]}/a_{number}.wav": b""})
        soundfile.write(tmp_path / f"corpus/{('angry', 'sad')[number]}/a_{number}.wav", clip, 16_000)
    corpus = load_corpus("folder", tmp_path / "corpus")
    extractor = build_extractor(str(tiny_encoder), normalize_speech=True)
    store = FeatureStore(model_of(tiny_encoder, encoder_layer=1), extractor, corpus, [1], tmp_path / "store")
    store.fill()
    kept = [extractor.count_samples(clip) for clip in clips]
    assert kept == pytest.approx([1.2 * 16_000, 0.7 * 16_000], abs=800)
    rows = read_index(store.folders[1], KINDS["frames"]).rows.tolist()
    assert rows == [math.ceil(math.ceil(samples / 160) / 2) for samples in kept]
    assert store.open([1])[0].isfinite().all()


def test_pooled_store_holds_the_statistics_of_the_frames(tiny_encoder, corpus, extractor, tmp_path):
    model, layers = model_of(tiny_encoder), [0, 1, 3]
    frames = filled(model, extractor, corpus, layers, tmp_path)
    means, statistics = (filled(model, extractor, corpus, layers, tmp_path, kind) for kind in ("mean", "statistics"))
    assert len(means) == len(corpus) and len(means.layers) == 3
    for index, row in enumerate(corpus):
        batch = AudioCollator(extractor)([row])
        with torch.no_grad():
            encoded = model.encoder(batch["input_features"], batch["attention_mask"], layers=layers)
        expected = encoded.frames[0, encoded.mask[0]]
        np.testing.assert_allclose(means.means[index], expected.mean(0).flatten(), atol=2e-6)
        np.testing.assert_allclose(statistics.deviations[index], expected.std(0, correction=0).flatten(), atol=2e-6)
    np.testing.assert_array_equal(means.means, statistics.means)
    for pooling, stored in (("mean", means), ("statistics", statistics)):
        assert stored.pooled(pooling).shape == (len(corpus), 48 * (1 + (pooling == "statistics")))
        # The frames are stored in half precision.
        np.testing.assert_allclose(stored.pooled(pooling), frames.pooled(pooling), atol=2e-3)
    with pytest.raises(AttributeError, match="a store of means has no deviations"):
        _ = means.deviations


def test_copy_holds_the_statistics_of_distorted_recordings(tiny_encoder, corpus, extractor, tmp_path, capfd):
    model = model_of(tiny_encoder, encoder_layer=1)
    plain = filled(model, extractor, corpus, [1], tmp_path, "mean")
    copies = [FeatureStore(model, extractor, corpus, [1], tmp_path, "mean", copy) for copy in (1, 2)]
    assert len({plain.folders[0].name, *(one.folders[1].name for one in copies)}) == 3
    copies[0].fill()
    assert f"1 layer of distorted copy 1 of {len(corpus)} utterances take" in capfd.readouterr().out
    means = copies[0].open([1]).means
    for row in (0, len(corpus) - 1):
        clip = read_utterance(corpus[row])
        distorted = distort(clip, [1, zlib.crc32(clip.tobytes())])
        features = extractor(distorted, sampling_rate=16_000, padding="longest", return_tensors="pt")
        with torch.no_grad():
            encoded = model.encoder(**features, layers=[1])
        np.testing.assert_allclose(means[row], encoded.frames[0, encoded.mask[0], 0].mean(0), atol=1e-4)
    assert not np.allclose(np.asarray(means), np.asarray(plain.means))


def test_batch_of_a_pooled_store_has_its_statistics(tiny_encoder, corpus, extractor, tmp_path):
    for pooling in ("mean", "statistics"):
        stored = filled(model_of(tiny_encoder), extractor, corpus, [1, 2], tmp_path, pooling)
        rows = [5, 0, 2]
        frames, mask = stored.batch(rows)
        assert frames.dtype == torch.float32 and frames.shape == (*mask.shape, 2, 16)
        assert mask.all() and mask.shape[1] == stored.lengths[0]
        pooled, _ = POOLING_CLASSES[pooling](32, 1, 1, 0.0, "paper")(frames.flatten(2), mask)
        np.testing.assert_allclose(pooled, stored.pooled(pooling)[rows], atol=1e-5)


def test_vectors_are_read_like_an_array(tiny_encoder, corpus, extractor, tmp_path):
    vectors = filled(model_of(tiny_encoder), extractor, corpus, [1, 3], tmp_path, "statistics").pooled("statistics")
    array = np.asarray(vectors)
    assert array.shape == vectors.shape == (24, 64) and len(vectors) == 24
    for rows in (3, -1, slice(2, 9, 3), [5, 0, 5], np.array([7, 1]), np.arange(24) % 3 == 0, [], ...):
        np.testing.assert_array_equal(vectors[rows], array[rows])
    assert np.asarray(vectors, np.float64).dtype == np.float64


def test_pooled_store_decodes_each_recording_once_and_states_its_size(
    tiny_encoder, corpus, extractor, tmp_path, monkeypatch, capfd
):
    def measured(audio):
        raise AssertionError("pooled vectors need no lengths")

    monkeypatch.setattr(feature_store, "read_utterance", measured)
    filled(model_of(tiny_encoder), extractor, corpus, [1, 2], tmp_path, "mean")
    assert "feature store: 2 layers of 24 utterances take 0.00 MB in" in capfd.readouterr().out
    assert [path.stat().st_size for path in tmp_path.glob("*/mean.f32")] == [24 * 16 * 4] * 2
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(feature_store.shutil, "disk_usage", lambda path: SimpleNamespace(free=3_000))
    with pytest.raises(
        UserError, match=r"--store_dir .*: 2 layers of 24 utterances take 0.00 MB, but only 0.00 MB are free"
    ):
        filled(model_of(tiny_encoder), extractor, corpus, [1, 2], tmp_path / "other", "mean")


def test_kinds_of_stores_share_no_folder(tiny_encoder, corpus, extractor, tmp_path):
    stores = [FeatureStore(model_of(tiny_encoder), extractor, corpus, [1], tmp_path, kind) for kind in KINDS]
    assert len({store.folders[1] for store in stores}) == 3


def test_a_batch_is_padded_and_masked(tiny_encoder, corpus, extractor, tmp_path):
    stored = filled(model_of(tiny_encoder), extractor, corpus, [1, 2], tmp_path)
    rows = [5, 0, 2]
    frames, mask = stored.batch(rows)
    lengths = [int(stored.lengths[row]) for row in rows]
    assert frames.dtype == torch.float32 and frames.shape == (3, max(lengths), 2, 16)
    assert mask.sum(dim=1).tolist() == lengths
    for place, row in enumerate(rows):
        assert torch.equal(frames[place, mask[place]], stored[row].float())
    assert not frames[~mask].any()


def test_one_layer_of_a_store_of_several_opens_alone(tiny_encoder, corpus, extractor, tmp_path):
    store = FeatureStore(model_of(tiny_encoder), extractor, corpus, [1, 3], tmp_path)
    store.fill()
    assert torch.equal(store.open([3])[4][:, 0], store.open([1, 3])[4][:, 1])


def test_a_window_without_masking_keeps_all_its_frames(tiny_encoder, corpus, extractor, tmp_path):
    model = model_of(tiny_encoder, encoder_context="window", mask_padding=False, encoder_layer=1)
    stored = filled(model, extractor, corpus.select([0, 7]), [1], tmp_path)
    assert stored.lengths.tolist() == [1500, 1500]


def test_layers_that_are_there_are_not_encoded_again(tiny_encoder, corpus, extractor, tmp_path, monkeypatch):
    runs, forward = [], WhisperEmotionEncoder.forward

    def counted(self, *arguments, **options):
        runs.append(1)
        return forward(self, *arguments, **options)

    monkeypatch.setattr(WhisperEmotionEncoder, "forward", counted)
    filled(model_of(tiny_encoder), extractor, corpus, [1, 2], tmp_path)
    assert len(runs) == 3  # 24 utterances in batches of 8
    # Layers depend on nothing above them.
    filled(model_of(tiny_encoder, encoder_layer=2), extractor, corpus, [1], tmp_path)
    assert len(runs) == 3
    filled(model_of(tiny_encoder), extractor, corpus, [1, 3], tmp_path)
    assert len(runs) == 6


@pytest.mark.parametrize("kind", ["frames", "mean"])
def test_utterances_of_other_corpora_are_copied(tiny_encoder, corpus, extractor, tmp_path, monkeypatch, capfd, kind):
    model, seen, forward = model_of(tiny_encoder), [], WhisperEmotionEncoder.forward

    def counted(self, *arguments, **inputs):
        seen.append(len(inputs["input_features"]))
        return forward(self, *arguments, **inputs)

    def store(clips, folder="store", layers=(1, 2)):
        made = FeatureStore(model, extractor, clips, layers, tmp_path / folder, kind)
        made.fill()
        return made

    store(corpus.select(range(5, 15)))
    monkeypatch.setattr(WhisperEmotionEncoder, "forward", counted)
    found = store(corpus).open([1, 2])
    assert sum(seen) == len(corpus) - 10
    assert f"10 of {len(corpus)} utterances are copied from other corpora's stores" in capfd.readouterr().out
    anew = store(corpus, "another").open([1, 2])
    np.testing.assert_array_equal(found.lengths, anew.lengths)
    np.testing.assert_allclose(found.means[:], anew.means[:], atol=1e-3)  # encoded in other batches
    store(corpus.select(reversed(range(24))))
    assert sum(seen) == len(corpus) - 10 + len(corpus)  # the latter are another folder's
    shutil.rmtree(tmp_path / "store")
    damaged = store(corpus.select(range(3)))
    (damaged.folders[1] / "clips.sha256").write_bytes(b"short")
    store(corpus)
    assert sum(seen) == 3 * len(corpus) - 10 + 3


@pytest.mark.parametrize("change", ["weights", "context", "margin", "stride", "mask", "audio", "order", "extractor"])
def test_a_stale_store_is_never_used(tiny_encoder, synthetic_dir, extractor, tmp_path, change):
    recordings = load_corpus("synthetic", synthetic_dir).select(range(8))
    model = model_of(tiny_encoder, encoder_layer=1)
    before = filled(model, extractor, recordings, [1], tmp_path)
    if change == "weights":
        with torch.no_grad():
            model.encoder.layers[0].fc1.bias[0] += 1e-3
    elif change == "context":
        model.config.encoder_context = "window"
    elif change == "margin":
        model.config.context_margin = 0.5
    elif change == "stride":
        model.config.encoder_context = "sparse_window"
        before = filled(model, extractor, recordings, [1], tmp_path)
        model.config.silence_stride = 8
    elif change == "mask":
        model.config.mask_padding = False
    elif change == "audio":  # another recording under the same name
        names = ("x.wav", "y.wav")
        contents = [Path(audio["path"]).read_bytes() for audio in recordings["audio"][:2]]
        folder = write_files(tmp_path / "audio", dict(zip(names, contents, strict=True)))
        rows = [{"path": str(folder / name), "bytes": None} for name in names]
        recordings = recordings.select([0, 1]).remove_columns("audio").add_column("audio", rows)
        before = filled(model, extractor, recordings, [1], tmp_path)
        (folder / "x.wav").write_bytes(contents[1])
    elif change == "order":
        recordings = recordings.select([1, 0, *range(2, 8)])
    else:
        extractor = type(extractor)(**{**extractor.to_dict(), "n_fft": 512})
    after = filled(model, extractor, recordings, [1], tmp_path)
    assert after.folders != before.folders


def test_a_bfloat16_encoder_has_a_store_of_its_own(tiny_encoder, corpus, extractor, tmp_path):
    model, half = model_of(tiny_encoder), model_of(tiny_encoder)
    half.encoder.to(torch.bfloat16)
    frames, rounded = (filled(one, extractor, corpus, [1], tmp_path) for one in (model, half))
    assert frames.folders != rounded.folders
    for row in (0, 5):
        one, other = (stored[row].float() for stored in (frames, rounded))
        assert not torch.equal(one, other)
        torch.testing.assert_close(one, other, atol=0.1, rtol=0.05)


def test_no_room_is_said_with_the_numbers_before_anything_is_written(
    tiny_encoder, corpus, extractor, tmp_path, monkeypatch
):
    monkeypatch.setattr(feature_store.shutil, "disk_usage", lambda path: SimpleNamespace(free=40_000))
    with pytest.raises(
        UserError, match=r"--store_dir .*: 2 layers of 24 utterances take 0\.\d+ MB, but only 0\.\d+ MB are free"
    ):
        FeatureStore(model_of(tiny_encoder), extractor, corpus, [1, 2], tmp_path).fill()
    assert not list(tmp_path.iterdir())


def test_values_beyond_half_precision_are_cut_and_counted(tiny_encoder, corpus, extractor, tmp_path, capfd):
    model = model_of(tiny_encoder, encoder_layer=1)
    with torch.no_grad():
        model.encoder.layers[0].fc2.bias[0] = 1e5
    stored = filled(model, extractor, corpus, [1], tmp_path)
    assert stored[0][..., 0].eq(65504).all()
    assert "beyond half precision" in capfd.readouterr().out


# The store made by a process of its own, which may be told to die on the way: argv is encoder, corpus, store, batches,
# kind.
CHILD = """
import os, signal, sys
from accelerate import PartialState
from whisper_emotion.corpora import load_corpus
from whisper_emotion.feature_store import FeatureStore
from whisper_emotion.fitting.new_models import build_extractor, build_model, load_config

PartialState(cpu=True)  # as a script's arguments make it where there is no accelerator
encoder, corpus_dir, store, writes, kind = sys.argv[1:6]
syncs, fsync = [], os.fsync

def die_after_some(file):
    fsync(file)
    syncs.append(1)
    if len(syncs) == int(writes):
        os.kill(os.getpid(), signal.SIGKILL)

os.fsync = die_after_some
corpus = load_corpus("synthetic", corpus_dir)
config = load_config(encoder, corpus.features["label"].names, {"encoder_context": "utterance"})
model = build_model(encoder, config, 0)
FeatureStore(model, build_extractor(encoder), corpus, [1, 3], store, kind).fill()
sys.stdout.write(f"encoded {len(syncs) // 2}\\n")  # batches, each of which two layers' files are told to keep
"""


def extract(tiny_encoder, synthetic_dir, store, writes, kind="frames"):
    return run_python("-c", CHILD, tiny_encoder, synthetic_dir, store, writes, kind)


def extract_by_two(tiny_encoder, synthetic_dir, store, kind="frames"):
    return run_ranks(2, "-c", CHILD, tiny_encoder, synthetic_dir, store, -1, kind, cwd=store.parent)


@pytest.fixture(scope="module")
def whole_store(tiny_encoder, synthetic_dir, tmp_path_factory):
    store = tmp_path_factory.mktemp("whole") / "store"
    done = extract(tiny_encoder, synthetic_dir, store, -1)
    assert done.returncode == 0, done.stderr
    return store


def test_a_killed_extraction_goes_on_to_the_same_bits(tiny_encoder, synthetic_dir, tmp_path, whole_store):
    store = tmp_path / "store"
    for writes in (3, 4):  # two layers: in the middle of a batch, then at its end
        killed = extract(tiny_encoder, synthetic_dir, store, writes)
        assert killed.returncode == -signal.SIGKILL
        ticks = [np.fromfile(path, np.uint8) for path in store.rglob("done")]
        assert 0 < sum(tick.sum() for tick in ticks) < sum(len(tick) for tick in ticks)
    assert extract(tiny_encoder, synthetic_dir, store, -1).returncode == 0
    assert bits(store) == bits(whole_store)


def test_two_processes_share_the_work_and_write_the_same_bits(tiny_encoder, synthetic_dir, tmp_path, whole_store):
    for done in extract_by_two(tiny_encoder, synthetic_dir, tmp_path / "store"):
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "encoded 3"  # of 48 utterances in batches of 8
    assert bits(tmp_path / "store") == bits(whole_store)


def test_killed_pooled_store_is_finished_by_two_processes_to_the_same_bits(tiny_encoder, synthetic_dir, tmp_path):
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    killed = extract(tiny_encoder, synthetic_dir, cut, 3, "statistics")
    assert killed.returncode == -signal.SIGKILL
    ticks = [np.fromfile(path, np.uint8) for path in cut.rglob("done")]
    assert 0 < sum(tick.sum() for tick in ticks) < sum(len(tick) for tick in ticks)
    for done in (
        *extract_by_two(tiny_encoder, synthetic_dir, cut, "statistics"),
        extract(tiny_encoder, synthetic_dir, whole, -1, "statistics"),
    ):
        assert done.returncode == 0, done.stderr
    assert bits(cut) == bits(whole)


def test_a_run_that_lays_the_same_store_out_leaves_what_is_there(tiny_encoder, corpus, extractor, tmp_path):
    """Two runs begin together: the second has measured its recordings when the first is done."""
    model = model_of(tiny_encoder)
    late = FeatureStore(model, extractor, corpus, [1], tmp_path)
    early = filled(model, extractor, corpus, [1], tmp_path)
    before = bits(tmp_path)
    late._reserve(late.folders[1], 10, "{}")
    assert bits(tmp_path) == before
    assert early[0].any()


def test_a_kill_while_a_store_is_laid_out_leaves_nothing_behind(
    tiny_encoder, corpus, extractor, tmp_path, monkeypatch
):
    model = model_of(tiny_encoder)
    FeatureStore(model, extractor, corpus, [1], tmp_path / "whole").fill()
    for cut_off in ("mkdir", "truncate", "index"):
        store = FeatureStore(model, extractor, corpus, [1], tmp_path / "cut")
        if cut_off == "mkdir":
            store.folders[1].mkdir(parents=True)
        elif cut_off == "truncate":
            (store.folders[1] / "frames.f16").write_bytes(bytes(100))
        else:
            (store.folders[1] / "index.json.part").write_text('{"enc')
    store.fill()
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")


@pytest.mark.parametrize(("kind", "size"), [("frames", 5_000), ("mean", 1_000)])
def test_a_disk_that_fills_up_is_one_line_that_gives_its_room_back(
    tiny_encoder, corpus, extractor, tmp_path, kind, size
):
    store = FeatureStore(model_of(tiny_encoder), extractor, corpus, [1], tmp_path, kind)
    with full_disk(size), pytest.raises(UserError, match="--store_dir .*: free space, or name a folder on a"):
        store.fill()
    assert not list(tmp_path.iterdir())
    store.fill()


def test_a_store_that_machines_do_not_share_is_refused(tiny_encoder, corpus, extractor, tmp_path, monkeypatch):
    store = FeatureStore(model_of(tiny_encoder), extractor, corpus, [1], tmp_path)
    encode = store._encode

    def share(folders, state):  # the other machine ticks its batches off in a folder of its own
        encode(folders, SimpleNamespace(process_index=0, num_processes=2, is_main_process=True))

    monkeypatch.setattr(store, "_encode", share)
    with pytest.raises(
        UserError, match="--store_dir .*: lacks frames that other processes encoded, expected a folder"
    ):
        store.fill()


def test_a_folder_that_cannot_be_written_is_one_line(tiny_encoder, corpus, extractor, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="--store_dir .*file: cannot be written"):
        FeatureStore(model_of(tiny_encoder), extractor, corpus, [1], tmp_path / "file").fill()


def test_a_layer_larger_than_the_memory_is_mapped(tiny_encoder, corpus, extractor, tmp_path):
    stored = filled(model_of(tiny_encoder), extractor, corpus, [1], tmp_path)
    index = stored.folders[0] / "index.json"
    rows = 2**35 // 16  # 128 GiB in half precision with two, of which the disk holds nothing
    with open(stored.folders[0] / "frames.f16", "r+b") as file:
        file.truncate(2**37)
    index.write_text(json.dumps({"d_model": 16, "frames": [rows, rows]}))
    assert not StoredFrames(stored.folders).layers[0][-1].any()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("index.json", b'{"d_model": 16'),
        ("index.json", b'{"d_model": 16, "frames": [1]}'),
        ("index.json", b'{"d_model": 16, "frames": [[1]]}'),
        ("index.json", b"{}"),
        ("done", b"\x01"),
        ("frames.f16", b"\x00" * 64),
        ("frames.f16", None),
        ("done", None),
    ],
)
def test_a_damaged_store_is_named(tiny_encoder, corpus, extractor, tmp_path, name, content):
    store = FeatureStore(model_of(tiny_encoder), extractor, corpus, [1], tmp_path)
    store.fill()
    path = store.folders[1] / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match="delete the folder to build it again") as caught:
        store.fill()
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_frames_that_are_no_numbers_are_named(tiny_encoder, corpus, extractor, tmp_path):
    stored = filled(model_of(tiny_encoder), extractor, corpus, [1], tmp_path)
    path = stored.folders[0] / "frames.f16"
    path.write_bytes(path.read_bytes()[:-2] + np.float16("nan").tobytes())
    with pytest.raises(UserError, match="NaN or infinite") as caught:
        _ = StoredFrames(stored.folders).means
    assert str(caught.value).startswith(str(path.parent))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("index.json", b'{"d_model": 16, "clips": 3}'),
        ("index.json", b'{"d_model": 16, "clips": "24"}'),
        ("index.json", b'{"d_model": 16, "frames": [1]}'),
        ("statistics.f32", b"\x00" * 64),
        ("statistics.f32", None),
        ("done", b"\x01"),
    ],
)
def test_damaged_pooled_store_is_named(tiny_encoder, corpus, extractor, tmp_path, name, content):
    store = FeatureStore(model_of(tiny_encoder), extractor, corpus, [1], tmp_path, "statistics")
    store.fill()
    path = store.folders[1] / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match="delete the folder to build it again") as caught:
        store.fill()
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_vectors_that_are_no_numbers_are_named(tiny_encoder, corpus, extractor, tmp_path):
    store = FeatureStore(model_of(tiny_encoder), extractor, corpus, [1, 2], tmp_path, "mean")
    store.fill()
    path = store.folders[2] / "mean.f32"
    path.write_bytes(path.read_bytes()[:-4] + np.float32("inf").tobytes())
    with pytest.raises(UserError, match="NaN or infinite") as caught:
        _ = store.open([1, 2]).means
    assert str(caught.value).startswith(str(path.parent))
