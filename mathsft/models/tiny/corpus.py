"""The text for training the tiny model from scratch, and its tokenizer.

The text teaches the model what a base model would know: how worked solutions look, the results
of plain arithmetic, and statements with their results. It contains none of the course's formats
(no ``### Question``, no ``Question:``, no ``Answer:``, no ``####``, no choices) and no question of
a lesson: its problems are from the generators' split ``pretrain``.

The tokenizer is a byte-level BPE that splits text as Qwen2.5's does, with a small vocabulary.
Because it works on bytes, it can encode any text. It splits numbers into single digits, so that
the model sees arithmetic in the same form as Qwen2.5.
"""

import random
from collections.abc import Iterable, Iterator

from transformers import PreTrainedTokenizerFast

from mathsft.data.synthetic.grade_school import tiny_gsm_rows
from mathsft.data.synthetic.multiple_choice import draw_problem, tiny_mathqa_rows

# The split of the published Qwen2 tokenizer: words take one leading non-letter, digits are single.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
END_OF_TEXT = "<|endoftext|>"  # Qwen2.5 base uses it both as eos and as padding; so do we


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """Learn the merges from ``texts``; the same texts in the same order give the same result.

    The tokenizer has ``eos_token == pad_token == "<|endoftext|>"`` and adds no token of its
    own when it encodes.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(END_OF_TEXT, special=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


_MARK = "<<"


def _worked(row: dict[str, str]) -> str:
    """A grade-school problem and its solution, as in a textbook."""
    lines = row["answer"].split("\n")
    plain = "\n".join(_without_marks(line) for line in lines[:-1])
    return f"{row['question']}\n{plain}\nSo it is {lines[-1].removeprefix('#### ')}."


def _without_marks(line: str) -> str:
    while _MARK in line:
        before, rest = line.split(_MARK, 1)
        line = before + rest.split(">>", 1)[1]
    return line


def _facts(rng: random.Random) -> str:
    """Four statements with their results, in the style of the multiple-choice problems."""
    said = []
    for _ in range(4):
        pattern, numbers, choices, label = draw_problem(rng)
        fact = rng.choice(pattern.facts)
        thing = rng.choice(pattern.things)
        said.append(fact.format(*numbers, thing=thing, answer=choices[label]))
    return " . ".join(said) + " ."


def _sums(rng: random.Random) -> str:
    """Eight lines of arithmetic, each like ``a * b = c``."""
    lines = []
    for _ in range(8):
        sign = rng.choice("+-*/")
        if sign == "+":
            a, b = rng.randint(1, 150), rng.randint(1, 99)
            result = a + b
        elif sign == "-":
            b, result = rng.randint(1, 99), rng.randint(1, 99)
            a = b + result
        else:
            a, b = rng.randint(2, 60), rng.randint(2, 12)
            result = a * b
            if sign == "/":
                a, result = result, a
        lines.append(f"{a} {sign} {b} = {result}")
    return "\n".join(lines)


def _explained(row: dict[str, str]) -> str:
    """A problem in multiple-choice style with its calculation, without its choices."""
    steps = row["Rationale"].removeprefix("explanation : ").split(" . answer", 1)[0]
    return f"{row['Problem']} {steps} ."


def documents(count: int, *, seed: int) -> Iterator[str]:
    """``count`` documents, mixed at random: worked 30 %, facts 40 %, sums 15 %, explained 15 %.

    The result is deterministic. ``seed`` decides the order of kinds, the statements and the
    sums; the generators decide the problems. A document is a few lines of text.
    """
    rng = random.Random(seed)
    kinds = rng.choices(["worked", "facts", "sums", "explained"], [30, 40, 15, 15], k=count)
    worked = iter(tiny_gsm_rows("pretrain", kinds.count("worked")))
    explained = tiny_mathqa_rows("pretrain", min(kinds.count("explained"), 8000))
    for kind in kinds:
        if kind == "worked":
            yield _worked(next(worked))
        elif kind == "facts":
            yield _facts(rng)
        elif kind == "sums":
            yield _sums(rng)
        else:
            yield _explained(rng.choice(explained))
