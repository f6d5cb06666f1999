"""A teacher's likeliest words for each token of a data set, computed once and kept in a file."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, List, Value
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mathsft.checks import at_least, check_number
from mathsft.compat import without_progress_bars
from mathsft.files import check_regular, check_writable, parse_json, write_whole
from mathsft.models.attention import position_limit
from mathsft.models.computation import json_hash, tensors_hash
from mathsft.models.distributions import ScoredTop, Top, likeliest
from mathsft.models.encoding import pad_token
from mathsft.models.logprobs import SequenceLogprobs, sequence_logprobs
from mathsft.models.model_files import vocabulary
from mathsft.models.modes import evaluating
from mathsft.objectives.distillation import Distillation
from mathsft.objectives.teacher_prompts import teacher_row
from mathsft.processes import say
from mathsft.training.batches import Collator
from mathsft.training.rows import training_rows

_FORMAT = "mathsft teacher store 1"
_TENSORS = {
    "keys": torch.uint8, "starts": torch.int64, "words": torch.int32, "logprobs": torch.float32,
    "rest": torch.float32, "own": torch.float32,
}  # fmt: skip


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
        objective: with ``top_k``; its ``temperature`` and ``train_on_prompt`` count too.
        max_length: as for `make_trainer`.
        batch_size: rows that the teacher reads at once.

    Raises ValueError for a path with another ending or of a folder, an objective without ``top_k``,
    and what `make_trainer` raises for the rows; OSError if the file cannot be written there.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: give a name that ends with .safetensors")
    if path.is_dir():
        raise ValueError(f"{path}: a folder; give the name of a file")
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
    keys = [hashed for row in table for hashed in _keys(row)]
    parts = [torch.cat(values) for values in zip(*found, strict=True)]
    tensors = {
        "keys": torch.tensor(np.frombuffer(b"".join(keys), dtype=np.uint8).copy()).view(-1, 32),
        "starts": torch.tensor([0, *accumulate(sizes)]),
        **dict(zip(("words", "logprobs", "rest", "own"), parts, strict=True)),
    }
    about = {
        "format": _FORMAT,
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


def _keys(row: Mapping[str, Any]) -> list[bytes]:
    """SHA-256 of each text of a row: its tokens, which of them are scored, the teacher's prompt."""
    texts = zip(row["input_ids"], row["labels"], row["teacher_ids"], strict=True)
    return [hashlib.sha256(json.dumps([*map(list, text)]).encode()).digest() for text in texts]


@dataclass(frozen=True)
class StoredTeacher:
    """What `store_teacher` wrote, read and checked."""

    path: Path
    identity: str
    tensors: Mapping[str, Tensor] = field(repr=False)
    places: Mapping[bytes, int] = field(repr=False)

    @classmethod
    def of(
        cls, path: str | Path, objective: Distillation, model: Any, tokenizer: Any
    ) -> "StoredTeacher":
        """Read a store for an objective.

        Raises FileNotFoundError if there is none; ValueError if it is damaged, was made with
        another tokenizer or temperature, or cannot serve the objective's loss.
        """
        path = Path(path)
        if objective.on_policy:
            raise ValueError(
                f"{path}: on_policy needs a teacher that reads new texts, not a store of old ones"
            )
        if objective.loss_type in ("mse", "cosine"):
            raise ValueError(
                f"{path}: loss_type={objective.loss_type!r} compares logits, a store holds "
                "probabilities: take forward_kl, or a teacher that is loaded"
            )
        about, tensors = _read(path)
        if about["vocabulary"] != json_hash(sorted(tokenizer.get_vocab().items())):
            raise ValueError(f"{path}: it was made with another tokenizer: run store_teacher again")
        if about["temperature"] != objective.temperature:
            raise ValueError(
                f"{path}: it was made at temperature {about['temperature']}, the objective has "
                f"{objective.temperature}: the other words' share cannot be computed from it. Run "
                "store_teacher again"
            )
        wanted = objective.words_compared(vocabulary(model.config))
        k = tensors["words"].shape[1]
        if objective.top_k is not None and wanted is not None and wanted != k:
            raise ValueError(f"{path}: it holds {k} words for each token, top_k asks for {wanted}")
        if int(tensors["words"].max()) >= vocabulary(model.config):
            raise ValueError(f"{path}: it names words that the model's head does not have")
        if k > vocabulary(model.config):
            raise ValueError(f"{path}: it holds {k} words, more than the model's head has")
        say(f"teacher: {path}, {k} stored words for each token ({about['teacher']})")
        keys = tensors["keys"].numpy()
        places = {row.tobytes(): number for number, row in enumerate(keys)}
        return cls(path, about["sha256"], tensors, places)

    def with_places(self, rows: Dataset) -> Dataset:
        """Rows with ``stored``: for each sequence the place of its first token in the store.

        Raises ValueError if the store lacks one of them.
        """
        starts, missing = self.tensors["starts"].tolist(), 0
        stored: list[list[int]] = []
        for row in rows:
            found = [self.places.get(key, -1) for key in _keys(row)]
            missing += sum(place < 0 for place in found)
            stored.append([starts[place] for place in found])
        if missing:
            count = sum(map(len, stored))
            raise ValueError(
                f"{self.path}: {missing:,} of {count:,} texts are not in it. It was made from "
                "other rows, or with other settings: run store_teacher with these rows, the same "
                "tokenizer, train_on_prompt and teacher_prompt"
            )
        with without_progress_bars():
            return rows.add_column("stored", stored, feature=List(Value("int64")))

    def logprobs(
        self, batch: Mapping[str, Tensor], *, trainer: Any, wrapped: Any
    ) -> SequenceLogprobs:
        """What is stored for the batch's scored tokens, to be read with `over_logits`."""
        if "stored" not in batch:
            raise ValueError(
                f"{self.path}: these rows were not looked up in it: give them as eval_rows when "
                "the trainer is made"
            )
        sequence, at = batch["sequence"], batch["stored"].cpu()
        tensors = self.tensors
        parts = (tensors[name][at].to(sequence.device) for name in ("words", "logprobs"))
        one = (tensors[name][at].to(sequence.device) for name in ("rest", "own"))
        top = ScoredTop(Top(*parts, *one), torch.arange(len(at), device=sequence.device))
        none = torch.zeros(0, device=sequence.device)
        return SequenceLogprobs(none, sequence, batch["scored_tokens"], _logits=top)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The store's description and tensors. Raises ValueError, with the file, if it is damaged."""
    check_regular(path)
    if path.is_dir():
        raise ValueError(f"{path}: a folder; a store is a file that store_teacher made")
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such store; store_teacher makes one")
    try:
        with safe_open(path, framework="pt") as file:
            about = parse_json((file.metadata() or {}).get("about", "null"), path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from None
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise ValueError(f"{path}: not made by store_teacher")
    kinds = {name: tensor.dtype for name, tensor in tensors.items()}
    if kinds != _TENSORS or about.get("sha256") != tensors_hash(sorted(tensors.items())):
        raise ValueError(f"{path}: damaged, its content is not what was written: make it again")
    return about, tensors
