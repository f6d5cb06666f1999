"""A server is waited for with an end, noticed if it dies, and stopped alone."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from mathsft.generation.health import wait_until_ready
from mathsft.generation.server_forms import ServerError
from mathsft.generation.serving import serve_command, serve_recipes, serving

pytestmark = pytest.mark.same_everywhere

# Answers as its first option says after some requests; starts a process of its own, as vLLM does.
SCRIPT = """
import http.server, subprocess, sys
mode, model, port = sys.argv[1:4]
print("loading", model, flush=True)
if mode == "dies":
    sys.exit("out of memory: the server's own words")
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("child", child.pid, flush=True)
asked = 0

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global asked
        asked += 1
        ready = mode != "loads for ever" and asked > 2
        status = 404 if mode == "no health" and self.path == "/health" else 200 if ready else 503
        self.send_response(status)
        self.end_headers()

if mode == "deaf":
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
http.server.HTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
"""


@pytest.fixture
def command(tmp_path: Path) -> str:
    script = tmp_path / "server.py"
    script.write_text(textwrap.dedent(SCRIPT))
    return f"{sys.executable} {script} 'MODE' {{model}} {{port}}"


def child_of(log: Path) -> int:
    return int(log.read_text().split("child ")[1].split()[0])


def ends(process: psutil.Process) -> bool:
    """Whether a process that was told to end does so; a busy machine takes its time."""
    for _ in range(200):
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.05)
                continue
        return True
    return False


@pytest.mark.parametrize("mode", ["loads a while", "no health"])
def test_a_server_is_ready_once_it_says_so_and_ends_with_its_processes(
    command: str, tmp_path: Path, mode: str
) -> None:
    log = tmp_path / "logs" / "server.log"
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with serving(command.replace("MODE", mode), model="m m", log=log, timeout=60) as address:
        assert address.startswith("http://127.0.0.1:")
        assert "loading m m" in log.read_text()
        child = psutil.Process(child_of(log))
        assert log.with_suffix(".pid").exists()
    assert ends(child)
    assert bystander.poll() is None
    assert not log.with_suffix(".pid").exists()
    bystander.kill()
    bystander.wait()


def test_a_server_that_dies_is_noticed_with_the_end_of_its_log(
    command: str, tmp_path: Path
) -> None:
    began = time.monotonic()
    with (
        pytest.raises(ServerError, match=r"(?s)ended with status 1.*out of memory: the server"),
        serving(command.replace("MODE", "dies"), model="m", log=tmp_path / "log", timeout=300),
    ):
        pass
    assert time.monotonic() - began < 60


def test_nothing_is_waited_for_without_end(command: str, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with (
        pytest.raises(ServerError, match=r"(?s)not ready after 3 seconds.*(503|refused).*child"),
        serving(command.replace("MODE", "loads for ever"), model="m", log=log, timeout=3),
    ):
        pass
    child = child_of(log)
    with suppress(psutil.NoSuchProcess):
        assert ends(psutil.Process(child))
    began = time.monotonic()
    with pytest.raises(ServerError, match=r"not ready after 0\.3 seconds"):
        wait_until_ready("http://127.0.0.1:9", timeout=0.3, poll=0.1)
    assert time.monotonic() - began < 5


def test_what_a_killed_program_left_is_stopped_and_only_that(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "server.log"
    left = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True
    )
    note = log.with_suffix(".pid")
    note.write_text(f"{left.pid} {psutil.Process(left.pid).create_time()}")
    other = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True
    )
    with serving(command.replace("MODE", "loads a while"), model="m", log=log, timeout=60):
        assert left.wait(10) is not None
    assert f"process {left.pid}" in capsys.readouterr().out
    # The number is another process's by now: nothing happens to it. Nor by a damaged note.
    for text in (f"{other.pid} {psutil.Process(other.pid).create_time() - 5}", "damaged"):
        note.write_text(text)
        with serving(command.replace("MODE", "loads a while"), model="m", log=log, timeout=60):
            assert other.poll() is None
    os.killpg(other.pid, signal.SIGKILL)
    other.wait()


def test_the_server_of_a_running_program_is_not_stopped_by_another(
    command: str, tmp_path: Path
) -> None:
    how: Any = {"model": "m", "log": tmp_path / "server.log", "timeout": 60}
    with serving(command.replace("MODE", "loads a while"), **how) as address:
        with (
            pytest.raises(ValueError, match="is in use"),
            serving(command.replace("MODE", "loads a while"), **how),
        ):
            pass
        wait_until_ready(address, timeout=10)


def test_the_recipes_are_commands_with_a_model_and_a_port() -> None:
    recipes = serve_recipes()
    assert {*recipes} == {"vllm", "sglang", "transformers"}
    for name, path in recipes.items():
        assert serve_command(name, model="m", port=7) == ["bash", str(path), "m", "7"]
        subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.parametrize(
    ("name", "visible", "more", "expected"),
    [
        (
            "vllm", "0,1", {"ADAPTERS": "a=x b=y", "VLLM_OPTIONS": "--max-model-len 99"},
            "serve m --host 127.0.0.1 --port 7 --tensor-parallel-size 2 "
            "--logprobs-mode processed_logprobs --generation-config vllm --enable-lora "
            "--max-lora-rank 64 --lora-modules a=x b=y --max-model-len 99",
        ),
        ("vllm", "3", {}, "serve m --host 127.0.0.1 --port 7 --tensor-parallel-size 1 "
         "--logprobs-mode processed_logprobs --generation-config vllm"),
        ("sglang", "0,1,2,3", {"TENSOR_PARALLEL": "1"}, "-m sglang.launch_server --model-path m "
         "--host 127.0.0.1 --port 7 --dp-size 4 --tp-size 1 --enable-deterministic-inference"),
        ("transformers", "", {"TRANSFORMERS_OPTIONS": "--device cpu"},
         "serve m --host 127.0.0.1 --port 7 --device cpu"),
    ],
)  # fmt: skip
def test_a_recipe_starts_its_server_with_these_options(
    tmp_path: Path, name: str, visible: str, more: dict[str, str], expected: str
) -> None:
    for program in ("vllm", "python", "transformers"):
        (tmp_path / program).write_text('#!/bin/bash\necho "$@"\n')
        (tmp_path / program).chmod(0o755)
    given = {"PATH": f"{tmp_path}:/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": visible, **more}
    ran = subprocess.run(
        serve_command(name, model="m", port=7), env=given, capture_output=True, text=True
    )
    assert ran.stdout.strip() == expected, ran.stderr


@pytest.mark.parametrize(
    ("serve", "message"),
    [
        ("vlm", "vllm"),
        ("vllm serve {model}", "needs {model} and {port}"),
        ("vllm serve --port {port}", "needs {model} and {port}"),
        ("serve {model} {port} {home}", "nothing else in braces"),
        ("serve '{model} {port}", "not a command"),
        ("serve {model} {port", "not a command"),
        ("", "vllm"),
    ],
)
def test_a_command_that_serves_no_checkpoint_is_refused(serve: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        serve_command(serve, model="m", port=7)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match="no program 'no-such-program'"),
        serving("no-such-program {model} {port}", model="m", log=tmp_path / "log"),
    ):
        pass
