"""A teacher's stored words: read, checked, and given to a loss in place of a pass."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, List, Value
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mathsft.compat import without_progress_bars
from mathsft.files import check_regular, parse_json
from mathsft.models.computation import json_hash, tensors_hash
from mathsft.models.distributions import ScoredTop, Top
from mathsft.models.logprobs import SequenceLogprobs
from mathsft.models.model_files import vocabulary
from mathsft.objectives.distillation import Distillation
from mathsft.processes import say

STORE_FORMAT = "mathsft teacher store 1"
_TENSORS = {
    "keys": torch.uint8, "starts": torch.int64, "words": torch.int32, "logprobs": torch.float32,
    "rest": torch.float32, "own": torch.float32,
}  # fmt: skip


def text_keys(row: Mapping[str, Any]) -> list[bytes]:
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
            found = [self.places.get(key, -1) for key in text_keys(row)]
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


def check_replaceable(path: Path) -> None:
    """Raise ValueError if there is a file that is no store: `store_teacher` replaces its own only.

    A damaged file is not known to be a store either.
    """
    if path.is_dir():
        raise ValueError(f"{path}: a folder; give the name of a file")
    if path.exists():
        check_regular(path)
        try:
            _about(path)
        except ValueError as error:
            raise ValueError(f"{error}; it is not replaced: give another name") from None


def _about(path: Path) -> dict[str, Any]:
    """What a store says of itself. Raises ValueError, with the file, for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            about = parse_json((file.metadata() or {}).get("about", "null"), path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from None
    if not isinstance(about, dict) or about.get("format") != STORE_FORMAT:
        raise ValueError(f"{path}: not made by store_teacher")
    return about


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The store's description and tensors. Raises ValueError, with the file, if it is damaged."""
    check_regular(path)
    if path.is_dir():
        raise ValueError(f"{path}: a folder; a store is a file that store_teacher made")
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such store; store_teacher makes one")
    about = _about(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    kinds = {name: tensor.dtype for name, tensor in tensors.items()}
    if kinds != _TENSORS or about.get("sha256") != tensors_hash(sorted(tensors.items())):
        raise ValueError(f"{path}: damaged, its content is not what was written: make it again")
    return about, tensors
