"""A client that leaves before its answer costs the router no more than one that stays."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import deque
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import pytest

from tests.attack.router_stage import Stage, post, run, say, status_of
from tests.attack.test_admin_router import HOST, raw, request
from tests.attack.test_steer import connected

if TYPE_CHECKING:
    import socket

ROUNDS, AT_ONCE, CLIENTS = 5, 16, 160
STAY_S, LEAVE_S = 0.1, 0.05
"""How long who stays is worked for, and when others leave."""

LONG_S = 3.0
"""How long those would be worked for: long enough for a busy machine not to answer them before."""

MOST = {"unified": 1.25, "prefill": 1.5}
"""Leaver over stayer: each of its servers is told, which is one short call more; a pair has two."""

PAUSE_S = 0.001
HELD_S = (0.0, 0.05)
"""Between two that leave, and for how long each stays: before and after it is sent on."""

IN_ONE_GO_S = 0.1
"""Hundreds that came while the router had no core are seen to in one go."""


async def _leaves(it: Stage, asked: bytes) -> None:
    """Sends a request, and leaves while servers work on it."""
    _, writer = await asyncio.open_connection("127.0.0.1", it.port)
    writer.write(asked)
    await asyncio.sleep(LEAVE_S)
    writer.close()


async def _stays(it: Stage, asked: bytes) -> None:
    assert status_of(await say(it.port, asked)) == 200


async def _cost_s(it: Stage, kind: object, asked: bytes) -> float:
    """Time that the router computed for each of many such clients."""
    before_s = _computed_s(it)
    for _ in range(CLIENTS // AT_ONCE):
        await asyncio.gather(*(kind(it, asked) for _ in range(AT_ONCE)))  # type: ignore[operator]
    await asyncio.sleep(0.3)  # what is left to do for those that are gone
    return (_computed_s(it) - before_s) / CLIENTS


def _computed_s(it: Stage) -> float:
    return 1e-9 * int(Path(f"/proc/{it.pid}/schedstat").read_text().split()[0])


@pytest.mark.parametrize("servers", [{"unified": 2}, {"prefill": 1, "decode": 1}], ids=str)
@pytest.mark.parametrize("stream", [b"false", b"true"])
def test_who_leaves_costs_no_more_than_who_stays(servers: dict[str, int], stream: bytes) -> None:
    short, long = (
        post(b'{"text": "a", "slow": %g, "stream": %s}' % (work_s, stream))
        for work_s in (STAY_S, LONG_S)
    )

    async def attack(it: Stage) -> None:
        it.held[0] = -1.0  # what looks at the loop would be most of what is measured
        found = []
        for _ in range(ROUNDS):
            left_s = await _cost_s(it, _leaves, long)
            found.append(left_s / await _cost_s(it, _stays, short))
        assert median(found) <= MOST[next(iter(servers))], found
        figures = await raw(it.admin_port, request("GET", "/metrics", HOST))
        left = re.search(rb'outcome="cancelled"} (\d+)', figures)
        assert left is not None
        assert int(left[1]) > 0.9 * ROUNDS * CLIENTS, "they had their answers before they left"

    run(attack, servers=servers)  # type: ignore[arg-type]


async def _one_after_the_other(it: Stage, asked: bytes, held_s: float) -> None:
    """Clients that leave about every millisecond, each after a while."""
    with contextlib.ExitStack() as held:
        leaving: deque[tuple[float, socket.socket]] = deque()
        for _ in range(60):
            client = held.enter_context(connected(it.port))
            client.send(asked)
            leaving.append((time.perf_counter() + held_s, client))
            while leaving and leaving[0][0] <= time.perf_counter():
                leaving.popleft()[1].close()
            await asyncio.sleep(PAUSE_S)


@pytest.mark.parametrize("held_s", HELD_S)
def test_honest_requests_stand_beside_who_leaves_every_millisecond(held_s: float) -> None:
    asked = post(b'{"text": "a", "slow": 0.2}')

    async def attack(it: Stage) -> None:
        leave = partial(_one_after_the_other, it, asked, held_s)
        await it.honest_beside(leave, f"{held_s} s", held_s=IN_ONE_GO_S)

    run(attack)


@pytest.mark.parametrize("held_s", HELD_S)
def test_nobody_reads_what_was_computed_for_who_left_a_pair(held_s: float) -> None:
    """Where a leg waits for one that never comes, a server may owe its answer for seconds."""
    asked = post(b'{"text": "a", "slow": 0.2}')

    async def attack(it: Stage) -> None:
        for _ in range(2):  # connections that were left serve the requests that come after
            await it.beside(partial(_one_after_the_other, it, asked, held_s))
            await it.beside(partial(asyncio.sleep, 0.2))
        assert it.held[0] < IN_ONE_GO_S, f"the loop stood still for {it.held[0]:.3f} s"

    run(attack, servers={"prefill": 1, "decode": 1})
