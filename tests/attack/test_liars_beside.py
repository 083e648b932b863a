"""Requests beside an agent that lies: none is lost, nor later than beside a truthful one."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import zmq

from tests.attack.beside import going_on
from tests.attack.feed_stage import shout, socket
from tests.attack.own_time import HEAVY_S
from tests.attack.router_stage import Stage, run
from tests.attack.test_feed_liars import LIES, TRUE

if TYPE_CHECKING:
    from collections.abc import Callable

PERIOD_S = 0.04
NAMES = ("prefill-0", "decode-1", "decode-2")


def _ever_another(number: int) -> dict[str, Any]:
    return LIES["tables of many clocks"] | {"budget_s": 0.06 + 1e-6 * number}


def _impossible(number: int) -> dict[str, Any]:
    huge = 1e12 if number % 2 else 0
    state = [huge, 0 if number % 2 else 1e12, huge, huge, 0.0, huge]
    return TRUE | {"state": state, "demand_per_s": 1e12, "energy_j": huge}


TOLD: dict[str, Callable[[int], dict[str, Any]]] = {
    "impossible counts": _impossible,
    "another's name": lambda number: TRUE | {"instance": NAMES[2], "state": [0, 0, 0, 0, 1.0, 0.0]},
    "from the future": lambda number: TRUE | {"age_s": -1e9},
    "of long ago": lambda number: TRUE | {"age_s": 1e12 * (number % 2)},
    "no number": lambda number: TRUE | {"state": [math.nan] * 6},
    "ever another model": _ever_another,
    **{name: lambda number, lie=lie: lie for name, lie in LIES.items()},  # type: ignore[misc]
}


async def _telling(liar: zmq.Socket[bytes], tell: Callable[[int], dict[str, Any]]) -> None:
    """Have the second instance's agent tell something, as often as agents do."""
    for number in itertools.count(1):
        shout(liar, msgspec.msgpack.encode({"instance": NAMES[1]} | tell(number)))
        await asyncio.sleep(PERIOD_S)


def _named(told: dict[str, Any], name: str) -> dict[str, Any]:
    return told | {"instance": told["instance"] if told["instance"] in NAMES else name}


@pytest.mark.parametrize("name", TOLD)
def test_honest_requests_stand_beside(name: str) -> None:
    with contextlib.ExitStack() as stack:
        made = [
            stack.enter_context(socket(zmq.DEALER, "tcp://127.0.0.1:*", bind=True)) for _ in NAMES
        ]
        (prefill, _), (liar, _), (other, _) = made

        async def attack(it: Stage) -> None:
            async def pause() -> None:
                await asyncio.sleep(0.1)

            def truth(number: int) -> dict[str, Any]:
                shout(prefill, msgspec.msgpack.encode(TRUE | {"instance": NAMES[0]}))
                shout(other, msgspec.msgpack.encode(TRUE | {"instance": NAMES[2]}))
                return TRUE | {"instance": NAMES[1]}

            def lie(number: int) -> dict[str, Any]:
                truth(number)
                return _named(TOLD[name](number), NAMES[1])

            def meanwhile(tell: Callable[[int], dict[str, Any]]) -> Callable[[], Any]:
                async def told() -> None:
                    async with going_on(_telling(liar, tell)):
                        await pause()

                return told

            await it.honest_beside(meanwhile(lie), name, added_s=HEAVY_S, than=meanwhile(truth))

        run(
            attack,
            servers={"prefill": 1, "decode": 2},  # type: ignore[arg-type]
            feeds=tuple(address for _, address in made),
            decode_router=None,
            prefill_router=None,
            policy="voltana",
        )
