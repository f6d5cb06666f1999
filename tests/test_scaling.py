"""docs/scaling.md shows what the command prints, and its counts are those of a real pass."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import run_script
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mathsft.data.problems import read_problems
from mathsft.models.loading import load_model

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import scaling_costs

    return scaling_costs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "lora", "checkpointing"),
    [
        ("sft", True, False),
        ("sft", True, True),
        ("sft", False, False),
        ("multiple_choice", True, False),
    ],
)
def test_priced_operations_are_those_counted_on_a_real_training_pass(
    costs: Any, objective: str, lora: bool, checkpointing: bool
) -> None:
    model, tokenizer = load_model("tiny", lora=lora, device="cpu")
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if objective == "sft":
        problems = read_problems("tiny-gsm", limit=12)[0]
        rows = costs.training_rows(problems, tokenizer, costs.SFT(), max_length=256)
        batch = costs.Collator(costs.SFT(), pad_token_id=0)(list(rows))
        work = costs.solutions(problems, tokenizer, batch_size=12, max_length=256)
    else:
        problems = read_problems("tiny-mathqa", limit=12)[0]
        rows = costs.training_rows(problems, tokenizer, costs.MultipleChoice())
        batch = costs.Collator(costs.MultipleChoice(), pad_token_id=0, max_length=256)(list(rows))
        work = costs.choices(problems, tokenizer, batch_size=12, max_length=256)
    # Split into matrix products, because the counter does not know the CPU's fused attention.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        costs.backward(model, batch)
    priced = costs.prices("tiny", lora=lora, checkpointing=checkpointing).of(work)
    assert priced == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_a_size_has_the_parameters_that_its_name_promises(costs: Any) -> None:
    """As on the model cards: 0.49, 1.54, 7.61 and 32.5 billion."""
    promised = {"0.5B": 0.49, "1.5B": 1.54, "7B": 7.61, "32B": 32.5, "tiny": 0.0017}
    for size, billions in promised.items():
        with torch.device("meta"):
            model = costs.Qwen2ForCausalLM(costs.config_of(size))
        assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, rel=0.02)


@pytest.mark.slow
def test_lora_costs_less_than_six_operations_a_parameter_and_checkpointing_half_as_much_again(
    costs: Any,
) -> None:
    layers = 494_032_768 - 136_134_656
    plain = costs.prices("0.5B", lora=True, checkpointing=False)
    full = costs.prices("0.5B", lora=False, checkpointing=False)
    again = costs.prices("0.5B", lora=True, checkpointing=True)
    assert plain.position / layers == pytest.approx(4, rel=0.05)
    assert full.position / layers == pytest.approx(6, rel=0.02)
    assert again.position / plain.position == pytest.approx(1.5, rel=0.02)


@pytest.mark.slow
def test_the_tables_of_the_document_are_those_of_the_command(data_dir: Path) -> None:
    script = ROOT / "benchmarks" / "scaling.py"
    done = run_script(script, "--markdown", MATHSFT_DATA_DIR=str(data_dir))
    assert done.returncode == 0, done.stderr
    document = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    tables = re.findall(r"(?:^\|.*\n)+", document, re.MULTILINE)
    generated = [table.strip() for table in tables[1:-1]]  # between measures and advice
    assert generated == done.stdout.strip().split("\n\n")
