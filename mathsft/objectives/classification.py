"""Classification: the class of a text, several classes that can be true at once, or a number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from datasets import List, Value
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from mathsft.data.cells import from_arrow
from mathsft.data.chat import CHAT_COLUMNS, answered
from mathsft.data.given import check_prompt, reading_advice
from mathsft.data.labelled import MULTI, REGRESSION, SINGLE, Label, head_for, head_of, read_label
from mathsft.data.schemas import UnusableRowError, text_of
from mathsft.models.chat_template import control_tokens
from mathsft.models.encoding import encode_prompts
from mathsft.models.logprobs import SequenceLogprobs
from mathsft.objectives.base import Group, Loss, Objective, Row
from mathsft.objectives.conversations import refuse_control
from mathsft.objectives.documents import documents
from mathsft.objectives.reward import head_values, read_at_end


@dataclass(frozen=True)
class Classification(Objective):
    """The losses of transformers' models for sequence classification, at a text's last token.

    With z, the outputs of the head ``score`` for a row:

    - a single label c (binary, or several classes): -log softmax(z)[c]. Chance is ln C for C
      classes.
    - several labels y, each 0 or 1: the mean over the classes of
      -y log sigmoid(z) - (1 - y) log sigmoid(-z). Chance is ln 2.
    - a number y: (z - y)².

    The rows' labels decide which one it is (`mathsft.data.labelled`). The model's head must fit:
    ``load_reward_model(name, **head_for(rows))`` loads it with as many outputs as are needed, and
    stores the type in ``config.problem_type``, which transformers' own classes and pipelines read.

    Rows have ``label`` and ``text``; or ``prompt`` with ``completion``; or ``messages``. Columns
    that are not read are not counted here. A text is encoded as the tokenizer encodes it, without
    a stop token. Answers and conversations get one, as in `RewardModel`.

    The logged metrics: ``accuracy`` for single labels; for several labels ``exact_match`` (all are
    right) and, per row, ``true_positives``, ``predicted`` and ``positives``, from which `micro_f1`
    is computed; ``absolute_error`` for numbers.
    """

    name = "classification"
    kinds = ("unpaired",)  # of those that `load_problems` reads
    writes = False
    needs_hidden = True
    nouns = ("rows", "texts")
    columns: ClassVar = {"problem": Value("string"), "target": List(Value("float64"))}
    scored_share = 0.0  # nothing is projected onto the vocabulary
    # As for `RewardModel`: a new head starts near 0, and must move far.
    defaults: ClassVar = {
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-4,
        "warmup_steps": 0.1,
    }

    def head(self, rows: Any) -> dict[str, Any]:
        """Arguments of `load_reward_model` that fit these rows."""
        return head_for(rows)

    def groups(
        self, rows: Sequence[Row], tokenizer: Any, *, first: int, arrow: bool
    ) -> list[Group]:
        """Each row's tokens, marked at the last one; dropped if a text is empty or unusable."""
        groups = [Group() for _ in rows]
        given = [from_arrow(dict(row)) if arrow else row for row in rows]
        texts: dict[int, str] = {}
        answers: dict[int, Row] = {}
        control = control_tokens(tokenizer)
        for index, row in enumerate(given):
            where = f"row {first + index}"
            label = read_label(row, where=where)
            groups[index].columns = {"problem": label.problem, "target": label.values}
            try:
                if row.get("text") is not None:
                    text_of(row, "text", where=where)
                    refuse_control([row["text"]], control)
                    texts[index] = row["text"]
                else:
                    answers[index] = _answer(row, where=where)
            except UnusableRowError as reason:
                groups[index].dropped = str(reason)
        for index, ids in zip(texts, encode_prompts(tokenizer, list(texts.values())), strict=True):
            groups[index].sequences = [read_at_end({"input_ids": ids, "labels": ids})]
        made = documents(list(answers.values()), tokenizer)
        for index, document in zip(answers, made, strict=True):
            groups[index].dropped = document.dropped
            groups[index].sequences = [read_at_end(one) for one in document.sequences]
        return groups

    def rows(self, groups: Any, *, max_length: int) -> tuple[Any, str]:
        """All rows must have labels of one type. Raises ValueError if they have not."""
        pairs = zip(groups["problem"], groups["target"], strict=True)
        head = head_of(Label(problem, values) for problem, values in pairs)
        return groups, f"; {head['problem_type']}, {head['num_labels']} outputs"

    def batch(self, rows: Sequence[Row], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``target``: (N,) int64 for single labels, (N,) float32 numbers, (N, C) float32."""
        problem = rows[0]["problem"] if rows else SINGLE
        target = torch.tensor([row["target"] for row in rows], dtype=torch.float32)
        if problem != MULTI:
            target = target.reshape(len(rows))
        if problem == SINGLE:
            target = target.long()
        return {**super().batch(rows, tensors), "target": target}

    def loss(self, logprobs: SequenceLogprobs, batch: Mapping[str, Tensor]) -> Loss:
        """Summed over the rows."""
        target = batch["target"]
        outputs = head_values(logprobs.value)[batch["choice"][:, 0]]
        problem = (
            MULTI if target.ndim == 2 else REGRESSION if target.is_floating_point() else SINGLE
        )
        _check_outputs(outputs.shape[1], target, problem)
        found = outputs.detach()
        if problem == SINGLE:
            total = cross_entropy(outputs, target, reduction="sum")
            return Loss(total, {"accuracy": (found.argmax(1) == target).float()})
        if problem == REGRESSION:
            total = (outputs[:, 0] - target).square().sum()
            return Loss(total, {"absolute_error": (found[:, 0] - target).abs()})
        losses = binary_cross_entropy_with_logits(outputs, target, reduction="none")
        said, true = found > 0, target > 0.5
        metrics = {
            "exact_match": (said == true).all(1).float(),
            "true_positives": (said & true).sum(1).float(),
            "predicted": said.sum(1).float(),
            "positives": true.sum(1).float(),
        }
        return Loss(losses.mean(1).sum(), metrics)


def micro_f1(metrics: Mapping[str, float], *, prefix: str = "eval_") -> float:
    """F1 over all labels of all rows, from what `Classification` logged; nan if there is none.

    2 true positives / (predicted + positives). The logged means per row give the same quotient as
    the sums.

    Args:
        metrics: what ``trainer.evaluate()`` returned, or a line of the log.
        prefix: of the names: "eval_", or "" for a line of the training log.
    """
    predicted, positives = metrics[f"{prefix}predicted"], metrics[f"{prefix}positives"]
    if not predicted + positives:
        return float("nan")
    return 2 * metrics[f"{prefix}true_positives"] / (predicted + positives)


def _answer(row: Row, *, where: str) -> Row:
    names = ("messages", *CHAT_COLUMNS)
    if row.get("messages") is not None:
        return {name: row[name] for name in names if row.get(name) is not None}
    if row.get("prompt") is None or row.get("completion") is None:
        raise ValueError(
            f"{where}: expected text, or prompt and completion, or messages beside the label; "
            f"found {', '.join(row)}{reading_advice(row)}"
        )
    check_prompt(row, where=where)
    return answered(row, row["completion"])


def _check_outputs(outputs: int, target: Tensor, problem: str) -> None:
    """Raise ValueError if the head does not fit the labels: on a GPU, PyTorch would only abort."""
    needed = target.shape[1] if problem == MULTI else 1
    fits = outputs == needed
    if problem == SINGLE:
        needed = 1 + int(target.max()) if len(target) else 2
        fits = outputs >= max(2, needed)
    if not fits:
        raise ValueError(
            f"the model's head has {outputs} outputs, and these labels ({problem}) need "
            f"{needed}: load it with load_reward_model(name, **head_for(rows))"
        )
