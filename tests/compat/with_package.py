# ruff: noqa: E402 -- a module is hidden before transformers looks for it
"""Load a stock Whisper checkpoint with this package, train it with the stock Trainer, and save it; prints JSON.

Arguments: a stock checkpoint, an `.npz` file of clips at 16 kHz, and a folder for the trained model.
"""

import json
import sys

import numpy as np
import torch

# The installed one may need a newer huggingface_hub. Training on a list does without it.
sys.modules["datasets"] = None

import transformers
from transformers import Trainer, TrainingArguments

from whisper_emotion import WhisperEmotionFeatureExtractor, WhisperForEmotionClassification

checkpoint, archive, output = sys.argv[1:]
extractor = WhisperEmotionFeatureExtractor()
model = WhisperForEmotionClassification.from_pretrained(checkpoint, encoder_layer=2, pooling="qkv", num_labels=3)
inputs = extractor(list(np.load(archive).values()), sampling_rate=16_000, return_tensors="pt")
with torch.no_grad():
    hidden = model.eval()(**inputs, output_hidden_states=True).hidden_states[-1]
rows = [
    {"input_features": features, "attention_mask": mask, "labels": index % 3}
    for index, (features, mask) in enumerate(zip(inputs["input_features"], inputs["attention_mask"], strict=True))
]
arguments = TrainingArguments(output, max_steps=2, report_to="none", disable_tqdm=True, use_cpu=True)
trainer = Trainer(model, arguments, train_dataset=rows, processing_class=extractor)
loss = trainer.train().training_loss
trainer.save_model(output)
with torch.no_grad():
    logits = model.eval()(**inputs).logits
print(
    json.dumps(
        {
            "version": transformers.__version__,
            "dtype": str(model.dtype),
            "hidden": hidden[:, 0].tolist(),
            "loss": loss,
            "logits": logits.tolist(),
        }
    )
)
