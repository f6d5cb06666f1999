"""A soft prompt: trained vectors that stand before the text, by peft's prompt tuning.

The vectors are no tokens. They can be anything between and beyond the embeddings of real tokens, so
they show what a prompt could do at most, and nobody can read or type them (Lester et al. 2021,
arXiv:2104.08691).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel, PromptTuningConfig, PromptTuningInit, TaskType, get_peft_model
from torch import Tensor

from mathsft.bars import progress
from mathsft.checks import ABOVE_0, at_least, check_number
from mathsft.generation.prompt_places import PROMPT, places_of
from mathsft.models.adapter_checks import has_adapter
from mathsft.models.encoding import pad_token
from mathsft.models.forest import IGNORE, TokenSequence
from mathsft.models.sharding import check_not_sharded


@dataclass(frozen=True)
class SoftPrompt:
    """A trained soft prompt.

    ``model`` is the frozen model with the vectors before each text, a `peft.PeftModel`: it answers
    with them (`worked_answers`), and ``model.save_pretrained`` writes them. ``losses`` has the mean
    surprise of the target's tokens in each step, in nats.
    """

    model: PeftModel
    losses: list[float] = field(repr=False)


def soft_prompt(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Mapping[str, Any]],
    *,
    num_tokens: int = 1,
    prompt: str = "{question}",
    target: str = "{solution}",
    steps: int = 40,
    batch_size: int = 8,
    learning_rate: float = 0.03,
    seed: int = 0,
) -> SoftPrompt:
    """Train ``num_tokens`` vectors before the prompt; the model itself is frozen.

    Args:
        model: a causal language model without an adapter. Its weights stay as they are; afterwards
            none of them is trained (``requires_grad``).
        tokenizer: the model's tokenizer.
        rows: problems (`load_problems`).
        num_tokens: how many vectors. They start as the embeddings of random tokens.
        prompt: what the model is asked, a text with ``{question}``. peft puts the vectors before
            all of it.
        target: what it should answer, as in `search_prompt`.
        steps: steps of Adam.
        batch_size: rows in a step, padded to the longest.
        learning_rate: of Adam.
        seed: of the rows' order and the first vectors; the global random state stays as it was.

    Raises ValueError as `search_prompt` does, if the model has an adapter, and for a loss that is
    not finite.
    """
    for name, value in {"num_tokens": num_tokens, "steps": steps, "batch_size": batch_size}.items():
        check_number(name, value, at_least(1))
    check_number("learning_rate", learning_rate, ABOVE_0)
    check_number("seed", seed, at_least(0))
    if has_adapter(model):
        raise ValueError(
            "soft_prompt: the model has an adapter already. Load the base again with load_model"
        )
    if PROMPT in prompt:
        raise ValueError(
            f"soft_prompt: prompt={prompt!r} has a place {PROMPT}, but peft puts the vectors "
            "before the whole text: leave it out"
        )
    check_not_sharded(model)
    places = places_of(rows, tokenizer, template=PROMPT + prompt, target=target)
    sequences = [place.sequence([]) for place in places]
    config = PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=num_tokens,
        prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,
    )
    generator = torch.Generator().manual_seed(seed)
    # peft draws the tokens on the CPU.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        tuned: Any = get_peft_model(model, config)
    tuned.eval()  # no dropout
    trained = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=learning_rate)
    losses = []
    for step in progress(range(steps), desc="soft prompt"):
        drawn = torch.randint(len(sequences), (batch_size,), generator=generator).tolist()
        batch = _padded([sequences[n] for n in drawn], fill=pad_token(tokenizer))
        loss = tuned(**{name: value.to(model.device) for name, value in batch.items()}).loss
        if not loss.isfinite():
            raise ValueError(
                f"soft_prompt, step {step}: the loss is {loss.item()}: give a lower learning_rate, "
                "or load the model with dtype='float32'"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return SoftPrompt(tuned, losses)


def _padded(sequences: Sequence[TokenSequence], *, fill: int) -> dict[str, Tensor]:
    """The sequences as a batch that is padded on the right, where no real token looks."""
    longest = max(len(one["input_ids"]) for one in sequences)

    def table(name: str, value: int) -> Tensor:
        rows = [[*one[name], *[value] * (longest - len(one[name]))] for one in sequences]
        return torch.tensor(rows)

    seen = [[1] * len(one["input_ids"]) for one in sequences]
    mask = torch.tensor([row + [0] * (longest - len(row)) for row in seen])
    return {
        "input_ids": table("input_ids", fill),
        "labels": table("labels", IGNORE),
        "attention_mask": mask,
    }
