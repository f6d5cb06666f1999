"""LoRA made by peft's own `get_peft_model`, in the variants that people use."""

import shutil
from pathlib import Path
from typing import Any

import torch
from model_files import base
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM

ATTENTION = ["q_proj", "v_proj"]
ROWS = torch.arange(3, 75).reshape(3, 24)  # three rows of tokens to train on

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias lora_only": {"bias": "lora_only"},
    "bias all": {"bias": "all"},
    "lora_bias": {"lora_bias": True},
    "DoRA": {"use_dora": True},
    "DoRA on the embedding": {"use_dora": True, "target_modules": ["embed_tokens", "q_proj"]},
    "rsLoRA": {"use_rslora": True},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "MiCA": {"init_lora_weights": "mica"},
    "random": {"init_lora_weights": False},
    "LoRA on the embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "LoRA on the head": {"target_modules": ["lm_head", "q_proj"]},
    "LoRA on both": {"target_modules": ["embed_tokens", "lm_head"]},
    "LoRA on both, kept tied": {
        "target_modules": ["embed_tokens", "q_proj"],
        "ensure_weight_tying": True,
    },
    "tokens": {"trainable_token_indices": [5, 40, 41]},
    "tokens of the embedding": {"trainable_token_indices": {"embed_tokens": [40]}},
    "tokens of both": {"trainable_token_indices": {"embed_tokens": [5, 40], "lm_head": [5, 40]}},
    "embedding saved": {"modules_to_save": ["embed_tokens"]},
    "head saved": {"modules_to_save": ["lm_head"]},
    "both saved": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "both saved, kept tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "norms saved": {"modules_to_save": ["input_layernorm", "norm"]},
    "rank_pattern": {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"v_proj": 5}},
    "one layer": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "without one layer": {"exclude_modules": ["layers.0.self_attn.q_proj"]},
    "all-linear": {"target_modules": "all-linear"},
    "pattern": {"target_modules": r".*\.1\..*(q_proj|down_proj)"},
    "parameters": {
        "target_modules": [],
        "target_parameters": ["q_proj.weight", "down_proj.weight"],
        "lora_dropout": 0.0,
    },
    "new words": {"new_words": 5},
    "fewer words": {"new_words": -7},
    "new words, LoRA on both": {"new_words": 5, "target_modules": ["embed_tokens", "lm_head"]},
    "new words, both saved": {"new_words": 5, "modules_to_save": ["embed_tokens", "lm_head"]},
    "new words, embedding saved": {"new_words": 5, "modules_to_save": ["embed_tokens"]},
    "new words as tokens": {"new_words": 2, "trainable_token_indices": [310, 311]},
}  # fmt: skip


def untied_model(folder: Path, like: Path) -> Path:
    """Save the model of ``like`` with an untied output head, and its tokenizer."""
    shutil.copytree(like, folder)
    config = Qwen2Config.from_pretrained(like, tie_word_embeddings=False)
    torch.manual_seed(3)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def adapted(folder: Path, *, new_words: int = 0, quantize: bool = False, **settings: Any) -> Any:
    """Return the model of ``folder`` with a new adapter; `settings` go to peft's `LoraConfig`."""
    model = base(folder, quantize=quantize)
    torch.manual_seed(11)
    if new_words:
        model.resize_token_embeddings(model.config.vocab_size + new_words)
    given = {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, "lora_dropout": 0.1}
    config = LoraConfig(task_type="CAUSAL_LM", **{**given, **settings})
    return get_peft_model(model, config)


def steps(model: Any, *, count: int = 3, rows: torch.Tensor = ROWS) -> Any:
    """Train the model for some AdamW steps on `ROWS`, in plain PyTorch."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=0.02)
    model.train()
    torch.manual_seed(5)
    for _ in range(count):
        model(input_ids=rows, labels=rows).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval()


def by_plain_peft(
    folder: Path, adapter: Path, *, new_words: int = 0, quantize: bool = False
) -> Any:
    """Load an adapter as peft documents it: resize the base by hand, then `from_pretrained`."""
    model = base(folder, quantize=quantize)
    if new_words:
        model.resize_token_embeddings(model.config.vocab_size + new_words)
    return PeftModel.from_pretrained(model, str(adapter)).eval()


@torch.no_grad()
def all_logits(model: Any) -> torch.Tensor:
    """Logits for the training rows and for the last words of the vocabulary."""
    words = model.config.get_text_config().vocab_size
    rows = torch.cat([ROWS, torch.arange(words - 24, words)[None]])
    return model(input_ids=rows, use_cache=False).logits.float()
