"""Registration with transformers' Auto classes, without importing transformers."""

import sys
from importlib.abc import MetaPathFinder

AUTO = "transformers.models.auto.configuration_auto"  # all Auto classes import it
PACKAGES = ("transformers", "whisper_emotion")


def register() -> None:
    """Register the package's classes, so that `AutoModel` and `pipeline` load them without remote code."""
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

    from .configuration_whisper_emotion import WhisperEmotionConfig
    from .feature_extraction_whisper_emotion import WhisperEmotionFeatureExtractor
    from .modeling_whisper_emotion import WhisperForEmotionClassification

    AutoConfig.register(WhisperEmotionConfig.model_type, WhisperEmotionConfig, exist_ok=True)
    AutoFeatureExtractor.register(WhisperEmotionConfig, WhisperEmotionFeatureExtractor, exist_ok=True)
    AutoModel.register(WhisperEmotionConfig, WhisperForEmotionClassification, exist_ok=True)
    AutoModelForAudioClassification.register(WhisperEmotionConfig, WhisperForEmotionClassification, exist_ok=True)


def register_when_needed() -> None:
    """Register now if the Auto classes are loaded, otherwise as soon as they are."""
    if AUTO in sys.modules:
        register()
    elif not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())


class _Watcher(MetaPathFinder):
    """An import hook that registers once the Auto classes are loaded and no module of `PACKAGES` is half loaded.

    Transformers imports its Auto classes while it defines configurations, including ours.
    """

    def __init__(self):
        self._loading: list[str] = []

    def find_spec(self, name, path=None, target=None):
        """Find a module with the other finders, and watch its loading."""
        if name.partition(".")[0] not in PACKAGES:
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in others if spec is not None), None)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def watched(module) -> None:
            self._loading.append(name)
            try:
                load(module)
            finally:
                self._loading.remove(name)
            if not self._loading and AUTO in sys.modules and self in sys.meta_path:
                sys.meta_path.remove(self)
                register()

        spec.loader.exec_module = watched
        return spec
