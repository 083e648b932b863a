"""The router as a process of its own, in front of real servers; and clients of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from servers import Server, administration, free_port, get

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READY_TIMEOUT_S = 120.0


class RouterProcess:
    """A running router.

    Args:
        folder: For its log.
        servers: What it routes to.
        arguments: More of the command line.
    """

    def __init__(self, folder: Path, servers: tuple[Server, ...], *arguments: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"router-{self.port}.log"
        given: list[str] = []
        for server in servers:
            url = server.url
            if server.spec.role == "prefill":
                url += f",{server.bootstrap_port}"
            given += [f"--{server.spec.role}", url]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "voltana_sglang", "router",
                    "--port", str(self.port), *given, *arguments,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ,
            )  # fmt: skip

    def wait_ready(self) -> None:
        """Until it would serve a request."""
        ends_s = time.monotonic() + READY_TIMEOUT_S
        while True:
            with contextlib.suppress(OSError):
                if get(f"{self.url}/health", timeout_s=2)[0] == 200:
                    return
            if self.process.poll() is not None or time.monotonic() > ends_s:
                raise AssertionError(self.log.read_text()[-4000:])
            time.sleep(0.05)

    def status(self) -> dict[str, Any]:
        """What it says of its servers, by their names."""
        found = json.loads(administration(self.url, "/router/status"))
        return {backend["name"]: backend for backend in found["backends"]}

    def in_flight(self) -> int:
        """Requests that it counts as open, over all servers."""
        return sum(backend["in_flight"] for backend in self.status().values())

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(90)
        finally:
            if self.process.poll() is None:
                self.kill()


@contextlib.contextmanager
def router(folder: Path, *servers: Server, arguments: tuple[str, ...] = ()) -> Iterator[Any]:
    """A router that serves, and ends with the block."""
    made = RouterProcess(folder, servers, *arguments)
    try:
        made.wait_ready()
        yield made
    finally:
        made.stop()


def ask(url: str, path: str, body: dict[str, Any], timeout_s: float = 120.0) -> tuple[int, Any]:
    """POST; status and answer, the events of a stream as a list."""
    request = urllib.request.Request(
        url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as reply:
            status, raw = int(reply.status), reply.read()
    except urllib.error.HTTPError as error:
        status, raw = int(error.code), error.read()
    if raw.startswith(b"data:"):
        parts = [part[5:].strip() for part in raw.split(b"\n\n") if part.strip()]
        return status, [p.decode() if p == b"[DONE]" else json.loads(p) for p in parts]
    return status, json.loads(raw)


def outcome(body: dict[str, Any], status: int, answer: Any) -> str:
    """``completed`` or ``error``; anything in between is a lost request and fails the test."""
    if status != 200:
        assert isinstance(answer, dict), answer
        message = (answer.get("error") or answer).get("message")
        assert message, answer
        return "error"
    if not body.get("stream"):
        finish = answer["meta_info"]["finish_reason"]
        assert finish["type"] in {"length", "stop"}, answer
        return "completed"
    assert answer[-1] == "[DONE]", answer[-1]
    if isinstance(answer[-2].get("error"), dict):
        assert answer[-2]["error"]["message"]
        return "error"
    assert answer[-2]["meta_info"]["finish_reason"]["type"] in {"length", "stop"}, answer[-2]
    return "completed"


class Clients:
    """Clients that ask without pause until told to stop.

    Args:
        url: Of the router.
        count: How many.
        tokens: Length of each answer.
    """

    def __init__(self, url: str, count: int = 4, tokens: int = 24) -> None:
        self._url = url
        self._tokens = tokens
        self._stop = threading.Event()
        self.ended: list[tuple[float, str]] = []
        self.refused_connections = 0
        self._pool = ThreadPoolExecutor(count)
        self._jobs = [self._pool.submit(self._run, index) for index in range(count)]

    def _run(self, index: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            body = {
                "text": f"client {index} asks question {number} of many",
                "sampling_params": {"temperature": 0, "max_new_tokens": self._tokens},
                "stream": (index + number) % 2 == 0,
            }
            try:
                status, answer = ask(self._url, "/generate", body)
            except (OSError, http.client.HTTPException):  # an answer that broke off, too
                self.refused_connections += 1
                time.sleep(0.05)
                continue
            found = outcome(body, status, answer)
            self.ended.append((time.monotonic(), found))
            if found == "error":
                time.sleep(0.1)

    def wait_for_after(self, what: str, count: int, after_s: float) -> None:
        """Until so many have ended so after a time."""
        ends_s = time.monotonic() + 120.0
        while self.count(what, after_s) < count:
            assert time.monotonic() < ends_s, (what, count, self.ended[-10:])
            time.sleep(0.02)

    def count(self, what: str, after_s: float = 0.0) -> int:
        """How many ended so after a time."""
        return sum(1 for at_s, found in self.ended if found == what and at_s >= after_s)

    def wait_for(self, what: str, more: int, timeout_s: float = 120.0) -> None:
        """Until so many more have ended so."""
        began_s = time.monotonic()
        while self.count(what, began_s) < more:
            assert time.monotonic() - began_s < timeout_s, (what, more, self.ended[-10:])
            time.sleep(0.02)

    def stop(self) -> None:
        """Wait for all of them; a lost request raises here."""
        self._stop.set()
        for job in self._jobs:
            job.result(150)
        self._pool.shutdown()
