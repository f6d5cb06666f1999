"""A hub on the loopback interface: serves folders to ``load_dataset``, ``from_pretrained``.

``HF_ENDPOINT`` is read when huggingface_hub is imported, so a test that uses the hub runs its
code in a new process::

    from hub import local_hub  # noqa: F401  (the fixture)

    def test_…(local_hub, tmp_path):
        write_files_to(local_hub.folder("datasets", "openai/gsm8k"))
        done = local_hub.python("from mathsft.data.problems import …", home=tmp_path / "home")
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

_REVISION = "a" * 40  # every repository has this one commit
_PROJECT = Path(__file__).resolve().parent.parent


class LocalHub:
    """Repositories in ``root/datasets/owner/name`` and ``root/models/owner/name``."""

    def __init__(self, root: Path, endpoint: str) -> None:
        self.root = root
        self.endpoint = endpoint

    def folder(self, kind: str, repository: str) -> Path:
        """Return (or make) a repository's folder; ``kind`` is ``datasets`` or ``models``."""
        folder = self.root / kind / repository
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def environment(self, *, home: Path) -> dict[str, str]:
        """Variables for a process that uses only this hub and has an empty cache."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        kept |= {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
        kept |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
        return kept | {"PYTHONPATH": str(_PROJECT), "no_proxy": "127.0.0.1"}

    def python(self, code: str, *, home: Path) -> subprocess.CompletedProcess[str]:
        """Run ``code`` in a new process with that environment."""
        kept = self.environment(home=home) | {"PYTHONIOENCODING": "utf-8"}
        return subprocess.run(
            [sys.executable, "-c", code], env=kept, capture_output=True, text=True, timeout=900
        )


@pytest.fixture
def local_hub(tmp_path: Path) -> Iterator[LocalHub]:
    """A running hub without repositories."""
    root = tmp_path / "hub"
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield LocalHub(root, f"http://127.0.0.1:{server.server_address[1]}")
    server.shutdown()
    server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, root: Path, *arguments: Any) -> None:
        self.root = root
        super().__init__(*arguments)

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        api = parts[0] == "api"
        parts = parts[1:] if api else parts
        kind = parts.pop(0) if parts[0] in ("datasets", "models") else "models"
        repository, rest = "/".join(parts[:2]), parts[2:]
        folder = self.root / kind / repository
        if not folder.is_dir():
            self._missing("RepoNotFound")
        elif api and (not rest or rest[0] == "revision"):
            names = [{"rfilename": entry["path"]} for entry in _files(folder)]
            about = {"id": repository, "sha": _REVISION, "private": False, "tags": []}
            self._json(about | {"downloads": 0, "likes": 0, "siblings": names})
        elif api and rest[0] == "tree":
            deep = parse_qs(url.query).get("recursive", [""])[0].lower() == "true"
            self._json(_entries(folder, "/".join(rest[2:]), deep=deep))
        elif api and rest[0] == "paths-info":
            asked = json.loads(body) if body[:1] == b"{" else parse_qs(body.decode())
            self._json([entry for entry in _files(folder) if entry["path"] in asked["paths"]])
        elif rest[:1] == ["resolve"] and (folder / "/".join(rest[2:])).is_file():
            self._file(folder / "/".join(rest[2:]))
        else:
            self._missing("EntryNotFound")

    do_HEAD = do_POST = do_GET  # noqa: N815

    def _file(self, path: Path) -> None:
        data, code = path.read_bytes(), 200
        headers = {"ETag": f'"{_digest(path)}"', "Accept-Ranges": "bytes"}
        if self.command == "GET" and (span := self.headers.get("Range")):
            first, last = span.removeprefix("bytes=").split("-")
            stop = min(int(last or len(data)), len(data) - 1) + 1
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{len(data)}"
            data, code = data[int(first) : stop], 206
        self._send(data, code, "application/octet-stream", headers)

    def _json(self, value: Any) -> None:
        self._send(json.dumps(value).encode(), 200, "application/json", {})

    def _missing(self, what: str) -> None:
        self._send(b"{}", 404, "application/json", {"X-Error-Code": what})

    def _send(self, data: bytes, code: int, kind: str, headers: dict[str, str]) -> None:
        self.send_response(code)
        headers |= {"Content-Type": kind, "Content-Length": str(len(data))}
        for name, value in (headers | {"X-Repo-Commit": _REVISION}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Log nothing: a failing test shows the output of its client."""


def _digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


def _entries(folder: Path, under: str, *, deep: bool) -> list[dict[str, Any]]:
    found = sorted((folder / under).rglob("*") if deep else (folder / under).glob("*"))
    return [
        {
            "type": "file" if path.is_file() else "directory",
            "path": path.relative_to(folder).as_posix(),
            "size": path.stat().st_size if path.is_file() else 0,
            "oid": _digest(path) if path.is_file() else "0" * 40,
        }
        for path in found
    ]


def _files(folder: Path) -> list[dict[str, Any]]:
    return [entry for entry in _entries(folder, "", deep=True) if entry["type"] == "file"]
