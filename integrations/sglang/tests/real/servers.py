"""Real SGLang servers on the CPU: start, wait, look at the log, stop without a trace."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import psutil

from tests.clusters.calls import (
    admin_headers,
    administration,
    die_with_parent,
    get,
    is_free,
    post,
    wait_for,
)

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "Fleet",
    "Server",
    "ServerSpec",
    "admin_headers",
    "administration",
    "die_with_parent",
    "free_port",
    "generate_pd",
    "get",
    "is_free",
    "post",
    "room",
    "wait_for",
]

Role = Literal["unified", "prefill", "decode"]

ENVIRONMENT = {
    "SGLANG_USE_CPU_ENGINE": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MC_FORCE_TCP": "1",
    "MOONCAKE_PROTOCOL": "tcp",
    "SGLANG_HOST_IP": "127.0.0.1",
}

ARGUMENTS = (
    "--device", "cpu", "--attention-backend", "torch_native", "--dtype", "float32",
    "--mem-fraction-static", "0.3", "--max-total-tokens", "8192", "--max-running-requests", "32",
    "--random-seed", "1", "--skip-server-warmup", "--sleep-on-idle",
)  # fmt: skip

PREFILL = ("--disaggregation-mode", "prefill", "--disaggregation-transfer-backend", "mooncake")
DECODE = (
    "--disaggregation-mode", "decode", "--disaggregation-transfer-backend", "mooncake",
)  # fmt: skip

START_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 2.0
"""Idle SGLang takes far longer over SIGTERM than over SIGKILL, and tests have nothing to drain."""

KILL_TIMEOUT_S = 30.0
"""From SIGKILL to the end; a busy machine takes a while to give the memory back."""

_ROOM_LIMIT = 2**63 - 1
_GIVEN_OUT: set[int] = set()


@dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """What distinguishes one server from another; a server is kept while its specification is.

    Attributes:
        name: Unique among those that run; also the stem of its log.
        role: What it serves.
        environment: Variables on top of `ENVIRONMENT`, as pairs.
        arguments: Command-line arguments on top of `ARGUMENTS`; the last of a kind wins.
    """

    name: str
    role: Role = "unified"
    environment: tuple[tuple[str, str], ...] = ()
    arguments: tuple[str, ...] = ()


class Server:
    """A running server; its process group ends with it, or with this process.

    Args:
        spec: What to start.
        model: Folder of the model.
        folder: For the log.
    """

    def __init__(self, spec: ServerSpec, model: Path, folder: Path) -> None:
        self.spec = spec
        self.port = free_port()
        self.bootstrap_port = free_port() if spec.role == "prefill" else None
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"{spec.name}-{self.port}.log"
        own = {"TMPDIR": str(folder)}  # SGLang leaves its sockets there when it is killed
        environment = os.environ | ENVIRONMENT | own | dict(spec.environment)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sglang.launch_server", *self._arguments(model)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def _arguments(self, model: Path) -> list[str]:
        own = ["--model-path", str(model), "--host", "127.0.0.1", "--port", str(self.port)]
        if self.spec.role == "prefill":
            own += [*PREFILL, "--disaggregation-bootstrap-port", str(self.bootstrap_port)]
        elif self.spec.role == "decode":
            own += [*DECODE, *_decode_arguments()]
        return [*own, *ARGUMENTS, *self.spec.arguments]

    @property
    def alive(self) -> bool:
        """Whether its main process runs."""
        return self.process.poll() is None

    def log_text(self) -> str:
        """All that it and its children said."""
        return self.log.read_text(errors="replace")

    def healthy(self) -> bool:
        """Whether it answers that it is up."""
        with contextlib.suppress(OSError):
            return get(f"{self.url}/health", timeout_s=10.0)[0] == 200
        return False

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until it is healthy; the tail of its log explains a failure."""
        ends_s = time.monotonic() + timeout_s
        while not self.healthy():
            if not self.alive or time.monotonic() > ends_s:
                why = "died" if not self.alive else f"not ready after {timeout_s:g} s"
                raise AssertionError(f"{self.spec.name} {why}:\n{self.log_text()[-6000:]}")
            time.sleep(0.25)

    def generate(self, **body: Any) -> Any:
        """POST /generate, not streaming; a decode server alone is given a faked transfer."""
        if self.spec.role == "decode" and "bootstrap_host" not in body:
            body |= {"bootstrap_host": "2.2.2.2", "bootstrap_room": room()}
        return post(f"{self.url}/generate", body)

    def processes(self) -> list[psutil.Process]:
        """Its main process and all its descendants."""
        with contextlib.suppress(psutil.NoSuchProcess):
            main = psutil.Process(self.process.pid)
            return [main, *main.children(recursive=True)]
        return []

    def scheduler(self) -> psutil.Process:
        """The process of its (only) scheduler."""
        found = [p for p in self.processes() if "scheduler" in " ".join(p.cmdline())]
        assert len(found) == 1, [p.cmdline() for p in self.processes()]
        return found[0]

    def kill(self) -> None:
        """SIGKILL to all its processes at once, as the out-of-memory killer would."""
        doomed = self.processes()
        for process in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(doomed, KILL_TIMEOUT_S)
        self._sweep()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL to whatever is left."""
        doomed = self.processes()
        if self.alive:
            self.process.terminate()
        _, left = psutil.wait_procs(doomed, STOP_TIMEOUT_S)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, KILL_TIMEOUT_S)
        self._sweep()

    def _sweep(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(KILL_TIMEOUT_S)


class Fleet:
    """The servers of a test session: started when asked for, kept for the next test.

    Args:
        model: Folder of the model.
        folder: For logs.
        limit: Servers at once; the memory of the machine sets it.
    """

    def __init__(self, model: Path, folder: Path, limit: int = 3) -> None:
        self.model = model
        self.folder = folder
        self.limit = limit
        self._running: dict[str, Server] = {}

    def get(self, *specs: ServerSpec) -> list[Server]:
        """Servers of these specifications, healthy; others end where there is no room."""
        assert len(specs) <= self.limit, f"{len(specs)} servers, but the limit is {self.limit}"
        wanted = {spec.name: spec for spec in specs}
        stale = [
            name
            for name, server in self._running.items()
            if not server.alive or (name in wanted and server.spec != wanted[name])
        ]
        missing = [name for name in wanted if name not in self._running or name in stale]
        others = [name for name in self._running if name not in wanted and name not in stale]
        kept = len(wanted) - len(missing)
        surplus = max(0, kept + len(missing) + len(others) - self.limit)
        self._end([*stale, *others[:surplus]])
        for name in missing:
            self._running[name] = Server(wanted[name], self.model, self.folder)
        servers = [self._running[spec.name] for spec in specs]
        for server in servers:
            server.wait_ready()
        return servers

    def stop(self) -> None:
        """End all of them."""
        self._end(list(self._running))

    def _end(self, names: list[str]) -> None:
        servers = [self._running.pop(name) for name in names]
        with ThreadPoolExecutor(max_workers=4) as pool:
            list(pool.map(Server.stop, servers))


def generate_pd(prefill: Server, decode: Server, **body: Any) -> Any:
    """POST /generate to a pair, as a router does; the decode server's answer."""
    body |= {
        "bootstrap_host": "127.0.0.1",
        "bootstrap_port": prefill.bootstrap_port,
        "bootstrap_room": room(),
    }
    with ThreadPoolExecutor(max_workers=1) as pool:
        first = pool.submit(post, f"{prefill.url}/generate", body)
        answer = post(f"{decode.url}/generate", body)
        first.result()
    return answer


def room() -> int:
    """A number for a transfer that no other has."""
    return secrets.randbelow(_ROOM_LIMIT)


def free_port() -> int:
    """A port that nobody listens on and that was not given out before.

    Below those that the system gives to outgoing connections: a server listens only once its model
    is loaded, and one of the tests' own connections could have taken the port by then.
    """
    while True:
        port = random.randrange(10_000, 20_000)
        if port not in _GIVEN_OUT and is_free(port):
            _GIVEN_OUT.add(port)
            return port


def _decode_arguments() -> tuple[str, ...]:
    """Flags of newer versions only."""
    from importlib.metadata import version

    if tuple(int(part) for part in version("sglang").split(".")[:3]) < (0, 5, 18):
        return ()
    return ("--disaggregation-decode-retraction-backup", "none")
