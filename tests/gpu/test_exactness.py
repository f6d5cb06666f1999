"""Packed rows and forests give the numbers of separate passes in half precision too."""

from pathlib import Path

import pytest
import torch
from gpu_work import POLICIES, load
from torch.nn.attention import SDPBackend, sdpa_kernel

from mathsft.data.problems import read_problems
from mathsft.models import attention
from mathsft.models.attention import attention_inputs
from mathsft.models.forest import TokenForest
from mathsft.models.likelihood import encode_choices
from mathsft.models.logprobs import sequence_logprobs
from mathsft.objectives.sft import tokenize_problems

# Largest difference as a share of the largest value: rounding to 11 or 8 bits, 24 layers deep.
TOLERANCE = {"T4": 0.02, "A100": 0.1}


@pytest.mark.parametrize("quantize", [True, False])
@pytest.mark.parametrize("policy", POLICIES)
@torch.no_grad()
def test_packed_logits_are_those_of_the_separate_problems(
    policy: str, quantize: bool, qwen: Path
) -> None:
    model, tokenizer = load(qwen, policy, quantize=quantize)
    problems = read_problems("tiny-gsm", limit=5)[0]
    documents, _ = tokenize_problems(problems, tokenizer, max_length=512)
    forest = TokenForest(documents, share=False)
    batch = {k: v.to(model.device) for k, v in forest.tensors(pad_token_id=0).items()}
    packed = model(**attention_inputs(model, batch), use_cache=False).logits[0].float()
    ids = [torch.tensor([d["input_ids"][:-1]], device=model.device) for d in documents]
    alone = torch.cat([model(input_ids=i, use_cache=False).logits[0].float() for i in ids])
    share = float((packed[: len(alone)] - alone).abs().max() / alone.abs().max())
    print(f"\n{policy}, quantize={quantize}: {share:.1e} of the largest logit")
    assert share < TOLERANCE[policy]


@pytest.mark.parametrize("policy", POLICIES)
@torch.no_grad()
def test_a_forests_scores_are_those_of_separate_passes(policy: str, qwen: Path) -> None:
    model, tokenizer = load(qwen, policy)
    groups = encode_choices(tokenizer, list(read_problems("tiny-mathqa", limit=8)[0]))
    forest = TokenForest.from_groups(groups, max_length=512)
    batch = {k: v.to(model.device) for k, v in forest.tensors(pad_token_id=0).items()}
    together = sequence_logprobs(model, batch).sum
    alone = []
    for group in groups:
        for sequence in group:
            single = TokenForest([sequence])
            one = {k: v.to(model.device) for k, v in single.tensors(pad_token_id=0).items()}
            alone.append(sequence_logprobs(model, one).sum)
    wanted = torch.cat(alone)
    share = float((together - wanted).abs().max() / wanted.abs().max())
    print(f"\n{policy}: {share:.1e} of the largest score")
    assert share < TOLERANCE[policy]


@torch.no_grad()
def test_the_memory_efficient_kernel_takes_our_mask_in_float16(qwen: Path) -> None:
    """It is the only fast kernel on a T4. The others are off, so it must accept the mask."""
    model, tokenizer = load(qwen, "T4")
    documents, _ = tokenize_problems(read_problems("tiny-gsm", limit=5)[0], tokenizer)
    forest = TokenForest(documents, share=False)
    batch = {k: v.to(model.device) for k, v in forest.tensors(pad_token_id=0).items()}
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION]):
        logits = model(**attention_inputs(model, batch), use_cache=False).logits
    assert logits.isfinite().all()


@pytest.mark.parametrize("policy", POLICIES)
def test_long_rows_in_blocks_have_the_scores_and_gradients_of_the_whole_mask(
    policy: str, qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load(qwen, policy, lora=True)
    problems = read_problems("tiny-gsm", limit=60)[0]
    documents, _ = tokenize_problems(problems, tokenizer, max_length=512)
    batch = TokenForest(documents, share=False).tensors(pad_token_id=0)
    assert batch["end"].shape[1] > attention.LONG_ROW
    batch = {k: v.to(model.device) for k, v in batch.items()}
    found = []
    for limit in (attention.LONG_ROW, batch["end"].shape[1]):
        monkeypatch.setattr(attention, "LONG_ROW", limit)
        model.zero_grad()
        with torch.autocast(model.device.type, getattr(torch, POLICIES[policy]["dtype"])):
            sums = sequence_logprobs(model, batch).sum
        sums.mean().backward()
        gradients = [p.grad.float() for n, p in model.named_parameters() if "lora_B" in n]
        found.append((sums.detach(), torch.cat([g.flatten() for g in gradients])))
    for ours, wanted in zip(*found, strict=True):
        share = float((ours - wanted).abs().max() / wanted.abs().max())
        print(f"\n{policy}: {share:.1e} of the largest")
        assert share < TOLERANCE[policy]
