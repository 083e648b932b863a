"""What one hop costs: routers in front of servers that answer at once, so that nothing else counts.

No engine is needed: ``python -m benchmarks.sglang.hop``. Routers take turns; for each one the
median and the 99th percentile of a request's latency with one client, requests/s with several, and
the CPU time that the router's process took for a request. ``direct`` is a server without a router.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil

from benchmarks.sglang import routers

ROUNDS = 5
ALONE = 300
TOGETHER = 60
CLIENTS = 16
_ANSWER = json.dumps(
    {"text": "hello", "meta_info": {"prompt_tokens": 32, "finish_reason": {"type": "length"}}}
).encode()
_OK = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    + f"content-length: {len(_ANSWER)}\r\n\r\n".encode()
    + _ANSWER
)
_BODY = json.dumps(
    {"text": "word " * 32, "sampling_params": {"temperature": 0, "max_new_tokens": 4}}
).encode()
REQUEST = (
    b"POST /generate HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
    + f"content-length: {len(_BODY)}\r\n\r\n".encode()
    + _BODY
)


class Messages(asyncio.Protocol):
    """Cuts a connection into messages that say their length."""

    def __init__(self) -> None:
        self._pending = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while (end := self._pending.find(b"\r\n\r\n")) >= 0:
            head = self._pending[:end].lower()
            _, _, after = head.partition(b"content-length:")
            length = int(after.split(b"\r\n")[0] or 0)
            if len(self._pending) < end + 4 + length:
                return
            self._pending = self._pending[end + 4 + length :]
            self.message(head)

    def message(self, head: bytes) -> None:
        raise NotImplementedError

    def send(self, raw: bytes) -> None:
        if self._transport is not None:
            self._transport.write(raw)


class StandIn(Messages):
    """A server that answers at once."""

    def message(self, head: bytes) -> None:  # noqa: ARG002  (every request is answered alike)
        self.send(_OK)


class Client(Messages):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._answered: asyncio.Future[bytes] | None = None

    def message(self, head: bytes) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(head[9:12])

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  (asyncio's name)
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(ConnectionError("closed"))

    async def ask(self) -> bytes:
        """The status of one request."""
        self._answered = asyncio.get_running_loop().create_future()
        self.send(REQUEST)
        return await self._answered

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def _latency_s(client: Client) -> float:
    began_s = time.perf_counter()
    if await client.ask() != b"200":
        raise ConnectionError("refused")
    return time.perf_counter() - began_s


async def _ask(port: int, requests: int) -> list[float]:
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(Client, "127.0.0.1", port)
    try:
        return [await _latency_s(client) for _ in range(requests)]
    finally:
        client.close()


async def _until_ready(port: int) -> None:
    async with asyncio.timeout(routers.READY_S):
        while True:
            with contextlib.suppress(OSError):
                await _ask(port, 100)  # warm, too
                return
            await asyncio.sleep(0.2)


async def _turn(port: int, process: psutil.Process | None) -> dict[str, float]:
    alone = await _ask(port, ALONE)
    before_s, began_s = cpu_s(process), time.perf_counter()
    await asyncio.gather(*(_ask(port, TOGETHER) for _ in range(CLIENTS)))
    took_s, count = time.perf_counter() - began_s, TOGETHER * CLIENTS
    return {
        "p50_us": 1e6 * float(np.median(alone)),
        "p99_us": 1e6 * float(np.quantile(alone, 0.99)),
        "requests_per_s": count / took_s,
        "cpu_us": 1e6 * (cpu_s(process) - before_s) / count,
    }


def cpu_s(process: psutil.Process | None) -> float:
    if process is None:
        return 0.0
    times = process.cpu_times()
    return float(times.user + times.system)


def process_on(port: int) -> psutil.Process:
    """The process that listens on a port."""
    for connection in psutil.net_connections("tcp"):
        listens = connection.status == psutil.CONN_LISTEN and connection.pid
        if listens and connection.laddr.port == port:
            return psutil.Process(connection.pid)
    raise RuntimeError(f"nobody listens on {port}")


async def measure() -> dict[str, Any]:
    """Medians over the rounds, by router, and ours over theirs."""
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(StandIn, "127.0.0.1", 0) for _ in range(2)]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    pair = [SimpleNamespace(url=f"http://127.0.0.1:{p}", bootstrap_port=p) for p in ports]
    turns: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        targets: dict[str, tuple[int, psutil.Process | None]] = {"direct": (ports[1], None)}
        for name, (command, port) in routers.commands(*pair).items():  # type: ignore[arg-type]
            log = Path(folder) / f"{name}.log"
            running = routers.running(command, port, log)
            await asyncio.to_thread(stack.enter_context, running)
            await _until_ready(port)
            targets[name] = port, process_on(port)
        for turn in range(ROUNDS):
            names = list(targets)
            for name in np.random.default_rng(turn).permutation(names):
                turns.setdefault(str(name), []).append(await _turn(*targets[str(name)]))
    for server in servers:
        server.close()
    return _report(turns)


def _report(turns: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    medians = {
        name: {key: round(float(np.median([t[key] for t in rows])), 1) for key in rows[0]}
        for name, rows in turns.items()
    }
    ours = medians["voltana"]
    ratios = {
        name: {key: round(ours[key] / theirs[key], 3) for key in ours}
        for name, theirs in medians.items()
        if name not in {"direct", "voltana"}
    }
    return {"medians": medians, "voltana_over": ratios}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(measure()), indent=2) + "\n")
