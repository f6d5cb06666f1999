"""Answers to a prompt basket: asked once, kept once, failures kept too, resumed after anything."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import SLOW, ChatServer, chat_server
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mathsft import cli
from mathsft.generation import conversations
from mathsft.generation.basket_client import generate_basket
from mathsft.generation.baskets import answers_in, basket_rows
from mathsft.generation.server_forms import ServerError
from mathsft.models.model_files import TINY

ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "one two"},
    {"id": 7, "prompt": "three", "system_prompt": "be brief", "follow_up_prompt": ["why", "so"]},
    {"id": "c", "prompt": "four", "follow_up_prompt": "and"},
]


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


def ask(url: str, file: Path, rows: Any = ROWS, **how: Any) -> Any:
    return generate_basket(rows, url, model="m", file=file, **how)


def by_id(line: Any) -> tuple[str, int]:
    return str(line["id"]), line["sample"]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[1:]]


def test_each_conversation_is_a_line_with_its_answers_marked(
    server: ChatServer, tmp_path: Path
) -> None:
    found = ask(server.renew(), tmp_path / "a.jsonl", num_generations=2, max_new_tokens=9)
    keys = [(row["id"], row["sample"]) for row in found.rows]
    assert keys == [(row["id"], n) for n in (0, 1) for row in ROWS]
    assert sorted(map(by_id, lines(tmp_path / "a.jsonl"))) == sorted(map(by_id, found.rows))
    long = found.rows[1]
    roles = ["system", "user", "assistant", "user", "assistant", "user", "assistant"]
    assert [message["role"] for message in long["conversation"]] == roles
    assert long["generated_message_indices"] == [2, 4, 6]
    assert long["finish_reasons"] == ["stop"] * 3
    assert long["completion_tokens"] == [3] * 3
    assert long["prompt_tokens"] == [3, 7, 11]  # what the server counted, which grows
    assert {(b["model"], b["temperature"], b["top_p"], b["max_tokens"]) for b in server.bodies} == {
        ("m", 1.0, 1.0, 9)
    }
    assert len({body["seed"] for body in server.bodies}) == len(server.bodies) == 12
    assert found.counts == {"conversations": 6, "generated": 6}


def test_a_seed_depends_on_the_prompt_not_on_its_place(server: ChatServer, tmp_path: Path) -> None:
    whole = ask(server.renew(), tmp_path / "a.jsonl")
    part = ask(server.renew(), tmp_path / "b.jsonl", [ROWS[2]])
    other = ask(server.renew(), tmp_path / "c.jsonl", [ROWS[2]], seed=1)
    assert part.rows[0] == whole.rows[2] != other.rows[0]
    ask(server.renew(), tmp_path / "d.jsonl", seed=None, temperature=None)
    assert not any({"seed", "temperature"} & body.keys() for body in server.bodies)


def test_a_passing_fault_is_tried_again_and_leaves_no_trace(
    server: ChatServer, tmp_path: Path
) -> None:
    whole = ask(server.renew(), tmp_path / "a.jsonl")
    faults = {"one two": ["429", "500"], "three": ["503"], "so": ["drop"], "four": ["slow"]}
    found = ask(server.renew(faults), tmp_path / "b.jsonl", timeout=SLOW - 1)
    assert found.rows == whole.rows
    assert len(server.bodies) == 6 + 5


LASTING = {
    "429": "429", "500": "500", "400": "400", "drop": "connection was lost",
    "slow": "no answer in time", "broken": "not valid JSON", "list": "no object",
    "no choices": "no message", "half": "half a character", "number": "expected a text",
    "tool": "called a tool",
}  # fmt: skip


def test_a_lasting_fault_is_a_counted_line_and_the_same_call_tries_it_again(
    server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "good"}, *({"prompt": fault, "id": fault} for fault in LASTING)]
    url = server.renew({fault: [f"{fault}!"] for fault in LASTING})
    found = ask(url, tmp_path / "a.jsonl", rows, retries=0, timeout=SLOW - 1)
    assert found.counts == {"conversations": 12, "generated": 12, "failed": len(LASTING)}
    for line in found.rows[1:]:
        assert LASTING[line["id"]] in line["error"]
        assert line["conversation"] == [{"role": "user", "content": line["id"]}]
    told = capsys.readouterr().out
    assert "11 failed" in told
    assert "the same call tries the failed ones again" in told
    again = ask(server.renew(), tmp_path / "a.jsonl", rows)
    assert again.counts == {"conversations": 12, "generated": 11, "failures tried again": 11}
    assert len(server.bodies) == 11
    assert not any("error" in line for line in lines(tmp_path / "a.jsonl"))
    assert basket_rows(tmp_path / "a.jsonl") == basket_rows(sorted(again.rows, key=by_id))


def test_cut_and_empty_answers_are_kept_counted_and_not_trained(
    server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = {"three": ["length"], "four": ["thought"], "and": ["uncounted"], "one two": ["empty"]}
    rows = [*ROWS, {"id": "d", "prompt": "five"}, {"id": "e", "prompt": "six"}]
    url = server.renew({**faults, "five": ["content_filter"]})
    found = ask(url, tmp_path / "a.jsonl", rows)
    assert found.counts == {
        "conversations": 5, "generated": 5, "cut": 1, "empty": 1, "stopped by the server": 1,
    }  # fmt: skip
    assert "some answers came without counts" in capsys.readouterr().out
    assert found.rows[1]["generated_message_indices"] == [2]  # nothing follows a cut answer
    chats = basket_rows(tmp_path / "a.jsonl")
    assert [row["id"] for row in chats] == ["c", "e"]
    assert chats[0]["messages"][1]["reasoning_content"] == "hm"
    told = capsys.readouterr().out
    assert "5 conversations, 2 kept; left out: 1 cut, 1 empty, 1 stopped by the server" in told
    asked = server.bodies[-1]["messages"]
    assert all(message.keys() == {"role", "content"} for message in asked)  # thoughts are not sent


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"one two": ["401"]}, "MATHSFT_API_KEY"),
        ({"one two": ["403"]}, "MATHSFT_API_KEY"),
        ({"one two": ["404"]}, "404"),
    ],
)
def test_an_error_that_all_would_meet_ends_the_work(
    faults: dict[str, list[str]], message: str, server: ChatServer, tmp_path: Path
) -> None:
    with pytest.raises(ServerError, match=message):
        ask(server.renew(faults), tmp_path / "a.jsonl", concurrency=1)
    assert len(server.bodies) == 1
    assert ask(server.renew(), tmp_path / "a.jsonl").counts["generated"] == 3


def test_no_server_and_sixteen_failures_at_the_begin_end_the_work(
    server: ChatServer, tmp_path: Path
) -> None:
    with pytest.raises(ServerError, match="no server answers"):
        ask("http://127.0.0.1:9", tmp_path / "a.jsonl", retries=0)
    rows = [{"prompt": "x"} for _ in range(40)]
    with pytest.raises(ServerError, match=r"first 16 conversations all failed.*400"):
        ask(server.renew({"x": ["400!"]}), tmp_path / "b.jsonl", rows, concurrency=2)
    assert len(server.bodies) <= 17


def test_no_more_conversations_than_allowed_are_held_at_once(
    server: ChatServer, tmp_path: Path
) -> None:
    rows = [{"prompt": f"p{n}"} for n in range(12)]
    for allowed in (1, 3):
        ask(server.renew(pause=0.02), tmp_path / f"{allowed}.jsonl", rows, concurrency=allowed)
        assert server.most == allowed


def test_it_works_inside_a_running_loop(server: ChatServer, tmp_path: Path) -> None:
    async def cell() -> Any:
        return ask(server.renew(), tmp_path / "a.jsonl")

    assert asyncio.run(cell()).counts["generated"] == 3


@pytest.fixture(scope="module")
def whole_file(server: ChatServer, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("whole") / "a.jsonl"
    ask(server.renew({"four": ["length!"]}), file, concurrency=1)
    return file.read_bytes()


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_file_cut_at_any_byte_is_completed_to_the_same(
    server: ChatServer, whole_file: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    end = data.draw(st.integers(0, len(whole_file)))
    file = tmp_path / "a.jsonl"
    file.write_bytes(whole_file[:end])
    found = ask(server.renew({"four": ["length!"]}), file, concurrency=1)
    assert file.read_bytes() == whole_file
    header = end <= whole_file.index(b"\n")
    half = not header and whole_file[:end][-1:] != b"\n"
    assert found.counts.get("half line removed", 0) == int(half or (header and end > 0))


def test_other_settings_and_other_prompts_are_noticed_and_more_samples_are_not(
    server: ChatServer, tmp_path: Path
) -> None:
    file = tmp_path / "a.jsonl"
    ask(server.renew(), file)
    before = file.read_bytes()
    for how in ({"temperature": 0.5}, {"seed": 1}, {"stop": ["x"]}, {"extra_body": {"top_k": 1}}):
        with pytest.raises(ValueError, match=f"begun with {next(iter(how))}="):
            ask(server.renew(), file, **how)
    for change in ({"prompt": "five"}, {"system_prompt": "hm"}, {"follow_up_prompt": "and"}):
        with pytest.raises(ValueError, match="'a' has other prompts there"):
            ask(server.renew(), file, [{**ROWS[0], **change}])
    assert file.read_bytes() == before
    assert not server.bodies
    more = ask(server.renew(), file, num_generations=3)
    assert more.counts == {"conversations": 9, "generated": 6}
    fewer = ask(server.renew(), file, ROWS[:1])
    assert fewer.counts == {"conversations": 1, "generated": 0, "other rows in the file": 8}


def test_the_estimate_bounds_what_is_used_and_a_dry_run_asks_nothing(
    server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, prices = tmp_path / "a.jsonl", {"input_price": 1e6, "output_price": 2e6}
    how = {"max_new_tokens": 3, **prices}
    dry = ask(server.renew(), file, check=True, max_cost=1e9, **how).estimate
    assert not file.exists()
    assert (dry.conversations, dry.requests, dry.completion_tokens) == (3, 6, 18)
    assert dry.cost == dry.prompt_tokens + 36
    with pytest.raises(ValueError, match="max_cost is 3"):
        ask(server.renew(), file, max_cost=3, **how)
    assert not server.bodies
    capsys.readouterr()
    found = ask(server.renew(), file, **how)
    used = sum(n for row in found.rows for n in row["prompt_tokens"])
    assert used <= dry.prompt_tokens
    assert f"cost {used + 36:.4f}" in capsys.readouterr().out
    assert ask(server.renew(), file, check=True, **how).estimate.cost == 0
    with pytest.raises(ValueError, match="both input_price and output_price"):
        ask(server.renew(), file, max_cost=3)


def test_a_tokenizer_counts_the_prompts_exactly(server: ChatServer, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    tokens = [len(tokenizer(f"{row['prompt']}\n").input_ids) for row in (ROWS[0], ROWS[2])]
    rows = [ROWS[0], {"id": "c", "prompt": "four"}]
    found = ask(server.renew(), tmp_path / "a.jsonl", rows, tokenizer=tokenizer, check=True)
    assert found.estimate.prompt_tokens == sum(tokens)
    named = ask(server.renew(), tmp_path / "a.jsonl", rows, tokenizer="tiny", check=True)
    assert named.estimate.prompt_tokens > 0


def test_the_key_is_sent_and_never_shown_or_stored(
    server: ChatServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    ask(server.renew(), tmp_path / "a.jsonl")
    assert set(server.keys) == {"Bearer none"}  # that key is for OpenAI only
    monkeypatch.setenv("MATHSFT_API_KEY", "sk-mine")
    found = ask(server.renew({"four": ["400"]}), tmp_path / "b.jsonl")  # it echoes the key
    assert set(server.keys) == {"Bearer sk-mine"}
    with pytest.raises(ServerError) as error:
        ask(server.renew({"four": ["401"]}), tmp_path / "b.jsonl")
    told = capsys.readouterr()
    stored = (tmp_path / "b.jsonl").read_text()
    assert "sk-" not in f"{error.value} {told.out} {told.err} {stored} {found}"
    assert "Bearer …" in str(error.value)


def test_an_answer_that_repeats_the_key_is_not_kept(
    server: ChatServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MATHSFT_API_KEY", "sk-mine-0123456789")
    found = ask(server.renew({"four": ["key!"]}), tmp_path / "a.jsonl")
    assert "holds the API key" in found.rows[2]["error"]
    assert "sk-" not in f"{(tmp_path / 'a.jsonl').read_text()} {capsys.readouterr().out} {found}"
    monkeypatch.setenv("MATHSFT_API_KEY", "Bearer")  # no secret: a word of the answer
    found = ask(server.renew({"four": ["key"]}), tmp_path / "b.jsonl")
    assert found.rows[2]["conversation"][1]["content"] == "it is Bearer Bearer"


def test_an_answer_that_comes_bit_by_bit_has_an_end(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "_LONGEST_PAUSE", 0.5)
    found = ask(server.renew({"four": ["drip"]}), tmp_path / "a.jsonl", retries=0, timeout=1.0)
    assert found.rows[2]["error"] == "no answer in time"


def test_a_count_that_is_none_is_not_added_up(server: ChatServer, tmp_path: Path) -> None:
    found = ask(server.renew({"one two": ["odd counts"]}), tmp_path / "a.jsonl")
    assert (found.rows[0]["prompt_tokens"], found.rows[0]["completion_tokens"]) == ([None], [None])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"base_url": "localhost:8000"}, "give the server's address"),
        ({"base_url": "http://[::1"}, "give the server's address"),
        ({"base_url": "http://localhost:99999"}, "give the server's address"),
        ({"base_url": "http://me:secret@host/v1"}, "user name, a password"),
        ({"num_generations": 0}, "num_generations=0: give 1 or more"),
        ({"temperature": -1}, "temperature=-1"),
        ({"top_p": 0}, "top_p=0"),
        ({"concurrency": None}, "concurrency=None"),
        ({"timeout": float("nan")}, "timeout=nan"),
        ({"retries": 1.5}, "retries=1.5"),
        ({"seed": -1}, "seed=-1"),
        ({"extra_body": {"n": 3}}, "extra_body: 'n'"),
    ],
)
def test_an_impossible_argument_is_named(how: dict[str, Any], message: str, tmp_path: Path) -> None:
    given = {"base_url": "http://127.0.0.1:9", "model": "m", "file": tmp_path / "a.jsonl", **how}
    with pytest.raises(ValueError, match=message) as error:
        generate_basket(ROWS, **given)
    assert "secret" not in str(error.value)


def test_what_looks_wrong_about_a_server_is_said(
    server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(server.renew(), tmp_path / "a.jsonl", num_generations=2)  # it repeats the prompt
    told = capsys.readouterr().out
    assert "answers begin with their prompt" in told
    assert "all samples" not in told
    ask(server.renew(), tmp_path / "b.jsonl", num_generations=2, seed=None)
    assert "all samples of each prompt are the same" in capsys.readouterr().out


def test_the_command_does_the_same(
    server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    basket = tmp_path / "basket.jsonl"
    basket.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    url = server.renew()
    mine = ask(url, tmp_path / "a.jsonl", num_generations=2)
    line = ["generate", "--basket", str(basket), "--base_url", url, "--model", "m"]
    line += ["--file", str(tmp_path / "b.jsonl"), "--num_generations", "2"]
    cli.main([*line, "--check", "--temperature", "0"])
    assert not (tmp_path / "b.jsonl").exists()
    cli.main([*line, "--columns.id", "id"])
    assert answers_in(tmp_path / "b.jsonl") == sorted(mine.rows, key=by_id)
    server.renew({row["prompt"]: ["400!"] for row in ROWS})
    with pytest.raises(SystemExit, match="all conversations failed"):
        cli.main([*line, "--file", str(tmp_path / "c.jsonl")])


@pytest.mark.slow
def test_a_process_killed_at_any_moment_loses_nothing_and_doubles_nothing(
    server: ChatServer, tmp_path: Path
) -> None:
    rows = [{"id": f"p{n}", "prompt": f"word {n}", "follow_up_prompt": "on"} for n in range(60)]
    basket, file = tmp_path / "basket.jsonl", tmp_path / "a.jsonl"
    basket.write_text("".join(json.dumps(row) + "\n" for row in rows))
    url = server.renew({f"word {n}": ["500"] for n in range(0, 60, 7)}, pause=0.02)
    line = [sys.executable, "-m", "mathsft", "generate", "--basket", basket, "--base_url", url]
    line += ["--model", "m", "--file", file, "--concurrency", "4"]
    for wait in (0.0, 0.13, 0.31):
        child = subprocess.Popen(list(map(str, line)), stdout=subprocess.DEVNULL)
        before = file.stat().st_size if file.exists() else 0
        while child.poll() is None and (not file.exists() or file.stat().st_size <= before):
            time.sleep(0.005)
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert child.returncode == -signal.SIGKILL
    there = len(lines_whole(file))
    assert 0 < there < 60
    found = ask(url, file, basket)
    assert found.counts["generated"] == 60 - there
    ids = [line["id"] for line in lines(file)]
    assert sorted(ids) == sorted(row["id"] for row in rows)
    assert found.rows == ask(server.renew(), tmp_path / "b.jsonl", rows).rows


def lines_whole(file: Path) -> list[bytes]:
    return file.read_bytes().split(b"\n")[1:-1]


@pytest.mark.slow
def test_transformers_serve_writes_what_the_model_itself_writes(tmp_path: Path) -> None:
    import socket

    from mathsft.generation.generate import generate
    from mathsft.models.loading import load_model

    model, tokenizer = load_model("tiny", device="cpu")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    # Without a template of its own, the server takes that of Qwen, and repeats the prompt.
    content = {"content": "text", "close": "<|endoftext|>"}
    tokenizer.response_template = {"start_anchor": "\n", "fields": {"content": content}}
    folder = tmp_path / "served"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = Path(sys.executable).with_name("transformers")
    line = [command, "serve", folder, "--host", "127.0.0.1", "--port", port, "--device", "cpu"]
    with (tmp_path / "log").open("w") as log:
        child = subprocess.Popen(list(map(str, line)), stdout=log, stderr=log, env={**os.environ})
    try:
        deadline = time.monotonic() + 300
        while True:
            assert child.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        questions = ["Tom has 3 pens and buys 2. How many has he?", "What is 3 + 4?"]
        found = generate_basket(
            [{"prompt": question} for question in questions], f"http://127.0.0.1:{port}",
            model=str(folder), file=tmp_path / "a.jsonl", temperature=0.0, max_new_tokens=12,
            tokenizer=tokenizer,
        )  # fmt: skip
    finally:
        child.terminate()
        child.wait()
    mine = generate(
        model, tokenizer, [f"{question}\n" for question in questions], max_new_tokens=12
    )
    for row, (answer,) in zip(found.rows, mine, strict=True):
        assert row["conversation"][1]["content"].strip() == answer.text.strip()
        ended = row["finish_reasons"] == ["stop"]
        assert ended == (answer.ended and len(answer.input_ids) < 12)
        assert row["completion_tokens"] == [len(answer.input_ids)]
    used = sum(row["prompt_tokens"][0] for row in found.rows)
    assert used == found.estimate.prompt_tokens
