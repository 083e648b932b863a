"""The agent's control endpoint: refused without the token, and bounded with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.attack.beside import stands_beside
from tests.attack.test_admin_router import (
    FORGERIES,
    GOOD,
    HOST,
    cpu_of_bombs,
    raw,
    request,
)
from voltana.errors import ConfigError
from voltana.serving.agent import control
from voltana.serving.agent.control import read_body
from voltana.serving.agent.group import MOST_LIMITS
from voltana.serving.agent.service import Agent, AgentOptions
from voltana.serving.config import parse_config

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

BODIES = {
    "slo": control.SloBody,
    "policy": control.PolicyBody,
    "levels": control.LevelsBody,
    "dry-run": control.DryRunBody,
    "limit": control.LimitBody,
}


class Served:
    """An agent that serves, without an engine."""

    def __init__(self, agent: Agent, port: int) -> None:
        self.agent = agent
        self.port = port

    async def put(self, path: str, body: Any, **headers: str) -> tuple[int, bytes]:
        """Status and body of the answer; none without one."""
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await raw(self.port, request("PUT", f"/{path}", GOOD | headers, text))
        head, _, rest = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), rest

    def settings(self) -> Any:
        group = self.agent.group
        return group.settings, tuple(group._limits), self.agent.actuator.dry_run


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Served]:
    config = parse_config(
        {
            "agent": {"rings": str(folder / "rings"), "state": str(folder / "state")},
            "actuator": {"kind": "simulated"},
            "engine": {"table_mhz": [600, 1005, 1410]},
        }
    )
    options = AgentOptions(
        instance="decode-0", role=None, gpus=(), control_port=0, feed_port=0, dry_run=False
    )
    agent, ports = Agent(config, options), []
    start = control.ControlServer.start

    async def noted(self: Any, host: str, port: int) -> int:
        ports.append(await start(self, host, port))
        return ports[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(control.ControlServer, "start", noted)
        running = asyncio.create_task(agent.run())
        while not ports:
            await asyncio.sleep(0.01)
    try:
        yield Served(agent, ports[0])
    finally:
        agent.end()
        await running


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await body()

    asyncio.run(limited())


def test_a_forged_change_is_refused_whatever_its_form(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path) as it:
            before = it.settings()
            for name, (method, headers, status) in FORGERIES.items():
                for forged in ("POST", "PUT", "PATCH", "DELETE") if method == "POST" else (method,):
                    if name == "by PUT":
                        continue  # which is how it is done
                    text = request(forged, "/dry-run", headers, b'{"dry_run": true}')
                    answer = await raw(it.port, text)
                    if method == "POST":
                        expected = f"HTTP/1.1 {status}".encode()
                        assert answer.startswith(expected), (name, forged, answer[:99])
                    assert it.settings() == before, (name, forged)
            assert (await it.put("dry-run", {"dry_run": True}))[0] == 200
            assert it.settings() != before

    run(check)


def test_status_needs_the_token_and_figures_do_not(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path) as it:
            for path, status in (("metrics", 200), ("health", 503), ("status", 401), ("slo", 401)):
                answer = await raw(it.port, request("GET", f"/{path}", HOST))
                assert answer.startswith(f"HTTP/1.1 {status}".encode()), (path, answer[:99])

    run(check)


HUGE = b"9" * 400
OUT_OF_RANGE: list[tuple[str, bytes]] = [
    *(("slo", b'{"%s": %s}' % (field, value))
      for field in (b"ttft_ms", b"itl_ms", b"ttft_target", b"itl_target")
      for value in (b"0", b"-1", b"1e400", b"NaN", b"Infinity", HUGE, b"1e308", b"true", b"[]",
                    b'"nan"', b"1" * 5000)),
    *(("limit", b'{"max_mhz": 900, "seconds": %s}' % value)
      for value in (b"0", b"-1", b"1e308", b"1e400", b"NaN", HUGE, b"604801", b"null",
                    b"1" * 5000)),
    *(("limit", b'{"seconds": 5, "%s": %s}' % (field, value))
      for field in (b"min_mhz", b"max_mhz") for value in (b"0", b"1e308", b"NaN", HUGE)),
    ("limit", b'{"seconds": 5, "source": "%s"}' % (b"x" * 65)),
    ("limit", b'{"seconds": 5, "source": ""}'),
    ("limit", b'{"seconds": 5, "source": "a\\nlog line"}'),
    ("levels", b'{"levels": "even:1000000000"}'),
    ("levels", b'{"levels": "even:%s"}' % (b"9" * 200)),
    ("levels", b'{"levels": "nan"}'),
    ("levels", b'{"levels": "%s"}' % (b"1005," * 60)),
    ("policy", b'{"controller": "os:system"}'),
    ("policy", b'{"controller": "%s"}' % (b"x" * 300)),
    ("policy", b'{"controller": "fixed:nan"}'),
    ("dry-run", b'{"dry_run": 2}'),
    *((name, body) for name in BODIES for body in (
        b"", b"{", b"[" * 60_000, b"null", b'"x"', b"5", b"\xff", b'{"\\ud800": 1}', b"[]" * 9,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000)),
]  # fmt: skip


def test_a_value_out_of_its_range_is_refused_with_the_range_and_changes_nothing(
    tmp_path: Path,
) -> None:
    async def check() -> None:
        async with serving(tmp_path) as it:
            before = it.settings()
            for path, body in OUT_OF_RANGE:
                status, answer = await it.put(path, body)
                assert status in {400, 422}, (path, body[:80], status, answer)
                assert b"error" in answer
                assert it.settings() == before, (path, body[:80])
            assert (await it.put("slo", b'{"a": "%s"}' % (b"x" * 100_000)))[0] == 413

    run(check)


def test_sources_of_limits_do_not_pile_up(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path) as it:
            body = {"max_mhz": 900, "seconds": 60}
            statuses = [
                (await it.put("limit", body | {"source": f"s{n}"}))[0]
                for n in range(MOST_LIMITS + 9)
            ]
            assert statuses == [200] * MOST_LIMITS + [422] * 9
            assert (await it.put("limit", body | {"source": "s1"}))[0] == 200
            assert len(it.agent.group._limits) == MOST_LIMITS

    run(check)


def changes(it: Served) -> Callable[[], Awaitable[bool]]:
    """Honest changes of a threshold, each to another value; whether one was made."""
    itl_ms = iter(range(10, 10**6))

    async def change() -> bool:
        wanted = next(itl_ms)
        status, answer = await it.put("slo", {"itl_ms": wanted})
        return status == 200 and math.isclose(json.loads(answer)["itl_ms"], wanted)

    return change


def test_forgeries_delay_no_honest_change(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path) as it:

            async def forge() -> None:
                for method, headers, _ in FORGERIES.values():
                    body = b'{"itl_ms": 1}'
                    await raw(it.port, request(method, "/slo", headers, body))
                    await asyncio.sleep(0.005)

            await stands_beside(changes(it), forge, requests=100)

    run(check)


HONEST: list[tuple[str, bytes]] = [
    ("slo", b'{"ttft_ms": 600, "itl_ms": 65.5, "ttft_target": 0.95, "itl_target": 0.99}'),
    ("policy", b'{"controller": "static-max"}'),
    ("levels", b'{"levels": "above:900"}'),
    ("dry-run", b'{"dry_run": true}'),
    ("limit", b'{"min_mhz": 300, "max_mhz": 1200, "seconds": 60, "source": "me"}'),
]
PIECES = (
    b"1e400", b"NaN", b"-Infinity", b"9" * 400, b"null", b"true", b"[[", b"{}", b'"\\u0000"', b"-0",
    b"1e-400", b",", b'"', b"\\", b"\xff", b"\x00", b":", b"0x10", b"1e15",
)  # fmt: skip


@pytest.mark.slow
def test_a_million_damaged_bodies_are_refused_or_within_bounds() -> None:
    randoms = random.Random(10)
    taken = 0
    for number in range(1_000_000):
        name, body = HONEST[number % len(HONEST)]
        text = bytearray(body)
        for _ in range(randoms.randrange(1, 4)):
            place = randoms.randrange(len(text) + 1)
            if randoms.random() < 0.5:
                text[place : place + randoms.randrange(4)] = randoms.choice(PIECES)
            else:
                text[place : place + 1] = bytes([randoms.randrange(32, 127)])
        try:
            found = control._parse(BODIES[name], read_body(bytes(text)))
        except (ValueError, ConfigError):
            continue
        taken += 1
        for field, value in found.model_dump().items():
            if isinstance(value, float):
                assert 0 < value <= 3.6e6, (field, value)
            assert not isinstance(value, str) or (len(value) <= 256 and value.isprintable())
    assert taken > 1000  # damage that leaves an honest body was among it


def test_a_packed_body_is_not_unpacked(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path) as served:
            assert await cpu_of_bombs(served.port, "PUT", "/slo") < 0.5

    asyncio.run(check())
