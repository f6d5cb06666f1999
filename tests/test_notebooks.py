"""The notebooks as files: address, outputs, width, exercises. nbval also runs them."""

import json
import re
import tomllib
from pathlib import Path

import pytest

import mathsft

ROOT = Path(__file__).parent.parent
LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
ADDRESS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
BADGE = ADDRESS.replace("https://github.com", "https://colab.research.google.com/github")


def cells(path: Path, kind: str = "code") -> list[dict]:
    book = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in book["cells"] if cell["cell_type"] == kind]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def test_every_lesson_has_its_solutions() -> None:
    assert LESSONS
    assert [p.name for p in LESSONS] == [p.name for p in SOLUTIONS]


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.name)
def test_the_first_cell_has_the_badge_of_this_notebook(path: Path) -> None:
    assert f"({BADGE}/blob/main/notebooks/{path.name})" in source(cells(path, "markdown")[0])


def test_every_address_of_the_repository_is_the_one_in_pyproject() -> None:
    for file in (ROOT / "README.md", *LESSONS, *SOLUTIONS):
        text = file.read_text(encoding="utf-8")
        badges = re.findall(r"colab\.research\.google\.com/github/([\w-]+/[\w.-]+)", text)
        installs = re.findall(r"(?<!/)https://github\.com/([\w-]+/[\w-]+) /tmp/mathsft", text)
        assert badges or file in SOLUTIONS
        assert installs or file not in (*LESSONS, *SOLUTIONS)
        assert {f"https://github.com/{name}" for name in badges + installs} == {ADDRESS}


def test_lessons_and_the_readme_import_public_names_only() -> None:
    for path in (ROOT / "README.md", *LESSONS, *SOLUTIONS):
        text = path.read_text(encoding="utf-8")
        code = "\n".join(map(source, cells(path))) if path.suffix == ".ipynb" else text
        assert re.findall(r"(?:from|import) (mathsft\.[\w.]+)", code) == [], path.name
        imports = re.findall(r"from mathsft import (\([^)]*\)|.*)", code)
        names = set(re.findall(r"\w+", " ".join(imports)))
        assert names - set(mathsft.__all__) == set(), path.name
        assert names or path in SOLUTIONS, path.name


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.name)
def test_one_cell_holds_the_parameters(path: Path) -> None:
    """Here a reader, or tests/test_as_in_colab.py, makes a lesson shorter or longer."""
    assert sum("parameters" in tags(cell) for cell in cells(path)) == 1


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.name)
def test_a_variable_that_is_set_to_nothing_counts_as_not_set(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the Makefile sets them."""
    for name in re.findall(r"MATHSFT_\w+", path.read_text(encoding="utf-8")):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("MATHSFT_PROFILE", "tiny")
    monkeypatch.setattr(mathsft, "quiet", lambda: None)  # it would silence the other tests
    code = [cell for cell in cells(path) if "google.colab" not in source(cell)]
    last = next(n for n, cell in enumerate(code) if "parameters" in tags(cell))
    names: dict = {}
    for cell in code[: last + 1]:
        exec(source(cell), names)


def test_the_readme_has_a_badge_and_a_table_row_for_every_lesson() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in LESSONS:
        assert f"{BADGE}/blob/main/notebooks/{path.name}" in readme
        assert f"(notebooks/{path.name})" in readme


@pytest.mark.parametrize("path", [*LESSONS, *SOLUTIONS], ids=lambda p: f"{p.parent.name}/{p.name}")
def test_cells_are_narrow_short_and_executed_in_order(path: Path) -> None:
    assert path.stat().st_size <= 400_000
    assert "widgets" not in json.loads(path.read_text(encoding="utf-8"))["metadata"]
    counts = []
    for cell in cells(path):
        lines = source(cell).split("\n")
        assert max(map(len, lines)) <= 76, lines
        assert len(lines) <= 18, lines
        counts.append(cell["execution_count"])
    assert counts == list(range(1, len(counts) + 1)), "run from top to bottom, then save"


@pytest.mark.parametrize("path", [*LESSONS, *SOLUTIONS], ids=lambda p: f"{p.parent.name}/{p.name}")
def test_cells_that_nbval_compares_have_something_to_compare(path: Path) -> None:
    compared = [cell for cell in cells(path) if "nbval-check-output" in tags(cell)]
    assert compared or path in SOLUTIONS
    for cell in compared:
        assert cell["execution_count"]
        assert cell["outputs"], source(cell)


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.name)
def test_only_unsolved_exercises_fail_and_each_has_a_check(path: Path) -> None:
    failing = [c for c in cells(path) if any(o["output_type"] == "error" for o in c["outputs"])]
    assert 2 <= len(failing) <= 3
    assert all("raises-exception" in tags(cell) for cell in failing)
    assert len([c for c in cells(path) if "raises-exception" in tags(c)]) == len(failing)


WRONG = {
    "01_sft.ipynb": [
        ("assert len(end)", "end = [7, 7, 7, 5, 5, 0, 0]"),
        ("for text, wanted", "my_answer = str.upper"),
        ("assert share", "share = 0.5"),
    ],
    "02_multiple_choice.ipynb": [
        ("labels = [", "my_ids, my_position, my_end = [0, 1, 5, 6], [0, 1, 2, 3], [4, 4, 4, 3]"),
        ("some_scores", "normalized_scores = lambda scores, choices: scores / 3"),
        ("assert ratio", "ratio = 2"),
    ],
    "03_mathqa_mixing.ipynb": [
        ("assert ...", "my_steps, my_rows_seen = (1125, 3000), (4500, 3000)"),
        ("assert shares", "shares = lambda ws, total: [round(total * w) for w in ws]"),
        ("others = [", "contained = lambda question, others, n=3: float(question in others)"),
    ],
    "04_evaluation.ipynb": [
        ("assert reported", "reported = 0.3"),
        ("def close", "holm = lambda ps: [min(1.0, p * len(ps)) for p in ps]"),
        ("assert my_questions", "my_questions = 2985"),
    ],
    "05_preferences.ipynb": [
        ("mine = ipo_loss", "ipo_loss = lambda scores, reference, tokens, beta: 0.0"),
        ("texts, scores", "n_pairs, n_alone, n_tree = 15, 30, 9"),
        ("for z_value", "pull = lambda z, beta: beta"),
    ],
    "06_rewards.ipynb": [
        ("from itertools import combinations", "pass_at = lambda k, n, c: 1 - (1 - c / n) ** k"),
        ("fooled = ", "my_reward = lambda completions, **_: [1.0] * len(completions)"),
        ("from math import exp", "chain = lambda p, q: p * q"),
    ],
    "07_reinforcement.ipynb": [
        ("mine = rloo_advantages", "rloo_advantages = lambda rs: [r - 0.25 for r in rs]"),
        ("for value in", "clipped_slope = lambda ratio, advantage: -ratio * advantage"),
        ("draws = ", "chance_of_signal = lambda p: 1 - p**8"),
    ],
    "08_groups_distillation.ipynb": [
        ("mine = reverse_kl", "reverse_kl = lambda student, teacher: forward_kl(student, teacher)"),
        ("for value in", "gpo_slope = lambda lp, advantage: -advantage"),
        ("for rewards in", "wins = lambda rewards: [2 * r - 1 for r in rewards]"),
    ],
    "09_prompt_search.ipynb": [
        (
            "for first, last",
            "my_cosine = lambda step, steps, a, b: a + (b - a) * step / (steps - 1)",
        ),
        ("for asked, text", "my_survives = lambda question, ids: question.endswith('?')"),
        ("from itertools", "my_counts = lambda places, words: (places * words, words**places)"),
    ],
    "10_data.ipynb": [
        ("for prices", "dialogue_cost = lambda p, a, t, i, o: t * (p * i + a * o) / 1e6"),
        ("texts = [", "first_of_each = lambda texts: list(dict.fromkeys(texts))"),
        ("for questions", "leaked_runs = lambda questions, rows, n: 0.5"),
    ],
}


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.name)
def test_checks_pass_the_solution_and_fail_a_wrong_answer(path: Path) -> None:
    names: dict = {}
    code = [s for s in map(source, cells(path)) if "google.colab" not in s]
    wrong = iter(WRONG[path.name])
    beginning, answer = next(wrong)
    for text in code:
        if text.startswith(beginning):
            with pytest.raises(AssertionError):
                exec(text, {**names, **_answered(answer, names)})
            beginning, answer = next(wrong, ("(no further check)", ""))
        exec(text, names)
    assert beginning == "(no further check)"


def _answered(answer: str, names: dict) -> dict:
    exec(answer, changed := dict(names))
    return changed


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.name)
def test_solutions_hold_every_check_of_the_lesson_and_pass_it(path: Path) -> None:
    solved = [source(cell) for cell in cells(path)]
    lesson = ROOT / "notebooks" / path.name
    for check in (c for c in cells(lesson) if "raises-exception" in tags(c)):
        assert source(check) in solved
    assert not any(o["output_type"] == "error" for c in cells(path) for o in c["outputs"])
