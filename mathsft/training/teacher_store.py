"""A teacher's likeliest words for each token of a data set, computed once and kept in a file."""

import json
from collections.abc import Iterable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from mathsft.checks import at_least, check_number
from mathsft.files import check_writable, write_whole
from mathsft.models.attention import position_limit
from mathsft.models.computation import json_hash, tensors_hash
from mathsft.models.distributions import likeliest
from mathsft.models.encoding import pad_token
from mathsft.models.logprobs import sequence_logprobs
from mathsft.models.model_files import vocabulary
from mathsft.models.modes import evaluating
from mathsft.objectives.distillation import Distillation
from mathsft.objectives.teacher_prompts import teacher_row
from mathsft.processes import say
from mathsft.training.batches import Collator
from mathsft.training.rows import training_rows
from mathsft.training.stored_teacher import STORE_FORMAT, check_replaceable, text_keys


def store_teacher(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: Any,
    teacher: Any,
    path: str | Path,
    *,
    objective: Distillation,
    max_length: int = 512,
    batch_size: int = 8,
) -> Path:
    """Ask a teacher about all rows once, and write what it says into a file.

    ``Distillation(teacher=path)`` then trains without the teacher. For each scored token the file
    holds the teacher's ``top_k`` likeliest words with their log-probabilities, that of all other
    words together, and that of the token itself: 8 k + 8 bytes for a token.

    Args:
        rows: as for `make_trainer`; those that will be trained, and those to evaluate.
        tokenizer: of the student; the teacher must have the same words.
        teacher: a loaded model with the same words.
        path: the file to write, which ends with .safetensors; it is written whole or not at all.
            An older store there is replaced, any other file is not.
        objective: with ``top_k``; its ``temperature`` and ``train_on_prompt`` count too.
        max_length: as for `make_trainer`.
        batch_size: rows that the teacher reads at once.

    Raises ValueError for a path with another ending, of a folder or of a file that is no store; for
    an objective without ``top_k``; and what `make_trainer` raises for the rows. OSError if the
    file cannot be written there.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: give a name that ends with .safetensors")
    check_replaceable(path)
    check_writable(path.parent)
    if objective.top_k is None or objective.on_policy:
        raise ValueError(
            "store_teacher: give an objective with top_k, and not on_policy: the texts that a "
            "student will write do not exist yet"
        )
    check_number("batch_size", batch_size, at_least(1))
    words = vocabulary(teacher.config)
    if len(tokenizer) > words:
        raise ValueError(
            f"teacher: its head has {words:,} rows, the tokenizer {len(tokenizer):,} words"
        )
    k = min(objective.top_k, words)
    alone = Distillation(
        packing=False, train_on_prompt=objective.train_on_prompt, temperature=objective.temperature
    )
    table = training_rows(
        rows, tokenizer, alone, max_length=max_length,
        positions=position_limit(teacher.config), name="store_teacher",
    )  # fmt: skip
    collate = Collator(alone, pad_token_id=pad_token(tokenizer), max_length=max_length)
    found: list[tuple[Tensor, ...]] = []
    sizes: list[int] = []

    def ask(token: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
        top = likeliest((logits / objective.temperature).log_softmax(-1), token, k)
        return top.words.int(), top.logprobs, top.rest, top.own

    with evaluating(teacher), torch.no_grad():
        for start in range(0, len(table), batch_size):
            part = [table[i] for i in range(start, min(start + batch_size, len(table)))]
            tensors = collate.tensors([teacher_row(row) for row in part])
            batch = {name: value.to(teacher.device) for name, value in tensors.items()}
            passed = sequence_logprobs(teacher, batch, values=False)
            order = torch.argsort(passed.sequence, stable=True)
            found.append(tuple(value[order].cpu() for value in passed.over_logits(ask)))
            sizes += passed.tokens.tolist()
    keys = [hashed for row in table for hashed in text_keys(row)]
    parts = [torch.cat(values) for values in zip(*found, strict=True)]
    tensors = {
        "keys": torch.tensor(np.frombuffer(b"".join(keys), dtype=np.uint8).copy()).view(-1, 32),
        "starts": torch.tensor([0, *accumulate(sizes)]),
        **dict(zip(("words", "logprobs", "rest", "own"), parts, strict=True)),
    }
    about = {
        "format": STORE_FORMAT,
        "teacher": str(teacher.config.name_or_path),
        "top_k": k,
        "temperature": objective.temperature,
        "vocabulary": json_hash(sorted(tokenizer.get_vocab().items())),
        "sha256": tensors_hash(sorted(tensors.items())),
    }
    write_whole(path, save(tensors, metadata={"about": json.dumps(about)}))
    size = path.stat().st_size / 1e6
    say(
        f"{path}: {k} words for each of {sum(sizes):,} tokens of {len(keys):,} texts, {size:.1f} MB"
    )
    return path
