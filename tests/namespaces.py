"""Two hosts on one machine: two network namespaces, joined by a virtual cable."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import pytest


class Host(NamedTuple):
    """One host; ``inside`` before a command runs the command there."""

    inside: tuple[str, ...]
    address: str
    interface: str


@contextmanager
def two_hosts() -> Iterator[list[Host]]:
    """Make two hosts and remove them again; skip the test if namespaces are not allowed."""
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
            pytest.skip(f"network namespaces cannot be made here: {told.strip()}")
        yield hosts
    finally:  # deleting a namespace deletes the cable too
        for arguments in [("netns", "del", name) for name in names] + [("link", "del", cable[0])]:
            with suppress(OSError, subprocess.CalledProcessError):
                _ip(*arguments)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
