"""What a crowd costs the router, beside the least that makes the same two calls (`bare`).

``python -m benchmarks.sglang.crowd``: servers that answer at once, one router, and 1 to 512 clients
of which each sends its next request when it has its answer. Router and proxy take turns; by number
of clients the CPU time that the router's process took for a request, the 99th percentile of the
latency of what was answered, and the share that was refused (429), after which a client waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.sglang.hop import Client, StandIn, cpu_s, process_on
from benchmarks.sglang.routers import running
from integrations.sglang.tests.real.servers import free_port

if TYPE_CHECKING:
    import psutil

CROWDS = (1, 16, 128, 512)
ROUNDS = 15
TURN_S = 1.0
WAIT_S = 0.2
"""What a refused client waits: less than ``Retry-After`` says, so that refusals are not rare."""

LIMITS = {"cpu": 1.25, "p99": 1.5}
"""Router over proxy; the second up to `BOUNDED` clients."""

BOUNDED = 128


class _Crowd:
    """Clients of one router, for a while."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.latency_s: list[float] = []
        self.refused = 0

    async def run(self, clients: int, turn_s: float) -> None:
        """Connect, which is no part of the time, and ask."""
        connected = await asyncio.gather(*(self._connect() for _ in range(clients)))
        ends_s = time.perf_counter() + turn_s
        await asyncio.gather(*(self._ask(client, ends_s) for client in connected))

    async def _connect(self) -> Client:
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(Client, "127.0.0.1", self._port)
        return client

    async def _ask(self, client: Client, ends_s: float) -> None:
        try:
            while time.perf_counter() < ends_s:
                began_s = time.perf_counter()
                status = await client.ask()
                if status == b"200":
                    self.latency_s.append(time.perf_counter() - began_s)
                elif status == b"429":
                    self.refused += 1
                    await asyncio.sleep(WAIT_S)
                else:
                    raise RuntimeError(f"answered {status!r}")
        finally:
            client.close()


async def _turn(port: int, process: psutil.Process, clients: int) -> dict[str, float]:
    crowd, before_s = _Crowd(port), cpu_s(process)
    began_s = time.perf_counter()
    await crowd.run(clients, TURN_S)
    took_s, answered = time.perf_counter() - began_s, len(crowd.latency_s)
    return {
        "cpu_us": 1e6 * (cpu_s(process) - before_s) / answered,
        "p50_ms": 1e3 * float(np.median(crowd.latency_s)),
        "p99_ms": 1e3 * float(np.quantile(crowd.latency_s, 0.99)),
        "requests_per_s": answered / took_s,
        "refused_share": crowd.refused / (answered + crowd.refused),
    }


async def measure() -> dict[str, Any]:
    """Medians over the rounds, by router and number of clients; see `_report`."""
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(StandIn, "127.0.0.1", 0, backlog=1024) for _ in range(2)]
    urls = [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers]
    ports = {"voltana": free_port(), "bare": free_port()}
    pair = ["--prefill", urls[0], "--decode", urls[1], "--port"]
    commands = {
        "voltana": [sys.executable, "-m", "voltana_sglang", "router", *pair],
        "bare": [sys.executable, "-m", "benchmarks.sglang.bare", *pair],
    }
    turns: dict[tuple[str, int], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        for name, port in ports.items():
            log = Path(folder) / f"{name}.log"
            await asyncio.to_thread(
                stack.enter_context, running([*commands[name], str(port)], port, log)
            )
        processes = {name: process_on(port) for name, port in ports.items()}
        for port in ports.values():
            await _Crowd(port).run(max(CROWDS), 1.0)  # warm
        for turn in range(ROUNDS):
            rng = np.random.default_rng(turn)
            for clients in CROWDS:
                for name in map(str, rng.permutation(list(ports))):
                    figures = await _turn(ports[name], processes[name], clients)
                    turns.setdefault((name, clients), []).append(figures)
    for server in servers:
        server.close()
    return _report(turns)


def _report(turns: dict[tuple[str, int], list[dict[str, float]]]) -> dict[str, Any]:
    """Ratios are medians of those of each round, whose two turns follow one another.

    A machine that is twice as fast a minute later would else decide what they are.
    """

    def medians(name: str, clients: int) -> dict[str, float]:
        rows = turns[name, clients]
        return {key: round(float(np.median([r[key] for r in rows])), 3) for key in rows[0]}

    def ratio(key: str, clients: int) -> float:
        both = zip(turns["voltana", clients], turns["bare", clients], strict=True)
        return round(float(np.median([ours[key] / bare[key] for ours, bare in both])), 3)

    return {
        str(clients): {
            "voltana": medians("voltana", clients),
            "bare": medians("bare", clients),
            "cpu_ratio": ratio("cpu_us", clients),
            "p99_ratio": ratio("p99_ms", clients),
        }
        for clients in CROWDS
    }


def missed(report: dict[str, Any]) -> list[str]:
    """Which limits a report does not keep, in words."""
    found = []
    for clients, row in report.items():
        if int(clients) <= BOUNDED:
            found += [
                f"{key}_ratio with {clients} clients is {row[f'{key}_ratio']}, limit {limit:g}"
                for key, limit in LIMITS.items()
                if row[f"{key}_ratio"] > limit
            ]
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measured := asyncio.run(measure()), indent=2) + "\n")
    sys.exit(len(missed(measured)))
