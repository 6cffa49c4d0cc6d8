"""`TrainingArguments` with the paper's hyper-parameters as defaults."""

import math
from dataclasses import dataclass, field

import torch
from accelerate.utils import DynamoBackend
from transformers import TrainingArguments

SELECTION_METRICS = ("loss", "weighted_accuracy", "unweighted_accuracy", "macro_f1")
SAMPLING_STRATEGIES = ("random", "sequential", "group_by_length")


@dataclass
class EmotionTrainingArguments(TrainingArguments):
    """`TrainingArguments` whose defaults are the hyper-parameters of arXiv 2602.06000, section 4."""

    _argument_group_name = "training, by transformers' Trainer"

    learning_rate: float = field(default=1e-3, metadata={"help": "peak learning rate"})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "learning rate schedule"})
    warmup_steps: float = field(default=0.1, metadata={"help": "warm-up steps, or their share where below 1"})
    num_train_epochs: float = field(default=30, metadata={"help": "epochs of the schedule"})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "clips in a training batch"})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "clips in an evaluation batch"})
    metric_for_best_model: str | None = field(
        default="unweighted_accuracy",
        metadata={"help": "metric of the selection: loss, weighted_accuracy, unweighted_accuracy or macro_f1"},
    )
    logging_strategy: str = field(default="epoch", metadata={"help": "when the training loss is logged"})
    report_to: None | str | list[str] = field(default="none", metadata={"help": "trackers that get the logs"})
    # The columns are audio files, which the collator turns into the inputs of `forward`.
    remove_unused_columns: bool = field(default=False, metadata={"help": "must stay false"})

    def __post_init__(self):
        """Refuse values that would fail, or train nothing, hours from now."""
        for name in ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"--{name} {getattr(self, name)}: must be more than 0")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed {self.seed}: must be 0 or more, and less than 2**32")
        for name, allowed in (
            ("metric_for_best_model", SELECTION_METRICS),
            ("train_sampling_strategy", SAMPLING_STRATEGIES),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"--{name} {getattr(self, name)}: must be one of {', '.join(allowed)}")
        backend = self.torch_compile_backend
        if backend is not None and str(backend).upper() not in DynamoBackend.list():  # accelerate refuses it, later
            raise ValueError(f"--torch_compile_backend {backend}: must be one of {', '.join(DynamoBackend.list())}")
        if self.push_to_hub or self.hub_token is not None:
            # The Trainer would upload its checkpoints as they are, and write the token into them
            raise ValueError("--push_to_hub, --hub_token: scripts/push_to_hub.py uploads, with the token of HF_TOKEN")
        if self.dataloader_drop_last:
            raise ValueError("--dataloader_drop_last true: would leave clips out of the tests, too")
        if not torch.accelerator.is_available():
            self.use_cpu = True  # or transformers takes bf16 for a mistake
        super().__post_init__()
