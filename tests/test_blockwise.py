"""Attention over long rows needs no mask of all pairs of tokens, and equals separate passes."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_architectures import architectures  # noqa: F401  (a fixture)
from test_isolation import WINDOWED, small
from torch.nn.functional import scaled_dot_product_attention

from mathsft.models import attention, blockwise
from mathsft.models.adapters import add_adapter
from mathsft.models.attention import (
    Window,
    attention_inputs,
    forest_mask,
    forest_rule,
)
from mathsft.models.blockwise import ForestMask, ForestRows
from mathsft.models.forest import TokenForest
from mathsft.models.logprobs import sequence_logprobs


def tokens(count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 120, (count,), generator=generator).tolist()


def scored(ids: list[int], last: int) -> dict[str, list[int]]:
    return {"input_ids": ids, "labels": [-100] * (len(ids) - last) + ids[-last:]}


def few_shot(scale: int) -> list[dict[str, list[int]]]:
    """Two questions of three choices after the same examples."""
    examples = tokens(7 * scale, 1)
    questions = [examples + tokens(4 * scale, 10 + q) for q in range(2)]
    return [scored(q + tokens(2 * scale, 20 + c), 5) for q in questions for c in range(3)]


def packed(scale: int) -> list[dict[str, list[int]]]:
    return [scored(tokens((3 + n) * scale, 30 + n), 2 * scale) for n in range(6)]


def with_gradients(model: Any, losses: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    found = losses()
    found.square().mean().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return found.detach(), gradients


def assert_equal_to_separate_passes(model: Any, found: list[Any], *, share: bool) -> None:
    batch = TokenForest(found, share=share).tensors(pad_token_id=0)
    assert batch["end"].shape[1] > attention.LONG_ROW

    def apart() -> torch.Tensor:
        sums = []
        for one in found:
            ids, labels = (torch.tensor(one[key]) for key in ("input_ids", "labels"))
            logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
            logprobs = logits.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]]
            sums.append(logprobs[labels[1:] != -100].sum())
        return torch.stack(sums)

    ours, gradients = with_gradients(model, lambda: sequence_logprobs(model, batch).sum)
    wanted, others = with_gradients(model, apart)
    assert torch.allclose(ours, wanted, rtol=1e-4, atol=1e-3)
    scale = max(float(gradient.abs().max()) for gradient in others.values())
    assert gradients.keys() == others.keys()
    for name, other in others.items():
        assert float((gradients[name] - other).abs().max()) < 1e-3 * scale, name


@pytest.fixture
def no_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(self: ForestRows) -> None:
        raise AssertionError("a mask of all pairs of tokens was made")

    monkeypatch.setattr(blockwise.ForestRows, "dense", property(made))


@pytest.mark.parametrize("how", ["plain", "adapter", "checkpointing", "reentrant"])
def test_rows_over_2048_tokens_equal_separate_passes_without_the_mask(how, no_dense) -> None:
    model = small("qwen2", {}).train()
    if how != "plain":
        model = add_adapter(model, lora_dropout=0.0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1, generator=torch.manual_seed(2))
    if how in ("checkpointing", "reentrant"):
        model.gradient_checkpointing_enable({"use_reentrant": how == "reentrant"})
        model.enable_input_require_grads()
    assert_equal_to_separate_passes(model, few_shot(90), share=True)
    assert_equal_to_separate_passes(model, packed(65), share=False)


NAMES = ["llama", "qwen2 with windows", "mistral", "gemma3_text", "llama4_text", "falcon",
         "gpt2", "phi3", "qwen3_moe", "deepseek_v3"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_each_objective_equals_separate_passes_in_blocks(
    architectures: Any,  # noqa: F811
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    no_dense: None,
) -> None:
    monkeypatch.setattr(attention, "LONG_ROW", 10)
    monkeypatch.setattr(blockwise, "BLOCK", 8)
    model = architectures.build(name)
    for compared in architectures.OBJECTIVES.values():
        assert architectures.exactness(model, compared) == "equal"


def test_a_model_with_eager_attention_gets_the_whole_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "LONG_ROW", 10)
    model = small("gemma2", WINDOWED["gemma2"], attn_implementation="eager")
    assert_equal_to_separate_passes(model, few_shot(3), share=True)


@st.composite
def forests(draw: Any) -> dict[str, torch.Tensor]:
    """One to three rows of sequences over two tokens, so that many of them begin alike."""
    sequence = st.lists(st.integers(0, 1), min_size=2, max_size=9)
    found = [scored(ids, 1) for ids in draw(st.lists(sequence, min_size=3, max_size=8))]
    cut = draw(st.integers(1, 2))
    rows = [[*range(cut)], [*range(cut, len(found))]]
    return TokenForest(found, rows=rows, share=draw(st.booleans())).tensors(pad_token_id=0)


windows = st.none() | st.builds(Window, st.integers(1, 6), st.booleans())


@given(forests(), windows, st.integers(1, 7), st.booleans())
def test_blocks_give_the_attention_and_the_gradients_of_the_mask(
    batch: dict[str, torch.Tensor], window: Window | None, size: int, grouped: bool
) -> None:
    end, depth = batch["end"], batch["position_ids"]
    rows, length = end.shape
    generator = torch.manual_seed(0)
    heads = [4, 2, 2] if grouped else [4, 4, 4]
    inputs = [torch.randn(rows, h, length, 8, generator=generator) for h in heads]
    weight = torch.randn(rows, 4, length, 8, generator=generator)

    def found(mask: torch.Tensor) -> list[torch.Tensor]:
        taken = [x.clone().requires_grad_() for x in inputs]
        output = scaled_dot_product_attention(*taken, mask, scale=0.4, enable_gqa=grouped)
        return [output, *torch.autograd.grad((output * weight).sum(), taken)]

    before, blockwise.BLOCK = blockwise.BLOCK, size
    try:
        rule = forest_rule(end, depth, window)
        ours = found(ForestMask.of(ForestRows(end, depth, window, rule)))
    finally:
        blockwise.BLOCK = before
    for one, other in zip(ours, found(forest_mask(end, depth, window)), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def mask_of(found: list[Any], **options: Any) -> tuple[ForestMask, torch.Tensor]:
    batch = TokenForest(found, **options).tensors(pad_token_id=0)
    end, depth = batch["end"], batch["position_ids"]
    rows = ForestRows(end, depth, None, forest_rule(end, depth))
    return ForestMask.of(rows), forest_mask(end)


def test_a_block_reads_only_its_ancestors_and_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "BLOCK", 8)
    mask, dense = mask_of(few_shot(3))
    for row, start, stop, keys in mask.forest.blocks:
        places = torch.arange(dense.shape[-1])[keys].tolist()
        seen = dense[row, 0, start:stop].any(0).nonzero()[:, 0].tolist()
        assert set(seen) <= set(places)
        assert set(places) <= {*seen, *range(start, stop)}


def test_any_other_use_of_the_mask_is_that_of_the_bool_mask() -> None:
    mask, dense = mask_of(few_shot(2))
    assert (mask.shape, mask.dtype, mask.device) == (dense.shape, torch.bool, dense.device)
    length = dense.shape[-1]
    assert mask[:, :, :, :length] is mask
    assert torch.equal(mask[:, :, :, :5], dense[:, :, :, :5])
    assert torch.equal(~mask, ~dense)
    assert torch.equal(torch.where(mask, 1.0, 2.0), torch.where(dense, 1.0, 2.0))
    assert torch.equal(torch.cat([mask, mask], 0), torch.cat([dense, dense], 0))
    query = torch.randn(1, 2, length, 8, generator=torch.manual_seed(0))
    torch.manual_seed(3)
    dropped = scaled_dot_product_attention(query, query, query, mask, 0.5)
    torch.manual_seed(3)
    assert torch.equal(dropped, scaled_dot_product_attention(query, query, query, dense, 0.5))


def kept(model: Any, batch: Any, *, autocast: bool) -> tuple[torch.Tensor, dict[int, torch.Size]]:
    """The logits, and the masks (by their memory) that the layers keep for the backward pass."""
    masks = {}
    length = batch["end"].shape[1]

    def pack(x: torch.Tensor) -> torch.Tensor:
        if x.shape[-2:] == (length, length):
            masks[x.untyped_storage().data_ptr()] = x.shape
        return x

    with (
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x),
    ):
        logits = model(**attention_inputs(model, batch), use_cache=False).logits
    return logits, masks


@pytest.mark.parametrize("autocast", [False, True])
def test_layers_share_one_mask_and_keep_none_in_blocks(
    autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small("llama", {"num_hidden_layers": 3}).train()
    batch = TokenForest(few_shot(4)).tensors(pad_token_id=0)
    whole, masks = kept(model, batch, autocast=autocast)
    assert len(masks) == 1
    monkeypatch.setattr(attention, "LONG_ROW", 10)
    logits, masks = kept(model, batch, autocast=autocast)
    assert not masks
    assert torch.allclose(logits, whole, atol=0.1 if autocast else 1e-4)
    logits.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_the_masks_numbers_have_the_dtype_that_sdpa_computes_in() -> None:
    batch = TokenForest(few_shot(1)).tensors(pad_token_id=0)
    seen = forest_mask(batch["end"])
    for dtype, autocast, wanted in [
        (torch.float32, False, torch.float32),
        (torch.float32, True, torch.bfloat16),
        (torch.bfloat16, True, torch.bfloat16),
        (torch.bfloat16, False, torch.bool),  # some layers may compute in float32
    ]:
        model = small("llama", {}).to(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            mask = attention_inputs(model, batch)["attention_mask"]
        assert mask.dtype == wanted
        assert torch.equal(mask if wanted == torch.bool else mask == 0, seen)
        if wanted != torch.bool:
            assert mask[~seen].max() == -torch.inf
            assert mask.stride(2) % 8 == 0  # or CUDA's kernel copies it
