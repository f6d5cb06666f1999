"""What all losses over groups of scored answers to one prompt share: rows, passes, the KL.

With lp_t the log-probability of a token under the model, lp_old_t under the model that wrote it and
lp_ref_t under the model before training; s, s_old, s_ref are their sums over an answer.

A penalty beta * KL keeps the model near the one before training (Schulman 2020,
joschu.net/blog/kl-approx.html). It is off by default. With d = lp_ref_t - lp_t:

- "k3": exp(d) - d - 1, added to the loss of each token (GRPO's);
- "k2": d² / 2, added to the loss of each token. On fresh samples its gradient is that of the KL;
- "k1": beta (s_old - s_ref) is subtracted from the reward. In a loss, k1 would do nothing: the
  mean gradient of lp_t over a model's own samples is 0. The baseline applies to it as well if it
  is over a group, the scale does not. Stored answers count as those of the model before training,
  so it would be 0 there, and is refused. (A loss without ratios takes s for s_old: it can be used.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from datasets import List, Value
from torch import Tensor

from mathsft.checks import ABOVE_0, AT_LEAST_0, check_number
from mathsft.data.chat import answered
from mathsft.data.given import given_row
from mathsft.data.schemas import UnusableRowError
from mathsft.models.forest import IGNORE, TokenForest
from mathsft.models.logprobs import SequenceLogprobs
from mathsft.objectives.advantages import Baseline, Scale, advantages, fewest_answers
from mathsft.objectives.base import Group, Loss, Objective, Row, answers_forest
from mathsft.objectives.documents import documents


@dataclass(frozen=True)
class Policy(Objective):
    """Base class of policy losses: a subclass defines ``surrogate``.

    A row is a prompt with its answers: stored ones (prompt, completions, rewards), or those that
    `RolloutTrainer` samples. Its answers share the prompt in the forest. An answer whose advantage
    is 0 has no gradient: it does not pass through the model unless the model is compared with a
    reference, but it counts in the number that the loss is divided by.

    Class attributes:
        per: what the loss is a mean over: "answer", "token" or "group".
        ratios: whether the loss divides by the probability under the model that wrote the answers.
            For stored answers that is taken to be the model before training.

    Args:
        beta: the weight of the KL to the model before training; 0: none is computed.
        kl_estimator: "k1", "k2" or "k3", as above.
        baseline: what an answer's reward is compared with (`groupwise.advantages`).
        scale_rewards: what the difference is divided by (`groupwise.advantages`).
        temperature: the temperature of the sampling. The log-probabilities are of the model at
            this temperature, as in TRL: it is the model that wrote the answers.
        mask_truncated_completions: leave answers that were cut at the length limit out of the loss
            (the overlong filter of Yu et al. 2025, arXiv:2503.14476).
    """

    kinds = ("group",)
    nouns = ("groups", "answers")
    dropout = False  # it would make ratios noisy
    columns: ClassVar = {"rewards": List(Value("float64")), "ended": List(Value("bool"))}
    # The rate is TRL's advice for adapters.
    defaults: ClassVar = {"per_device_train_batch_size": 8, "learning_rate": 1e-5}
    ratios: ClassVar[bool] = True
    attempts: ClassVar = "judged"

    beta: float = 0.0
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    baseline: Baseline = "group"
    scale_rewards: Scale = "none"
    temperature: float = 1.0
    mask_truncated_completions: bool = False

    def __post_init__(self) -> None:
        check_number("beta", self.beta, AT_LEAST_0)
        check_number("temperature", self.temperature, ABOVE_0)
        one_of("kl_estimator", self.kl_estimator, ("k1", "k2", "k3"))
        one_of("baseline", self.baseline, get_args(Baseline))
        one_of("scale_rewards", self.scale_rewards, get_args(Scale))
        object.__setattr__(self, "needs_reference", self.beta > 0)

    @property
    def per(self) -> Literal["answer", "token", "group"]:
        return "token"

    def groups(
        self, rows: Sequence[Row], tokenizer: Any, *, first: int, arrow: bool
    ) -> list[Group]:
        """``prompt`` with ``completions`` and ``rewards``; an answer's stop token is scored too.

        An answer that was cut (``ended`` is false) gets no stop token. A group is dropped if SFT
        would drop one of its answers.
        """
        if self.ratios and self.beta and self.kl_estimator == "k1":
            raise ValueError(
                "kl_estimator='k1' compares the model that wrote the answers with the one before "
                "training, but for stored answers these are the same: give 'k3', 'k2' or beta=0"
            )
        groups = [Group() for _ in rows]
        answers: list[Row] = []
        owners: list[tuple[int, bool]] = []  # each answer's group, and whether it ended
        for index, row in enumerate(rows):
            unread, where = groups[index].unread, f"row {first + index}"
            try:
                read = given_row(row, where=where, counted=unread, arrow=arrow, kinds=self.kinds)
            except UnusableRowError as reason:
                groups[index] = Group(dropped=str(reason))
                continue
            if len(read["completions"]) < fewest_answers(self.baseline, self.scale_rewards):
                groups[index] = Group(dropped="with a single answer, which has nothing to compare")
                continue
            ended = read.get("ended") or [True] * len(read["completions"])
            groups[index].columns = {"rewards": read["rewards"], "ended": ended}
            answers += [answered(read, answer) for answer in read["completions"]]
            owners += [(index, whole) for whole in ended]
        for (owner, whole), found in zip(owners, documents(answers, tokenizer), strict=True):
            sequences = found.sequences if whole else [*map(_unstopped, found.sequences)]
            groups[owner].dropped = groups[owner].dropped or found.dropped
            groups[owner].sequences = [*groups[owner].sequences, *sequences]
            if any(set(one["labels"]) == {IGNORE} for one in sequences):
                groups[owner].dropped = "with an answer that was cut before its first token"
        return groups

    def drop_long(self, groups: Sequence[Group], *, max_length: int, positions: int | None) -> None:
        """Drop groups with an answer that is too long on its own; a large group is divided."""
        for group in groups:
            if not group.dropped:
                each = [Group(sequences=[sequence]) for sequence in group.sequences]
                super().drop_long(each, max_length=max_length, positions=positions)
                group.dropped = next((one.dropped for one in each if one.dropped), "")
                group.length = self.length(group.sequences)

    def rows(self, groups: Any, *, max_length: int) -> tuple[Any, str]:
        rewards = [list(group) for group in groups["rewards"]]
        equal = sum(min(group) == max(group) for group in rewards)
        told = f"; {equal:,} groups have equal rewards" if equal else ""
        return groups.add_column("advantages", self.advantages(rewards)), told

    def passing(self, row: Row) -> Row:
        """The answers that pass through the model, and ``items``: how many the loss counts."""
        answers = range(len(row["input_ids"]))
        counted = [index for index in answers if self.counts(row, index)]
        here = [index for index in counted if self.needs_reference or row["advantages"][index]]
        tokens = sum(n != IGNORE for index in counted for n in row["labels"][index])
        kept = {
            key: [values[index] for index in here]
            for key, values in row.items()
            if isinstance(values, list)
        }
        items = {"answer": len(answers), "token": tokens, "group": 1}
        return {**kept, "items": items[self.per]}

    def forest(self, rows: Sequence[Row], *, max_length: int) -> TokenForest:
        """A group that is longer than a row is divided; each part has the prompt again."""
        return answers_forest(rows, max_length=max_length)

    def batch(self, rows: Sequence[Row], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``advantages`` (S,), and ``group`` (S,): the number of each answer's row.

        S counts the sequences of the forest; fillers come last and have the advantage 0.
        """
        count = len(tensors["scored_tokens"])
        values = [value for row in rows for value in row["advantages"]]
        group = [place for place, row in enumerate(rows) for _ in row["advantages"]]
        fillers = count - len(values)
        return {
            "labels": torch.zeros(sum(row["items"] for row in rows), dtype=torch.long),
            "advantages": torch.tensor([*values, *[0.0] * fillers], dtype=torch.float32),
            "group": torch.tensor([*group, *[len(rows)] * fillers], dtype=torch.long),
        }

    @property
    def logits_temperature(self) -> float:
        return self.temperature

    def advantages(self, rewards: Sequence[Sequence[float]]) -> list[list[float]]:
        """The advantages of all answers that are learned from at a time."""
        return advantages(rewards, baseline=self.baseline, scale_rewards=self.scale_rewards)

    def counts(self, row: Row, index: int) -> bool:
        """Whether an answer of the row has a loss at all."""
        return not (self.mask_truncated_completions and "ended" in row and not row["ended"][index])

    def surrogate(
        self, logprobs: SequenceLogprobs, old: Tensor, advantage: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss of each token (T,), and whether clipping has removed its gradient (T,).

        ``old`` (T,): log-probabilities under the model that wrote the answers; ``advantage`` (S,).
        """
        raise NotImplementedError

    def loss(self, logprobs: SequenceLogprobs, batch: Any) -> Loss:
        """Summed over the items: answers, tokens or groups (``per``)."""
        values, reference = logprobs.values, logprobs.reference
        old = values.detach() if logprobs.old is None else logprobs.old.values
        advantage = batch["advantages"]
        metrics: dict[str, Tensor] = {}
        if reference is not None:
            d = reference.values - values
            kl = torch.exp(d) - d - 1 if self.kl_estimator == "k3" else d**2 / 2
            metrics["kl"] = (values - reference.values).detach()
            if self.kl_estimator == "k1":
                penalty = logprobs.over_sequences(old - reference.values)
                advantage = advantage - self.beta * self._centred(penalty, batch["group"])
        loss, clipped = self.surrogate(logprobs, old, advantage)
        if "importance_weight" in batch:  # another program wrote the answers
            loss = loss * batch["importance_weight"]
        if reference is not None and self.kl_estimator != "k1":
            loss = loss + self.beta * kl
        metrics["clip_ratio/region_mean"] = clipped.float()
        return Loss(self.total(loss, logprobs, batch), metrics)

    def total(self, loss: Tensor, logprobs: SequenceLogprobs, batch: Any) -> Tensor:
        """The sum over the items of a batch, from the loss of each token (T,)."""
        return loss.sum()

    def _centred(self, penalty: Tensor, group: Tensor) -> Tensor:
        if self.baseline not in ("group", "leave_one_out"):
            return penalty
        size = torch.bincount(group).to(penalty)
        mean = torch.zeros_like(size).index_add(0, group, penalty) / size.clamp(min=1)
        centred, size = penalty - mean[group], size[group]
        return centred * size / (size - 1).clamp(min=1) if self.baseline != "group" else centred


def _unstopped(sequence: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
    """The sequence without its last scored token, the stop token, and what follows it."""
    labels = sequence["labels"]
    end = max(place for place, label in enumerate(labels) if label != IGNORE)
    return {"input_ids": sequence["input_ids"][:end], "labels": labels[:end]}


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise ValueError unless the value is one of those known."""
    if value not in known:
        raise ValueError(f"{name}={value!r}: give {', '.join(known[:-1])} or {known[-1]}")
