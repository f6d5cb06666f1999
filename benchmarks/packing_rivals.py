"""TRL's SFTTrainer on the benchmarks' problems."""

from typing import Any

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from mathsft.data.prompts import sft_completion, sft_prompt

MAX_LENGTH = 512
QUIET = {"logging_strategy": "no", "save_strategy": "no", "report_to": "none", "disable_tqdm": True}


def trl_trainer(
    model: Any, tokenizer: Any, problems: Any, folder: str, **setting: Any
) -> SFTTrainer:
    """The loss on completions only, without checkpointing, on a CPU in float32 unless set."""
    texts = [
        {
            "prompt": sft_prompt(p["question"]),
            "completion": sft_completion(p["solution"], p["answer"]),
        }
        for p in problems
    ]
    settings: dict[str, Any] = {
        "max_length": MAX_LENGTH,
        "learning_rate": 2e-4,
        "num_train_epochs": 1,
        "completion_only_loss": True,
        "gradient_checkpointing": False,
        "bf16": False,
        "fp16": False,
        "use_cpu": True,
        "optim": "adamw_torch",
        "dataloader_pin_memory": False,
        **QUIET,
        **setting,
    }
    return SFTTrainer(
        model,
        args=SFTConfig(output_dir=folder, **settings),
        train_dataset=Dataset.from_list(texts),
        processing_class=tokenizer,
    )
