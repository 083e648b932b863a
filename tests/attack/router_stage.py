"""A router in a process of its own, fake servers in another, honest clients beside an attack."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

ROOT = Path(__file__).parents[2]
FAKES = ROOT / "integrations" / "sglang" / "tests" / "unit"

SERVERS = """
import asyncio, sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from fake_sglang import fake_servers
async def main():
    async with fake_servers(unified=int(sys.argv[3])) as servers:
        print(*(server.url for server in servers.values()), flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""

HONEST = {"text": "what is the capital of France?", "rid": "honest"}
PAUSE_S = 0.004
SLACK_S = 0.03
"""What a machine whose two cores do everything at once adds to a 99th percentile."""


@dataclass
class Stage:
    """What an attack has before it.

    Attributes:
        port: The router's.
        pid: The router's process.
    """

    port: int
    pid: int
    _latency_s: list[float] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def memory_mb(self) -> float:
        """Resident memory of the router and of what it has started."""
        pids = [self.pid, *_children(self.pid)]
        return sum(_resident_mb(pid) for pid in pids)

    async def beside(self, attack: Awaitable[Any] | None, for_s: float = 1.0) -> list[float]:
        """Latencies of honest requests beside an attack, all of which must be answered."""
        latency_s: list[float] = []
        over = asyncio.Event()
        async with aiohttp.ClientSession() as session:

            async def client() -> None:
                while not over.is_set():
                    began_s = time.perf_counter()
                    async with session.post(f"{self.url}/generate", json=HONEST) as reply:
                        answer = await reply.json()
                        assert reply.status == 200, answer
                        assert answer["meta_info"]["id"] == "honest"
                    latency_s.append(time.perf_counter() - began_s)
                    await asyncio.sleep(PAUSE_S)

            clients = [asyncio.create_task(client()) for _ in range(2)]
            try:
                await (asyncio.sleep(for_s) if attack is None else attack)
            finally:
                over.set()
                await asyncio.gather(*clients)
        return latency_s

    async def honest_beside(self, attack: Awaitable[Any]) -> None:
        """No honest request is lost beside an attack, nor late: p99 within 2 x of quiet."""
        await self.beside(None, 0.3)  # connections
        quiet = p99(await self.beside(None))
        under = p99(await self.beside(attack))
        assert under < 2 * quiet + SLACK_S, (quiet, under)


def p99(latency_s: list[float]) -> float:
    assert len(latency_s) > 20, latency_s
    return float(np.quantile(latency_s, 0.99))


def run(attack: Callable[[Stage], Awaitable[None]], *, servers: int = 2, **settings: Any) -> None:
    """Run an attack on a router."""
    with stage(servers=servers, **settings) as made:
        asyncio.run(_limited(attack, made))


async def _limited(attack: Callable[[Stage], Awaitable[None]], made: Stage) -> None:
    async with asyncio.timeout(90):
        await attack(made)


@contextlib.contextmanager
def stage(*, servers: int = 2, urls: tuple[str, ...] = (), **settings: Any) -> Iterator[Stage]:
    """A router before fake servers or those of `urls`; settings are those of ``[router]``."""
    with contextlib.ExitStack() as stack:
        if not urls:
            command = [sys.executable, "-c", SERVERS, str(ROOT), str(FAKES), str(servers)]
            fakes = stack.enter_context(_process(command, stdin=subprocess.PIPE))
            urls = tuple(fakes.stdout.readline().split())
        command = [sys.executable, "-c", ROUTER, json.dumps(settings), *urls]
        router = stack.enter_context(_process(command, stdin=subprocess.PIPE))
        port = int(router.stdout.readline())
        yield Stage(port, router.pid)
        assert router.poll() is None, "the router died"


ROUTER = """
import asyncio, json, sys
from voltana.serving.router.file_limit import allow_requests
from voltana.timebase import MonotonicTime
from voltana_sglang.dialect.commands import make_router
from voltana_sglang.dialect.settings import SglangRouterTable
import structlog
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
async def main():
    table = {"port": 0, "decode_router": "least-loaded", "loads_period_s": 0}
    table |= json.loads(sys.argv[1])
    table["backends"] = [
        {"name": f"unified-{i}", "role": "unified", "url": u} for i, u in enumerate(sys.argv[2:])
    ]
    settings = SglangRouterTable.model_validate(table)
    allow_requests(settings.max_in_flight, settings.limits.unfinished)
    async with make_router(settings, MonotonicTime()) as service:
        await service.reader.warm()
        while not any(b.available for b in service.pool):
            await asyncio.sleep(0.01)
        print(service.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


@contextlib.contextmanager
def _process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT, **options
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()]


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6
