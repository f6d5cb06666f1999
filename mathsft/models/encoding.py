"""From text to tokens, and where a text ends: the one place for training and for generation.

A model that was trained on other tokens than it meets later is worse without any sign of it. So
training, sample answers, worked answers and the evaluation harness all encode prompts with
`encode_prompts`, and all stop at `stop_tokens`.
"""

import json
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from mathsft.models.chat_template import Closing
from mathsft.models.computation import plain

# Before a text that cannot be told from its joint tokens, each of these is tried as a stand-in
# for what precedes it. A line break merges with nothing in most vocabularies.
_ANCHORS = ("", "\n", ".", "a")


def special_ends(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens that the tokenizer puts before a text and after it, such as ``[<s>]``, ``[]``."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    return [], []


def encode_prompts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts that a model continues, one list a text.

    A prompt begins as the tokenizer begins a text (``<s>`` where it has one). It never ends with
    a stop token, also not with ``add_eos_token=True``: nothing could follow. A prompt that brings
    its own first token, such as a rendered chat template, gets no second one.
    """
    first, last = special_ends(tokenizer)
    own = tokenizer.decode(first) if first else ""
    begun = [bool(own) and text.startswith(own) for text in texts]
    found: list[list[int]] = []
    encode = partial(_encode, tokenizer)
    with_first = iter(encode([t for t, b in zip(texts, begun, strict=True) if not b], True))
    without = iter(encode([t for t, b in zip(texts, begun, strict=True) if b], False))
    for brought in begun:
        ids = next(without if brought else with_first)
        ends = bool(last) and not brought and ids[-len(last) :] == last
        found.append(ids[: -len(last)] if ends else ids)
    return found


def encode_pieces(
    tokenizer: Any, documents: Sequence[Sequence[str]], *, rendered: Sequence[bool]
) -> list[list[list[int]] | None]:
    """Token ids of each piece of each document, so that a piece's tokens continue those before it.

    Args:
        documents: texts that are cut where a model takes over: a prompt and its completion, or
            the turns of a conversation.
        rendered: for each document whether a chat template wrote it. The template then wrote the
            first token as well; else the document begins as `encode_prompts` begins it.

    A piece's tokens are what the tokens of the document have more than those of the document
    before the piece: as TRL and transformers have it, also with SentencePiece, whose tokenizers
    put a text-start mark before a text that stands alone. Where a merge across the boundary
    changes tokens before it, a model that continues the tokens of the prompt does not meet that
    merge. Then the piece's own tokens are taken, if they give its text back after those before.

    Returns one list of token lists per document, or None where no tokens give the text back.
    """
    joined = [["".join(d[: n + 1]) for n in range(len(d))] for d in documents]
    encode = partial(_encode, tokenizer)
    by_template = iter(
        encode([t for ts, r in zip(joined, rendered, strict=True) if r for t in ts], False)
    )
    others = [t for ts, r in zip(joined, rendered, strict=True) if not r for t in ts]
    as_prompts = iter(encode_prompts(tokenizer, others))
    found: list[list[list[int]] | None] = []
    for document, is_rendered in zip(documents, rendered, strict=True):
        wholes = [next(by_template if is_rendered else as_prompts) for _ in document]
        found.append(_pieces(tokenizer, document, wholes))
    return found


def _pieces(
    tokenizer: Any, texts: Sequence[str], wholes: Sequence[list[int]]
) -> list[list[int]] | None:
    found: list[list[int]] = []
    before: list[int] = []
    for text, whole in zip(texts, wholes, strict=True):
        if whole[: len(before)] == before:
            ids: list[int] | None = whole[len(before) :]
        else:
            ids = _following(tokenizer, before, text)
        if ids is None:
            return None
        found.append(ids)
        before = before + ids
    return found


def _following(tokenizer: Any, before: list[int], text: str) -> list[int] | None:
    """Tokens of ``text`` by itself that give it back after ``before``; None if none do."""
    decode = partial(tokenizer.decode, clean_up_tokenization_spaces=False)
    expected = unicodedata.normalize("NFC", decode(before) + text)
    for anchor in _ANCHORS:
        (start, whole) = _encode(tokenizer, [anchor, anchor + text], False)
        if whole[: len(start)] != start:
            continue
        ids = whole[len(start) :]
        if unicodedata.normalize("NFC", decode(before + ids)) == expected:
            return ids
    return None


def _encode(tokenizer: Any, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=add_special_tokens).input_ids
    return ids


def stop_tokens(model: Any, tokenizer: Any) -> list[int]:
    """The ids at which an answer of ``model`` ends, in ascending order.

    All of: the tokenizer's stop token, which SFT trains; the token that closes a turn of the
    tokenizer's chat template, which SFT on conversations trains; and what the checkpoint's
    generation config names. The three differ in published checkpoints, and a model that is
    stopped by one of them only runs on past the other.
    """
    inner = getattr(model, "get_base_model", lambda: model)()
    config = getattr(inner, "generation_config", None)
    named = getattr(config, "eos_token_id", None)
    found = {named} if isinstance(named, int) else set(named or ())
    found.add(tokenizer.eos_token_id)
    if getattr(tokenizer, "chat_template", None):
        with suppress(ValueError):  # a template that closes no turn with a special token
            found.add(tokenizer.convert_tokens_to_ids(Closing.of(tokenizer).stop))
    return sorted(token for token in found if token is not None)


def pad_token(tokenizer: Any) -> int:
    """What fills a row up: never read and never trained, so the stop token will do as well."""
    found = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return int(found or 0)


def tokenizer_values(tokenizer: Any) -> dict[str, Any]:
    """What decides which tokens a text becomes: JSON values.

    The tokenizer's serialised form (without padding and truncation, which each call sets), or, of
    one that is written in Python, its vocabulary and its settings; the chat template; and the
    tokens that it puts around a text.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model = getattr(tokenizer, "sp_model", None)
    if backend is not None:
        form = json.loads(backend.to_str())
        form = {k: v for k, v in form.items() if k not in ("padding", "truncation")}
    else:
        form = {"vocabulary": tokenizer.get_vocab(), "settings": tokenizer.init_kwargs}
        if model is not None:
            form["sentencepiece"] = model.serialized_model_proto().hex()
    names = ("name_or_path", "tokenizer_file", "vocab_file", "merges_file")
    if "settings" in form:
        form["settings"] = {k: v for k, v in form["settings"].items() if k not in names}
    return {
        "class": type(tokenizer).__name__,
        "form": plain(form),
        "chat_template": plain(tokenizer.chat_template),
        "special": plain(tokenizer.special_tokens_map),
        "around": tokenizer("a").input_ids,
        "bos": getattr(tokenizer, "add_bos_token", None),
        "eos": getattr(tokenizer, "add_eos_token", None),
    }
