"""The package is light to import, and transformers' Auto classes know its classes all the same."""

import pytest
from conftest import run_python

KNOWN = """
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING, MODEL_MAPPING
config = type(AutoConfig.for_model("whisper_emotion"))
assert config.__module__ == "whisper_emotion.configuration_whisper_emotion"
assert FEATURE_EXTRACTOR_MAPPING[config].__name__ == "WhisperEmotionFeatureExtractor"
for mapping in (MODEL_MAPPING, MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING):
    assert mapping[config].__name__ == "WhisperForEmotionClassification"
"""
LIGHT = """
import sys, whisper_emotion
assert not {"torch", "transformers", "huggingface_hub", "numpy"} & sys.modules.keys()
assert {"EmotionClassifier", "WhisperEmotionConfig"} <= set(dir(whisper_emotion))
"""


def run(*parts, imported="libraries"):
    done = run_python("-c", "\n".join(parts), imported=imported)
    assert done.returncode == 0, done.stderr


def test_auto_classes_imported_after_the_package_know_its_classes():
    run(LIGHT, KNOWN, imported="nothing")


def test_auto_classes_imported_before_the_package_know_its_classes():
    run("from transformers import AutoConfig, AutoModel", "import whisper_emotion", KNOWN)


@pytest.mark.parametrize(
    "first",
    [
        "import whisper_emotion; whisper_emotion.WhisperEmotionConfig",
        "import whisper_emotion.modeling_whisper_emotion",
        "import whisper_emotion; from transformers import WhisperConfig",
    ],
)
def test_auto_classes_that_transformers_imports_for_itself_know_the_packages_classes(first):
    run(first, KNOWN)


def test_package_names_are_the_modules_classes():
    import whisper_emotion

    for name in whisper_emotion.__all__:
        assert getattr(whisper_emotion, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'WhisperForEmotion'"):
        whisper_emotion.WhisperForEmotion  # noqa: B018
