"""A cluster that a launch runs on the CPU, on a machine with fake GPUs, and clients of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from tests.clusters.calls import (
    admin_headers,
    die_with_parent,
    first_that,
    get,
    is_free,
    post,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

START_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 120.0
"""Above the sum of what the launch itself allows its processes."""

LEAST_PATIENCE_S = 60.0
"""On any machine; a slow one is given what starting the cluster took there."""

ROUTER_OFFSET = 50
KEPT_OFFSET = 399

TABLES = """
[slo]
ttft_ms = 2000
itl_ms = 500
[actuator]
kind = "daemon"
socket = "{folder}/actuator.sock"
[agent]
rings = "{folder}/rings"
state = "{folder}/state"
[router]
port = {port}
"""
"""Beside `[launch]`: thresholds, the real daemon, and where everything lies."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What is an engine's own.

    Attributes:
        program: Its integration, a package.
        environment: Variables of its servers.
        launch: Keys of ``[launch]``.
        path: Where requests go.
        body: A request, by the number of its prompt.
        tokens: The tokens of an answer.
        length: How many there are.
    """

    program: str
    environment: Mapping[str, str]
    launch: Mapping[str, Any]
    path: str
    body: Callable[[int], dict[str, Any]]
    tokens: Callable[[Any], list[int]]
    length: int


class Launched:
    """A launch as a process; a context manager that ends it, and everything that it started.

    Args:
        engine: What it launches.
        folder: For the configuration, logs and state.
        model: Folder of the model.
        servers: ``prefill``, ``decode`` and ``unified`` counts, and other keys of ``[launch]``.
        tables: Further TOML.
        environment: Of the launch.
        flags: Of the command.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        model: Path,
        servers: Mapping[str, Any],
        tables: str,
        *,
        environment: Mapping[str, str],
        flags: Sequence[str] = (),
    ) -> None:
        self.engine = engine
        self.folder = folder
        self.logs = folder / "voltana-logs"
        self.first_port, self._kept_port = _free_block()
        self.router_port = self.first_port + ROUTER_OFFSET
        self.url = f"http://127.0.0.1:{self.router_port}"
        self.config = folder / "cluster.toml"
        own = dict(engine.environment) | {"TMPDIR": str(folder)}
        launch = (
            {
                "model_path": str(model),
                "first_port": self.first_port,
                "start_timeout_s": START_TIMEOUT_S,
            }
            | dict(engine.launch)
            | dict(servers)
        )
        self.start_timeout_s = float(launch["start_timeout_s"])
        lines = [f"{key} = {json.dumps(value)}" for key, value in launch.items()]
        variables = [f"{key} = {json.dumps(value)}" for key, value in own.items()]
        self.config.write_text(
            "\n".join(
                [
                    "[launch]",
                    *lines,
                    "[launch.environment]",
                    *variables,
                    tables.format(port=self.router_port, folder=folder),
                ]
            )
        )
        self.log = folder / "launch.log"
        self.ready_after_s = 0.0
        with contextlib.ExitStack() as unless_started:
            unless_started.enter_context(self._kept_port)
            log = unless_started.enter_context(self.log.open("wb"))
            self.process = subprocess.Popen(
                [sys.executable, "-m", engine.program, "launch", str(self.config), *flags],
                env=os.environ | dict(environment),
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,  # noqa: PLW1509  (it makes one system call)
            )
            log.close()
            unless_started.pop_all()
        self._seen: dict[int, psutil.Process] = {}

    def __enter__(self) -> Launched:
        return self

    def __exit__(self, *_: object) -> None:
        self.processes()
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT_S)
        for process in self.survivors():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.kill()
        self.process.wait()
        self._kept_port.close()

    @property
    def patience_s(self) -> float:
        """How long what takes moments on a quiet machine may take on this one, in this run.

        Starting a cluster takes some minutes of a quiet machine, all of it work of the processor.
        """
        return max(LEAST_PATIENCE_S, self.ready_after_s)

    def wait_ready(self) -> None:
        """Wait until it says that everything is ready."""
        began_s = time.monotonic()
        ends_s = began_s + self.start_timeout_s
        while "launch       ready" not in self.said():
            assert self.process.poll() is None, self.said() + self.logged()
            assert time.monotonic() < ends_s, self.said() + self.logged()
            time.sleep(0.25)
        self.ready_after_s = time.monotonic() - began_s
        self.processes()

    def said(self) -> str:
        """What it told on its terminal."""
        return self.log.read_text(errors="replace")

    def logged(self, name: str = "*") -> str:
        """The ends of the logs of its processes."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted(self.logs.glob(f"{name}.log"))
        )

    def processes(self) -> list[psutil.Process]:
        """All living descendants."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                self._seen[process.pid] = process
        return [process for process in self._seen.values() if _lives(process)]

    def survivors(self) -> list[psutil.Process]:
        """Descendants that were ever seen and live."""
        return [process for process in self._seen.values() if _lives(process)]

    def main_process(self, name: str) -> psutil.Process:
        """The process that the launch started under a name."""
        for process in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if self._started_as(process, name):
                    return process
        raise AssertionError(f"no process {name}: {self.said()}")

    def kill(self, name: str) -> None:
        """SIGKILL to a process and its children."""
        main = self.main_process(name)
        for process in [*main.children(recursive=True), main]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def agent(self, name: str) -> str:
        """Control address of the agent of an instance."""
        addresses = json.loads((self.logs / "agents.json").read_text())
        for address in addresses:
            if json.loads(get(f"{address}/status", admin=True)[1])["instance"] == name:
                return str(address)
        raise AssertionError(f"no agent {name} in {addresses}")

    def status(self, name: str) -> dict[str, Any]:
        """What an agent says."""
        answer: dict[str, Any] = json.loads(get(f"{self.agent(name)}/status", admin=True)[1])
        return answer

    def well(self, name: str) -> dict[str, Any]:
        """What an agent says once its commands take effect.

        A busy machine costs it its lease now and then, which its next step takes up again.
        """
        status = first_that(
            lambda said: said["health"] == "ok", lambda: self.status(name), self.patience_s
        )
        assert status["health"] == "ok", status
        return status

    def put(self, name: str, path: str, **body: Any) -> None:
        """Change something of an agent."""
        request = urllib.request.Request(
            f"{self.agent(name)}/{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", **admin_headers()},
            method="PUT",
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            assert reply.status == 200

    def generate(self, number: int) -> list[int]:
        """The tokens that the router answers to a prompt."""
        return self.engine.tokens(post(self.url + self.engine.path, self.engine.body(number)))

    def traffic(self, clients: int = 4) -> Traffic:
        """Clients of its router."""
        deadline_s = max(Traffic.deadline_s, 2 * self.patience_s)
        return Traffic(self.url, self.engine, clients, deadline_s)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the launch and wait for its end."""
        self.processes()
        self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)

    def _started_as(self, process: psutil.Process, name: str) -> bool:
        return Path(f"/proc/{process.pid}/fd/1").readlink() == self.logs / f"{name}.log"


@dataclass
class Traffic:
    """Clients that ask the router all the time; a context manager.

    Attributes:
        url: Of the router.
        engine: What answers.
        clients: How many ask at once.
        deadline_s: A request that takes longer is lost.
    """

    url: str
    engine: Engine
    clients: int = 4
    deadline_s: float = 300.0
    completed: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(i,), daemon=True) for i in range(self.clients)
        ]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(self.deadline_s + 5)
            assert not thread.is_alive(), "a request neither ended nor failed before its deadline"

    def completes_from(self, since_s: float, count: int) -> bool:
        """Whether `count` requests completed after a moment, waiting for it."""
        return wait_for(
            lambda: sum(at > since_s for at in self.completed) >= count, 2 * self.deadline_s
        )

    def _ask(self, client: int) -> None:
        turn = 0
        while not self._ended.is_set():
            turn += 1
            body = self.engine.body(1000 * client + turn)
            try:
                answer = post(self.url + self.engine.path, body, timeout_s=self.deadline_s)
            except AssertionError as error:  # an answer with an error status
                self.refused.append(str(error))
            except TimeoutError as error:
                self.lost.append(repr(error))
            except (OSError, http.client.HTTPException) as error:  # it broke: the client knows
                self.refused.append(repr(error))
                self._ended.wait(0.1)
            else:
                whole = len(self.engine.tokens(answer)) == self.engine.length
                if whole:
                    self.completed.append(time.monotonic())
                else:
                    self.lost.append(f"cut short: {answer}")


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _free_block() -> tuple[int, socket.socket]:
    """A port from which on all that a launch listens on are free, chosen as `free_port` does.

    And a socket that keeps it, as long as it is open, from tests that run at the same time.
    """
    while True:
        first = random.randrange(20_000, 32_000, 400)
        kept = socket.socket()
        try:
            kept.bind(("127.0.0.1", first + KEPT_OFFSET))
            kept.listen()
        except OSError:  # another test's
            kept.close()
            continue
        offsets = (
            ROUTER_OFFSET,
            *(kind + index for kind in range(0, 400, 100) for index in range(4)),
        )
        if all(is_free(first + offset) for offset in offsets):
            return first, kept
        kept.close()
