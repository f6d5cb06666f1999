"""Encode a context and its continuations; the context's tokens are found only once.

The tokens of "question + choice" are needed for each choice, but for most vocabularies, all of
them begin with the same tokens. A byte-level BPE first splits a text into words, and its words
begin with their space. So a text can be cut before a space, and its tokens are those of both
parts. Then only the last word of the context has to be encoded again with each continuation.

That is used only if `cuts_before_spaces` is sure of it: then the tokens are exactly those of the
whole texts. Otherwise each whole text is encoded, as with SentencePiece, which merges over spaces.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from tokenizers.models import BPE
from tokenizers.normalizers import NFC

# How Qwen2 and GPT-4, and how Llama 3 split a text into words (GPT-2's pattern has a name of its
# own, ``use_regex``). In a word of these, a space after a visible character is the first one, and
# no pattern looks at what is before a word.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    r"%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_KNOWN = {_WORDS % number for number in (r"\p{N}", r"\p{N}{1,3}")}
# All up to the last single space between two visible characters of ASCII. Normalisation never
# joins such a space with its neighbours.
_BEFORE_SPACE = re.compile(r".*[!-~](?= [!-~])", re.DOTALL)

Encode = Callable[[Sequence[str]], list[list[int]]]


def encode_continued(
    tokenizer: Any, texts: Sequence[tuple[str, Sequence[str]]], *, encode: Encode
) -> list[tuple[list[int], list[list[int]]]]:
    """Return for each context its token ids, and those of the context with each continuation.

    Args:
        tokenizer: encodes the ends of texts, without special tokens.
        texts: pairs of a context and the texts that may follow it.
        encode: gives the token ids of whole texts. It may put special tokens before a text, but
            none after it.

    Of a context with its continuation, all tokens are returned: a vocabulary may merge across the
    boundary. The result equals ``encode`` of the joined texts.
    """
    contexts = encode([context for context, _ in texts])
    cuts: list[int | None] = [None] * len(texts)
    if cuts_before_spaces(tokenizer):
        cuts = [found and found.end() for found in (_BEFORE_SPACE.match(c) for c, _ in texts)]
    ends = [
        [context[cut:], *(context[cut:] + more for more in continuations)]
        for (context, continuations), cut in zip(texts, cuts, strict=True)
        if cut is not None
    ]
    flat = [text for some in ends for text in some]
    encoded = iter(tokenizer(flat, add_special_tokens=False).input_ids if flat else [])
    rest: list[str] = []
    wholes: list[list[list[int]] | None] = []
    for (context, continuations), cut, ids in zip(texts, cuts, contexts, strict=True):
        if cut is not None:
            end, *longer = [next(encoded) for _ in range(1 + len(continuations))]
            before = len(ids) - len(end)
            if ids[before:] == end:
                wholes.append([ids[:before] + more for more in longer])
                continue
        wholes.append(None)
        rest += [context + more for more in continuations]
    others = iter(encode(rest) if rest else [])
    return [
        (ids, [next(others) for _ in continuations] if found is None else found)
        for (_, continuations), ids, found in zip(texts, contexts, wholes, strict=True)
    ]


def cuts_before_spaces(tokenizer: Any) -> bool:
    """Whether a text's tokens are surely those of its parts before and after a single space.

    True for byte-level BPE with a known split into words, without dropout, if no added token
    contains a space or takes spaces beside it.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not isinstance(backend.model, BPE) or backend.model.dropout:
        return False
    if not (backend.normalizer is None or isinstance(backend.normalizer, NFC)):
        return False
    for token in tokenizer.added_tokens_decoder.values():
        if token.lstrip or token.rstrip or token.single_word or " " in token.content:
            return False
    if backend.pre_tokenizer is None:
        return False
    form = json.loads(backend.pre_tokenizer.__getstate__())
    steps = form["pretokenizers"] if form["type"] == "Sequence" else [form]
    into_words = [step for step in steps if _splits_words(step)]
    others = [step for step in steps if not _splits_words(step)]
    return bool(into_words) and all(step["type"] in ("ByteLevel", "Digits") for step in others)


def _splits_words(step: dict[str, Any]) -> bool:
    """Whether a step of a pre-tokenizer is one of the known splits into words."""
    if step["type"] == "ByteLevel":
        return bool(step["use_regex"])
    return (
        step["type"] == "Split"
        and step["pattern"].get("Regex") in _KNOWN
        and step["behavior"] == "Isolated"
        and not step["invert"]
    )
