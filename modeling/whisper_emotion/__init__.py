"""Whisper encoders with attentive pooling for speech emotion recognition.

Importing this package registers its classes with transformers' Auto classes, so that `AutoModel`,
`AutoModelForAudioClassification` and `pipeline("audio-classification")` know them without remote code.
"""

import os

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

from .configuration_whisper_emotion import WhisperEmotionConfig
from .feature_extraction_whisper_emotion import WhisperEmotionFeatureExtractor
from .modeling_whisper_emotion import WhisperEmotionOutput, WhisperForEmotionClassification

# Or transformers asks another server to convert a repository whose weights are a pickle, and sends the token along.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")

AutoConfig.register(WhisperEmotionConfig.model_type, WhisperEmotionConfig)
AutoFeatureExtractor.register(WhisperEmotionConfig, WhisperEmotionFeatureExtractor)
AutoModel.register(WhisperEmotionConfig, WhisperForEmotionClassification)
AutoModelForAudioClassification.register(WhisperEmotionConfig, WhisperForEmotionClassification)

__version__ = "0.1.0"
__all__ = [
    "WhisperEmotionConfig",
    "WhisperEmotionFeatureExtractor",
    "WhisperEmotionOutput",
    "WhisperForEmotionClassification",
]
