"""Store a frozen encoder's frames on disk, so that it encodes a corpus once for many heads.

With a fixed pooling the store holds pooled vectors, a hundredth of the size.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from io import RawIOBase
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from huggingface_hub import cached_assets_path
from tqdm.auto import tqdm

from whisper_emotion import distortion
from whisper_emotion.collator import AudioCollator, read_utterance
from whisper_emotion.errors import UserError, reading
from whisper_emotion.feature_extraction_whisper_emotion import WhisperEmotionFeatureExtractor
from whisper_emotion.modeling_whisper_emotion import WhisperForEmotionClassification
from whisper_emotion.run_folder import write_whole, writing_to
from whisper_emotion.stored_frames import INDEX, INTACT, KINDS, PooledClips, StoredFrames, read_index

FORMAT = 3  # version of the store; part of the store key
BATCH_SIZE = 8  # utterances per batch of the encoder; changes the stored bits
DONE = "done"  # file in a layer's folder: one byte per batch
CLIPS = "clips.sha256"  # file in a layer's folder: one digest per utterance
DIGEST_BYTES = 32  # of SHA-256
LARGEST = 65_504  # of half precision


class FeatureStore:
    """The frames or pooled vectors of a corpus at some layers of an encoder, computed on demand.

    The name of a layer's folder is a hash of everything that determines its content. That is the encoder's weights up
    to the layer, the extractor, the context, the pooling and its mask, and the bytes of every recording.

    Fixed batches of utterances are encoded, written to fixed places and marked as done. So a killed run resumes, and
    several processes (`torchrun --nproc_per_node 2`) share the batches, with identical bits. Utterances that another
    finished store of the same encoder holds are copied, not encoded again.

    Args:
        model: Model whose encoder is used, up to `encoder_layer`; its head is not used.
        extractor: The encoder's feature extractor.
        corpus: Rows with `audio`, `label` and `seconds`.
        layers: Encoder layers to store, up to the model's top layer.
        store_dir: The store's folder; default: among Hugging Face's assets (`HF_ASSETS_CACHE`).
        kind: One of `KINDS`: `frames`, or the pooling of the stored vectors.
        copy: 0: undistorted recordings. 1, 2, …: a distorted copy of each; for pooled kinds only.
    """

    def __init__(
        self,
        model: WhisperForEmotionClassification,
        extractor: WhisperEmotionFeatureExtractor,
        corpus: Dataset,
        layers: Sequence[int],
        store_dir: str | os.PathLike[str] | None = None,
        kind: str = "frames",
        copy: int = 0,
    ):
        self.copy = copy
        self.model, self.extractor, self.corpus, self.kind = model, extractor, corpus, KINDS[kind]
        self.root = Path(cached_assets_path("whisper_emotion", "features") if store_dir is None else store_dir)
        self._clips = _digest_clips(corpus)
        content = ([] if kind == "frames" else [kind]) + ([distortion.VERSION, copy] if copy else [])
        self._sources = {
            layer: _digest(FORMAT, _describe_input(model, extractor), digest, *content)
            for layer, digest in zip(layers, _digest_layers(model, layers), strict=True)
        }
        clips = hashlib.sha256(b"".join(self._clips)).hexdigest()
        self.folders = {layer: self.root / _digest(source, clips) for layer, source in self._sources.items()}
        order = np.argsort(corpus["seconds"][:], kind="stable").tolist()  # batch utterances of similar length
        self._batches = [order[start : start + BATCH_SIZE] for start in range(0, len(order), BATCH_SIZE)]

    def lay_out(self) -> None:
        """Reserve disk space for every utterance and layer.

        Raises:
            UserError: The disk is too small, or the folder cannot be written.
        """
        with PartialState().main_process_first():  # the other processes then find the index
            new = {layer: folder for layer, folder in self.folders.items() if not (folder / INDEX).exists()}
            if not new:
                return
            count, width = len(self.corpus), self.model.config.d_model
            frames = self._measure() if self.kind.name == "frames" else None
            size = self.kind.row_bytes(width) * (count if frames is None else sum(frames))
            which = f"distorted copy {self.copy} of " * (self.copy > 0) + f"{count} utterances"
            what = f"{len(new)} layer{'s' * (len(new) != 1)} of {which} take {_gigabytes(len(new) * size)}"
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                tqdm.write(f"feature store: {what} in {self.root}")
                free = shutil.disk_usage(self.root).free
                if len(new) * size > free:
                    raise UserError(
                        f"--store_dir {self.root}: {what}, but only {_gigabytes(free)} are free. Make room, name a "
                        "folder on a larger disk, or use fewer layers."
                    )
                for layer, folder in new.items():
                    index = {
                        "encoder_layer": layer,
                        "source": self._sources[layer],
                        **_describe_input(self.model, self.extractor)["context"],
                        "d_model": width,
                        **({"pooling": self.kind.name, "clips": count} if frames is None else {"frames": frames}),
                    }
                    self._reserve(folder, size, json.dumps(index))
            except OSError as error:
                raise UserError(
                    f"--store_dir {self.root}: cannot be written ({error.strerror}), {what}: free space, or name a "
                    "folder on a larger disk"
                ) from error

    def _measure(self) -> list[int]:
        """Read every recording and compute its number of frames."""
        clips = tqdm(self.corpus, desc="measuring", unit="clip")  # row by row, because rows may hold the audio itself
        samples = [self.extractor.count_samples(read_utterance(clip)) for clip in clips]
        mel = torch.tensor([-(-count // self.extractor.hop_length) for count in samples])
        return self.model.encoder.pooled_frames(mel).tolist()

    def _reserve(self, folder: Path, size: int, index: str) -> None:
        """Reserve space for a layer's rows. The index is written last and marks the folder as complete.

        Existing bytes are kept, so a killed run can resume here, and two runs may do this at the same time.
        """
        if (folder / INDEX).exists():  # another run did it
            return
        try:
            folder.mkdir(exist_ok=True)
            (folder / CLIPS).write_bytes(b"".join(self._clips))
            for name, length in ((self.kind.file, size), (DONE, len(self._batches))):
                with open(folder / name, "ab") as file:
                    file.truncate(length)
                    if hasattr(os, "posix_fallocate"):  # claims the space now, so that the disk cannot fill up later
                        os.posix_fallocate(file.fileno(), 0, length)
            write_whole(folder / INDEX, index)
        except (OSError, UserError):
            if not (folder / INDEX).exists():
                shutil.rmtree(folder, ignore_errors=True)  # free the reserved space
            raise

    def fill(self) -> None:
        """Encode the utterances that are missing.

        Raises:
            UserError: As in `lay_out`, or several machines do not share the folder.
        """
        self.lay_out()
        state = PartialState()
        for folder in self.folders.values():
            self._check(folder)
        missing = self._missing()
        if missing:
            with writing_to(self.root):
                self._encode(missing, state)
        state.wait_for_everyone()
        if self._missing():
            raise UserError(
                f"--store_dir {self.root}: lacks frames that other processes encoded, expected a folder that all "
                "machines share"
            )

    def open(self, layers: Sequence[int]) -> StoredFrames | PooledClips:
        """Open some layers of the filled store, ascending."""
        folders = [self.folders[layer] for layer in layers]
        return StoredFrames(folders) if self.kind.name == "frames" else PooledClips(folders, self.kind)

    def _check(self, folder: Path) -> None:
        """Raise if a layer's folder does not match the corpus and the model."""
        index, width = read_index(folder, self.kind), self.model.config.d_model
        if index.d_model != width or len(index.rows) != len(self.corpus):
            raise UserError(f"{folder / INDEX}: does not match its store key, expected {INTACT}")
        sizes = {self.kind.file: self.kind.row_bytes(width) * int(index.rows.sum()), DONE: len(self._batches)}
        for name, size in sizes.items():
            with reading(folder / name, INTACT):
                if (found := (folder / name).stat().st_size) != size:
                    raise UserError(f"{folder / name}: has {found} bytes, not {size}, expected {INTACT}")

    def _missing(self) -> dict[int, Path]:
        """Return the folders of the layers that are not completely encoded."""
        return {layer: folder for layer, folder in self.folders.items() if not _ticks(folder).all()}

    def _find_elsewhere(self, layer: int) -> dict[int, np.ndarray]:
        """Return the bytes of utterances in other finished stores of this encoder, by row of this corpus."""
        folder, found = self.folders[layer], dict[bytes, np.ndarray]()
        width = self.kind.row_bytes(self.model.config.d_model)
        for index in sorted(self.root.glob(f"*/{INDEX}")):
            other = index.parent
            try:
                if other == folder or json.loads(index.read_bytes())["source"] != self._sources[layer]:
                    continue
                if not _ticks(other).all():
                    continue
                ends = np.cumsum(read_index(other, self.kind).rows) * width
                clips = np.fromfile(other / CLIPS, f"V{DIGEST_BYTES}").tolist()
                content = np.asarray(np.memmap(other / self.kind.file, np.uint8, "r"))
                stretches = np.split(content, ends[:-1]) if len(content) == ends[-1] else []
                found |= dict(zip(clips, stretches, strict=True))
            except (OSError, ValueError, KeyError, TypeError, UserError):
                continue  # damaged, or of an earlier version
        rows = read_index(folder, self.kind).rows * width
        return {
            row: found[clip] for row, clip in enumerate(self._clips) if clip in found and len(found[clip]) == rows[row]
        }

    @torch.inference_mode()
    def _encode(self, folders: dict[int, Path], state: PartialState) -> None:
        """Encode this process's share of the batches that are not done."""
        self.model.eval()
        collate = AudioCollator(self.extractor, self.copy)
        lengths = read_index(next(iter(folders.values())), self.kind).rows
        starts = np.concatenate([[0], np.cumsum(lengths)]).tolist()
        row_bytes = self.kind.row_bytes(self.model.config.d_model)
        ticks = {layer: _ticks(folder) for layer, folder in folders.items()}
        sizes = np.array([len(rows) for rows in self._batches])
        elsewhere = {layer: self._find_elsewhere(layer) for layer in folders}
        known = set.intersection(*(set(found) for found in elsewhere.values()))
        if known and state.is_main_process:
            tqdm.write(
                f"feature store: {len(known)} of {len(lengths)} utterances are copied from other corpora's stores"
            )

        def finished() -> int:
            return int(sizes[np.all([tick != 0 for tick in ticks.values()], axis=0)].sum())

        cut = 0
        with ExitStack() as stack:
            # Plain files, because a full disk kills a process that writes to a memory map
            row_files, tick_files = (
                {layer: stack.enter_context(open(folder / name, "r+b", 0)) for layer, folder in folders.items()}
                for name in (self.kind.file, DONE)
            )
            bar = stack.enter_context(
                tqdm(
                    total=len(lengths), initial=finished(), desc="encoding", unit="clip",
                    disable=not state.is_main_process,
                )
            )  # fmt: skip
            for number in range(state.process_index, len(self._batches), state.num_processes):
                open_layers = [layer for layer, tick in ticks.items() if not tick[number]]
                if not open_layers:
                    continue
                for row in known.intersection(self._batches[number]):
                    for layer in open_layers:
                        _write_at(row_files[layer], starts[row] * row_bytes, elsewhere[layer][row].tobytes())
                rows = [row for row in self._batches[number] if row not in known]
                for row, layers in zip(rows, self._run_encoder(collate, rows, open_layers), strict=True):
                    for layer, frames in zip(open_layers, layers, strict=True):
                        if self.kind.name == "frames":
                            # The upper layers of a large encoder may exceed half precision
                            cut += int((frames.abs() > LARGEST).sum())
                            values = frames.clamp(-LARGEST, LARGEST).half().numpy()
                        else:
                            values = self.kind.summarise(frames.numpy())
                        _write_at(row_files[layer], starts[row] * row_bytes, values.tobytes())
                for layer in open_layers:  # flush the rows before the mark, in case the machine crashes in between
                    os.fsync(row_files[layer].fileno())
                    _write_at(tick_files[layer], number, b"\1")
                bar.update(finished() - bar.n)  # other processes mark batches, too
        if cut:
            tqdm.write(f"feature store: {cut} values beyond half precision were clipped to ±{LARGEST:,}")

    def _run_encoder(self, collate: AudioCollator, rows: list[int], layers: list[int]) -> Iterator[list[torch.Tensor]]:
        """Encode a batch; yield each utterance's frames `(frames, d_model)` at each layer."""
        if not rows:
            return
        batch = collate([self.corpus[row] for row in rows])
        inputs = {name: batch[name].to(self.model.device) for name in ("input_features", "attention_mask")}
        encoded = self.model.encoder(**inputs, layers=layers)
        for frames, mask in zip(encoded.frames, encoded.mask, strict=True):
            yield list(frames[: int(mask.sum())].float().cpu().unbind(1))


def _write_at(file: RawIOBase, place: int, content: bytes) -> None:
    """Write all bytes at a place in a file."""
    file.seek(place)
    while content:
        content = content[file.write(content) :]


def _ticks(folder: Path) -> np.ndarray:
    """Map the marks of a layer, one byte per batch, 1 if done; other processes' marks appear in it."""
    return np.memmap(folder / DONE, np.uint8, "r")


def _describe_input(
    model: WhisperForEmotionClassification, extractor: WhisperEmotionFeatureExtractor
) -> dict[str, dict[str, Any]]:
    """Describe the encoder's input, and which of its frames are stored or pooled."""
    config, dtype = model.config, model.encoder.conv1.weight.dtype
    return {
        "extractor": {
            name: value for name, value in sorted(extractor.to_dict().items()) if isinstance(value, (int, float))
        },
        "context": {
            **config.context,
            "mask_padding": config.mask_padding,
            **({} if dtype == torch.float32 else {"encoder_dtype": str(dtype)}),
        },
    }


def _digest_layers(model: WhisperForEmotionClassification, layers: Sequence[int]) -> list[str]:
    """Hash the encoder's weights up to each layer; higher layers have no influence."""
    encoder, config = model.encoder, model.config
    running = hashlib.sha256(f"{config.encoder_attention_heads} {config.activation_function}".encode())
    digests = []
    for part in (encoder.conv1, encoder.conv2, encoder.embed_positions, None, *encoder.layers):
        if part is not None:
            for tensor in part.state_dict().values():
                running.update(tensor.float().cpu().contiguous().numpy())
        if part is None or digests:
            digests.append(running.copy())
    for tensor in encoder.layer_norm.state_dict().values():  # normalises the top layer's output
        digests[-1].update(tensor.float().cpu().numpy())
    return [digests[layer].hexdigest() for layer in layers]


def _digest_clips(corpus: Dataset) -> list[bytes]:
    """Hash each utterance: its recording's bytes, and its part of the recording."""
    digests, read = [], {}
    parts = zip(corpus["start"], corpus["seconds"], strict=True) if "start" in corpus.features else repeat(())
    for audio, part in zip(corpus["audio"], parts, strict=False):
        known = None if audio.get("bytes") else read.get(audio["path"])  # utterances may share a file
        if known is None:
            known = hashlib.sha256(audio.get("bytes") or Path(audio["path"]).read_bytes()).digest()
            if part:
                read[audio["path"]] = known
        digests.append(hashlib.sha256(known + repr(part).encode()).digest() if part else known)
    return digests


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"
