"""A feature store of random frames, written without an encoder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from whisper_emotion import WhisperEmotionConfig
from whisper_emotion.fitting.new_models import new_head
from whisper_emotion.fitting.training_arguments import EmotionTrainingArguments
from whisper_emotion.modeling_whisper_emotion import EmotionHead
from whisper_emotion.stored_frames import FRAMES, INDEX, StoredFrames

WIDTH, CLASSES = 16, 3


def write_frames(root: Path, clips: int, layers: int = 1) -> StoredFrames:
    """Write clips of 1 to 40 frames, 16 wide, whose mean tells their class: their number modulo 3."""
    generator = torch.Generator().manual_seed(0)
    lengths = [1 + (7 * row) % 40 for row in range(clips)]
    folders = [root / str(layer) for layer in range(layers)]
    for folder in folders:
        folder.mkdir(parents=True)
        frames = [torch.randn(n, WIDTH, generator=generator) + row % CLASSES for row, n in enumerate(lengths)]
        (folder / FRAMES).write_bytes(torch.cat(frames).half().numpy().tobytes())
        (folder / INDEX).write_text(json.dumps({"d_model": WIDTH, "frames": lengths}))
    return StoredFrames(folders)


def labels_of(clips: int) -> torch.Tensor:
    """Return the classes of `write_frames`."""
    return torch.arange(clips) % CLASSES


def tiny_config(**fields: Any) -> WhisperEmotionConfig:
    """Configure a head for these frames, without dropout."""
    sizes = {"d_model": WIDTH, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    own = {"encoder_layer": 1, "pooling_dropout": 0.0, "classifier_proj_size": 8, "num_labels": CLASSES}
    config = WhisperEmotionConfig(**(sizes | own | fields))
    config.resolve()
    return config


def tiny_heads(seeds: Sequence[int], **fields: Any) -> list[EmotionHead]:
    """Initialise a head for each seed."""
    return [new_head(tiny_config(**fields), seed) for seed in seeds]


def arguments(folder: Path, **options: Any) -> EmotionTrainingArguments:
    """Make arguments of a short training on the CPU."""
    own = {"num_train_epochs": 4, "disable_tqdm": True, "use_cpu": True, "learning_rate": 0.01}
    return EmotionTrainingArguments(output_dir=str(folder), **(own | options))
