"""Audio files to emotions, with soundfile and soxr in place of the ffmpeg program that `pipeline` needs for files."""

import os
from collections.abc import Sequence

import torch

from whisper_emotion.audio import SAMPLING_RATE, read_audio
from whisper_emotion.errors import UserError
from whisper_emotion.feature_extraction_whisper_emotion import WhisperEmotionFeatureExtractor
from whisper_emotion.modeling_whisper_emotion import WhisperForEmotionClassification


class EmotionClassifier:
    """A trained model that labels audio files.

    Args:
        model: A trained folder or a Hub name.

    Raises:
        UserError: The model cannot be loaded.
    """

    def __init__(self, model: str | os.PathLike[str]):
        try:
            self.model = WhisperForEmotionClassification.from_pretrained(model).eval()
            self.extractor = WhisperEmotionFeatureExtractor.from_pretrained(model)
        except (ValueError, OSError) as error:
            raise UserError(f"{model}: no model to load: {' '.join(str(error).split())}") from error

    @torch.inference_mode()
    def __call__(self, files: Sequence[str | os.PathLike[str]], batch_size: int = 8) -> list[dict[str, float]]:
        """Label files of any format, rate and number of channels that soundfile reads.

        Args:
            files: Paths.
            batch_size: Files in a batch; has no influence on the probabilities.

        Returns:
            For each file the probability of each label, the most probable first.

        Raises:
            UserError: A file cannot be read, or is too short.
        """
        results: list[dict[str, float]] = []
        for start in range(0, len(files), batch_size):
            batch = files[start : start + batch_size]
            clips = [read_audio(file) for file in batch]
            for file, clip in zip(batch, clips, strict=True):
                if len(clip) < self.extractor.n_fft:
                    raise UserError(f"{file}: lasts {1000 * len(clip) / SAMPLING_RATE:.0f} ms, at least 25 are needed")
            inputs = self.extractor(clips, sampling_rate=SAMPLING_RATE, padding="longest", return_tensors="pt")
            probabilities = self.model(**inputs.to(self.model.device)).logits.softmax(dim=-1)
            for row in probabilities.tolist():
                named = {self.model.config.id2label[index]: value for index, value in enumerate(row)}
                results.append(dict(sorted(named.items(), key=lambda item: -item[1])))
        return results
