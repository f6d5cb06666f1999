"""A task that the tiny model really solves in writing, for tests of servers."""

import json
from pathlib import Path

from own_tasks import task_file

from mathsft.data.answers import extract_answer
from mathsft.data.problems import read_problems

WRITING = {
    "output_type": "generate_until",
    "doc_to_text": '"{{q}}\\n"',
    "doc_to_choice": "",
    "doc_to_target": "right",
    "generation_kwargs": '{until: ["\\n\\n", "Q"], max_gen_toks: 64}',
    "metric_list": "[{metric: exact_match, aggregation: mean, higher_is_better: true}]",
    "filter_list": (
        "[{name: last, filter: [{function: regex, group_select: -1, regex_pattern: '(-?[0-9]+)'}, "
        "{function: take_first}]}]"
    ),
}


def written_task(folder: Path, name: str = "written", rows: int = 3) -> Path:
    """Worked problems in the form of the tiny model's texts; every third has a wrong reference."""
    path = task_file(folder, name, **WRITING)
    problems = read_problems("tiny-gsm", split="test", limit=rows)[0]
    lines = []
    for number, problem in enumerate(problems):
        right = int(str(extract_answer(problem["answer"])))
        lines.append({"q": problem["question"], "right": str(right + (number % 3 == 2))})
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
