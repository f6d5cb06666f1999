"""JSON in a user's files outside the data: a number without end, or nesting, is named."""

from pathlib import Path
from typing import Any

import pytest

from mathsft.generation.journal import open_journal
from mathsft.models.adapter_files import IDENTITY_FILE, read_config
from mathsft.models.adapter_fit import check_base
from mathsft.models.chat_template import Conversation
from mathsft.objectives.left_out import _as_object
from mathsft.training.attempts import kept_attempts

DIGITS = "1" * 5000
DEEP = "[" * 100_000 + "]" * 100_000
ODD = {"digits": DIGITS, "deep": DEEP, "half": '{"a": '}


@pytest.mark.parametrize("odd", ODD)
def test_a_broken_file_is_named(odd: str, tmp_path: Path) -> None:
    begin = '{"kind": "work", "settings": {}}\n'
    journal = tmp_path / "journal.jsonl"
    journal.write_text(begin + '{"id": ' + ODD[odd] + "}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"journal\.jsonl, line 2.*remove the line"):
        open_journal(journal, {}, kind="work")
    (tmp_path / IDENTITY_FILE).write_text(ODD[odd], encoding="utf-8")
    base: Any = None
    with pytest.raises(ValueError, match=rf"{IDENTITY_FILE}.*copy the adapter again"):
        check_base(base, tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"r": ' + ODD[odd] + "}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"adapter_config\.json cannot be read.*copy the adapter"):
        read_config(tmp_path)


@pytest.mark.parametrize("odd", ["digits", "deep"])
def test_the_arguments_of_a_call_stay_a_text_and_other_cells_are_named(odd: str) -> None:
    assert _as_object(ODD[odd]) == ODD[odd]
    row = {"messages": [{"role": "assistant", "content": "4"}], "chat_template_kwargs": ODD[odd]}
    with pytest.raises(ValueError, match="chat_template_kwargs: not usable as JSON"):
        Conversation.of(row, None)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"rows": 1, "watch": {}}', '{"rows": [], "watch": {"x": 1}}']
)
def test_the_attempts_of_a_checkpoint_in_another_form_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "attempts-0.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"attempts-0\.json: not the attempts of a step"):
        kept_attempts(path)
