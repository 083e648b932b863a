"""The official router, steered, in front of real servers."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from servers import administration, die_with_parent, free_port, get, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import Server

READY_S = 180.0


@contextlib.contextmanager
def running(log: Path, port: int, *command: str) -> Iterator[str]:
    """A process that listens, from its health to its end."""
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
        )
    try:
        ends_s = time.monotonic() + READY_S
        while not _ready(url):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < ends_s, log.read_text()[-3000:]
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()


def _ready(url: str) -> bool:
    with contextlib.suppress(OSError):
        return get(f"{url}/readiness", timeout_s=10)[0] == 200
    return False


@pytest.fixture
def steered(trio: tuple[Server, Server, Server], tmp_path: Path) -> Iterator[str]:
    """The steering proxy's address; round robin shows that it decides."""
    prefill, first, second = trio
    official = [
        "smg.launch_router", "--pd-disaggregation",
        "--prefill", prefill.url, str(prefill.bootstrap_port),
        "--decode", first.url, "--decode", second.url,
        "--decode-policy", "consistent_hashing", "--prefill-policy", "round_robin",
        # One late answer of a server on a busy machine is not to take it out of the list.
        "--health-check-interval-secs", "1", "--health-failure-threshold", "3",
        "--health-check-timeout-secs", "20",
        "--prometheus-port", str(free_port()),
    ]  # fmt: skip
    with (
        running(tmp_path / "smg.log", free_port(), *official) as upstream,
        running(
            tmp_path / "steer.log",
            free_port(),
            "voltana_sglang.steer_command",
            "--upstream",
            upstream,
            "--decode",
            first.url,
            "--decode",
            second.url,
            "--decode-router",
            "round-robin",
        ) as url,  # fmt: skip
    ):
        ends_s = time.monotonic() + READY_S
        while None in targets(url) or not all(b["healthy"] for b in status(url)["backends"]):
            assert time.monotonic() < ends_s, status(url)
            time.sleep(0.1)
        yield url


def status(url: str) -> dict[str, Any]:
    return json.loads(administration(url, "/steer/status"))


def targets(url: str) -> list[object]:
    return [backend["target"] for backend in status(url)["backends"]]


def left_out(url: str, doomed: int) -> bool:
    """Whether a decode server is known to be dead, here and by the official router."""
    left, dead = status(url)["backends"][1 - doomed], status(url)["backends"][doomed]
    return not dead["healthy"] and dead["target"] is None and left["target"] is not None


def ask(url: str) -> tuple[str, str]:
    """Text of the answer, and the server that gave it."""
    body = {"text": "steer me", "sampling_params": {"temperature": 0, "max_new_tokens": 4}}
    request = urllib.request.Request(
        f"{url}/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.loads(reply.read())["text"], reply.headers["x-smg-routed-worker-id"]


def test_the_official_router_follows_and_survives_a_dead_server(
    steered: str, trio: tuple[Server, Server, Server]
) -> None:
    decode = trio[1:]
    answers = [ask(steered) for _ in range(8)]
    assert [server for _, server in answers] == [server.url for server in decode] * 4
    assert len({text for text, _ in answers}) == 1
    assert status(steered)["steered"] == 8
    # Of the two, the first that it registered, so that the number of the other one changes.
    doomed = targets(steered).index(0)
    left = decode[1 - doomed].url
    decode[doomed].kill()
    after = [ask(steered) for _ in range(8)]  # each of them is answered, the first ones too
    assert {server for _, server in after} == {left}
    assert wait_for(lambda: left_out(steered, doomed)), status(steered)
    before = status(steered)
    assert {ask(steered)[1] for _ in range(4)} == {left}
    now = status(steered)
    assert now["steered"] - before["steered"] == 4, now
    assert now["repeated"] == before["repeated"], now
