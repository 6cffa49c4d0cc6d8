"""The frames of a corpus that a feature store holds, read from disk when they are looked at."""

import functools
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whisper_emotion.encoder_whisper_emotion import prefix_mask
from whisper_emotion.errors import UserError, reading

FRAMES, INDEX = "frames.f16", "index.json"  # files of a layer's folder
INTACT = "a whole feature store: delete the folder to have it made anew"


class StoredFrames:
    """The frames of a corpus at one encoder layer or several, read from disk when they are looked at.

    Args:
        folders: The store's folder of each layer, ascending.

    Attributes:
        lengths: Frames of each clip, `(clips,)`.
        starts: Row at which each clip begins in a layer, `(clips,)`.
        layers: One tensor `(all frames, d_model)` a layer, half precision, clip behind clip.
    """

    def __init__(self, folders: Sequence[Path]):
        self.folders = list(folders)
        index = read_index(self.folders[0])
        self.lengths = np.asarray(index["frames"])
        self.starts = np.cumsum(self.lengths) - self.lengths
        shape = (int(self.lengths.sum()), index["d_model"])
        with warnings.catch_warnings():
            # A map that may be written to would count as memory in use.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            self.layers: list[torch.Tensor] = []
            for folder in self.folders:
                with reading(folder, INTACT):
                    self.layers.append(torch.from_numpy(np.memmap(folder / FRAMES, np.float16, "r", shape=shape)))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> torch.Tensor:
        """Frames of one clip, `(frames, layers, d_model)` in half precision."""
        rows = slice(self.starts[row], self.starts[row] + self.lengths[row])
        return torch.stack([layer[rows] for layer in self.layers], dim=1)

    def batch(self, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames of clips `(clips, frames, layers, d_model)` float32 and their mask, as `EmotionHead` takes them."""
        clips = [self[row].float() for row in rows]
        lengths = torch.from_numpy(self.lengths[list(rows)])
        return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), prefix_mask(lengths, int(lengths.max()))

    @functools.cached_property
    def means(self) -> np.ndarray:
        """Mean of each clip's frames, layers side by side, `(clips, layers * d_model)`.

        Raises:
            UserError: The store holds NaN or infinity.
        """
        return self._over_clips(lambda clip: clip.mean(dim=0))

    @functools.cached_property
    def deviations(self) -> np.ndarray:
        """Standard deviation of each clip's frames; shape and error as of `means`."""
        return self._over_clips(lambda clip: clip.std(dim=0, correction=0))

    def _over_clips(self, summarise: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
        found = torch.stack([summarise(self[row].float().flatten(1)) for row in range(len(self))]).numpy()
        if not np.isfinite(found).all():
            raise UserError(f"{self.folders[0]}: holds frames that are NaN or infinite, expected {INTACT}")
        return found


def read_index(folder: Path) -> dict[str, Any]:
    """A layer's width, and its utterances' numbers of frames."""
    with reading(folder / INDEX, INTACT):
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if type(index["d_model"]) is not int or not all(type(one) is int and one > 0 for one in index["frames"]):
            raise ValueError("d_model, frames: must be a width and numbers of frames")
        return index
