"""Continuations encoded after the last word of their context have the tokens of whole texts."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre
from transformers import PreTrainedTokenizerFast

from mathsft.models.continued import _KNOWN, cuts_before_spaces, encode_continued
from mathsft.models.likelihood import encode_choices
from mathsft.models.tiny.corpus import SPLIT

TEXTS = [
    f"Question: Tom has {n} apples, it's {n * 7} € — isn't it?\n\n  Answer: {n / 8} left\r\n\tok"
    for n in range(60)
]
BYTES = pre.ByteLevel(add_prefix_space=False, use_regex=False)


def tokenizer_of(pre_tokenizer: Any, *, normalizer: Any = None, **added: Any) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    alphabet = pre.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens([AddedToken("<|end|>", **added)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


QWEN, LLAMA = sorted(_KNOWN, key=len)
SPLITS = {
    "gpt-2": pre.ByteLevel(add_prefix_space=False),
    "with a first space": pre.ByteLevel(add_prefix_space=True),
    "qwen": pre.Sequence([pre.Split(Regex(QWEN), "isolated"), BYTES]),
    "llama": pre.Sequence([pre.Split(Regex(LLAMA), "isolated"), BYTES]),
    "digits": pre.Sequence([pre.Digits(True), pre.ByteLevel(add_prefix_space=False)]),
}
SURE = {name: tokenizer_of(split, normalizer=normalizers.NFC()) for name, split in SPLITS.items()}

# Pieces that a tokenizer may join: spaces, line breaks, digits, marks, combining accents, tokens.
piece = st.sampled_from([
    " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u0301", "e", "é", "Tom", "apples", "'",
    "'s", "it's", "7", "49", "3.5", ".", ",", "?", "€", "—", "<|end|>", "<|", "Answer:",
])  # fmt: skip
text = st.lists(piece, max_size=12).map("".join)


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(sorted(SURE)), context=text, continuations=st.lists(text, max_size=3))
@example(name="qwen", context="Tom has 3 app", continuations=["les left", "", " \n"])
@example(name="gpt-2", context="e \u0301", continuations=["\u0301"])
def test_the_tokens_are_those_of_the_whole_texts(name, context, continuations):
    tokenizer = SURE[name]
    assert cuts_before_spaces(tokenizer)

    def encode(texts: Any) -> list[list[int]]:
        return tokenizer([*texts]).input_ids if texts else []

    ((ids, wholes),) = encode_continued(tokenizer, [(context, continuations)], encode=encode)
    assert ids == tokenizer(context).input_ids
    assert wholes == encode([context + more for more in continuations])


def test_only_the_contexts_are_encoded_whole():
    tokenizer, asked = SURE["qwen"], []

    def encode(texts: Any) -> list[list[int]]:
        asked.extend(texts)
        return tokenizer([*texts]).input_ids if texts else []

    encode_continued(
        tokenizer, [(t, [" 1", " 2"]) for t in ("a b c", "d e\nf:", "word")], encode=encode
    )
    assert asked == ["a b c", "d e\nf:", "word", "word 1", "word 2"]


def test_other_tokenizers_encode_whole_texts():
    split = SPLITS["qwen"]
    unsure = {
        "spaces belong to words' ends": tokenizer_of(
            pre.Sequence([pre.Split(Regex(r"\S+\s*"), "isolated"), BYTES])
        ),
        "no words": tokenizer_of(BYTES),
        "an unknown step": tokenizer_of(pre.Sequence([pre.Metaspace(), SPLITS["gpt-2"]])),
        "lower case": tokenizer_of(split, normalizer=normalizers.Lowercase()),
        "a token that takes spaces": tokenizer_of(split, rstrip=True),
    }
    dropped = tokenizer_of(split)
    dropped.backend_tokenizer.model.dropout = 0.5
    spaced = tokenizer_of(split)
    spaced.add_tokens(["left over"])
    for name, tokenizer in {**unsure, "dropout": dropped, "a token with a space": spaced}.items():
        assert not cuts_before_spaces(tokenizer), name
    assert not cuts_before_spaces(object())  # written in Python


def test_the_course_s_own_split_is_known():
    assert SPLIT in _KNOWN


def test_real_choices_have_the_tokens_of_whole_texts(
    small_model_dir: Path, data_dir: Path, request: pytest.FixtureRequest
):
    from transformers import AutoTokenizer

    from mathsft.data.problems import read_problems

    tokenizer = AutoTokenizer.from_pretrained(small_model_dir)
    problems = [*read_problems(data_dir / "mathqa" / "dev.json")[0].select(range(400))]
    quick = encode_choices(tokenizer, problems)
    patch = request.getfixturevalue("monkeypatch")
    patch.setattr("mathsft.models.continued.cuts_before_spaces", lambda tokenizer: False)
    assert encode_choices(tokenizer, problems) == quick


@pytest.mark.parametrize("name", sorted(SURE))
def test_without_texts_there_is_nothing_to_encode(name):
    assert encode_continued(SURE[name], [], encode=lambda texts: []) == []
