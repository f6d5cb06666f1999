"""A few rows in the format of each benchmark's data set; written for these tests, not copied."""

import json
from pathlib import Path
from typing import Any

from mathsft.evaluation.task_files import HARNESS, TASKS

_TESTS = ["assert double(2) == 4", "assert double(0) == 0", "assert double(-1) == -2"]
_LETTERS = {"Correct Answer": "a star", "Incorrect Answer 1": "a moon"}
_LETTERS |= {"Incorrect Answer 2": "a rock", "Incorrect Answer 3": "a cloud"}
_CHECK = "def check(candidate):\n    assert candidate(3) == 4\n    assert candidate(-1) == 0\n"

# By task: the file of the harness (or ours), rows, a right answer of each, and a wrong one.
Benchmark = tuple[Path, list[dict[str, Any]], list[str], str]
GENERATED: dict[str, Benchmark] = {
    "gsm8k": (
        HARNESS / "gsm8k" / "gsm8k.yaml",
        [
            {"question": "Ida has 3 nuts and finds 4. How many?", "answer": "3 + 4 = 7\n#### 7"},
            {"question": "Bo saves $600 twice. How much?", "answer": "600 + 600\n#### 1,200"},
        ],
        [" 3 + 4 = 7\n#### 7", " It is 1200.\n#### 1,200"],
        " #### 5",
    ),
    "minerva_math": (
        HARNESS / "minerva_math" / "minerva_math_algebra.yaml",
        [
            {"problem": "Solve $2x = 6$.", "solution": "So $x = \\boxed{3}$.", "level": "Level 1"},
            {"problem": "Halve one.", "solution": "It is $\\boxed{\\frac{1}{2}}$.", "level": "2"},
        ],
        [
            " Final Answer: The final answer is $3$. I hope it is correct.",
            " Final Answer: The final answer is $\\frac{1}{2}$. I hope it is correct.",
        ],
        " Final Answer: The final answer is $9$. I hope it is correct.",
    ),
    "aime": (
        HARNESS / "aime" / "aime.yaml",
        [
            {"ID": "x-1", "Year": 2000, "Question": "How many bits has 8?", "Answer": "4"},
            {"ID": "x-2", "Year": 2001, "Question": "What is 12 squared?", "Answer": "144"},
        ],
        [" It is $\\boxed{4}$.", " So $144$."],
        " $\\boxed{5}$",
    ),
    "svamp": (
        TASKS / "svamp.yaml",
        [
            {"ID": "1", "Body": "Ed had 9 eggs. 2 broke.", "Question": "How many are left?",
             "Equation": "( 9.0 - 2.0 )", "Answer": "7.0", "Type": "Subtraction"},
            {"ID": "2", "Body": "A jar holds 1500 peas.", "Question": "How many hold 2 jars?",
             "Equation": "( 2.0 * 1500.0 )", "Answer": "3000", "Type": "Multiplication"},
        ],
        [" 9 - 2 = 7.", " 2 jars hold 3,000"],
        " 11",
    ),
    "humaneval": (
        HARNESS / "humaneval" / "humaneval.yaml",
        [
            {"task_id": "x/0", "prompt": "def more(n):\n", "canonical_solution": "    return n + 1",
             "entry_point": "more", "test": _CHECK},
        ],
        ["    return n + 1\n"],
        "    return n\n",
    ),
    "mbpp": (
        HARNESS / "mbpp" / "mbpp.yaml",
        [
            {"task_id": 1, "text": "Write a function that doubles.", "code": "...",
             "test_list": _TESTS, "test_setup_code": "", "challenge_test_list": []},
        ],
        ["def double(n):\n    return 2 * n\n"],
        "def double(n):\n    return n\n",
    ),
    "ifeval": (
        HARNESS / "ifeval" / "ifeval.yaml",
        [
            {"key": 1, "prompt": "Praise rain in at most ten words, without commas.",
             "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
            {"key": 2, "prompt": "Name a colour in capital letters.",
             "instruction_id_list": ["change_case:english_capital"], "kwargs": [{}]},
        ],
        ["Rain is good for the garden", "THE COLOUR IS BLUE"],
        "Rain, sun, and snow",
    ),
}  # fmt: skip
# Tasks with log-likelihoods; which answer is right, their own files say.
SCORED: dict[str, tuple[Path, list[dict[str, Any]]]] = {
    "mathqa": (
        HARNESS / "mathqa" / "mathqa.yaml",
        [{"Problem": f"what is {n} + 2 ?", "Rationale": "add", "correct": "b",
          "options": f"a ) {n} , b ) {n + 2} , c ) {n + 5} , d ) 90 , e ) 91",
          "annotated_formula": "", "linear_formula": "", "category": "other"} for n in (3, 4)],
    ),
    "asdiv": (
        HARNESS / "asdiv" / "default.yaml",
        [{"body": "Jo had 5 figs.", "question": "She ate 2. How many are left?",
          "answer": "3 (figs)", "formula": "5-2=3", "solution_type": "Subtraction"}],
    ),
    "gpqa_main_zeroshot": (
        HARNESS / "gpqa" / "zeroshot" / "gpqa_main_zeroshot.yaml",
        [{"Question": f"What shines by itself, question {n}?", **_LETTERS} for n in range(4)],
    ),
    "mmlu": (
        HARNESS / "mmlu" / "default" / "mmlu_abstract_algebra.yaml",
        [{"question": "What is 1 in a group?", "subject": "abstract_algebra", "answer": 2,
          "choices": ["a set", "an order", "the identity", "an inverse"]}],
    ),
}  # fmt: skip


def local_task(folder: Path, name: str) -> Path:
    """The harness's task with these rows in place of its data set, as a file."""
    source, rows, *_ = {**GENERATED, **SCORED}[name]
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    # In every split that the task may name: examples come from them too.
    files = {split: str(data) for split in ("train", "validation", "test", "dev")}
    path = folder / f"{name}.yaml"
    path.write_text(
        f"include: {source}\ntask: local_{name}\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs: {{data_files: {json.dumps(files)}}}\ntag: []\n"
    )
    return path
