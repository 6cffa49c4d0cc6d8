"""Audio files to emotions, with soundfile and soxr in place of the ffmpeg program that `pipeline` needs for files."""

import os
from collections.abc import Sequence

import torch
from safetensors import SafetensorError

from whisper_emotion.audio import SAMPLING_RATE, read_audio
from whisper_emotion.errors import UserError, one_line
from whisper_emotion.feature_extraction_whisper_emotion import WhisperEmotionFeatureExtractor
from whisper_emotion.modeling_whisper_emotion import WhisperForEmotionClassification


class EmotionClassifier:
    """A trained model that labels audio files.

    Args:
        model: A trained folder or a Hub name.
        encoder_dtype: The encoder's precision; `torch.bfloat16` is faster where the processor or accelerator has it.

    Raises:
        UserError: The model cannot be loaded.
    """

    def __init__(self, model: str | os.PathLike[str], encoder_dtype: torch.dtype = torch.float32):
        try:
            loaded, report = WhisperForEmotionClassification.from_pretrained(model, output_loading_info=True)
            self.extractor = WhisperEmotionFeatureExtractor.from_pretrained(model)
        except (ValueError, OSError, RuntimeError, SafetensorError) as error:
            raise UserError(f"{model}: no model to load: {one_line(error)}") from error
        if report["missing_keys"]:
            lacking = min(report["missing_keys"])
            raise UserError(f"{model}: is no trained emotion classifier, it has no weights for {lacking}")
        self.model = loaded.eval()
        self.model.encoder.to(encoder_dtype)

    @torch.inference_mode()
    def __call__(
        self, files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], batch_size: int = 8
    ) -> list[dict[str, float]]:
        """Label files of any format, rate and number of channels that soundfile reads.

        Args:
            files: A path, or several.
            batch_size: Files in a batch; has no influence on the probabilities.

        Returns:
            For each file the probability of each label, the most probable first.

        Raises:
            UserError: A file cannot be read, or lasts less than 25 ms.
        """
        if isinstance(files, (str, os.PathLike)):
            files = [files]
        results: list[dict[str, float]] = []
        for start in range(0, len(files), batch_size):
            clips = [read_audio(file) for file in files[start : start + batch_size]]
            inputs = self.extractor(clips, sampling_rate=SAMPLING_RATE, padding="longest", return_tensors="pt")
            probabilities = self.model(**inputs.to(self.model.device)).logits.softmax(dim=-1)
            for row in probabilities.tolist():
                named = {self.model.config.id2label[index]: value for index, value in enumerate(row)}
                results.append(dict(sorted(named.items(), key=lambda item: -item[1])))
        return results
