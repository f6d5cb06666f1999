"""The notebooks as files: address, outputs, width, exercises. nbval also runs them."""

import json
import re
import tomllib
from contextlib import nullcontext
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


def check_cells(path: Path) -> list[dict]:
    return [cell for cell in cells(path) if "exercise" in tags(cell)]


def shown(cell: dict) -> str:
    """What a cell shows as text."""
    texts = (o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell["outputs"])
    return "".join("".join(text) for text in texts)


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.name)
def test_no_cell_fails_and_each_exercise_says_that_it_is_not_solved_yet(path: Path) -> None:
    assert not any(o["output_type"] == "error" for c in cells(path) for o in c["outputs"])
    checks = check_cells(path)
    assert 2 <= len(checks) <= 4
    for number, cell in enumerate(checks, start=1):
        assert source(cell).startswith(f"with exercise({number}):")
        assert f"Exercise {number}: not solved yet" in shown(cell)


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.name)
def test_a_lesson_asks_to_predict_and_to_change_and_says_what_a_t4_shows(path: Path) -> None:
    text = "\n".join(map(source, cells(path, "markdown")))
    asked = re.findall(
        r"\*\*Predict\.\*\*.*?<details>\s*<summary>.*?</summary>\n\n.*?</details>", text, re.S
    )
    assert len(asked) >= 2
    assert any("change" in tags(cell) for cell in cells(path)), "an exercise that trains again"
    t4 = text.partition("\n## On a T4\n")[2].partition("\n## ")[0]
    for word in ("Runtime", "out of memory", "Try next"):
        assert word in t4, word
    assert "$$" in text or path.name.startswith(NO_FORMULA)
    assert "https://arxiv.org/abs/" in text


NO_FORMULA = ("11_",)


@pytest.mark.parametrize("path", [*LESSONS, *SOLUTIONS], ids=lambda p: f"{p.parent.name}/{p.name}")
def test_colab_gives_a_t4_and_installs_the_tagged_version(path: Path) -> None:
    about = json.loads(path.read_text(encoding="utf-8"))["metadata"]
    assert (about["accelerator"], about["colab"]["gpuType"]) == ("GPU", "T4")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    install = next(source(c) for c in cells(path) if "google.colab" in source(c))
    assert f"git clone -q --depth 1 -b v{version} " in install


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.name)
def test_a_page_has_no_pink_boxes_no_empty_tables_and_its_figures_have_texts(path: Path) -> None:
    for output in (o for cell in cells(path) for o in cell["outputs"]):
        assert output.get("name") != "stderr"
        assert "<progress" not in "".join(output.get("data", {}).get("text/html", ""))
        if "image/png" in output.get("data", {}):
            assert len(output["metadata"]["image/png"]["alt"]) > 20


# A wrong answer for each check, in order: the check must refuse it.
WRONG = {
    "00_start.ipynb": [
        "my_log_likelihood = lambda logits, ids: logits.softmax(1)[range(len(ids)), ids].sum()",
        "my_bits = lambda block, second=None: 4 + (40 if second else 32) / block",
        "my_lora = LoRA(my_plain, r=16, alpha=32)",
    ],
    "01_sft.ipynb": [
        "tree_end = lambda asked, answers: [asked + sum(answers)] * (asked + sum(answers))",
        "my_answer = str.upper",
        "sorted_fill = batch_fill",
        "my_model = add_adapter(load_model('tiny')[0], r=1)",
    ],
    "02_multiple_choice.ipynb": [
        "tokens_read = lambda asked, choices: len(asked) + sum(len(c) - 1 for c in choices)",
        "normalized_scores = lambda scores, choices: scores / 3",
        "share_of_longest = lambda problems: 0.2",
        "my_model = add_adapter(load_model('tiny')[0])",
    ],
    "03_mathqa_mixing.ipynb": [
        "budget = lambda rows, passes, batch: (rows * passes // batch, rows * passes)",
        "shares = lambda ws, total: [round(total * w) for w in ws]",
        "contained = lambda question, others, n=3: float(question in others)",
        "start_weights = {key: value.detach().clone() for key, value in weights.items()}",
    ],
    "04_evaluation.ipynb": [
        "best_of = lambda k, n, q: q",
        "holm = lambda ps: [min(1.0, p * len(ps)) for p in ps]",
        "questions_needed = lambda d, u: 2985",
        "mine = [results['MathQA'], results['MathQA']]; my_p = 1.0",
    ],
    "05_preferences.ipynb": [
        "ipo_loss = lambda scores, reference, tokens, beta: 0.0",
        "counts = lambda right, wrong: (right * wrong, 2 * right * wrong, right + wrong + 1)",
        "pull = lambda z, beta: beta",
        "my_model = from_start()",
    ],
    "06_rewards.ipynb": [
        "pass_at = lambda k, n, c: 1 - (1 - c / n) ** k",
        "my_reward = lambda completions, **_: [1.0] * len(completions)",
        "chain = lambda p, q: p * q",
        "my_judge = load_reward_model(**recipe['model'], lora=True, seed=1)[0]",
    ],
    "07_reinforcement.ipynb": [
        "rloo_advantages = lambda rs: [r - 0.25 for r in rs]",
        "clipped_slope = lambda ratio, advantage, epsilon=0.2: -ratio * advantage",
        "chance_of_signal = lambda p, attempts=8: 1 - p**attempts",
        "saved = from_start()",
    ],
    "08_groups_distillation.ipynb": [
        "reverse_kl = lambda student, teacher: forward_kl(student, teacher)",
        "gpo_slope = lambda lp, advantage: -advantage",
        "wins = lambda rewards: [2 * r - 1 for r in rewards]",
        "my_student = add_adapter(load_model(**recipe['model'])[0], seed=0)",
    ],
    "09_prompt_search.ipynb": [
        "my_cosine = lambda step, steps, a, b: a + (b - a) * step / (steps - 1)",
        "my_survives = lambda question, ids: question.endswith('?')",
        "my_counts = lambda places, words: (places * words, words**places)",
        "better = 1",
    ],
    "10_data.ipynb": [
        "dialogue_cost = lambda p, a, t, i, o: t * (p * i + a * o) / 1e6",
        "first_of_each = lambda texts: list(dict.fromkeys(texts))",
        "leaked_runs = lambda questions, rows, n: 0.5",
        "my_p = 0.5",
    ],
    "11_your_turn.ipynb": [
        'my_row = lambda row: {"question": row["working"], "answer": "So\\n#### 1"}',
        "my_model = base",
        'my_submission = place / "lesson-03-mixture.json"',
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.name)
def test_checks_pass_the_solution_and_fail_a_wrong_answer(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MATHSFT_PROFILE", str(Path(__file__).with_name("quick.yaml")))
    monkeypatch.setenv("MATHSFT_QUESTIONS", "150")
    monkeypatch.setenv("MATHSFT_RUNS", str(tmp_path))
    strict = {"exercise": lambda number: nullcontext()}  # so that what fails is seen here
    names: dict = {}
    wrong = iter(WRONG[path.name])
    for cell in cells(path):
        text = source(cell)
        if "exercise" in tags(cell):
            with pytest.raises(AssertionError):
                exec(text, {**names, **_answered(next(wrong), names), **strict})
            exec(text, {**names, **strict})
        elif "google.colab" not in text:
            exec(text, names)
    assert next(wrong, None) is None


def _answered(answer: str, names: dict) -> dict:
    exec(answer, changed := dict(names))
    return changed


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.name)
def test_solutions_hold_every_check_of_the_lesson_and_pass_it(path: Path) -> None:
    checks = [source(cell) for cell in check_cells(ROOT / "notebooks" / path.name)]
    assert [source(cell) for cell in check_cells(path)] == checks
    for number, cell in enumerate(check_cells(path), start=1):
        assert shown(cell).strip() == f"Exercise {number}: solved"
        assert "nbval-check-output" in tags(cell)
    assert not any(o["output_type"] == "error" for c in cells(path) for o in c["outputs"])
