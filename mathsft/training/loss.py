"""The loss of the tokens that are trained, and of no others.

In Qwen2.5-0.5B a quarter of the floating-point work is the projection onto 151,936
words. Only the hidden states that predict a trained token need it, and with the head
frozen, as under LoRA, its gradient is one more product that can be taken at once.
"""

from typing import Any

import torch
from torch import Tensor, nn

from mathsft.training.packing import IGNORE

LOGITS_AT_ONCE = 2**26  # 268 MB of float32, however long the batch
# Models that change the logits after the head name it in their configuration.
_AFTER_THE_HEAD = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
)


class LinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of ``hidden @ weight.T`` against ``targets``, without keeping logits.

    hidden (n, H), weight (V, H), targets (n,) int64 -> float32 scalar. For a sum of
    losses the gradient at the logits is ``softmax - one_hot``, known as soon as the
    logits are; so the forward pass takes the gradient at ``hidden`` block by block and
    the backward pass only scales it. That is 4nHV operations and no stored logits,
    where recomputing the logits in the backward pass takes 6nHV.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        # float16 cannot hold the many probabilities below 6e-8: lift them for the product.
        lift = 1024.0 if weight.dtype == torch.float16 else 1.0
        block = max(1, LOGITS_AT_ONCE // weight.shape[0])
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for start in range(0, hidden.shape[0], block):
            here = slice(start, start + block)
            part = hidden[here].to(weight.dtype)
            target = targets[here, None]
            # In place, as a block of logits is far larger than everything else here.
            scores = (part @ weight.T).float()
            scores -= scores.amax(dim=-1, keepdim=True)
            chosen = scores.gather(1, target)
            mass = scores.exp_().sum(dim=-1, keepdim=True)
            total += (mass.log() - chosen).sum()
            if grad_hidden is None and grad_weight is None:
                continue
            error = scores.div_(mass)
            error.scatter_add_(1, target, torch.full_like(chosen, -1))
            error = error.mul_(lift).to(weight.dtype) if lift != 1 else error.to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden[here] = (error @ weight).to(hidden.dtype) / lift
            if grad_weight is not None:
                grad_weight += (error.T @ part) / lift
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        scale = grad_outputs[0]
        grad_hidden, grad_weight = (
            None if grad is None else grad * scale for grad in ctx.saved_tensors
        )
        return grad_hidden, grad_weight, None


def has_plain_head(model: Any) -> bool:
    """Whether logits are exactly ``hidden @ weight.T``: no bias, adapter, cap or scale."""
    head = model.get_output_embeddings()
    config = model.config.get_text_config()
    return (
        type(head) is nn.Linear
        and head.bias is None
        and all(getattr(config, name, None) is None for name in _AFTER_THE_HEAD)
    )


def summed_loss(
    model: Any, inputs: dict[str, Tensor], labels: Tensor, *, wrapped: Any = None
) -> Tensor:
    """Cross-entropy in nats, summed over the trained tokens of a batch: a float32 scalar.

    ``labels`` (B, L) are aligned with ``input_ids``; position i predicts ``labels[i + 1]``.
    ``wrapped`` is what is called instead of ``model`` where something (DDP) wraps it.
    Divide by the number of trained tokens of the *whole* optimiser step, so that
    accumulation and several devices weigh every token the same.
    """
    run = model if wrapped is None else wrapped
    targets = labels[:, 1:]
    trained = targets != IGNORE
    if not has_plain_head(model):
        logits = run(**inputs, use_cache=False).logits[:, :-1][trained]
        return nn.functional.cross_entropy(logits.float(), targets[trained], reduction="sum")

    caught: list[Tensor] = []

    def catch(head: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
        caught.append(arguments[0])
        return (arguments[0][:, :0],)  # nothing is left for the head to do

    hook = model.get_output_embeddings().register_forward_pre_hook(catch)
    try:
        run(**inputs, use_cache=False)
    finally:
        hook.remove()
    hidden = caught[0][:, :-1][trained]
    return LinearCrossEntropy.apply(hidden, model.get_output_embeddings().weight, targets[trained])
