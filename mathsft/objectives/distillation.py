"""Learning from another model's whole distribution: knowledge distillation.

Both models' logits exist only for a block of positions at a time (`mathsft.models.distributions`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from datasets import List, Value
from torch import Tensor

from mathsft.checks import ABOVE_0, AT_LEAST_0, Rule, at_least, check_number
from mathsft.data.schemas import UnusableRowError
from mathsft.models.distributions import Top, coarse, likeliest
from mathsft.models.forest import TokenForest
from mathsft.models.logprobs import SequenceLogprobs
from mathsft.objectives.base import Group, Loss, Row, answers_forest
from mathsft.objectives.divergences import DIVERGENCES, LOGIT_DISTANCES
from mathsft.objectives.groupwise import one_of
from mathsft.objectives.sft import SFT
from mathsft.objectives.teacher_prompts import after, teacher_prompt, teacher_row

LossType = Literal[
    "forward_kl", "reverse_kl", "jsd", "soft_cross_entropy", "alpha_beta", "slim", "mse", "cosine"
]
BASE = "base"  # the teacher that is the model without its adapter
_SLIM_SHARE = 0.05  # of the words, as in its paper
_SHARE = Rule(lambda value: 0 < value < 1, "a share, above 0 and below 1")
_TEACHER_LONG = "whose teacher's prompt and answer are longer than the model's {:,} positions"


@dataclass(frozen=True)
class Distillation(SFT):
    """The distance of a student's distributions from a teacher's (Hinton et al. 2015), per token.

    Off-policy, the text is that of the rows, as for `SFT`: only its tokens matter as labels, the
    teacher says what should have been likely. On-policy, the student writes the text and the
    teacher is asked about it (Agarwal et al. 2024, arXiv:2306.13649); no reward is needed.

    A row may have a ``teacher_prompt``, text or messages (in a file: text). The teacher reads it in
    place of the row's own prompt, and then the same tokens. With ``teacher="base"`` a prompt can be
    trained into the weights (Snell et al. 2022, arXiv:2209.15189).

    With z the logits at a position, T the temperature, p = softmax(z_teacher / T) and q that of the
    student, the loss of a token is T² times

    - "forward_kl", "reverse_kl", "jsd", "soft_cross_entropy", "alpha_beta" of
      `mathsft.objectives.divergences`. (T² keeps the size of the gradients.)
    - "slim": (1 - exp(-p(y) / q(y))) times "soft_cross_entropy" over the teacher's likeliest words,
      y being the text's token and the weight a constant (Raman et al. 2023, "For Distillation,
      Tokens Are Not All You Need"). ``top_k`` is 5 % of the words unless it is given.

    "mse" and "cosine" compare the logits themselves. T does not change them.

    With ``top_k`` = k, or a stored teacher, all but the teacher's k likeliest words are one word
    more: both models' probability for all of them together. So nothing is left out or rescaled, and
    with k = V it is the whole distribution.

    Args:
        packing: put several documents into a row, isolated from each other; False: one per row.
        train_on_prompt: compare the two on the question as well.
        teacher: "base": the model with its adapter switched off. A folder or a hub name: loaded by
            `load_model` when the trainer is made. A file of `store_teacher` (its name ends with
            .safetensors): what is stored in it. A loaded model is given to the trainer instead.
        teacher_adapter: an adapter of the teacher, a folder.
        loss_type: one of the above.
        beta: of "jsd": the teacher's share of the mixture.
        ab_alpha: of "alpha_beta".
        ab_beta: of "alpha_beta".
        temperature: T. Above 1, unlikely words weigh more.
        top_k: how many of the teacher's likeliest words are compared one by one; None: all.
        weight_by_label: multiply the loss of a token y by (1 - q(y)) p(y), a constant.
        ce_weight: the weight of -log q(y) at T = 1, which is added: learning from the text as well.
        on_policy: the student writes the text itself, in `rollout_trainer`.
        sampling_temperature: that of its sampling.
    """

    name = "distillation"
    columns: ClassVar = {"teacher_ids": List(List(Value("int32")))}
    unshown = frozenset({"teacher_ids"})
    needs_teacher: ClassVar[bool] = True

    teacher: str = BASE
    teacher_adapter: str | None = None
    loss_type: LossType = "forward_kl"
    beta: float = 0.5
    ab_alpha: float = 0.2
    ab_beta: float = 0.7
    temperature: float = 1.0
    top_k: int | None = None
    weight_by_label: bool = False
    ce_weight: float = 0.0
    on_policy: bool = False
    sampling_temperature: float = 1.0

    def __post_init__(self) -> None:
        one_of("loss_type", self.loss_type, get_args(LossType))
        check_number("beta", self.beta, _SHARE)
        for name in ("ab_alpha", "ab_beta", "ce_weight"):
            check_number(name, getattr(self, name), AT_LEAST_0)
        for name in ("temperature", "sampling_temperature"):
            check_number(name, getattr(self, name), ABOVE_0)
        if self.top_k is not None:
            check_number("top_k", self.top_k, at_least(1))
        if not isinstance(self.teacher, str) or not self.teacher:
            raise ValueError(
                f"teacher={self.teacher!r:.60}: give 'base', a folder or a hub name; a loaded "
                "model is an argument of make_trainer and rollout_trainer: teacher=model"
            )
        if self.ab_alpha == self.ab_beta == 0:
            raise ValueError("ab_alpha and ab_beta are both 0: give at least one above 0")
        if self.loss_type in LOGIT_DISTANCES and (self.top_k or self.temperature != 1):
            raise ValueError(
                f"loss_type={self.loss_type!r} compares all logits: leave out top_k and temperature"
            )
        object.__setattr__(self, "attempts", "compared" if self.on_policy else "")
        if self.on_policy and (self.ce_weight or self.train_on_prompt):
            raise ValueError(
                "on_policy: the text is the student's own, so ce_weight and train_on_prompt would "
                "teach it nothing: leave them out"
            )

    @property
    def logits_temperature(self) -> float:
        """That of the sampling; the loss has its own."""
        return self.sampling_temperature

    def groups(
        self, rows: Sequence[Row], tokenizer: Any, *, first: int, arrow: bool
    ) -> list[Group]:
        """`SFT`'s documents; ``teacher_ids``: the same after a row's ``teacher_prompt``, or []."""
        own = [{k: v for k, v in row.items() if k != "teacher_prompt"} for row in rows]
        groups = super().groups(own, tokenizer, first=first, arrow=arrow)
        for number, (row, group) in enumerate(zip(rows, groups, strict=True), first):
            if group.dropped:
                continue
            try:
                prompt = teacher_prompt(row, tokenizer, where=f"row {number}")
            except UnusableRowError as reason:
                group.dropped = f"{reason} (its teacher_prompt)"
                continue
            (document,) = group.sequences
            group.columns = {"teacher_ids": [[]]}
            if prompt is not None:
                if self.train_on_prompt:
                    raise ValueError(
                        f"row {number}: train_on_prompt compares the two models on the prompt, but "
                        "the row has a teacher_prompt of its own: leave one of them out"
                    )
                group.columns = {"teacher_ids": [after(prompt, document)]}
        return groups

    def drop_long(self, groups: Sequence[Group], *, max_length: int, positions: int | None) -> None:
        super().drop_long(groups, max_length=max_length, positions=positions)
        for group in groups:
            if group.dropped or positions is None:
                continue
            if max(map(len, group.columns["teacher_ids"])) - 1 > positions:
                group.dropped = _TEACHER_LONG.format(positions)

    def forest(self, rows: Sequence[Row], *, max_length: int) -> TokenForest:
        """Chains side by side; on-policy, the answers to a prompt share it."""
        if not self.on_policy:
            return super().forest(rows, max_length=max_length)
        return answers_forest(rows, max_length=max_length)

    def teacher_rows(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with the tokens that the teacher reads; [] if they are the same."""
        if not any(any(row["teacher_ids"]) for row in rows):
            return []
        return [teacher_row(row) for row in rows]

    def batch(self, rows: Sequence[Row], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """An item is a scored token; ``stored`` (T,): its place in a stored teacher."""
        batch = super().batch(rows, tensors)
        if rows and "stored" in rows[0]:
            places = [place for row in rows for place in row["stored"]]
            found = []
            for index in tensors["sequence"].tolist():  # a sequence's tokens are in order
                found.append(places[index])
                places[index] += 1
            batch["stored"] = torch.tensor(found, dtype=torch.long)
        return batch

    def loss(self, logprobs: SequenceLogprobs, batch: Mapping[str, Tensor]) -> Loss:
        assert logprobs.reference is not None  # the teacher
        values, ours, theirs = logprobs.over_logits(self.compared, logprobs.reference)
        return Loss(values.sum(), {"logps/student": ours, "logps/teacher": theirs})

    def compared(
        self, token: Tensor, logits: Tensor, teacher: Tensor | Top
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss (n,), and log q(y) and log p(y) of the text's tokens (n,), at T.

        ``token`` (n,); ``logits`` (n, V), the student's; ``teacher``: its logits, or its likeliest
        words at T.
        """
        student = self._softened(logits)
        ours = _at(student, token)
        if self.loss_type in LOGIT_DISTANCES:
            assert isinstance(teacher, Tensor)  # a stored one is refused earlier
            theirs = _at(teacher, token) - teacher.logsumexp(-1)
            value = LOGIT_DISTANCES[self.loss_type](logits, teacher)
        else:
            value, theirs = self._divergence(token, student, teacher)
            value = value * self.temperature**2
            if self.loss_type == "slim":
                value = value * -torch.expm1(-torch.exp(theirs - ours.detach()))
        if self.weight_by_label:
            value = value * -torch.expm1(ours.detach()) * theirs.exp()
        if self.ce_weight:
            value = value + self.ce_weight * (logits.logsumexp(-1) - _at(logits, token))
        return value, ours, theirs

    def _divergence(
        self, token: Tensor, student: Tensor, teacher: Tensor | Top
    ) -> tuple[Tensor, Tensor]:
        """The divergence (n,) without weights, and log p(y) (n,)."""
        few = self.words_compared(student.shape[-1])
        if isinstance(teacher, Tensor):
            teacher = self._softened(teacher)
            if few is not None:
                teacher = likeliest(teacher, token, few)
        if isinstance(teacher, Top):
            theirs = teacher.own
            student, teacher = coarse(student, teacher)
        else:
            theirs = _at(teacher, token)
        settings: dict[str, Any] = {
            "jsd": {"beta": self.beta},
            "alpha_beta": {"alpha": self.ab_alpha, "beta": self.ab_beta},
        }
        function = DIVERGENCES[self.loss_type]
        return function(student, teacher, **settings.get(self.loss_type, {})), theirs

    def words_compared(self, words: int) -> int | None:
        """How many of the teacher's words are compared one by one; None: all."""
        if self.top_k is None and self.loss_type == "slim":
            return max(1, round(_SLIM_SHARE * words))
        return None if self.top_k is None or self.top_k >= words else self.top_k

    def _softened(self, logits: Tensor) -> Tensor:
        """Log-probabilities at T."""
        return (logits if self.temperature == 1 else logits / self.temperature).log_softmax(-1)


def _at(values: Tensor, token: Tensor) -> Tensor:
    return values.gather(-1, token[:, None])[:, 0]
