"""One step of TRL's own trainers is the reference: same rows, same loss, same gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from chat_rows import with_template
from datasets import Dataset
from torch import Tensor
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from mathsft.models.loading import load_model
from mathsft.objectives.preference import DPO
from mathsft.objectives.sft import SFT
from mathsft.training.make import make_trainer

# TRL needs these marks to know which turns are the assistant's.
MARKED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ '^assistant\n' }}{% generation %}{{ m['content'] + '~' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ '^' + m['role'] + '\n' + m['content'] + '~\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '^assistant\n' }}{% endif %}"
)
PROMPTS = [
    {"prompt": f"Tom has {n} pens and buys {n + 2}.\n\n", "completion": f"He has {2 * n + 2} pens."}
    for n in range(3, 9)
]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"What is {n} + 2?"},
            {"role": "assistant", "content": f"It is {n + 2}."},
            {"role": "user", "content": "Sure?"},
            {"role": "assistant", "content": "Yes, I am sure." if n % 2 else "Yes."},
        ]
    }
    for n in range(4)
]
PAIRS = [
    {
        "prompt": f"Tom has {n} pens and eats {n - 1}.\n\n",
        "chosen": "He has 1 pen left.",
        "rejected": f"He has {n} pens left, or {n + 1}." * (1 + n % 2),
    }
    for n in range(3, 9)
]
CHAT_PAIRS = [
    {
        "prompt": [
            {"role": "user", "content": f"What is {n} + 2?"},
            {"role": "assistant", "content": "I think before I answer."},
            {"role": "user", "content": "And now?"},
        ],
        "chosen": [{"role": "assistant", "content": f"It is {n + 2}."}],
        "rejected": [{"role": "assistant", "content": f"It is {n}, no, it is {n + 1}."}],
    }
    for n in range(4)
]


@pytest.fixture
def loaded() -> Any:
    """The packaged model in float32 with an adapter whose effect is not zero, without dropout."""
    model, tokenizer = load_model("tiny", lora={"r": 4, "lora_dropout": 0.0}, device="cpu")
    return model, with_template(tokenizer, MARKED)


def moved(model: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B.default" in name:  # TRL keeps a copy of the adapter as "ref"
            torch.nn.init.normal_(parameter, std=0.05, generator=generator)


def step(trainer: Any) -> tuple[float, dict[str, Tensor]]:
    """Return the loss and the gradients of the trainer's first batch."""
    trainer.model.zero_grad()
    trainer.model.train()
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), {n: p.grad for n, p in trainer.model.named_parameters() if p.requires_grad}


def assert_equal(ours: Any, theirs: Any, *, rel: float) -> None:
    assert ours[0] == pytest.approx(theirs[0], rel=rel)
    assert ours[1].keys() == theirs[1].keys()
    largest = max(float(gradient.abs().max()) for gradient in theirs[1].values())
    assert largest > 1e-4
    for name, gradient in theirs[1].items():
        assert float((ours[1][name] - gradient).abs().max()) <= rel * largest, name


COMMON: dict[str, Any] = {"report_to": "none", "per_device_train_batch_size": 8, "use_cpu": True}


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (PROMPTS, {"completion_only_loss": True}),
        (PROMPTS, {"completion_only_loss": False}),
        (PROMPTS, {"packing": True, "packing_strategy": "bfd", "max_length": 64}),
        (CHATS, {"assistant_only_loss": True}),
        (CHATS, {"assistant_only_loss": True, "packing": True, "max_length": 128}),
    ],
    ids=["completion", "whole text", "packed", "assistant turns", "assistant turns, packed"],
)
def test_a_step_of_sft_is_that_of_trls_trainer(
    loaded: Any, tmp_path: Path, rows: Any, options: dict[str, Any]
) -> None:
    model, tokenizer = loaded
    moved(model)
    trained = options.get("completion_only_loss", True)
    objective = SFT(packing=options.get("packing", False), train_on_prompt=not trained)
    ours = step(
        make_trainer(
            model, tokenizer, rows, objective, output_dir=tmp_path, max_length=128,
            per_device_train_batch_size=8,
        )
    )  # fmt: skip
    config = SFTConfig(
        str(tmp_path), bf16=False, gradient_checkpointing=False, **{**COMMON, **options}
    )
    theirs = step(
        SFTTrainer(
            model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
    )
    assert_equal(ours, theirs, rel=1e-5)


@pytest.mark.parametrize("rows", [PAIRS, CHAT_PAIRS], ids=["texts", "messages"])
@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_a_step_of_dpo_is_that_of_trls_trainer(
    loaded: Any, tmp_path: Path, rows: Any, beta: float
) -> None:
    model, tokenizer = loaded
    # Ours scores a turn up to its stop token, TRL also what the template writes after it.
    tokenizer.chat_template = MARKED.replace("{{ '\n' }}", "").replace("~\n", "~")
    objective = DPO(beta=beta)
    ours = make_trainer(
        model, tokenizer, rows, objective, output_dir=tmp_path, eval_rows=rows,
        per_device_train_batch_size=8,
    )  # fmt: skip
    assert ours.reference == "adapter_off"
    config = DPOConfig(
        str(tmp_path),
        bf16=False,
        gradient_checkpointing=False,
        beta=beta,
        max_length=None,
        **COMMON,
    )
    theirs = DPOTrainer(
        model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    moved(model)
    assert_equal(step(ours), step(theirs), rel=1e-5)
    found, expected = ours.evaluate(), theirs.evaluate()
    expected |= theirs.state.log_history[-1]  # TRL 0.29 keeps its metrics here
    names = ["loss"] + [
        f"{group}/{side}"
        for group, sides in {
            "rewards": ("chosen", "rejected", "margins", "accuracies"),
            "logps": ("chosen", "rejected"),
        }.items()
        for side in sides
    ]
    for name in names:
        assert found[f"eval_{name}"] == pytest.approx(expected[f"eval_{name}"], rel=1e-4, abs=1e-6)
