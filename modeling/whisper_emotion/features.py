"""A store of a frozen encoder's frames on disk: the encoder runs once over a corpus, heads train on it many times."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from huggingface_hub import cached_assets_path
from tqdm.auto import tqdm

from whisper_emotion.audio import read_audio
from whisper_emotion.errors import UserError
from whisper_emotion.feature_extraction_whisper_emotion import WhisperEmotionFeatureExtractor
from whisper_emotion.modeling_whisper_emotion import WhisperForEmotionClassification, encoder_frames
from whisper_emotion.run_folder import write_whole
from whisper_emotion.training import AudioCollator

FORMAT = 1  # of the store; another number is another store
BATCH_SIZE = 8  # utterances that the encoder sees together: part of what a store's bits depend on
FRAMES, DONE, INDEX = "frames.f16", "done", "index.json"


class StoredFrames(Sequence):
    """The frames of a corpus at one encoder layer or several, read from disk when they are looked at.

    Row `i` is what `collate_frames` takes: `encoder_outputs`, `(frames, d_model)` or, of several layers,
    `(layers, frames, d_model)` in half precision, and `label`.

    Args:
        folders: The store's folder of each layer.
        labels: A class id a row.
    """

    def __init__(self, folders: Sequence[Path], labels: Sequence[int]):
        self.folders, self.labels = list(folders), list(labels)
        index = json.loads((self.folders[0] / INDEX).read_text(encoding="utf-8"))
        self.width: int = index["d_model"]
        self.lengths: list[int] = index["frames"]
        self.own_lengths: list[int] = index["own_frames"]  # without the silence that is pooled along
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)]).tolist()
        self._open()

    def _open(self) -> None:
        # Copy on write: torch wants memory that it may write to, and the file stays as it is.
        shape = (self._starts[-1], self.width)
        self._layers = [
            torch.from_numpy(np.memmap(folder / FRAMES, np.float16, "c", shape=shape)) for folder in self.folders
        ]

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "_layers"}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> dict[str, Any]:
        frames = [layer[self._starts[row] : self._starts[row + 1]] for layer in self._layers]
        return {
            "encoder_outputs": frames[0] if len(frames) == 1 else torch.stack(frames),
            "label": self.labels[row],
        }

    def own_means(self) -> np.ndarray:
        """The mean of each utterance's own frames, without padding: `(utterances, d_model)` of a single layer."""
        (layer,) = self._layers
        return np.stack([
            layer[start : start + length].float().mean(0).numpy()
            for start, length in zip(self._starts[:-1], self.own_lengths, strict=True)
        ])  # fmt: skip


def store_frames(
    model: WhisperForEmotionClassification,
    extractor: WhisperEmotionFeatureExtractor,
    corpus: Dataset,
    layers: Iterable[int],
    store_dir: str | os.PathLike[str] | None = None,
) -> dict[int, StoredFrames]:
    """Find the frames of a corpus in the store; run the encoder for what is not there yet.

    A layer's folder is named by a hash of all that its frames depend on: the encoder's weights up to that layer, the
    extractor, the context, which frames are pooled, and the bytes of every recording. Utterances are encoded in
    batches that depend on nothing else, each is written to its own place, and then ticked off: a run that was killed
    goes on from there, several processes (`accelerate launch --num_processes 2`) share the batches, and the bits are
    the same.

    Args:
        model: Its encoder is used as it is, up to `encoder_layer`; the head plays no part.
        extractor: The encoder's feature extractor.
        corpus: Rows with `audio`, `label` and `seconds`.
        layers: Encoder layers to keep, none above the model's.
        store_dir: The store's folder; among Hugging Face's assets (`HF_ASSETS_CACHE`) where not given.

    Returns:
        The frames of each layer.

    Raises:
        UserError: The disk has no room, or the folder cannot be written.
    """
    root = Path(cached_assets_path("whisper_emotion", "features") if store_dir is None else store_dir)
    clips = _digest_clips(corpus)
    folders = {
        layer: root / _digest(FORMAT, _describe_input(model, extractor), digest, clips)
        for layer, digest in zip(layers, _digest_layers(model, layers), strict=True)
    }
    state = PartialState()
    with state.main_process_first():
        missing = {layer: folder for layer, folder in folders.items() if not _is_complete(folder)}
        if missing and state.is_main_process:
            _prepare(missing, root, model, extractor, corpus)
    if missing:
        _encode(missing, model, extractor, corpus, state)
        state.wait_for_everyone()
    labels = corpus["label"][:]
    return {layer: StoredFrames([folder], labels) for layer, folder in folders.items()}


def stack_layers(stored: dict[int, StoredFrames]) -> StoredFrames:
    """The frames of several layers together, for a learned mix of them."""
    layers = [stored[layer] for layer in sorted(stored)]
    return StoredFrames([folder for layer in layers for folder in layer.folders], layers[0].labels)


def _prepare(
    folders: dict[int, Path],
    root: Path,
    model: WhisperForEmotionClassification,
    extractor: WhisperEmotionFeatureExtractor,
    corpus: Dataset,
) -> None:
    """Give every utterance its place in every layer's file, if the disk has room for them all."""
    new = {layer: folder for layer, folder in folders.items() if not (folder / INDEX).exists()}
    if new:
        samples = [len(read_audio(audio)) for audio in tqdm(corpus["audio"][:], desc="measuring", unit="clip")]
        mel = -(-np.minimum(samples, extractor.n_samples) // extractor.hop_length)
        lengths = torch.from_numpy(mel)
        pooled, own = model.pooled_frames(lengths).tolist(), encoder_frames(lengths).tolist()
        size = 2 * model.config.d_model * sum(pooled)
        _require_room(root, len(new) * size, len(new), len(corpus))
    for layer, folder in new.items():
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / FRAMES, "wb") as file:
            file.truncate(size)
        with open(folder / DONE, "wb") as file:
            file.truncate(len(_batches(corpus)))
        index = {
            "encoder": Path(model.config.name_or_path).name,
            "encoder_layer": layer,
            **_describe_input(model, extractor)["context"],
            "d_model": model.config.d_model,
            "frames": pooled,
            "own_frames": own,
        }
        write_whole(folder / INDEX, json.dumps(index))  # last: a folder that has it is laid out


def _require_room(root: Path, size: int, layers: int, clips: int) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        disk = os.statvfs(root)
    except OSError as error:
        raise UserError(f"--store_dir {root}: is no folder that can be written ({error.strerror})") from error
    free = disk.f_bavail * disk.f_frsize
    what = f"{layers} layer{'s' * (layers != 1)} of {clips} utterances"
    tqdm.write(f"feature store: {what} take {_gigabytes(size)} in {root}")
    if size > free:
        raise UserError(
            f"--store_dir {root}: {what} take {_gigabytes(size)}, and {_gigabytes(free)} are free there: name a "
            "folder on a larger disk, or fewer layers"
        )


@torch.inference_mode()
def _encode(
    folders: dict[int, Path],
    model: WhisperForEmotionClassification,
    extractor: WhisperEmotionFeatureExtractor,
    corpus: Dataset,
    state: PartialState,
) -> None:
    """Run the encoder over the batches that are not ticked off, this process's share of them."""
    model.eval()
    collate = AudioCollator(extractor)
    stores = {layer: StoredFrames([folder], corpus["label"][:]) for layer, folder in folders.items()}
    starts = next(iter(stores.values()))._starts
    files = {layer: np.memmap(folder / FRAMES, np.float16, "r+").reshape(-1, model.config.d_model)
             for layer, folder in folders.items()}  # fmt: skip
    ticks = {layer: np.memmap(folder / DONE, np.uint8, "r+") for layer, folder in folders.items()}
    batches = _batches(corpus)
    sizes = np.array([len(rows) for rows in batches])

    def finished() -> int:
        return int(sizes[np.all([tick != 0 for tick in ticks.values()], axis=0)].sum())

    bar = tqdm(total=len(corpus), initial=finished(), desc="encoding", unit="clip", disable=not state.is_main_process)
    clipped = 0
    with bar:
        for number in range(state.process_index, len(batches), state.num_processes):
            open_layers = [layer for layer, tick in ticks.items() if not tick[number]]
            if not open_layers:
                continue
            rows = batches[number]
            batch = collate([corpus[row] for row in rows])
            inputs = {name: batch[name].to(model.device) for name in ("input_features", "attention_mask")}
            frames, mask = model.encode(**inputs, all_layers=True)
            for place, row in enumerate(rows):
                kept = frames[place, :, : int(mask[place].sum())].float().cpu()
                for layer in open_layers:
                    # Half precision ends at 65,504, which a large encoder's upper layers may pass.
                    clipped += int((kept[layer].abs() > 65504).sum())
                    files[layer][starts[row] : starts[row + 1]] = kept[layer].clamp(-65504, 65504).half().numpy()
            for layer in open_layers:  # frames first, then the tick, also if the machine goes down between the two
                files[layer].flush()
                ticks[layer][number] = 1
            bar.update(finished() - bar.n)  # other processes tick, too
    if clipped:
        tqdm.write(f"feature store: {clipped} values beyond half precision were cut to ±65,504")
    for tick in ticks.values():
        tick.flush()


def _batches(corpus: Dataset) -> list[list[int]]:
    """Rows that are encoded together: utterances of like length."""
    order = np.argsort(corpus["seconds"][:], kind="stable").tolist()
    return [order[start : start + BATCH_SIZE] for start in range(0, len(order), BATCH_SIZE)]


def _is_complete(folder: Path) -> bool:
    return (folder / INDEX).exists() and bool((np.fromfile(folder / DONE, np.uint8) != 0).all())


def _describe_input(
    model: WhisperForEmotionClassification, extractor: WhisperEmotionFeatureExtractor
) -> dict[str, dict[str, Any]]:
    """What the encoder hears of a recording, and which of its frames are kept."""
    config = model.config
    own = {"utterance": "context_margin", "sparse_window": "silence_stride"}.get(config.encoder_context)
    return {
        "extractor": {
            name: value for name, value in sorted(extractor.to_dict().items()) if isinstance(value, (int, float))
        },
        "context": {
            "encoder_context": config.encoder_context,
            **({own: getattr(config, own)} if own else {}),
            "mask_padding": config.mask_padding,
        },
    }


def _digest_layers(model: WhisperForEmotionClassification, layers: Iterable[int]) -> list[str]:
    """For each layer a hash of the encoder's weights up to it; those above have no influence."""
    encoder, config = model.encoder, model.config
    running = hashlib.sha256(f"{config.encoder_attention_heads} {config.activation_function}".encode())
    digests = []
    for part in (encoder.conv1, encoder.conv2, encoder.embed_positions, None, *encoder.layers):
        if part is not None:
            for tensor in part.state_dict().values():
                running.update(tensor.float().cpu().contiguous().numpy())
        if part is None or digests:
            digests.append(running.copy())
    if hasattr(encoder, "layer_norm"):  # the top layer's output is normalised
        for tensor in encoder.layer_norm.state_dict().values():
            digests[-1].update(tensor.float().cpu().numpy())
    return [digests[layer].hexdigest() for layer in layers]


def _digest_clips(corpus: Dataset) -> str:
    running = hashlib.sha256()
    for audio in corpus["audio"][:]:
        content = audio["bytes"] if audio.get("bytes") else Path(audio["path"]).read_bytes()
        running.update(hashlib.sha256(content).digest())
    return running.hexdigest()


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
