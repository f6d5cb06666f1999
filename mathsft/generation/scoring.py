"""Rewards of answers, from a reward model, and what they are on average for each model."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mathsft.checks import at_least, check_number, check_numbers
from mathsft.data.chat import CHAT_COLUMNS, answered
from mathsft.data.given import check_prompt, check_row, check_rows, reading_advice
from mathsft.models.attention import position_limit
from mathsft.models.encoding import pad_token
from mathsft.models.forest import TokenForest, TokenSequence
from mathsft.models.isolation import check_isolation
from mathsft.models.logprobs import last_hidden
from mathsft.models.modes import evaluating
from mathsft.objectives.documents import documents
from mathsft.objectives.reward import head_values, read_at_end
from mathsft.told import advice

if TYPE_CHECKING:
    import pandas as pd

PERCENTILES = (5, 25, 50, 75, 95)
ALL = "all"  # the name in the table if no row names its model


@dataclass(frozen=True)
class RewardScores:
    """The rewards of answers, row by row.

    ``rewards`` has for each row one number for each of its answers; ``models`` says for each row
    which model wrote them. ``prompts`` numbers the rows' prompts: equal prompts have one number.
    """

    rewards: list[list[float]]
    models: list[str]
    prompts: list[int]

    def table(self, *, confidence: float = 0.95) -> "pd.DataFrame":
        """A line for each model: n answers, their mean, its interval, the spread, percentiles.

        Columns: ``model, prompts, n, mean, low, high, std, p5, p25, p50, p75, p95``. ``std`` is the
        standard deviation of single answers. ``low`` and ``high`` are the interval of the mean:
        mean ± t standard errors, with whole prompts as observations, because answers to one prompt
        are alike. With one prompt there is no interval (nan).

        Rewards have no unit: compare models by one reward model only, and on the same prompts.

        Args:
            confidence: of the interval, between 0 and 1.
        """
        import pandas as pd

        check_numbers({"confidence": confidence})
        lines = []
        for model in dict.fromkeys(self.models):
            own = [n for n, name in enumerate(self.models) if name == model]
            values = np.array([reward for n in own for reward in self.rewards[n]])
            prompt = np.array([self.prompts[n] for n in own for _ in self.rewards[n]])
            half = _half_width(values, prompt, confidence)
            line = {
                "model": model,
                "prompts": len(set(prompt.tolist())),
                "n": len(values),
                "mean": values.mean(),
                "low": values.mean() - half,
                "high": values.mean() + half,
                "std": values.std(ddof=1) if len(values) > 1 else math.nan,
            }
            cuts = np.percentile(values, PERCENTILES)
            lines.append(line | {f"p{p}": cut for p, cut in zip(PERCENTILES, cuts, strict=True)})
        return pd.DataFrame(lines)

    def __str__(self) -> str:
        return self.table().to_string(index=False, float_format=lambda value: f"{value:.3f}")


def score(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Mapping[str, Any]],
    *,
    batch_size: int = 32,
    max_length: int = 1024,
) -> RewardScores:
    """Return the reward of each answer in ``rows``.

    The answers to one prompt share a tree, also if they are in different rows: the prompt passes
    through the model once. The rewards are those of a separate pass for each answer.

    Args:
        model: a reward model (`load_reward_model`), with or without an adapter.
        tokenizer: the model's own.
        rows: each has ``prompt`` with ``completion``, or with a list ``completions``: texts, or
            messages. Or it has ``messages``, a whole conversation. ``model``, or else ``source``,
            names the model that wrote the answers. Other columns are not read.
        batch_size: how many answers pass through the model at a time.
        max_length: tokens of a row of the forest; an answer that is longer has its own row.

    Answers are encoded as in training: a text gets a stop token, also if it was cut off before.

    Raises ValueError, naming the row, for a row without an answer, an answer that training would
    drop, one that is longer than the model's positions, and a reward that is not finite; if the
    model has no head with one output (`mathsft.objectives.reward.head_values`), or does not keep
    the branches of a forest apart.
    """
    check_number("batch_size", batch_size, at_least(1))
    check_numbers({"max_length": max_length})
    check_rows(rows, name="score")
    rows = list(rows)
    answers = [_answers(row, where=f"score, row {n}") for n, row in enumerate(rows)]
    owners = [n for n, some in enumerate(answers) for _ in some]
    sequences = _sequences([a for some in answers for a in some], owners, model, tokenizer)
    numbers: dict[str, int] = {}
    prompts = [numbers.setdefault(_asked(row), len(numbers)) for row in rows]
    order = sorted(range(len(sequences)), key=lambda place: prompts[owners[place]])
    found: list[float] = [0.0] * len(sequences)
    with evaluating(model), torch.no_grad():
        check_isolation(model)
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            trees = list(_trees(places, sequences, [prompts[n] for n in owners], max_length))
            groups = [[sequences[place] for place in tree] for tree in trees]
            longest = max(TokenForest(group).tokens for group in groups)
            forest = TokenForest.from_groups(groups, max_length=max(max_length, longest))
            tensors = forest.tensors(pad_token_id=pad_token(tokenizer))
            batch = {key: tensor.to(model.device) for key, tensor in tensors.items()}
            values = head_values(last_hidden(model, batch)[1], outputs=1)[:, 0].tolist()
            for place, value in zip((p for tree in trees for p in tree), values, strict=True):
                if not math.isfinite(value):
                    raise ValueError(
                        f"score, row {owners[place]}: the reward is {value}. Either the model's "
                        "weights are not finite, or half precision overflows: load the model with "
                        + advice(python="dtype='float32'", line="--model.dtype float32")
                    )
                found[place] = value
    taken = iter(found)
    rewards = [[next(taken) for _ in some] for some in answers]
    names = [str(row.get("model") or row.get("source") or ALL) for row in rows]
    return RewardScores(rewards, names, prompts)


def _answers(row: Mapping[str, Any], *, where: str) -> list[Mapping[str, Any]]:
    """The row's answers, each as a row of its own to encode."""
    check_row(row, where=where)
    if row.get("messages") is not None:
        names = ("messages", *CHAT_COLUMNS)
        return [{name: row[name] for name in names if row.get(name) is not None}]
    if row.get("prompt") is None:
        raise ValueError(
            f"{where}: it has neither prompt nor messages, only "
            f"{', '.join(row) or 'no columns'}{reading_advice(row)}"
        )
    check_prompt(row, where=where)
    completions = row.get("completions")
    if completions is None and row.get("completion") is not None:
        completions = [row["completion"]]
    if not isinstance(completions, list) or not completions:
        raise ValueError(
            f"{where}: there is no answer. Give completion, or completions as a list; found "
            f"{row!r:.80}"
        )
    return [answered(row, completion) for completion in completions]


def _asked(row: Mapping[str, Any]) -> str:
    return repr(row["messages"][:-1] if row.get("messages") is not None else row["prompt"])


def _sequences(
    answers: Sequence[Mapping[str, Any]], owners: Sequence[int], model: Any, tokenizer: Any
) -> list[TokenSequence]:
    """The tokens of each answer with its prompt; none is left out."""
    limit = position_limit(model.config)
    found = []
    for owner, document in zip(owners, documents(answers, tokenizer), strict=True):
        if document.dropped:
            raise ValueError(
                f"score, row {owner}: training would drop this answer: {document.dropped}"
            )
        tokens = len(document.sequences[0]["input_ids"])
        if limit is not None and tokens > limit:
            raise ValueError(
                f"score, row {owner}: prompt and answer have {tokens:,} tokens, but the model has "
                f"{limit:,} positions: leave the row out"
            )
        found.append(read_at_end(document.sequences[0]))
    return found


def _trees(
    places: Sequence[int],
    sequences: Sequence[TokenSequence],
    prompts: Sequence[int],
    max_length: int,
) -> Iterator[list[int]]:
    """Put neighbours with one prompt together, as many as ``max_length`` tokens allow."""
    tree: list[int] = []
    for place in places:
        together = [*tree, place]
        same = not tree or prompts[tree[0]] == prompts[place]
        if tree and not (
            same and TokenForest([sequences[p] for p in together]).tokens <= max_length
        ):
            yield tree
            together = [place]
        tree = together
    if tree:
        yield tree


def _half_width(values: Any, prompt: Any, confidence: float) -> float:
    """Half of the mean's interval, from the sums of the deviations of each prompt's answers."""
    from scipy.stats import t

    _, number = np.unique(prompt, return_inverse=True)
    sums = np.bincount(number, weights=values - values.mean())
    count = len(sums)
    if count < 2:
        return math.nan
    error = math.sqrt(count / (count - 1) * float((sums**2).sum())) / len(values)
    return float(t.ppf((1 + confidence) / 2, count - 1)) * error
