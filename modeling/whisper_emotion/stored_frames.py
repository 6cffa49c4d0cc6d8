"""Read a feature store: frames or pooled vectors of a corpus, loaded from disk on access."""

import functools
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from whisper_emotion.encoder_whisper_emotion import prefix_mask
from whisper_emotion.errors import UserError, reading

FRAMES, INDEX = "frames.f16", "index.json"  # files of a layer's folder
INTACT = "an intact feature store: delete the folder to build it again"
CLIPS_AT_ONCE = 8192  # vectors mapped together


@dataclass(frozen=True)
class Kind:
    """The stored representation of a clip at a layer: its frames, or statistics for a fixed pooling.

    Args:
        name: `frames`, or the pooling.
        file: File in a layer's folder.
        dtype: Type of the values.
        statistics: Number of concatenated vectors of `d_model` values in a row; 1 for frames, which are one row each.
    """

    name: str
    file: str
    dtype: type[np.floating]
    statistics: int = 1

    def row_bytes(self, d_model: int) -> int:
        """Return the size of a row."""
        return np.dtype(self.dtype).itemsize * self.statistics * d_model

    def summarise(self, frames: np.ndarray) -> np.ndarray:
        """Pool frames `(frames, d_model)` to a row `(statistics * d_model,)` float32: the mean, then the deviation.

        NumPy sums frame by frame in double precision, so the bits do not depend on the number of threads.
        """
        found = [frames.mean(axis=0, dtype=np.float64), frames.std(axis=0, dtype=np.float64)]
        return np.concatenate(found[: self.statistics]).astype(np.float32)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("frames", FRAMES, np.float16),
        Kind("mean", "mean.f32", np.float32),
        Kind("statistics", "statistics.f32", np.float32, statistics=2),
    )
}


class StoredFrames:
    """The frames of a corpus at one or several encoder layers, loaded from disk on access.

    Args:
        folders: The store's folder of each layer, ascending.

    Attributes:
        lengths: Number of frames of each clip, `(clips,)`.
        starts: First row of each clip in a layer, `(clips,)`.
        layers: One tensor `(all frames, d_model)` per layer, half precision, all clips concatenated.
    """

    def __init__(self, folders: Sequence[Path]):
        self.folders, self.copies = list(folders), []
        index = read_index(self.folders[0], KINDS["frames"])
        self.lengths = index.rows
        self.starts = np.cumsum(self.lengths) - self.lengths
        shape = (int(self.lengths.sum()), index.d_model)
        with warnings.catch_warnings():
            # A writable map would count as memory in use
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            self.layers: list[torch.Tensor] = []
            for folder in self.folders:
                with reading(folder, INTACT):
                    self.layers.append(torch.from_numpy(np.memmap(folder / FRAMES, np.float16, "r", shape=shape)))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> torch.Tensor:
        """Return the frames of one clip, `(frames, layers, d_model)` in half precision."""
        rows = slice(self.starts[row], self.starts[row] + self.lengths[row])
        return torch.stack([layer[rows] for layer in self.layers], dim=1)

    def batch(self, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the inputs of `EmotionHead` for some clips: frames `(clips, frames, layers, d_model)` and mask."""
        clips = [self[row].float() for row in rows]
        lengths = torch.from_numpy(self.lengths[list(rows)])
        return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), prefix_mask(lengths, int(lengths.max()))

    @functools.cached_property
    def means(self) -> np.ndarray:
        """Mean of each clip's frames, layers concatenated, `(clips, layers * d_model)`.

        Raises:
            UserError: The store holds NaN or infinity.
        """
        return self._over_clips(lambda clip: clip.mean(dim=0))

    @functools.cached_property
    def deviations(self) -> np.ndarray:
        """Standard deviation of each clip's frames; shape and error as in `means`."""
        return self._over_clips(lambda clip: clip.std(dim=0, correction=0))

    def pooled(self, pooling: str) -> np.ndarray:
        """Return each clip's vector of a pooling, `mean` or `statistics`: `(clips, width)`."""
        return self.means if pooling == "mean" else np.concatenate([self.means, self.deviations], axis=1)

    def _over_clips(self, summarise: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
        found = torch.stack([summarise(self[row].float().flatten(1)) for row in range(len(self))]).numpy()
        if not np.isfinite(found).all():
            raise UserError(f"{self.folders[0]}: holds frames that are NaN or infinite, expected {INTACT}")
        return found


class Vectors:
    """Vectors `(clips, width)` in files with the interface of an array: `vectors[rows]`, `np.asarray(vectors)`.

    An open map's pages count as memory in use, so only `CLIPS_AT_ONCE` rows are mapped at a time.

    Args:
        files: Files of float32 rows, one row per clip.
        shape: Shape of each file.
        columns: Slices of columns. For each slice in turn, the columns of all files are concatenated.
    """

    def __init__(self, files: Sequence[Path], shape: tuple[int, int], columns: Sequence[slice]):
        self._files, self._file_shape, self._columns = list(files), shape, list(columns)
        width = sum(len(range(*one.indices(shape[1]))) for one in columns)
        self.shape, self.dtype = (shape[0], len(files) * width), np.dtype(np.float32)
        self._numbers = np.arange(shape[0])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Read rows, given as a number, a slice, a mask or numbers."""
        numbers = self._numbers[rows]
        found, blocks = np.empty((numbers.size, self.shape[1]), np.float32), numbers.ravel() // CLIPS_AT_ONCE
        for block in np.unique(blocks):
            places = np.flatnonzero(blocks == block)
            own, end = numbers.ravel()[places] - block * CLIPS_AT_ONCE, 0
            maps = [self._map(file, int(block) * CLIPS_AT_ONCE) for file in self._files]
            for part in (one[own, columns] for columns in self._columns for one in maps):
                start, end = end, end + part.shape[1]
                found[places, start:end] = part
        return found.reshape(*numbers.shape, self.shape[1])

    def _map(self, file: Path, start: int) -> np.memmap:
        """Map the rows of a file from `start` on."""
        clips, width = self._file_shape
        shape = (min(CLIPS_AT_ONCE, clips - start), width)
        return np.memmap(file, np.float32, "r", offset=start * width * self.dtype.itemsize, shape=shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype, copy=False)


class Stacked:
    """Arrays `(clips, width)` concatenated along the clips; rows are read on access."""

    def __init__(self, arrays: Sequence[Any]):
        self._arrays = list(arrays)
        self.shape = (sum(len(one) for one in arrays), arrays[0].shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        """Read rows by their numbers."""
        found, end = np.empty((len(numbers), self.shape[1]), np.float32), 0
        for one in self._arrays:
            start, end = end, end + len(one)
            places = np.flatnonzero((numbers >= start) & (numbers < end))
            found[places] = one[numbers[places] - start]
        return found


class Rows:
    """Some rows of an array, read on access: `Rows(array, rows)[part]` is `array[rows[part]]`.

    Args:
        array: `(clips, width)`: an array, a memory map, or another object that is indexed by row numbers.
        rows: Row numbers.
    """

    def __init__(self, array: Any, rows: np.ndarray):
        self._array, self._rows = array, np.asarray(rows)
        self.shape = (len(self._rows), array.shape[1])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, part: Any) -> np.ndarray:
        """Read rows by their places in `rows`: a slice, a mask or numbers."""
        return np.asarray(self._array[self._rows[part]])


class PooledClips:
    """The pooled vectors of a corpus at one or several encoder layers.

    It replaces `StoredFrames` if the pooling is fixed and only a linear classifier is trained.

    Args:
        folders: The store's folder of each layer, ascending.
        kind: The kind `mean` or `statistics`.

    Attributes:
        layers: The file of each layer.
        lengths: Number of frames of each clip in a `batch`, `(clips,)`.
        copies: The pooled vectors of the clips' distorted copies, if any.
    """

    def __init__(self, folders: Sequence[Path], kind: Kind):
        self.folders, self.kind, self.copies = list(folders), kind, []
        index = read_index(self.folders[0], kind)
        self._width, self._shape = index.d_model, (len(index.rows), kind.statistics * index.d_model)
        self.layers = [folder / kind.file for folder in self.folders]
        self.lengths = np.full(len(index.rows), kind.statistics)

    def __len__(self) -> int:
        return len(self.lengths)

    @functools.cached_property
    def means(self) -> Vectors:
        """Mean of each clip's frames, layers concatenated, `(clips, layers * d_model)`.

        Raises:
            UserError: The store holds NaN or infinity.
        """
        return self._columns(slice(0, self._width))

    @functools.cached_property
    def deviations(self) -> Vectors:
        """Standard deviation of each clip's frames; shape and error as in `means`.

        Raises:
            AttributeError: The store holds means only.
        """
        if self.kind.statistics == 1:
            raise AttributeError("a store of means has no deviations, open one of statistics")
        return self._columns(slice(self._width, 2 * self._width))

    def pooled(self, pooling: str) -> Vectors:
        """Return each clip's vector of a pooling, `mean` or `statistics`: `(clips, width)`."""
        if pooling == "mean":
            return self.means
        _ = self.means, self.deviations  # each checks for NaN
        width = self._width
        return Vectors(self.layers, self._shape, [slice(0, width), slice(width, 2 * width)])

    def batch(self, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Build frames with the statistics of these clips, and their mask; shapes as in `StoredFrames.batch`.

        One frame reproduces the mean. Two frames, one deviation below and above it, reproduce mean and deviation.
        """
        mean = self.means[list(rows)]
        frames = [mean]
        if self.kind.statistics == 2:
            deviation = self.deviations[list(rows)]
            frames = [mean - deviation, mean + deviation]
        stacked = torch.from_numpy(np.stack(frames, axis=1)).unflatten(2, (len(self.layers), -1))
        return stacked, torch.ones(stacked.shape[:2], dtype=torch.bool)

    def _columns(self, columns: slice) -> Vectors:
        """Return one statistic; raise unless all its values are finite."""
        with reading(self.folders[0], INTACT):
            for file in self.layers:
                one = Vectors([file], self._shape, [columns])
                for start in range(0, len(self), CLIPS_AT_ONCE):
                    if not np.isfinite(one[start : start + CLIPS_AT_ONCE]).all():
                        raise UserError(f"{file.parent}: holds vectors that are NaN or infinite, expected {INTACT}")
        return Vectors(self.layers, self._shape, [columns])


class Index(NamedTuple):
    """A layer's index: the encoder's width, and the number of rows of each clip, `(clips,)`."""

    d_model: int
    rows: np.ndarray


def read_index(folder: Path, kind: Kind) -> Index:
    """Read the index of a layer's folder.

    Raises:
        UserError: The index is missing or damaged.
    """
    with reading(folder / INDEX, INTACT):
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        is_frames = kind.name == "frames"
        counts = index["frames"] if is_frames else [index["clips"]]
        if not all(type(one) is int and one > 0 for one in (index["d_model"], *counts)):
            raise ValueError(f"d_model, {'frames' if is_frames else 'clips'}: must be numbers from 1 on")
        return Index(index["d_model"], np.asarray(counts) if is_frames else np.ones(counts[0], int))
