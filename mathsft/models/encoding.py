"""From text to tokens, and where a text ends: one place for both training and generation.

If a model is trained on other tokens than it reads later, it is worse, and nothing shows it. So
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

# If the tokens of the joined text do not give a piece's own tokens, the piece is encoded after
# each of these texts in turn. In most vocabularies a line break merges with nothing.
_ANCHORS = ("", "\n", ".", "a")


def special_ends(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the tokens that the tokenizer adds before and after a text: ``[<s>]``, ``[]``."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    return [], []


def encode_prompts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return token ids of texts that a model continues, one list per text.

    A prompt begins as the tokenizer begins a text (with ``<s>`` if it has one). It never ends with
    a stop token, not even with ``add_eos_token=True``, because nothing could follow. A prompt that
    already has this first token, such as a rendered chat template, gets no second one.
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


def prompt_ids(tokenizer: Any, prompts: Sequence[str] | Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the token ids of prompts, which are texts (`encode_prompts`), or ids already."""
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    encoded = iter(encode_prompts(tokenizer, texts))
    return [next(encoded) if isinstance(prompt, str) else list(prompt) for prompt in prompts]


def encode_pieces(
    tokenizer: Any, documents: Sequence[Sequence[str]], *, rendered: Sequence[bool]
) -> list[list[list[int]] | None]:
    """Return token ids of each piece of each document; each piece continues the one before it.

    Args:
        documents: texts that are cut where a model takes over: a prompt and its completion, or
            the turns of a conversation.
        rendered: for each document, whether a chat template wrote it. The template then wrote the
            first token too; otherwise the document begins as in `encode_prompts`.

    A piece's tokens are those that it adds: the tokens of the document up to the piece's end,
    without those of the text before the piece. TRL and transformers do the same. This also works
    with SentencePiece, whose tokenizers put a text-start mark before a text on its own. A merge
    across the boundary may change tokens before it. A model that continues the prompt's tokens
    never sees that merge. Then the piece is encoded on its own, if that gives its text back.

    Returns one list of token lists per document, or None if no tokens give the text back.
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
    """Return tokens of ``text`` on its own that decode to it after ``before``, or None."""
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
    """Return the ids at which an answer of ``model`` ends, in ascending order.

    These are: the tokenizer's stop token, which SFT trains; the token that closes a turn in the
    tokenizer's chat template, which SFT on conversations trains; and those that the checkpoint's
    generation config names. The three differ in published checkpoints. If only one of them stops
    a model, it continues past the others.
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
    """Return the padding token: never read, never trained, so the stop token can serve too."""
    found = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return int(found or 0)


def tokenizer_values(tokenizer: Any) -> dict[str, Any]:
    """Return what decides which tokens a text becomes, as JSON values.

    This is the tokenizer's serialised form (without padding and truncation, which each call sets),
    or the vocabulary and settings of a tokenizer written in Python; the chat template; and the
    tokens that it adds around a text.
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
