"""A test question that only differs in bytes is found everywhere; a different one is not."""

import json
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from problem_rows import CHAT, jsonl

from mathsft.data.contamination import overlap, question_key, question_template, without_test_rows
from mathsft.data.mixtures import mix_datasets
from mathsft.data.problems import FEATURES, read_problems

INVISIBLE = "\u200b\u200c\u200d\u00ad\ufeff\u2060\ufe0f\u202a\u200e\u180e"
SPACES = [" ", "  ", "\u00a0", "\u2009", "\u202f", "\u3000", "\n", "\t"]


def _swapped(text: str, signs: dict[str, str], rng: random.Random) -> str:
    return "".join(rng.choice(signs.get(sign, sign)) for sign in text)


def _with_invisible(text: str, rng: random.Random) -> str:
    for _ in range(4):
        place = rng.randrange(len(text) + 1)
        text = text[:place] + rng.choice(INVISIBLE) + text[place:]
    return text


def _wide(text: str, rng: random.Random) -> str:
    return "".join(
        chr(ord(sign) + 0xFEE0) if sign.isascii() and sign.isalnum() and rng.random() < 0.3
        else sign
        for sign in text
    )  # fmt: skip


DISGUISES: list[Callable[[str, random.Random], str]] = [
    lambda text, rng: _swapped(
        text, {"'": "'\u2019\u2018\u02bc\u2032`", '"': '"\u201c\u201d'}, rng
    ),
    lambda text, rng: _swapped(text, {"-": "-\u2010\u2011\u2013\u2212\ufe63"}, rng),
    lambda text, rng: "".join(rng.choice(SPACES) if sign == " " else sign for sign in text),
    lambda text, rng: rng.choice([str.upper, str.lower, str.title, str.swapcase])(text),
    lambda text, rng: unicodedata.normalize(rng.choice(["NFD", "NFC"]), text),
    lambda text, rng: text.rstrip(" .?!") + rng.choice(["", " ?", ".", "?!", "\u2026", "\uff1f"]),
    lambda text, rng: text.replace("$", r"\$").replace("%", r"\%"),
    lambda text, rng: rng.choice(["\n  ", "\ufeff", "\u00a0"]) + text + rng.choice([" ", "\n"]),
    _with_invisible,
    _wide,
]

REAL = [
    "Tom\u2019s caf\u00e9 sells 1,200 cups \u2013 at $2.50 each. What\u2019s 15% of that?",
    'Ann says "no" to 2\u00bd of her -5 friends\' 3/4 pies. How many x\u00b2 are left?',
    "A train \u2014 60 km/h \u2014 crosses a bridge of 100 m. How long does it take, in s?",
]

Disguised = st.tuples(
    st.integers(0, 10**6),
    st.lists(st.integers(0, len(DISGUISES) - 1), min_size=1, max_size=6),
)


def asking(*questions: str) -> Dataset:
    row = {"solution": "", "answer": "", "choices": [], "label": -1, "source": "made"}
    return Dataset.from_list([{"question": q, **row} for q in questions], features=FEATURES)


def disguise(question: str, seed: int, kinds: list[int]) -> str:
    rng = random.Random(seed)
    for kind in kinds:
        question = DISGUISES[kind](question, rng)
    return question


class Questions(list[str]):
    def __repr__(self) -> str:  # hypothesis prints the arguments
        return f"{len(self)} questions"


@pytest.fixture(scope="module")
def questions(data_dir: Path) -> Questions:
    with open(data_dir / "gsm8k" / "train.jsonl", encoding="utf-8") as lines:
        gsm8k = [json.loads(line)["question"] for line in lines]
    mathqa = json.loads((data_dir / "mathqa" / "dev.json").read_text(encoding="utf-8"))
    return Questions(gsm8k + [row["Problem"] for row in mathqa])


def found_everywhere(question: str, hidden: str) -> None:
    train, test = asking("what is 3 + 4 ?", hidden), asking(question, "another one ?")
    assert without_test_rows(train, test)["question"][:] == ["what is 3 + 4 ?"]
    with pytest.raises(ValueError, match="1 of 2 rows ask a question of the test"):
        mix_datasets({"train": 2}, datasets={"train": train}, test=test)
    for there, here in ((train, asking(question)), (asking("what ?", question), asking(hidden))):
        found = overlap(there, here)
        assert (found.exact, found.template, found.containment) == ([1], [1], [1.0])


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(REAL), Disguised)
def test_a_disguised_question_is_found_by_every_measure(
    question: str, how: tuple[int, list[int]]
) -> None:
    found_everywhere(question, disguise(question, *how))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6), Disguised)
def test_any_real_question_is_found_when_disguised(
    questions: Questions, number: int, how: tuple[int, list[int]]
) -> None:
    question = questions[number % len(questions)]
    hidden = disguise(question, *how)
    assert question_key(hidden) == question_key(question)
    assert question_template(hidden) == question_template(question)


@pytest.mark.same_everywhere
@settings(max_examples=40, deadline=None)
@given(st.sampled_from(REAL), Disguised, st.sampled_from(["{}", "Please solve: {} Thanks a lot"]))
def test_a_disguised_question_is_found_in_chats_and_prompts(
    tmp_path_factory: pytest.TempPathFactory, question: str, how: tuple[int, list[int]], around: str
) -> None:
    text = around.format(disguise(question, *how))
    folder = tmp_path_factory.mktemp("rows")
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": "5"}]
    other = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    chats = jsonl(folder / "chats.jsonl", {"messages": other}, {"messages": turns})
    prompts = jsonl(
        folder / "prompts.jsonl",
        {"prompt": "Hello", "completion": "Hi"},
        {"prompt": text, "completion": "5"},
    )
    for path in (chats, prompts):
        train = read_problems(path)[0]
        assert len(without_test_rows(train, asking(question))) == 1
        with pytest.raises(ValueError, match="1 of 2 rows ask a question of the test"):
            mix_datasets({"train": 2}, datasets={"train": train}, test=asking(question))


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(REAL), Disguised)
def test_a_disguised_question_is_found_inside_an_instruction(
    tmp_path_factory: pytest.TempPathFactory, question: str, how: tuple[int, list[int]]
) -> None:
    wrapped = f"I am stuck: {disguise(question, *how)} Can you help me?"
    path = jsonl(
        tmp_path_factory.mktemp("rows") / "a.jsonl", CHAT, {**CHAT, "INSTRUCTION": wrapped}
    )
    left, dropped = read_problems(path, test_questions=[question], train_questions=[])
    assert dropped == {"GSM8K test question": 1}
    assert len(left) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 3 + 2?", "What is 3 - 2?"),
        ("What is 1.5 times 2?", "What is 15 times 2?"),
        ("What is -5 squared?", "What is 5 squared?"),
        ("How long are 2\u00bd m of it?", "How long are 21/2 m of it?"),
        ("What is x\u00b2 for x = 3?", "What is x2 for x = 3?"),
        ("How many are 5!", "How many are 5?"),
    ],
)
def test_another_question_is_not_found(one: str, other: str) -> None:
    assert len(without_test_rows(asking(one), asking(other))) == 1
    assert overlap(asking(one), asking(other)).exact == [-1]


def test_a_question_that_continues_in_a_chat_is_a_different_one(tmp_path: Path) -> None:
    test = asking("Tell me please what is 3 + 2 ?", "Tell me please what is 3 - 2 ?")
    texts = [
        "Tell me please what is 3 + 2 - 1 ?",
        "Tell me please what is 3 * 2 ?",
        "Hi. Tell me please what is 3 - 2. Thanks",
        "Hm, TELL me please what is 3 + 2",
    ]
    rows = [{"prompt": text, "completion": "4"} for text in texts]
    train = read_problems(jsonl(tmp_path / "a.jsonl", *rows))[0]
    assert without_test_rows(train, test)["prompt"][:] == texts[:2]


def test_the_real_questions_of_gsm8k_stay_apart(questions: Questions) -> None:
    assert len(set(map(question_key, questions[:7473]))) == 7473
    assert len(set(map(question_template, questions[:7473]))) == 7472  # as before normalising


def test_html_and_tex_do_not_hide_a_question() -> None:
    question = "Tom & Ann's pens cost $4 x 3. Is x + 1 > 5?"
    for hidden in (
        "Tom &amp; Ann&#39;s pens cost $4 x 3. Is x + 1 &gt; 5?",
        "Tom \\& Ann's pens cost \\$4 \u00d7 3. Is $x + 1$ > 5",
        r"Tom & Ann's pens cost $4 x 3. Is \(x + 1 > 5\)?",
    ):
        found_everywhere(question, hidden)
