"""Asking a model: answers are generate's, a pipe gets them alone, an adapter finds its base."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mathsft import cli, generate, sft_prompt
from mathsft.generation.chat import ask
from mathsft.models.tuned import base_name, load_tuned, merge_folder

QUESTION = "Sam has 3 apples and buys 4. How many apples does Sam have?"
_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_is_that_of_generate_and_is_shown_in_pieces(temperature: float) -> None:
    model, tokenizer = load_tuned()
    pieces: list[str] = []
    how: dict[str, Any] = {"temperature": temperature, "max_new_tokens": 12, "seed": 3}
    answer = ask(model, tokenizer, QUESTION, show=pieces.append, **how)
    ((expected,),) = generate(model, tokenizer, [sft_prompt(QUESTION)], **how)
    assert answer == expected.text
    assert "".join(pieces) == answer
    assert len(pieces) > 1


def test_with_a_chat_template_the_model_reads_the_whole_conversation() -> None:
    model, tokenizer = load_tuned()
    tokenizer.chat_template = _TEMPLATE
    told: dict[str, Any] = {"system": "Be brief.", "history": [("2 + 2 ?", "4")]}
    answer = ask(model, tokenizer, "3 + 3 ?", max_new_tokens=5, **told)
    end = "<|endoftext|>"
    text = f"system: Be brief.{end}user: 2 + 2 ?{end}assistant: 4{end}user: 3 + 3 ?{end}assistant: "
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ((expected,),) = generate(model, tokenizer, [ids], max_new_tokens=5)
    assert answer == expected.text
    asked_plainly = ask(model, tokenizer, "3 + 3 ?", form="question", max_new_tokens=5)
    ((plain,),) = generate(model, tokenizer, [sft_prompt("3 + 3 ?")], max_new_tokens=5)
    assert asked_plainly == plain.text


@pytest.mark.parametrize(
    ("question", "how", "words"),
    [
        (" \n", {}, "question is empty"),
        ("1 + 1 ?", {"system": "Be brief."}, "a system prompt cannot be given"),
        ("1 + 1 ?", {"history": [("a", "b")]}, "earlier turns cannot be given"),
        ("1 + 1 ?", {"form": "chat"}, "no chat template"),
        ("1 + 1 ?", {"form": "chatml"}, "give auto, chat or question"),
        ("1 + 1 ?", {"max_new_tokens": 5000}, "the question"),
        ("1 + 1 ?", {"temperature": -1.0}, "temperature"),
    ],
)
def test_what_cannot_be_asked_is_told(question: str, how: dict[str, Any], words: str) -> None:
    model, tokenizer = load_tuned()
    with pytest.raises(ValueError, match=words):
        ask(model, tokenizer, question, **how)


def test_a_pipe_gets_an_answer_for_each_line_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{QUESTION}\n\n/new\n1 + 1 ?\n"))
    cli.main(["chat", "tiny", "--max_new_tokens", "8", "--temperature", "0"])
    model, tokenizer = load_tuned()
    told = [ask(model, tokenizer, one, max_new_tokens=8) for one in (QUESTION, "1 + 1 ?")]
    assert capsys.readouterr().out == "".join(f"{answer}\n" for answer in told)


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminal")
@pytest.mark.parametrize(("error", "status"), [(EOFError, None), (KeyboardInterrupt, 130)])
def test_ctrl_d_and_ctrl_c_leave_a_terminal_politely(
    error: type[BaseException],
    status: int | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import pty

    _, terminal = pty.openpty()
    lines = iter(["1 + 1 ?"])

    def typed(prompt: str) -> str:
        for line in lines:
            return line
        raise error

    with os.fdopen(terminal) as there:
        monkeypatch.setattr(sys, "stdin", there)
        monkeypatch.setattr("builtins.input", typed)
        if status is None:
            cli.main(["chat", "--max_new_tokens", "4"])
        else:
            with pytest.raises(SystemExit) as stop:
                cli.main(["chat", "--max_new_tokens", "4"])
            assert stop.value.code == status
    told = capsys.readouterr()
    assert "question format; Ctrl-D ends" in told.err
    assert "Traceback" not in told.err


def test_an_adapter_finds_its_base_also_on_another_machine(adapter: Path) -> None:
    model, tokenizer = load_tuned(adapter)
    other, _ = load_tuned(base_name(adapter), peft=adapter)
    answers = [ask(one, tokenizer, QUESTION, max_new_tokens=10) for one in (model, other)]
    assert answers[0] == answers[1]
    with pytest.raises(ValueError, match="give the base and one adapter"):
        load_tuned(adapter, peft=adapter)
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text())
    for name, told in {"/a/lib/mathsft/models/tiny": "tiny", "Qwen/Qwen2.5-0.5B": None}.items():
        path.write_text(json.dumps({**config, "base_model_name_or_path": name}))
        assert base_name(adapter) == (told or name)
    path.write_text(json.dumps({**config, "base_model_name_or_path": "/home/someone/large"}))
    with pytest.raises(FileNotFoundError, match="not on this machine: give the base yourself"):
        load_tuned(adapter)


def test_a_merged_folder_answers_as_base_and_adapter_do(adapter: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    cli.main(["merge", str(adapter), str(merged)])
    model, tokenizer = load_tuned(adapter)
    whole, own = load_tuned(merged)
    ids = torch.tensor([tokenizer(QUESTION)["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(whole(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)
    assert own.get_vocab() == tokenizer.get_vocab()
    with pytest.raises(ValueError, match="is not empty: give a new folder"):
        merge_folder(adapter, merged)
    with pytest.raises(SystemExit, match="holds a full model"):
        cli.main(["merge", str(merged), str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()
