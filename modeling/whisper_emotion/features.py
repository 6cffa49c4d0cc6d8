"""The frozen encoder run once over a corpus, for heads that are trained on its frames many times."""

import torch
from datasets import Dataset
from tqdm.auto import tqdm

from whisper_emotion.feature_extraction_whisper_emotion import WhisperEmotionFeatureExtractor
from whisper_emotion.modeling_whisper_emotion import WhisperForEmotionClassification
from whisper_emotion.training import AudioCollator


@torch.inference_mode()
def encode_corpus(
    model: WhisperForEmotionClassification,
    extractor: WhisperEmotionFeatureExtractor,
    corpus: Dataset,
    batch_size: int = 8,
) -> list[dict]:
    """Run the encoder over every utterance and keep the frames that are pooled.

    Args:
        model: Its encoder is used as it is; the head plays no part.
        extractor: The encoder's feature extractor.
        corpus: Rows with `audio`, `label` and `seconds`.
        batch_size: Utterances in a batch. Batches hold utterances of like length.

    Returns:
        For each row, in order, what `collate_frames` takes: `label`, and `encoder_outputs` `(frames, d_model)`, or
        `(encoder_layer + 1, frames, d_model)` with `use_weighted_layer_sum`, in half precision, on the CPU.
    """
    model.eval()
    collate = AudioCollator(extractor)
    by_length = sorted(range(len(corpus)), key=corpus["seconds"].__getitem__)
    stored: list[dict] = [{} for _ in by_length]
    with tqdm(total=len(by_length), desc="encoding", unit="clip") as bar:
        for start in range(0, len(by_length), batch_size):
            rows = by_length[start : start + batch_size]
            batch = collate([corpus[row] for row in rows])
            labels = batch.pop("labels").tolist()
            frames, mask = model.encode(**{name: tensor.to(model.device) for name, tensor in batch.items()})
            for row, label, clip, pooled in zip(rows, labels, frames, mask, strict=True):
                clip = clip[..., : int(pooled.sum()), :].cpu()
                half = clip.half()
                # Half precision ends at 65,504, which a large encoder's upper layers can pass.
                stored[row] = {
                    "encoder_outputs": half if half.isfinite().all() else clip,
                    "label": label,
                }
            bar.update(len(rows))
    return stored
