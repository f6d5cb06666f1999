"""Expressions, YAML and chat templates that would take hours are refused, and named."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trl
from problem_rows import GSM, MATHQA, jsonl
from transformers.utils.chat_template_utils import render_jinja_template

from mathsft.checks import check_values, load_yaml
from mathsft.data.choices import add_choices, make_choices
from mathsft.data.mathqa import official_choices
from mathsft.data.problems import read_problems
from mathsft.data.schemas import UnusableRowError
from mathsft.evaluation.requests import boxed_templates
from mathsft.evaluation.task_files import read_task_file
from mathsft.generation.claims import same_expression, takes_long
from mathsft.models import template_bounds, template_sizes
from mathsft.models.chat_template import _render as render
from mathsft.models.template_bounds import bounded, check_template
from mathsft.models.template_sizes import TemplateBoundError

# --- text that takes hours -----------------------------------------------------------------


def test_long_options_are_dropped_and_counted(tmp_path: Path) -> None:
    long = MATHQA | {"options": "a ) " * 7500}
    assert read_problems(jsonl(tmp_path / "a.jsonl", MATHQA, long))[1] == {
        "options longer than 4,000 characters": 1
    }
    with pytest.raises(ValueError, match="options of 30,000 characters are not MathQA's"):
        official_choices("a ) " * 7500)


def test_a_solution_without_end_gets_choices(tmp_path: Path) -> None:
    rows = [{**GSM, "answer": f"{work}\n#### 4"} for work in ("1+3=4\n" * 900, "9" * 5000 + " + 1")]
    for answered in (GSM, *rows):
        made = add_choices(read_problems(jsonl(tmp_path / "a.jsonl", answered))[0])
        assert len(made["choices"][0]) == 5
    with pytest.raises(UnusableRowError, match="more than 40 digits"):
        make_choices("q", "", "9" * 5000)


HEAVY = [
    "9^{9^{9^9}}", "9^9^9", "2^(2^(2^100))", "9**9**9**9", "1e999999999", "100000!", "((9!)!)!",
    r"\sum_{i=1}^{1000000000} i", r"\binom{1000000000}{500000000}", "x^{9^{9^9}}", "2^{100000}",
    r"9^\frac{99999999}{1}", "{" * 20 + "}" * 20, "x" * 501, "9" * 41, "((2^{99})^{99})^{99}",
]  # fmt: skip


@pytest.mark.parametrize("latex", HEAVY)
def test_an_expression_that_takes_long_is_wrong_and_no_reference(latex: str) -> None:
    assert takes_long(latex)
    assert not same_expression("x^2+1", latex)
    with pytest.raises(ValueError, match="the reference cannot be read"):
        same_expression(latex, "4")


@pytest.mark.parametrize("latex", ["e^{x^2}", "2^{2020}", "5!", "n!", r"\frac{1}{2}", "x^{n^2}"])
def test_expressions_of_school_and_study_are_read(latex: str) -> None:
    assert not takes_long(latex)


# --- YAML ----------------------------------------------------------------------------------

BOMB = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
MERGED = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n}\n  <<: [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB, MERGED, "a: &a [*a]", "[" * 500 + "]" * 500, "{a: " * 500 + "1" + "}" * 500,
        "a: " + "9" * 5000,
        "a: 1" + ":59" * 2000, "a: 0x" + "f" * 5000, "a: 0b" + "1" * 20_000,
        "a: 2026-13-45", "a: !!python/object:os.system x", "a: [", "a: \x00",
        "? [1]\n: 1",
    ],
)  # fmt: skip
def test_yaml_that_cannot_be_read_names_its_file(text: str) -> None:
    with pytest.raises(ValueError, match=r"^a\.yaml: not (valid|usable as) YAML"):
        load_yaml(text, "a.yaml")


@pytest.mark.parametrize("text", [BOMB, MERGED, "a: &a [*a]", "[" * 500, "a: " + "9" * 5000])
def test_a_task_file_that_cannot_be_read_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.yaml: not (a task file|usable as YAML)"):
        read_task_file(tmp_path / "a.yaml")


def test_values_on_the_command_line_are_bounded_too() -> None:
    with pytest.raises(ValueError, match="--a: not usable as YAML"):
        check_values(["--a", "{a: &a [*a]}"])
    check_values(["--a", "{ no YAML"])
    assert load_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}", "a")["b"] == {"x": 1, "y": 2}


# --- chat templates ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    [
        "{{ 9**9**9**9 }}", "{% for i in range(10**9) %}{% endfor %}", "{{ 'a' * 10000000000 }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' | center(9999999999) }}", "{{ '%9999999999d' % 1 }}",
        "{{ '{:9999999999}'.format(1) }}", "{{ " + "9" * 5000 + " }}",
    ],
)  # fmt: skip
def test_a_template_with_powers_or_large_numbers_is_refused(template: str) -> None:
    with pytest.raises(TemplateBoundError):
        check_template(template)


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(9000) %}{% for j in range(900) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n < 99 %}{{ f(n + 1) }}{{ f(n + 1) }}{% endif %}{% endmacro %}"
        "{{ f(1) }}",
        "{{ lipsum(n=9000) }}",
        "{% for a in m %}{% for b in m %}{% for c in m %}{% for d in m %}"
        "{% endfor %}{% endfor %}{% endfor %}{% endfor %}",
    ],
)
def test_a_template_without_end_is_stopped(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    monkeypatch.setattr(template_bounds, "_MOST_STEPS", 20_000)
    monkeypatch.setattr(template_bounds.sys, "gettrace", lambda: None)  # also under coverage
    assert check_template(template)
    compiled = ImmutableSandboxedEnvironment().from_string(template)
    with pytest.raises((TemplateBoundError, RecursionError)), bounded():
        compiled.render(m=list(range(40)))


@pytest.mark.parametrize(
    "body",
    [
        "{% set ns.s = ns.s ~ ns.s %}", "{% set ns.s = ns.s + ns.s %}", "{% set ns.s = ns.s * 2 %}",
        "{% set ns.s = 'a'.join([ns.s, ns.s]) %}", "{% set ns.s = '%s%s' | format(ns.s, ns.s) %}",
        "{% set ns.s = '%s%s' % (ns.s, ns.s) %}", "{% set ns.s = [ns.s, ns.s] | join %}",
        "{% set ns.s = ns.s | replace('a', 'aa') %}", "{% set ns.s = ns.s.replace('a', 'aa') %}",
        "{% set ns.s = '{0}{0}'.format(ns.s) %}", "{% set ns.s = ns.t ~ ns.s %}{% set ns.t = ns.s ~"
        " ns.t %}", "{% for s in [ns.s ~ ns.s] %}{% set ns.s = s %}{% endfor %}",
        "{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}", "{% set ns.l = ns.l + ns.l %}",
        "{% set ns.n = ns.n * 9 %}{{ 'a' * ns.n }}", "{% set ns.n = ns.n + ns.n %}"
        "{{ 'a' | center(ns.n) }}", "{% set ns.n = ns.n * 99999 %}{{ '{:{}}'.format(1, ns.n) }}",
        "{% set ns.n = ns.n * 9 %}{{ '%*d' % (ns.n, 1) }}", "{% set ns.n = ns.n * ns.n %}",
        "{% set ns.n = ns.n * 99 %}{{ 'a'.ljust(ns.n) }}", "{{ ns.s }}{% set ns.s = ns.s ~ ns.s %}",
    ],
)  # fmt: skip
def test_a_template_that_would_fill_the_memory_is_stopped(
    body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_sizes, "MOST_CHARACTERS", 100_000)
    monkeypatch.setattr(template_bounds.sys, "gettrace", lambda: None)  # also under coverage
    template = (
        "{% set ns = namespace(s='aaaa', t='a', l=['a'], n=2) %}{% for m in messages %}"
        + body
        + "{% endfor %}"
    )
    tokenizer: Any = SimpleNamespace(chat_template=template, special_tokens_map={})
    tokenizer.apply_chat_template = lambda messages, tokenize: render_jinja_template(
        conversations=[messages], chat_template=template
    )
    with pytest.raises(TemplateBoundError, match=r"fills the memory"):
        render(tokenizer, [{"role": "user", "content": "a"}] * 24)


def test_templates_of_tasks_are_bounded_too() -> None:
    with boxed_templates() as sandbox:
        for text in ("{{ 9**9**9 }}", "{% for i in range(99999) %}{{ 'a' * 99999 }}{% endfor %}"):
            with pytest.raises(ValueError, match=r"the task's template .* cannot be used"):
                sandbox.from_string(text)
        grows = "{% set ns = namespace(s='a') %}{% for c in q %}{% set ns.s = ns.s ~ ns.s %}"
        made = sandbox.from_string(grows + "{% endfor %}{{ ns.s }}")
        assert made.render(q="123") == "a" * 8
        if sys.gettrace() is None:
            with pytest.raises(TemplateBoundError, match="fills the memory"):
                made.render(q="1" * 64)


@pytest.mark.parametrize(
    "body",
    [
        "{{ c }}", "{% set t = m.content %}{{ t | replace('a', 'b') }}",
        "{% set ns.t = ns.t ~ m.content %}", "{% set ns.t = ns.t + m.content.split('a')[-1] %}",
    ],
)  # fmt: skip
def test_a_plain_template_is_not_counted(body: str) -> None:
    assert not check_template(
        "{% for m in messages %}{% for c in m.tool_calls %}" + body + "{% endfor %}{% endfor %}"
    )


PUBLISHED = sorted(Path(trl.__file__).parent.glob("chat_templates/*.jinja"))
COUNTED = [
    path
    for path in PUBLISHED
    if not path.stem.endswith("_training") and check_template(path.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("path", COUNTED, ids=lambda path: path.stem)
def test_published_templates_write_the_same_with_and_without_bounds(path: Path) -> None:
    template = path.read_text(encoding="utf-8")
    call = {"name": "add", "arguments": {"a": 12345678, "b": [1, {"c": 2**40}]}}
    conversations = [
        [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}],
        [
            {"role": "user", "content": "2 + 2?"},
            {"role": "assistant", "content": "", "tool_calls": [{"function": call}]},
            {"role": "tool", "content": "4", "name": "add"},
            {"role": "assistant", "content": "4"},
        ],
    ]

    def written(messages: Any) -> Any:
        try:
            return render_jinja_template(
                conversations=[messages], chat_template=template, bos_token="<s>", eos_token="</s>"
            )
        except Exception as error:
            return str(error)

    for messages in conversations:
        free = written(messages)
        with bounded():
            assert written(messages) == free
