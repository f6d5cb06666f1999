"""Log-probabilities of the scored tokens, and of no others.

In Qwen2.5-0.5B a quarter of the floating-point work is the projection onto 151,936
words. Only the hidden states that predict a scored token need it. If the head is frozen,
as with LoRA, its gradient is one more product that can be computed in the same pass.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from mathsft.models.sharding import is_sharded

LOGITS_AT_ONCE = 2**26  # 268 MB of float32, however long the batch
# Configuration settings of models that change the logits after the head.
_AFTER_THE_HEAD = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
)


class TokenLogprobs(torch.autograd.Function):
    """``log_softmax(hidden @ weight.T)[branch, token]`` in float32, without keeping logits.

    hidden (P, H), weight (V, H), branch (E,) ascending, token (E,) -> (E,) and, if no gradient
    is needed, whether each token is the most likely one at its position, (E,). No pair
    (branch, token) may occur twice.

    With s the softmax of a position's logits and g the gradient at its log-probabilities,
    the gradient at its hidden state is ``sum_e g_e W[token_e] - (sum_e g_e) sum_v s_v W[v]``.
    The last sum does not depend on g, so it is computed while the logits exist. That takes
    4PHV operations and stores no logits; recomputing them in the backward pass takes 6PHV.
    The scored tokens' own terms are left out of that sum and added to the first one,
    ``(g_e - s_e sum g) W[token_e]``. For a token that is nearly certain, the two would
    otherwise cancel, and half precision would leave only rounding errors.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, branch: Tensor, token: Tensor
    ) -> tuple[Tensor, Tensor]:
        logprobs = torch.empty(len(token), dtype=torch.float32, device=hidden.device)
        greedy = torch.zeros(len(token), dtype=torch.bool, device=hidden.device)
        ctx.mark_non_differentiable(greedy)
        share = torch.empty_like(logprobs)
        expected = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        for here, edges in _blocks(hidden, weight, branch):
            # In place, because a block of logits is far larger than everything else here.
            scores = (hidden[here].to(weight.dtype) @ weight.T).float()
            at = (branch[edges] - here.start, token[edges])
            if not any(ctx.needs_input_grad):
                greedy[edges] = scores.argmax(dim=-1)[at[0]] == at[1]
            scores -= scores.amax(dim=-1, keepdim=True)
            chosen = scores[at]
            mass = scores.exp_().sum(dim=-1, keepdim=True)
            logprobs[edges] = chosen - mass.log()[at[0], 0]
            if not any(ctx.needs_input_grad):
                continue
            softmax = scores.div_(mass)
            share[edges] = softmax[at]
            softmax[at] = 0
            expected[here] = product(softmax, weight)
            del scores, softmax  # before the next block is made
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(hidden, weight, branch, token, share, expected)
        return logprobs, greedy

    @staticmethod
    def backward(
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, branch, token, share, expected = ctx.saved_tensors
        gradient = grad_outputs[0]
        total = gradient.new_zeros(len(hidden)).index_add_(0, branch, gradient)
        own = (gradient - share * total[branch])[:, None] * weight[token].float()
        grad_hidden = (total[:, None] * expected).neg_().index_add_(0, branch, own)
        grad_weight = None
        if ctx.needs_input_grad[1]:  # a trained head: the logits are needed again
            grad_weight = torch.zeros_like(weight)
            for here, edges in _blocks(hidden, weight, branch):
                part = hidden[here].to(weight.dtype)
                error = (part @ weight.T).float().softmax(-1).mul_(-total[here, None])
                error[branch[edges] - here.start, token[edges]] += gradient[edges]
                grad_weight += error.T.to(weight.dtype) @ part
                del error
        return grad_hidden.to(hidden.dtype), grad_weight, None, None


def product(probabilities: Tensor, weight: Tensor) -> Tensor:
    """``probabilities @ weight`` in float32; many are below float16's smallest number, 6e-8.

    They are always scaled up: under autocast, the weight's dtype does not show the product's.
    """
    lift = 1024.0
    return (probabilities.mul_(lift).to(weight.dtype) @ weight).float().div_(lift)


def _blocks(hidden: Tensor, weight: Tensor, branch: Tensor) -> list[tuple[slice, slice]]:
    """Slices of ``hidden`` whose logits fit `LOGITS_AT_ONCE`, and their slices of ``branch``."""
    size = max(1, LOGITS_AT_ONCE // weight.shape[0])
    if len(hidden) <= size:  # nothing to look up, so no wait for a GPU
        return [(slice(0, len(hidden)), slice(0, len(branch)))]
    starts = torch.arange(0, len(hidden), size, device=branch.device)
    edges = [*torch.searchsorted(branch, starts).tolist(), len(branch)]
    return [
        (slice(start, start + size), slice(edges[n], edges[n + 1]))
        for n, start in enumerate(range(0, len(hidden), size))
    ]


def has_plain_head(model: Any) -> bool:
    """Return whether logits are exactly ``hidden @ weight.T``: no bias, adapter, cap or scale.

    A head that is trained and sharded (FSDP) is not plain: its own pass gathers its gradient.
    Neither is one that DeepSpeed's ZeRO-3 shards: it has weights only during its own pass.
    """
    head = model.get_output_embeddings()
    config = model.config.get_text_config()
    kind, sharded = type(head), False
    if isinstance(head, FSDPModule):
        kind, sharded = kind.__bases__[1], True  # a class that FSDP made of two
    if kind is not nn.Linear:  # an adapter's layer may compute its `weight` on access
        return False
    return (
        head.bias is None
        and not ((sharded or is_sharded(head.weight)) and head.weight.requires_grad)
        and not hasattr(head.weight, "ds_id")
        and all(getattr(config, name, None) is None for name in _AFTER_THE_HEAD)
    )
