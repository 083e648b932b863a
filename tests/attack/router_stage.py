"""A router in a process of its own, fake servers in another, honest clients beside an attack."""

from __future__ import annotations

import asyncio
import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import aiohttp

from tests.attack.own_time import OwnTime, stands

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from contextlib import AbstractAsyncContextManager

    from tests.attack.odd_server import OddServer

    Attack = Callable[[], Awaitable[Any]]

ROOT = Path(__file__).parents[2]
FAKES = ROOT / "integrations" / "sglang" / "tests" / "unit"

SERVERS = """
import asyncio, json, sys, types
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import fake_sglang
from fake_sglang import FakeServer, fake_servers
def loads(raw):  # a long body must hold up nobody here either: its end has what is needed of it
    return json.loads(raw if len(raw) < 1000000 else b"{" + raw[raw.rindex(b'"rid"'):])
fake_sglang.json = types.SimpleNamespace(loads=loads, dumps=json.dumps)
class Server(FakeServer):
    async def _answered(self, request, body):  # a prefill server refuses what it is told to
        if self.role == "prefill" and body.get("text") == "refused":
            self.faults.append("refused")
        return await super()._answered(request, body)
fake_sglang.FakeServer = Server
async def main():
    counts = json.loads(sys.argv[3])
    async with fake_servers(**counts) as servers:
        print(*(f"{s.role} {s.url} {s.bootstrap_port}" for s in servers.values()), flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""

HONEST = {"text": "what is the capital of France?", "rid": "honest"}
HOLD_S = 0.05
"""By what is promised, nothing that a client sends delays another request by more than that."""

PAUSE_S = 0.004
LEAST = 60
"""Honest requests beside an attack, which is repeated for so long."""


@dataclass
class Stage:
    """What an attack has before it.

    Attributes:
        port: The router's.
        pid: The router's process.
        admin_port: That of its administration.
        held: For how long its loop was at one thing at most, in s; may be set back to 0, and
            below for nobody to look. And what its collector has found, see `garbage`.
        server_pids: That of its fake servers, where they have one.
    """

    port: int
    pid: int
    held: memoryview
    server_pids: tuple[int, ...] = ()
    admin_port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def memory_mb(self) -> float:
        """Resident memory of the router and of what it has started."""
        pids = [self.pid, *_children(self.pid)]
        return sum(_resident_mb(pid) for pid in pids)

    async def garbage(self) -> int:
        """Objects of cycles since it was asked last; from then on the router looks for none."""
        self.held[1] = -1.0
        os.kill(self.pid, signal.SIGUSR2)
        async with asyncio.timeout(60):
            while self.held[1] < 0.0:
                await asyncio.sleep(0.01)
        return int(self.held[1])

    async def beside(self, attack: Attack) -> list[float]:
        """Latencies of honest requests while an attack goes on, all of which must be answered."""
        latency_s: list[float] = []
        over = asyncio.Event()
        async with aiohttp.ClientSession() as session, self._own_time() as own:

            async def client() -> None:
                while not over.is_set():
                    began = own.now()
                    try:
                        await _asked(session, self.url)
                    except aiohttp.ClientError as error:
                        raise AssertionError(f"an honest request was lost: {error!r}") from error
                    latency_s.append(own.taken_s(began))
                    await asyncio.sleep(PAUSE_S)

            clients = [asyncio.create_task(client()) for _ in range(2)]
            try:
                while len(latency_s) < LEAST and not any(c.done() for c in clients):
                    await attack()
            finally:
                over.set()
                await asyncio.gather(*clients)
        return latency_s

    def _own_time(self) -> OwnTime:
        return OwnTime(self.pid, *self.server_pids)

    async def honest_beside(
        self,
        attack: Attack,
        name: str = "",
        added_s: float = 0.0,
        *,
        held_s: float = HOLD_S,
        than: Attack | None = None,
        meanwhile: Callable[[], AbstractAsyncContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """No honest request is lost beside an attack, nor late: p99 within 2 x of quiet.

        Args:
            attack: Runs again and again.
            name: What it is called where it succeeds.
            added_s: See `Pairs.kept`.
            held_s: For how long the router's loop may compute before it looks at others again.
            than: What goes on in the quiet turns: the same use of the machine without the malice.
            meanwhile: Open while it does.
        """

        async def attacked() -> list[float]:
            async with meanwhile():
                return await self.beside(attack)

        await self.beside(_nothing)  # connections
        self.held[0] = 0.0

        def check() -> None:
            assert self.held[0] < held_s, f"{name} kept the router's loop for {self.held[0]:.3f} s"

        await stands(
            lambda: self.beside(than or _nothing), attacked, name=name, added_s=added_s, check=check
        )


async def _asked(session: aiohttp.ClientSession, url: str) -> None:
    """An honest request."""
    async with session.post(f"{url}/generate", json=HONEST) as reply:
        answer = await reply.json()
        assert reply.status == 200, answer
        assert answer["meta_info"]["id"] == "honest"


async def _nothing() -> None:
    await asyncio.sleep(0.2)


def run(attack: Callable[[Stage], Awaitable[None]], *, servers: int = 2, **settings: Any) -> None:
    """Run an attack on a router before fake servers."""
    with stage(servers=servers, **settings) as made:
        asyncio.run(_limited(attack(made)))


def run_before(
    servers: list[OddServer], attack: Callable[[Stage], Awaitable[None]], **settings: Any
) -> None:
    """Run an attack on a router before servers of this process."""

    async def all_of_it() -> None:
        for server in servers:
            await server.start()
        made = stage(urls=tuple(server.url for server in servers), **settings)
        there = await asyncio.to_thread(made.__enter__)
        try:
            await attack(there)
        finally:
            await asyncio.to_thread(made.__exit__, None, None, None)
            for server in servers:
                server.close()

    asyncio.run(_limited(all_of_it()))


async def _limited(attack: Awaitable[None]) -> None:
    async with asyncio.timeout(900):  # ends what hangs: a busy machine takes minutes
        await attack


async def say(port: int, *pieces: bytes, pause_s: float = 0.0, read_s: float = 20.0) -> bytes:
    """Send bytes to the router as they are; what it says until it closes, or for a while."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause_s)
        said = b""
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(read_s):
                while piece := await reader.read(1 << 16):
                    said += piece
        return said
    finally:
        writer.close()


def post(body: bytes, *headers: str, path: str = "/generate", length: int | None = None) -> bytes:
    """A request, as bytes; the connection ends with its answer."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        "Connection: close",
        f"Content-Length: {len(body) if length is None else length}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def status_of(said: bytes) -> int:
    """The status of an answer; 0 where there is none."""
    return int(said[9:12]) if said.startswith(b"HTTP/1.") else 0


@contextlib.contextmanager
def stage(
    *,
    servers: int | dict[str, int] = 2,
    urls: tuple[str, ...] = (),
    roles: Iterable[str] = repeat("unified"),
    feeds: tuple[str, ...] = (),
    engine: str = "sglang",
    log: IO[bytes] | None = None,
    **settings: Any,
) -> Iterator[Stage]:
    """A router before fake servers or those of `urls`; settings are those of ``[router]``.

    Args:
        servers: How many, or how many of each role.
        urls: Servers of the test's own instead.
        roles: Theirs.
        feeds: Addresses of the first servers' agents.
        engine: Whose dialect it speaks.
        log: Where it writes; None is nowhere.
        settings: Of the router.
    """
    with contextlib.ExitStack() as stack:
        pids: tuple[int, ...] = ()
        if not urls:
            counts = json.dumps(servers if isinstance(servers, dict) else {"unified": servers})
            command = [sys.executable, "-c", SERVERS, str(ROOT), str(FAKES), counts]
            fakes = stack.enter_context(_process(command, stdin=subprocess.PIPE))
            told, pids = fakes.stdout.readline().split(), (fakes.pid,)
            made = list(zip(told[::3], told[1::3], told[2::3], strict=True))
        else:
            made = [(role, url, "8998") for role, url in zip(roles, urls, strict=False)]
        settings["backends"] = [
            {"name": f"{role}-{number}", "role": role, "url": url}
            | ({"bootstrap_port": int(port)} if role == "prefill" else {})
            | ({"feed": feeds[number]} if number < len(feeds) else {})
            for number, (role, url, port) in enumerate(made)
        ]
        # No file on a disk: the kernel holds up who writes to a page that it writes back.
        shared = os.memfd_create("held")
        stack.callback(os.close, shared)
        os.truncate(shared, 16)
        held = memoryview(mmap.mmap(shared, 16)).cast("d")
        table = json.dumps(settings)
        command = [sys.executable, "-c", ROUTER, table, f"/proc/self/fd/{shared}", engine]
        options = {"stdin": subprocess.PIPE, "pass_fds": (shared,), "stderr": log}
        router = stack.enter_context(_process(command, **options))
        port, admin_port = map(int, router.stdout.readline().split())
        yield Stage(port, router.pid, held, pids, admin_port)
        assert router.poll() is None, "the router died"


ROUTER = """
import asyncio, gc, json, mmap, signal, sys, time
import uvloop
from voltana.serving.router.file_limit import allow_requests
from voltana.serving.router.service import seldom_collect
from voltana.timebase import MonotonicTime
from voltana.serving.dialect import Dialect, dialect_named
import structlog
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
def compute(*_):  # a stall on purpose: what holds attacks to the promise must see it
    ends_s = time.thread_time() + 0.1
    while time.thread_time() < ends_s:
        pass
signal.signal(signal.SIGUSR1, compute)
async def holds(words):
    # for how long the loop was at one thing at most: the time that its thread computed
    while True:
        while words[0] < 0.0:  # nobody wants to know, and looking costs time
            await asyncio.sleep(0.5)
        began_s, computed_s = time.perf_counter(), time.thread_time()
        await asyncio.sleep(0.002)
        late_s = time.perf_counter() - began_s - 0.003
        words[0] = max(words[0], min(late_s, time.thread_time() - computed_s))
async def main():
    table = {"port": 0, "decode_router": "round-robin", "loads_period_s": 0}
    table |= json.loads(sys.argv[1])
    dialect = dialect_named(sys.argv[3], Dialect())
    settings, make_router = dialect.router.model_validate(table), dialect.make_router
    allow_requests(settings.max_in_flight, settings.limits.unfinished)
    async with make_router(settings, MonotonicTime()) as service:
        await service.reader.warm()
        seldom_collect()  # as `run_router` does
        while not all(b.available for b in service.pool):
            await asyncio.sleep(0.01)
        with open(sys.argv[2], "r+b") as shared:
            words = memoryview(mmap.mmap(shared.fileno(), 16)).cast("d")
        def collect(*_):
            gc.disable()
            words[1] = gc.collect()
        signal.signal(signal.SIGUSR2, collect)
        watching = asyncio.create_task(holds(words))
        print(service.port, service.administration.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)
uvloop.run(main())
"""


@contextlib.contextmanager
def _process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    options["stderr"] = options.get("stderr") or subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, **options)
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
