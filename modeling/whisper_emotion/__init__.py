"""Whisper encoders with attentive pooling for speech emotion recognition.

Importing this package registers its classes with transformers' Auto classes. `AutoModel`,
`AutoModelForAudioClassification` and `pipeline("audio-classification")` then load them without remote code. Torch and
transformers are imported on first use.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from .registration import register_when_needed

if TYPE_CHECKING:
    from .configuration_whisper_emotion import WhisperEmotionConfig
    from .feature_extraction_whisper_emotion import WhisperEmotionFeatureExtractor
    from .inference import EmotionClassifier
    from .modeling_whisper_emotion import WhisperEmotionOutput, WhisperForEmotionClassification

__version__ = "0.2.0"
__all__ = [
    "EmotionClassifier",
    "WhisperEmotionConfig",
    "WhisperEmotionFeatureExtractor",
    "WhisperEmotionOutput",
    "WhisperForEmotionClassification",
]
_MODULES = {
    "EmotionClassifier": "inference",
    "WhisperEmotionConfig": "configuration_whisper_emotion",
    "WhisperEmotionFeatureExtractor": "feature_extraction_whisper_emotion",
    "WhisperEmotionOutput": "modeling_whisper_emotion",
    "WhisperForEmotionClassification": "modeling_whisper_emotion",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# Otherwise transformers asks another server to convert pickled weights, and sends the token to it
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
register_when_needed()
