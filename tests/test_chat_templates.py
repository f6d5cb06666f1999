"""Chat templates of any kind: the turn and its stop are found, or the template is refused."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from chat_rows import TEMPLATE, chat, document, joint, new_tokenizer, trained_parts, with_template

from mathsft.models.loading import load_model
from mathsft.objectives.sft import tokenize_problems


@pytest.fixture(scope="module")
def plain() -> Any:
    return new_tokenizer()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return with_template(new_tokenizer())


def test_an_answer_begins_where_the_generation_prompt_ends() -> None:
    header = "{{ '^' + m['role'][0] + m['content'] + '~' }}"
    tokenizer = with_template(
        new_tokenizer(),
        f"{{% for m in messages %}}{header}{{% endfor %}}"
        "{% if add_generation_prompt %}^a{% endif %}",
    )
    row = chat("Hi", "ll done")  # transformers joins a|ll to one token
    found = document(row, tokenizer)
    prompt = tokenizer.apply_chat_template(
        row["messages"][:1], add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"]
    assert found["input_ids"] != joint(row, tokenizer)
    assert found["input_ids"][: len(prompt)] == list(prompt)
    assert trained_parts(found, tokenizer) == ["ll done~"]


@pytest.mark.parametrize(
    ("template", "turns"),
    [
        # Marks that end before the stop, as in published templates: they are ignored.
        (
            "{% for m in messages %}{{ '^' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
            "{% generation %}{{ m['content'] }}{% endgeneration %}{% else %}{{ m['content'] }}"
            "{% endif %}{{ '~\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '^assistant\n' }}{% endif %}",
            ["Five.~", "Yes.~"],
        ),
        # No generation prompt: the model writes the header too.
        (
            "{% for m in messages %}{{ '^' + m['role'] + '\n' + m['content'] + '~\n' }}"
            "{% endfor %}",
            ["^assistant\nFive.~", "^assistant\nYes.~"],
        ),
        # The stop is the second mark of the turn, and text and further marks follow it.
        (
            "{% for m in messages %}{{ '~' + m['role'] + ':' + m['content'] }}"
            "{% if m['role'] == 'assistant' %}{{ ' .~ \n^^~' }}{% endif %}{% endfor %}",
            ["~assistant:Five. .~", "~assistant:Yes. .~"],
        ),
        # The text is trimmed, and the stop is the tokenizer's own.
        (
            "{% for m in messages %}{{ m['role'] + ': ' + m['content'] | trim }}"
            "{{ eos_token if m['role'] == 'assistant' else '\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}",
            [" Five.<|endoftext|>", " Yes.<|endoftext|>"],
        ),
    ],
)
def test_the_turn_is_what_the_template_adds_to_the_generation_prompt(
    template: str, turns: list[str]
) -> None:
    tokenizer = with_template(new_tokenizer(), template)
    row = chat("2 + 3?", "Five.", "Sure?", "Yes.")
    found = document(row, tokenizer)
    assert trained_parts(found, tokenizer) == turns
    assert found["input_ids"] == joint(row, tokenizer)


# What published templates train of two answers. None: a second answer changes how the first is
# written, so the conversation cannot be trained.
PUBLISHED = {
    "qwen2_5": ["Five.<|im_end|>", "Yes.<|im_end|>"],
    "qwen3": None,  # only the last answer begins with an empty <think>
    "qwen3_training": [
        "<think>\n\n</think>\n\nFive.<|im_end|>",
        "<think>\n\n</think>\n\nYes.<|im_end|>",
    ],
    "llama3_1": ["Five.<|eot_id|>", "Yes.<|eot_id|>"],
    "gemma3": ["Five.<end_of_turn>", "Yes.<end_of_turn>"],
    "phi3": ["Five.<|end|>", "Yes.<|end|>"],
    "cohere": ["Five.<|END_OF_TURN_TOKEN|>", "Yes.<|END_OF_TURN_TOKEN|>"],
    "gptoss": None,  # the last answer ends with a different token than the ones before
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_templates_train_the_stop_of_every_turn(name: str) -> None:
    path = files("trl") / "chat_templates" / f"{name}.jinja"
    if not path.is_file():
        pytest.skip(f"this TRL has no template {name}")
    template = path.read_text(encoding="utf-8")
    marks = sorted(set(re.findall(r"<\|\w+\|>|<\w+_of_\w+>", template)))
    tokenizer = new_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": marks, "bos_token": marks[0]})
    tokenizer.chat_template = template
    row = chat("2 + 3?", "Five.", "Sure?", "Yes.")
    found, dropped = tokenize_problems([row], tokenizer)
    if PUBLISHED[name] is None:
        assert dropped == {"that the chat template rewrites": 1}
        return
    assert trained_parts(found[0], tokenizer) == PUBLISHED[name]
    assert found[0]["input_ids"] == joint(row, tokenizer)


def test_a_stop_that_takes_the_line_break_after_it_along_is_found(tokenizer: Any) -> None:
    from tokenizers import AddedToken

    greedy = with_template(new_tokenizer())
    greedy.add_special_tokens(
        {"additional_special_tokens": ["^", AddedToken("~", rstrip=True, special=True)]}
    )
    row = chat("2 + 3?", "Five.", "Sure?", "Yes.")
    found = document(row, greedy)
    assert found["input_ids"] == joint(row, greedy) != joint(row, tokenizer)
    assert [part.strip() for part in trained_parts(found, greedy)] == ["Five.~", "Yes.~"]


def test_a_template_that_is_absent_or_never_stops_is_an_error(plain: Any) -> None:
    with pytest.raises(ValueError, match=r"has no chat template.*chat_template_path"):
        tokenize_problems([chat("Hi", "Hello.")], plain)
    for template, message in (
        (TEMPLATE, r"with '~\\n', which contains no special token of the tokenizer"),
        ("{{ bos_token }}", "leaves the assistant's text out"),
        ("{{ raise_exception('No') }}", "cannot be rendered: No"),
    ):
        plain.chat_template = template
        with pytest.raises(ValueError, match=message):
            tokenize_problems([chat("Hi", "Hello.")], plain)
    plain.chat_template = None


def test_a_chat_template_is_loaded_from_a_file_and_its_faults_are_named(tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"
    path.write_text(TEMPLATE)
    assert load_model("tiny", chat_template_path=path)[1].chat_template == TEMPLATE
    path.write_text("{{ raise_exception('never') }}")  # it may accept other conversations
    load_model("tiny", chat_template_path=str(path))
    for text, message in (
        ("a\n{% for m in messages %}\n{{ m['content' }}", r"chat.jinja, line 3: invalid Jinja"),
        ("{% if x %}", r"chat.jinja, line 1: invalid Jinja"),
        (" \n", "the chat template is empty"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            load_model("tiny", chat_template_path=path)
    with pytest.raises(FileNotFoundError, match=r"no chat template .*none.jinja"):
        load_model("tiny", chat_template_path=tmp_path / "none.jinja")
