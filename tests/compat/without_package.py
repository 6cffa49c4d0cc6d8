# ruff: noqa: E402 -- a module is hidden before transformers looks for it
"""Use a saved folder with torch and transformers alone, as a downloader would run it; prints JSON.

Arguments: a model folder and an `.npz` file of clips at 16 kHz.
"""

import json
import sys

import numpy as np
import torch

sys.modules["whisper_emotion"] = None  # an import of this package fails

import transformers
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, pipeline

folder, archive = sys.argv[1:]
clips = list(np.load(archive).values())
loaders = (AutoConfig, AutoModel, AutoModelForAudioClassification, AutoFeatureExtractor)
config, base, model, extractor = (loader.from_pretrained(folder, trust_remote_code=True) for loader in loaders)
with torch.no_grad():
    batch = extractor(clips, sampling_rate=16_000, padding="longest", return_tensors="pt")
    alone = [extractor(clip, sampling_rate=16_000, return_tensors="pt") for clip in clips]
    logits = {
        "AutoModel": base.eval()(**batch).logits,
        "AutoModelForAudioClassification": model.eval()(**batch).logits,
        "one clip at a time": torch.cat([model(**inputs).logits for inputs in alone]),
    }
classify = pipeline("audio-classification", model=folder, trust_remote_code=True, device="cpu")
found = classify([{"raw": clip, "sampling_rate": 16_000} for clip in clips], batch_size=len(clips), top_k=None)
scores = [{entry["label"]: entry["score"] for entry in entries} for entries in found]
print(
    json.dumps(
        {
            "version": transformers.__version__,
            "classes": [type(part).__name__ for part in (config, base, model, extractor)],
            "logits": {name: tensor.tolist() for name, tensor in logits.items()},
            "probabilities": [[row[label] for label in config.id2label.values()] for row in scores],
        }
    )
)
