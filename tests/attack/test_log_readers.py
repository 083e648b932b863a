"""Whoever reads the log of a router or an agent and stands still holds up nobody."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.attack.router_stage import stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AGENT = """
[agent]
rings = "rings"
state = "state"
[actuator]
kind = "simulated"
[engine]
table_mhz = [600, 900, 1005, 1200, 1410]
"""
WITHIN_S = 60.0


@pytest.fixture(params=["full", "broken"])
def log(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """A pipe that nobody reads, or nobody can; both its ends, the first of which may be closed."""
    read, write = os.pipe()
    if request.param == "full":
        flags = fcntl.fcntl(write, fcntl.F_GETFL)
        os.set_blocking(write, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(write, b"x" * 512)
        fcntl.fcntl(write, fcntl.F_SETFL, flags)
    else:
        os.close(read)
        read = -1
    yield read, write
    for handle in {read, write} - {-1}:
        os.close(handle)


@contextlib.contextmanager
def running(folder: Path, write: int, *arguments: str) -> Iterator[None]:
    command = [sys.executable, "-m", "voltana_sglang", *arguments]
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | {"HOME": str(folder)}, stderr=write
    )
    try:
        yield
        assert process.poll() is None
        process.terminate()  # it has something to say of that, too
        # One that has only begun to listen may not yet heed that.
        assert process.wait(WITHIN_S) in {0, -signal.SIGTERM}
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def asked(url: str, body: object = None) -> bytes:
    """The answer, of whoever comes to listen there."""
    data = None if body is None else json.dumps(body).encode()
    ends_s = time.monotonic() + WITHIN_S
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data), timeout=5.0) as reply:
                return bytes(reply.read())
        except OSError:
            assert time.monotonic() < ends_s, f"nobody answers at {url}"
            time.sleep(0.05)


def all_of_it(read: int) -> bytes:
    """What is in the pipe now."""
    os.set_blocking(read, False)
    said = b""
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(read, 1 << 16):
            said += piece
    return said


def broken(port: int) -> None:
    """A request that is no HTTP."""
    with socket.create_connection(("127.0.0.1", port)) as one:
        one.sendall(b"what is this\r\n\r\n")
        assert one.recv(1 << 16).startswith(b"HTTP/1.0 400")


def test_a_router_serves_whoever_reads_its_log(tmp_path: Path, log: tuple[int, int]) -> None:
    read, write = log
    port = free_port()
    with stage() as servers:  # another router's
        url = f"http://127.0.0.1:{servers.port}"
        flags = ("--port", str(port), "--unified", url, "--decode-router", "round-robin")
        with running(tmp_path, write, "router", *flags):
            for _ in range(3):
                assert b"meta_info" in asked(f"http://127.0.0.1:{port}/generate", {"text": "a"})
                broken(port)
            if read >= 0:
                all_of_it(read)  # it reads again
        if read >= 0:
            assert b'"lines of the log were dropped"' in all_of_it(read)


def test_an_agent_serves_whoever_reads_its_log(tmp_path: Path, log: tuple[int, int]) -> None:
    port = free_port()
    (tmp_path / "v.toml").write_text(AGENT)
    flags = ("--config", "v.toml", "--instance", "decode-0", "--control-port", str(port))
    with running(tmp_path, log[1], "agent", *flags):
        for _ in range(3):
            assert asked(f"http://127.0.0.1:{port}/metrics")
