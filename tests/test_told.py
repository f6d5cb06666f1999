"""Errors on the command line: one line, an exit status, and advice in the user's language."""

import json
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pytest
import yaml
from safetensors.torch import load_file
from tokenizers import Tokenizer

from mathsft import cli
from mathsft.models.chat_template import Closing
from mathsft.models.pretrained import load_tokenizer
from mathsft.told import advice, is_told, on_the_command_line


def broken_safetensors(folder: Path) -> None:
    (folder / "x.safetensors").write_bytes(b"\x09")
    load_file(folder / "x.safetensors")


def broken_database(folder: Path) -> None:
    (folder / "x.db").write_bytes(b"no database" * 99)
    sqlite3.connect(folder / "x.db").execute("select * from x")


def broken_zip(folder: Path) -> None:
    (folder / "x.zip").write_bytes(b"no archive")
    zipfile.ZipFile(folder / "x.zip")


def broken_tokenizer(folder: Path) -> None:
    (folder / "x.json").write_text("{}", encoding="utf-8")
    Tokenizer.from_file(str(folder / "x.json"))


def broken_arrow(folder: Path) -> None:
    pa.ipc.open_stream(b"").read_all()


def no_memory(folder: Path) -> None:
    bytearray(1 << 62)


FAILURES: list[Callable[[Path], Any]] = [
    broken_safetensors, broken_database, broken_zip, broken_tokenizer, broken_arrow, no_memory,
    lambda folder: pickle.loads(b""), lambda folder: pickle.loads(b"\x80\x04odd"),
    lambda folder: yaml.safe_load("a: ["), lambda folder: json.loads("{"),
    lambda folder: jinja2.Template("{% if %}"), lambda folder: (folder / "x" / "y").open("w"),
]  # fmt: skip


@pytest.mark.parametrize("fail", FAILURES)
def test_what_libraries_raise_for_broken_files_is_one_line(
    fail: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MATHSFT_DEBUG", raising=False)
    monkeypatch.setattr("mathsft.device.describe", lambda: fail(tmp_path))
    with pytest.raises(SystemExit) as ended:
        cli.main(["describe"])
    told = str(ended.value.code)
    assert told.startswith("mathsft describe: ")
    assert len(told) > len("mathsft describe:  (MATHSFT_DEBUG=1 shows where)")


@pytest.mark.parametrize("fault", [KeyError("solution"), AttributeError("x"), TypeError("x")])
def test_a_fault_of_the_program_keeps_its_traceback(
    fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise fault

    monkeypatch.setattr("mathsft.device.describe", fail)
    assert not is_told(fault)
    with pytest.raises(type(fault)):
        cli.main(["describe"])


def started(*arguments: str, **how: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mathsft", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how,
    )  # fmt: skip


def test_an_interrupt_is_one_line_and_status_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mathsft.device.describe", lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(SystemExit) as ended:
        cli.main(["describe"])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "mathsft describe: interrupted\n"


@pytest.mark.slow
def test_an_interrupted_process_shows_no_traceback(tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    process = started("watch", "--folder", str(watched), "--model", "tiny", "--poll", "60")
    time.sleep(12)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "mathsft watch: interrupted" in said


def test_a_reader_that_has_gone_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "mathsft", "--version"], stdout=write, stderr=subprocess.PIPE,
        text=True, check=False,
    )  # fmt: skip
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == ""


def test_advice_is_in_the_language_of_the_one_who_asked(small_model_dir: Path) -> None:
    tokenizer = load_tokenizer(str(small_model_dir), None)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match=r"load_model\(…, chat_template_path=…\) takes a Jinja"):
        Closing.of(tokenizer)
    with (
        on_the_command_line(),
        pytest.raises(ValueError, match=r"--model\.chat_template_path takes a Jinja") as line,
    ):
        Closing.of(tokenizer)
    assert "load_model" not in str(line.value)
    assert advice(python="p", line="l") == "p"


def test_the_command_line_advises_its_own_options(small_model_dir: Path, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "2?"}, {"role": "assistant", "content": "2"}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": turns}), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        cli.main(
            ["sft", "--model.name", str(small_model_dir), "--model.device", "cpu",
             "--train.source", str(tmp_path / "chat.jsonl"), "--output_dir", str(tmp_path / "run")]
        )  # fmt: skip
    assert "--model.chat_template_path takes a Jinja file" in str(ended.value.code)
    assert not (tmp_path / "run").exists()
