"""Two hosts on one machine: network namespaces that are joined by a cable of their own."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import pytest


class Host(NamedTuple):
    """``inside`` is put before a command to run it there."""

    inside: tuple[str, ...]
    address: str
    interface: str


@contextmanager
def two_hosts() -> Iterator[list[Host]]:
    """Skips the test where this user may make no namespaces; leaves none behind."""
    names = [f"mathsft-{os.getpid()}-{side}" for side in "ab"]
    cable = [f"m{side}{os.getpid()}" for side in "ab"]
    hosts = [
        Host(("ip", "netns", "exec", name), f"10.231.7.{n}", end)
        for n, (name, end) in enumerate(zip(names, cable, strict=True), 1)
    ]
    try:
        try:
            for name in names:
                _ip("netns", "add", name)
            _ip("link", "add", cable[0], "type", "veth", "peer", "name", cable[1])
            for name, host in zip(names, hosts, strict=True):
                _ip("link", "set", host.interface, "netns", name)
                _ip("-n", name, "addr", "add", f"{host.address}/24", "dev", host.interface)
                _ip("-n", name, "link", "set", host.interface, "up")
                _ip("-n", name, "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            told = getattr(error, "stderr", "") or str(error)
            pytest.skip(f"no network namespaces can be made here: {told.strip()}")
        yield hosts
    finally:  # the cable goes with the namespace that one of its ends is in
        for arguments in [("netns", "del", name) for name in names] + [("link", "del", cable[0])]:
            with suppress(OSError, subprocess.CalledProcessError):
                _ip(*arguments)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
