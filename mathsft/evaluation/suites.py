"""Suites: lists of the harness's tasks with a name; and where other benchmarks are found."""

from collections.abc import Sequence

from mathsft.evaluation.task_files import is_file

SUITES: dict[str, tuple[str, ...]] = {
    "maths": ("gsm8k", "minerva_math", "aime", "mathqa", "svamp", "asdiv"),
    "code": ("humaneval", "mbpp"),
    "instruction": ("ifeval",),
    "science": ("gpqa_main_zeroshot",),
    "knowledge": ("mmlu",),
}
# Benchmarks that the harness does not have, by their name in small letters, and the tool that does.
ELSEWHERE = {
    "livecodebench": "LiveCodeBench needs its own runner: github.com/LiveCodeBench/LiveCodeBench",
    "swebench": "SWE-bench needs containers: its package swebench (github.com/SWE-bench/SWE-bench)",
    "arenahard": "Arena-Hard needs a judge: github.com/lmarena/arena-hard-auto",
    "mtbench": "MT-Bench needs a judge: llm_judge of FastChat (github.com/lm-sys/FastChat)",
    "scicode": "SciCode needs its own runner: github.com/scicode-bench/SciCode",
}


def in_full(tasks: str | Sequence[str]) -> list[str]:
    """The tasks' names, with each suite's tasks in its place, each task once.

    Args:
        tasks: a task, a suite, or several of them.

    Raises ValueError, with the tool that has it, for a benchmark that the harness does not have.
    """
    found: list[str] = []
    for name in [tasks] if isinstance(tasks, str) else tasks:
        if not isinstance(name, str) or is_file(name):
            found.append(name)  # `task_manager` reads it, or says what is wrong
            continue
        plain = "".join(letter for letter in name.lower() if letter.isalnum())
        for other, where in ELSEWHERE.items():
            if plain.startswith(other):
                raise ValueError(
                    f"{name} is not a task of lm-evaluation-harness. {where}. It can ask a model "
                    "that is served (docs/serving.md)"
                )
        found += SUITES.get(name, (name,))
    return list(dict.fromkeys(found))
