"""Test whether a model keeps the branches of a forest apart, instead of trusting its name.

In some models it is not only the mask that decides which tokens affect a token: recurrent and
convolutional layers run along the row, ALiBi counts places instead of positions, and some layers
make their own mask. A list of such models would soon be out of date. Three short passes show it,
and three more for a model with windows.
"""

from typing import Any

import torch

from mathsft.models.attention import WINDOW_SETTINGS, attention_inputs, layer_windows
from mathsft.models.forest import TokenForest
from mathsft.models.model_files import vocabulary
from mathsft.models.modes import evaluating

# Largest allowed difference of a logit, as a share of the largest logit: only rounding.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.1}
_NARROW = 5  # tokens, fewer than the sequences of the check share


def check_isolation(model: Any) -> None:
    """Raise ValueError if a forked row gives other logits than its sequences alone.

    The test uses two sequences of 16 tokens that share six, in one row and each on its own. A
    model with windows (`mathsft.models.attention.layer_windows`) is tested again with windows of
    five tokens: transformers' models read the size when they make a mask, so both ways get the
    narrow window. 16 tokens then show what would take thousands at the model's own size. A model
    that keeps its window elsewhere is refused.
    """
    with evaluating(model):  # restores the configuration at the end
        difference = _difference(model)
        if difference is not None:
            raise ValueError(
                f"{type(model).__name__} does not keep the sequences of a row apart ({difference})"
                ": it has recurrent or convolutional layers, or positions that it does not take "
                "from position_ids. Use a model whose layers all follow the mask, such as "
                "Qwen2.5, Llama or Gemma"
            )
        windows = [kind for kind, window in layer_windows(model.config).items() if window]
        for kind in windows:
            setattr(model.config.get_text_config(), WINDOW_SETTINGS[kind], _NARROW)
        difference = _difference(model) if windows else None
    if difference is not None:
        raise ValueError(
            f"the windows of {type(model).__name__} cannot be set by a mask ({difference}): its "
            "layers do not take them from the configuration, or take one mask for all. Use "
            "another model, such as Gemma, Mistral or Qwen2.5"
        )


@torch.no_grad()
def _difference(model: Any) -> str | None:
    """Say how a forked row's logits differ from those of its sequences; None if they do not."""
    words = vocabulary(model.config)  # the embedding itself may be wrapped by an adapter
    trunk = [(7 * n + 3) % words for n in range(6)]
    ids = [trunk + [(11 * n + 5 * k + 1) % words for n in range(10)] for k in range(2)]
    # A sequence's last token does not go through the model, so each gets one more at the end.
    forest = TokenForest([{"input_ids": [*row, 0], "labels": [*row, 0]} for row in ids])
    device = model.device
    batch = {k: v.to(device) for k, v in forest.tensors(pad_token_id=0).items()}
    inputs = attention_inputs(model, batch)  # refuses attention that takes no mask
    alone = [_outputs(model, input_ids=torch.tensor([row], device=device)) for row in ids]
    try:
        together = _outputs(model, **inputs)
    except torch.OutOfMemoryError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        return f"it fails on our mask: {str(e).strip().splitlines()[0] if str(e).strip() else e!r}"
    first, second = sorted(range(2), key=ids.__getitem__)  # the order of a forest
    expected = torch.cat([alone[first], alone[second][len(trunk) :]])
    difference = float((together - expected).abs().max() / expected.abs().max())
    # The coarsest dtype counts: in a half-precision model, trained parts may be in float32.
    allowed = max(
        _TOLERANCE.get(parameter.dtype, 0.1)
        for parameter in model.parameters()
        if parameter.is_floating_point()
    )
    # If logits are not finite, weights or precision are at fault; the scores will show that.
    if expected.isfinite().all() and not difference <= allowed:
        return f"logits differ by {difference:.0%}"
    return None


def _outputs(model: Any, **inputs: Any) -> torch.Tensor:
    """The head's output for each token of one row, (L, V), in float32."""
    head = getattr(model, "score", None)
    if head is None:
        logits: torch.Tensor = model(**inputs, use_cache=False).logits[0]
        return logits.float()
    # A model for sequence classification returns the output for one token only.
    caught: list[torch.Tensor] = []
    hook = head.register_forward_hook(lambda module, given, output: caught.append(output))
    try:
        model(**inputs, use_cache=False)
    finally:
        hook.remove()
    return caught[0][0].float()
