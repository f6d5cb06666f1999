"""Other architectures: each objective is exact or refused, adapters fit, the page is true.

The constructors and the comparison are in benchmarks/architectures.py, which writes the table in
docs/models.md. These tests measure each line of that table again.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from model_files import trained
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from mathsft.data.problems import read_problems
from mathsft.evaluation.harness import ForestLM
from mathsft.models import attention
from mathsft.models.adapters import add_adapter, load_adapter, save_adapter
from mathsft.models.isolation import check_isolation
from mathsft.models.loading import load_model
from mathsft.training.make import multiple_choice_trainer, sft_trainer

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
    """This shows that the comparison can fail, for each objective."""
    model = architectures.build("mistral")
    monkeypatch.setattr(attention, "layer_windows", lambda config: {"any": None})
    for objective in architectures.OBJECTIVES.values():
        assert "differs" in architectures.exactness(model, objective)


@pytest.mark.parametrize("name", ["gemma3_text", "gemma3", "mixtral", "gpt_oss"])
def test_recomputed_activations_meet_the_same_masks(architectures: Any, name: str) -> None:
    model = architectures.build(name).train()  # without dropout
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert model.is_gradient_checkpointing
    assert architectures.exactness(model, architectures.OBJECTIVES["choices"]) == "equal"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["gemma3_text", "mistral"])
def test_flex_attention_keeps_the_windows(
    architectures: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not compiled, and forward only: FlexAttention has no backward pass on a CPU."""
    settings = architectures.ARCHITECTURES[name] | {"head_dim": 16}
    monkeypatch.setitem(architectures.ARCHITECTURES, name, settings)
    model = architectures.build(name, "flex_attention")
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        check_isolation(model)
        for objective in architectures.OBJECTIVES.values():
            ours = architectures.by_forest(model, objective)
            theirs = architectures.by_sequence(architectures.build(name, "eager"), objective)
            assert float(ours) == pytest.approx(float(theirs), rel=1e-4)


def test_groups_too_long_for_one_row_of_a_row_window_model_are_scored_by_the_harness(
    architectures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = architectures.ARCHITECTURES["gpt_neo"] | {"window_size": 60}
    monkeypatch.setitem(architectures.ARCHITECTURES, "gpt_neo", settings)
    model, rows = architectures.build("gpt_neo"), []
    asked = architectures.REQUESTS
    longer = [(context * 3, choice) for context, choice in asked]
    monkeypatch.setattr(architectures, "REQUESTS", asked + longer)
    real = attention.forest_mask
    monkeypatch.setattr(
        attention, "forest_mask", lambda end, *more: rows.append(end.shape[1]) or real(end, *more)
    )
    assert architectures.scoring(model) == "equal"
    assert 26 < max(rows) <= 60  # longer than in the isolation check, so some shared a row


@pytest.mark.parametrize("kind", [sft_trainer, multiple_choice_trainer])
def test_a_mixture_trains_with_router_logits_requested_and_keeps_that_setting(
    architectures: Any, kind: Any, tmp_path: Path
) -> None:
    model = add_adapter(architectures.build("mixtral"))
    assert model.config.output_router_logits
    problems = read_problems("tiny-mathqa", limit=8)[0]
    arguments = {"output_dir": tmp_path, "warmup_steps": 0, "per_device_train_batch_size": 4}
    trainer = kind(model, load_model("tiny")[1], problems, **arguments, max_steps=1)
    before = {n: p.clone() for n, p in model.named_parameters() if p.requires_grad}
    assert trainer.train().training_loss > 0
    assert model.config.output_router_logits
    assert any(not torch.equal(p, before[n]) for n, p in model.named_parameters() if n in before)


# A router that returns more than a product; names that peft mistakes for experts' names.
LEFT_OUT = {
    "llama4_text": ("router",),
    "phimoe": ("router",),
    "deepseek_v3": ("gate_proj", "up_proj", "down_proj"),
    "glm4_moe": ("gate_proj", "up_proj", "down_proj"),
}
TRAINED = [name for name in NAMES if not any(f"| {name} |" in x and "refused" in x for x in LINES)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TRAINED)
def test_an_adapter_needs_no_setting_and_reaches_every_linear_layer_but_the_head(
    architectures: Any, name: str
) -> None:
    model = architectures.build(name)
    head = model.get_output_embeddings()
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        plain = model(input_ids=ids, use_cache=False).logits
    layers = {
        n
        for n, m in model.named_modules()
        if isinstance(m, torch.nn.Linear | Conv1D)
        and m is not head
        and not n.endswith(LEFT_OUT.get(name, ()) or "-")
        and "vision" not in n
    }
    adapted = add_adapter(model)
    new = [n for n, p in adapted.named_parameters() if p.requires_grad]
    assert {n.removeprefix("base_model.model.").partition(".lora_")[0] for n in new} == layers
    assert all(".lora_" in n for n in new)
    with torch.no_grad():
        assert torch.equal(adapted(input_ids=ids, use_cache=False).logits, plain)


@pytest.mark.parametrize(
    ("name", "experts"),
    [("mixtral", False), ("deepseek_v3", False), ("mixtral", True), ("gpt_oss", True)],
)
def test_an_adapter_of_a_mixture_comes_back(
    architectures: Any, name: str, experts: bool, tmp_path: Path
) -> None:
    def base() -> Any:
        return AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")

    def logits(model: Any) -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=torch.arange(3, 23)[None], use_cache=False).logits

    architectures.build(name).save_pretrained(tmp_path / "base")
    settings: Any = {"target_parameters": ["experts.down_proj"], "lora_dropout": 0.0}
    model = trained(base(), **settings if experts else {})
    save_adapter(model, tmp_path / "adapter")
    loaded = load_adapter(base(), tmp_path / "adapter")
    assert torch.equal(logits(loaded), logits(model.eval()))
    assert any("experts" in n for n, _ in loaded.named_parameters() if "lora_" in n) == experts


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss", "bloom"])
def test_a_model_without_sdpa_loads_with_eager_attention_and_a_line_says_so(
    architectures: Any, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = architectures.build(name)
    model.save_pretrained(tmp_path)
    load_model("tiny")[1].save_pretrained(tmp_path)
    capsys.readouterr()
    loaded, _ = load_model(tmp_path)
    assert loaded.config._attn_implementation == "eager"
    said = f"{tmp_path}: attention is eager: {type(model).__name__} has no sdpa"
    assert said in capsys.readouterr().out.splitlines()
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert ForestLM(str(tmp_path)).model.config._attn_implementation == "eager"
    assert said in capsys.readouterr().out.splitlines()
