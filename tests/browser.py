"""Pages of a folder on a local server, opened in the system's Chromium."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

# Chromium runs as root in containers, and must not look for Google's servers.
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of the folder's files."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def chromium() -> Iterator[Any]:
    """Playwright's browser; skips the test if there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: extra browser")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"needs a browser: none of {', '.join(names)} is on the path")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Watched:
    """A page, and what went wrong in it: errors, failed requests, requests to other servers."""

    page: Any
    wrong: list[str] = field(default_factory=list)


def watched(context: Any, address: str) -> Watched:
    """A new page of a browser context that notes what goes wrong."""
    it = Watched(context.new_page())

    def response(got: Any) -> None:
        if got.status >= 400:
            it.wrong.append(f"{got.status} {got.url}")

    def request(sent: Any) -> None:
        if not sent.url.startswith((address, "data:", "blob:")):
            it.wrong.append(f"elsewhere: {sent.url}")

    def message(said: Any) -> None:
        if said.type in ("error", "warning"):
            it.wrong.append(f"console: {said.text}")

    def failed(sent: Any) -> None:
        if "ERR_ABORTED" not in (sent.failure or ""):  # the next page was opened meanwhile
            it.wrong.append(f"failed: {sent.url}")

    it.page.on("response", response)
    it.page.on("request", request)
    it.page.on("requestfailed", failed)
    it.page.on("pageerror", lambda error: it.wrong.append(f"script: {error}"))
    it.page.on("console", message)
    return it
