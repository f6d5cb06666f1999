"""Other architectures: every objective is exact on them or refused; adapters fit; the page is true.

The constructors and the comparison are in benchmarks/architectures.py, which writes the table of
docs/models.md. Each line of that table is measured here again.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import CONFIG_MAPPING

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
PAGE = BENCHMARKS.parent / "docs" / "models.md"


@pytest.fixture(scope="module")
def architectures() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        import architectures

        yield architectures


def _names() -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        from architecture_table import ARCHITECTURES
    known = [n for n, s in ARCHITECTURES.items() if s.get("model_type", n) in CONFIG_MAPPING]
    assert len(known) >= 25
    return known


NAMES = _names()
LINES = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_each_objective_equals_separate_passes_or_is_refused_as_the_page_says(
    architectures: Any, name: str
) -> None:
    found = architectures.outcome(name)
    assert set(found.cells.values()) in ({"equal"}, {"refused"}), found
    assert found.scored in ("equal", "equal, one by one"), found
    assert ("refused" in found.cells.values()) <= bool(found.remark)
    assert found.line() in LINES


def test_the_page_has_no_line_of_an_architecture_that_is_not_measured(architectures: Any) -> None:
    written = [line.strip("| ").partition(" | ")[0] for line in LINES[1:]]
    assert written == list(architectures.ARCHITECTURES)


def test_a_mask_that_forgets_the_windows_is_not_equal(
    architectures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison can fail, for each objective."""
    from mathsft.models import attention

    model = architectures.build("mistral")
    monkeypatch.setattr(attention, "layer_windows", lambda config: {"any": None})
    for objective in architectures.OBJECTIVES.values():
        assert "differs" in architectures.exactness(model, objective)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_needs_no_setting_and_reaches_every_linear_layer_but_the_head(
    architectures: Any, name: str
) -> None:
    from mathsft.models.adapters import add_adapter

    model = add_adapter(architectures.build(name))
    reached = {n.partition(".lora_")[0] for n, p in model.named_parameters() if p.requires_grad}
    theirs: Any = get_peft_model(
        architectures.build(name), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    )
    assert reached == {
        n.partition(".lora_")[0] for n, _ in theirs.named_parameters() if "lora_" in n
    }
    assert reached
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        plain = architectures.build(name)(input_ids=ids, use_cache=False).logits
        assert torch.equal(model(input_ids=ids, use_cache=False).logits, plain)


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss", "bloom"])
def test_a_model_without_sdpa_loads_with_eager_attention_and_a_line_says_so(
    architectures: Any, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mathsft.evaluation.harness import ForestLM
    from mathsft.models.loading import load_model

    model = architectures.build(name)
    model.save_pretrained(tmp_path)
    load_model("tiny")[1].save_pretrained(tmp_path)
    capsys.readouterr()
    loaded, _ = load_model(tmp_path)
    assert loaded.config._attn_implementation == "eager"
    said = f"{tmp_path}: attention is eager, as {type(model).__name__} has no sdpa"
    assert said in capsys.readouterr().out.splitlines()
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert ForestLM(str(tmp_path)).model.config._attn_implementation == "eager"
    assert said in capsys.readouterr().out.splitlines()
