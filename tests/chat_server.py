"""A small OpenAI-compatible chat server on loopback, with faults that a test asks for."""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SLOW = 6.0  # seconds until a "slow" answer; a busy machine can stop for one or two


class ChatServer(ThreadingHTTPServer):
    """Answers a message with its text and the request's seed.

    ``faults`` gives, for a message, what happens to its first requests, one after the other; the
    last one happens to all further requests if it ends with "!".
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.renew()

    def renew(self, faults: dict[str, list[str]] | None = None, *, pause: float = 0) -> str:
        self.faults = defaultdict(list, {text: [*them] for text, them in (faults or {}).items()})
        self.pause = pause
        self.bodies: list[Any] = []
        self.keys: list[str | None] = []
        self.now = self.most = 0
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fault(self, text: str) -> str:
        with self.lock:
            waiting = self.faults[text]
            if not waiting:
                return ""
            return waiting[0][:-1] if waiting[0].endswith("!") else waiting.pop(0)


class Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.keys.append(self.headers.get("Authorization"))
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
        time.sleep(self.server.pause)
        try:
            self.answer(body)
        finally:
            with self.server.lock:
                self.server.now -= 1

    def answer(self, body: Any) -> None:
        asked = body["messages"][-1]["content"]
        fault = self.server.fault(asked)
        if fault == "drop":
            self.close_connection = True
            return
        if fault == "slow":
            time.sleep(SLOW)
        if fault == "drip":
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):  # the client leaves
                for _ in range(50):
                    self.wfile.write(b" ")
                    time.sleep(0.2)
            return
        if fault.isdigit():
            told = {"error": {"message": f"no: {self.headers.get('Authorization')}"}}
            self.reply(told, status=int(fault))
            return
        message: dict[str, Any] = {"role": "assistant", "content": f"{asked} -> {body.get('seed')}"}
        changed = {"empty": " ", "half": "\ud83d", "null": None, "number": 4}
        if fault in changed:
            message["content"] = changed[fault]
        if fault == "key":
            message["content"] = f"it is {self.headers.get('Authorization')}"
        if fault == "tool":
            message |= {"content": None, "tool_calls": [{"id": "1"}]}
        if fault == "thought":
            message |= {"reasoning_content": "hm"}
        finish = fault if fault in ("length", "content_filter") else "stop"
        words = sum(len(m["content"].split()) for m in body["messages"])
        found: Any = {
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {"prompt_tokens": words, "completion_tokens": 3},
        }
        if fault == "uncounted":
            del found["usage"]
        if fault == "odd counts":
            found["usage"] = {"prompt_tokens": -4, "completion_tokens": True}
        shapes = {"list": [], "no choices": {"choices": []}, "broken": b'{"choices": [{"mes'}
        self.reply(shapes.get(fault, found))

    def reply(self, found: Any, status: int = 200) -> None:
        data = found if isinstance(found, bytes) else json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    server = ChatServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
