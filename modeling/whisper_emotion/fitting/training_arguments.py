"""`TrainingArguments` with the paper's hyper-parameters as defaults."""

import math
from dataclasses import dataclass

import torch
from accelerate.utils import DynamoBackend
from transformers import TrainingArguments

from whisper_emotion.options import option

SELECTION_METRICS = ("loss", "weighted_accuracy", "unweighted_accuracy", "macro_f1")
SAMPLING_STRATEGIES = ("random", "sequential", "group_by_length")


@dataclass
class EmotionTrainingArguments(TrainingArguments):
    """`TrainingArguments` whose defaults are the hyper-parameters of arXiv 2602.06000, section 4."""

    GROUP = "training, by transformers' Trainer"

    output_dir: str | None = option(None, help="folder of the results")
    learning_rate: float = option(1e-3, help="peak learning rate")
    lr_scheduler_type: str = option("cosine", help="learning rate schedule", advanced=True)
    warmup_steps: float = option(0.1, help="warm-up steps, or a share below 1 of all steps", advanced=True)
    num_train_epochs: float = option(30, help="epochs of the schedule")
    per_device_train_batch_size: int = option(16, help="clips per training batch")
    per_device_eval_batch_size: int = option(64, help="clips per evaluation batch", advanced=True)
    weight_decay: float = option(0.0, help="weight decay")
    metric_for_best_model: str | None = option(
        "unweighted_accuracy", help="loss, weighted_accuracy, unweighted_accuracy or macro_f1"
    )
    seed: int = option(42, help="seed of weights, batches and held-out speakers")
    bf16: bool = option(False, help="train in bfloat16")
    use_cpu: bool = option(False, help="use no accelerator")
    disable_tqdm: bool | None = option(None, help="show no progress bars")
    logging_strategy: str = option("epoch", help="when the training loss is logged", advanced=True)
    report_to: None | str | list[str] = option("none", help="experiment trackers", advanced=True)
    # The collator turns the columns, audio files, into the inputs of `forward`
    remove_unused_columns: bool = option(False, help="must stay false", advanced=True)

    def __post_init__(self):
        """Refuse values that would fail later, or train nothing."""
        for name in ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"--{name} {getattr(self, name)}: must be more than 0")
        if not 0 <= self.label_smoothing_factor < 1:
            raise ValueError(f"--label_smoothing_factor {self.label_smoothing_factor}: must be in [0, 1)")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed {self.seed}: must be 0 or more, and less than 2**32")
        for name, allowed in (
            ("metric_for_best_model", SELECTION_METRICS),
            ("train_sampling_strategy", SAMPLING_STRATEGIES),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"--{name} {getattr(self, name)}: must be one of {', '.join(allowed)}")
        backend = self.torch_compile_backend
        if backend is not None and str(backend).upper() not in DynamoBackend.list():  # accelerate refuses it later
            raise ValueError(f"--torch_compile_backend {backend}: must be one of {', '.join(DynamoBackend.list())}")
        if self.push_to_hub or self.hub_token is not None:
            # The Trainer would upload incomplete checkpoints, and write the token into them
            raise ValueError("--push_to_hub, --hub_token: not supported, upload with scripts/push_to_hub.py")
        if self.dataloader_drop_last:
            raise ValueError("--dataloader_drop_last true: not supported, it would drop test clips")
        if not torch.accelerator.is_available():
            self.use_cpu = True  # otherwise transformers refuses bf16
        super().__post_init__()
