"""Small random models of many architectures: is each objective exact on them, or refused?

    python benchmarks/architectures.py            # prints the table
    python benchmarks/architectures.py --write    # also writes it into docs/models.md

Each model has two layers, a width of 32 and random weights. Windows, if the architecture has them,
have 8 tokens, and sequences have 20 to 44. "equal" means: loss and gradients of one pass over a
forest equal those of passing each sequence on its own, and log-likelihoods equal those of
lm-evaluation-harness's own `HFLM`.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from architecture_table import ARCHITECTURES, SIZES, WHY
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import AutoConfig, AutoModelForCausalLM

from mathsft.evaluation.harness import ForestLM
from mathsft.evaluation.requests import quiet_harness
from mathsft.models.attention import caps_attention, layer_windows
from mathsft.models.forest import IGNORE, TokenSequence
from mathsft.models.isolation import check_isolation
from mathsft.models.logprobs import sequence_logprobs
from mathsft.models.model_files import checked_source
from mathsft.models.pretrained import load_tokenizer
from mathsft.objectives.base import Objective
from mathsft.objectives.multiple_choice import MultipleChoice
from mathsft.objectives.preference import DPO
from mathsft.objectives.sft import SFT
from mathsft.training.batches import Collator

PAGE = Path(__file__).resolve().parent.parent / "docs" / "models.md"
START, END = "<!-- table: benchmarks/architectures.py --write -->", "<!-- end of the table -->"
# Relative, in float32: only the rounding of sums in another order.
LOSS_TOLERANCE, GRADIENT_TOLERANCE, SCORE_TOLERANCE = 1e-4, 2e-3, 1e-3
Groups = Sequence[Sequence[TokenSequence]]


def build(name: str, attention: str | None = None) -> Any:
    """The random model of this name; its attention is sdpa, or eager if it has no sdpa."""
    settings = {**SIZES, **ARCHITECTURES[name]}
    config = AutoConfig.for_model(settings.pop("model_type", name), **settings)
    if attention is None and caps_attention(config):
        attention = "eager"
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():  # larger than at initialisation, so that a wrong mask is noticed
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4)
    return model


def _tokens(count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, SIZES["vocab_size"], (count,), generator=generator).tolist()


def _sequence(start: list[int], rest: list[int]) -> TokenSequence:
    return {"input_ids": start + rest, "labels": [IGNORE] * len(start) + rest}


DOCUMENTS: Groups = [[_sequence(_tokens(1, n), _tokens(19 + n, 10 + n))] for n in range(3)]
QUESTIONS: Groups = [
    [_sequence(_tokens(20, 20 + q), _tokens(3 + c, 30 + 5 * q + c)) for c in range(3)]
    for q in range(2)
]
PAIRS: Groups = [[_sequence(_tokens(12, 50), _tokens(14 + 4 * c, 60 + c)) for c in range(2)]]


@dataclass(frozen=True)
class Compared:
    """An objective, its groups, and its loss by hand from their summed log-probabilities (S,)."""

    objective: Objective
    groups: Groups
    loss: Callable[[Tensor], Tensor]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The groups as rows to train on; the second choice is the right one."""
        return [
            {
                "input_ids": [sequence["input_ids"] for sequence in group],
                "labels": [sequence["labels"] for sequence in group],
                "characters": [1] * len(group),
                "label": 1,
            }
            for group in self.groups
        ]


# To add an objective, add a line here: it becomes a column of the table. In place of a reference
# model, a constant gives every token the probability 1/e.
OBJECTIVES: dict[str, Compared] = {
    "SFT": Compared(
        SFT(packing=False),
        DOCUMENTS,
        lambda sums: -sum(sums) / sum(len(s["labels"]) - 1 for (s,) in DOCUMENTS),
    ),
    "choices": Compared(
        MultipleChoice(), QUESTIONS, lambda sums: -sums.reshape(2, 3).log_softmax(-1)[:, 1].mean()
    ),
    "DPO": Compared(
        DPO(), PAIRS, lambda sums: -logsigmoid(0.1 * ((sums[0] + 14) - (sums[1] + 18)))
    ),
}


def by_forest(model: Any, compared: Compared) -> Tensor:
    """The loss from one pass over a forest, as the trainer computes it."""
    batch = Collator(compared.objective, pad_token_id=0, max_length=64)(compared.rows)
    found = sequence_logprobs(model, batch)
    constant = replace(found, values=-torch.ones_like(found.values))
    loss = compared.objective.loss(replace(found, reference=constant), batch)
    return loss.total / len(batch["labels"])


def by_sequence(model: Any, compared: Compared) -> Tensor:
    """The loss from each sequence on its own, with no mask and none of this package's code."""
    sums = []
    for sequence in (sequence for group in compared.groups for sequence in group):
        ids, labels = (torch.tensor(sequence[key]) for key in ("input_ids", "labels"))
        # Some configurations request router logits; the loss on them is not compared.
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
        scored = labels[1:] != IGNORE
        logprobs = logits.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]]
        sums.append(logprobs[scored].sum())
    return compared.loss(torch.stack(sums))


def _with_gradients(model: Any, loss: Tensor) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return float(loss.detach()), found


def exactness(model: Any, compared: Compared) -> str:
    """ "equal", or how much loss or gradients differ."""
    ours, our_gradients = _with_gradients(model, by_forest(model, compared))
    theirs, their_gradients = _with_gradients(model, by_sequence(model, compared))
    loss = abs(ours - theirs) / abs(theirs)
    scale = max(float(gradient.abs().max()) for gradient in their_gradients.values())
    gradient = max(
        float((our_gradients[name] - their_gradients[name]).abs().max()) / scale
        for name in their_gradients
    )
    if our_gradients.keys() != their_gradients.keys():
        return "other parameters have gradients"
    if loss <= LOSS_TOLERANCE and gradient <= GRADIENT_TOLERANCE:
        return "equal"
    return f"differs by {loss:.1e} (loss), {gradient:.1e} (gradients)"


@cache
def _tokenizer() -> Any:
    return load_tokenizer(checked_source("tiny", None), None)


REQUESTS = [
    (f"### Question:\nTom has {n + 5} apples and eats {n}. How many are left?\n\n", choice)
    for n in range(2)
    for choice in ("#### 5", "#### 12 apples", "none of them is left")
]


def scoring(model: Any) -> str:
    """ "equal" if the harness's own model gives the same log-likelihoods and predictions."""
    asked = [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(REQUESTS)]
    with quiet_harness(), torch.no_grad():
        ours = ForestLM(model, tokenizer=_tokenizer()).loglikelihood(asked, disable_tqdm=True)
        stock = HFLM(pretrained=model, tokenizer=_tokenizer(), batch_size=8, max_length=256)
        theirs = stock.loglikelihood(asked, disable_tqdm=True)
    apart = max(abs(a - b) / abs(b) for (a, _), (b, _) in zip(ours, theirs, strict=True))
    greedy = all(a == b for (_, a), (_, b) in zip(ours, theirs, strict=True))
    return "equal" if greedy and apart <= SCORE_TOLERANCE else f"differs by {apart:.1e}"


@dataclass(frozen=True)
class Outcome:
    """One line of the table."""

    name: str
    sees: str
    attention: str
    cells: Mapping[str, str]  # by objective
    scored: str
    remark: str

    def line(self) -> str:
        """The line as Markdown."""
        cells = [self.name, self.sees, self.attention, *self.cells.values(), self.scored]
        return f"| {' | '.join([*cells, self.remark])} |"


def outcome(name: str) -> Outcome:
    """Measure everything that the table says about one architecture."""
    model = build(name)
    kinds = {
        "all" if window is None else "piece" if window.chunks else "window"
        for window in layer_windows(model.config).values()
    }
    sees = " and ".join(sorted(kinds))
    attention = model.config._attn_implementation
    try:
        check_isolation(model)
        cells = {title: exactness(model, compared) for title, compared in OBJECTIVES.items()}
    except ValueError:
        cells = dict.fromkeys(OBJECTIVES, "refused")
    scored = scoring(model)
    if set(cells.values()) == {"refused"}:
        sees, scored = "", f"{scored}, one by one"
    return Outcome(name, sees, attention, cells, scored, WHY.get(name, ""))


def table() -> str:
    """The table with its head."""
    head = ["architecture", "a layer sees", "attention", *OBJECTIVES, "scoring", "why"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(outcome(name).line() for name in ARCHITECTURES)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--write", action="store_true", help="write the table into docs/models.md")
    write = parser.parse_args().write
    made = table()
    print(made)
    if write:
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(START)
        after = rest.partition(END)[2]
        PAGE.write_text(f"{before}{START}\n{made}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
