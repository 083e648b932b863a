"""Connections that send tiny pieces at full speed: chunks, frames, headers, requests."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.attack.router_stage import Stage, run
from tests.attack.tiny_pieces import KINDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIMITS = {"bodies_mb": 24.0, "body_s": 30.0}
FEW, MANY = 8, 300

EACH = [(kind, FEW, "known") for kind in KINDS] + [
    ("chunks", FEW, "stranger"),
    ("chunks", MANY, "known"),
    ("byte by byte", MANY, "stranger"),
]


@contextlib.asynccontextmanager
async def sending(port: int, kind: str, connections: int, who: str) -> AsyncIterator[None]:
    """An attacker in a process of its own."""
    path = str(Path(__file__).with_name("tiny_pieces.py"))
    arguments = (str(port), kind, str(connections), who)
    attacker = await asyncio.create_subprocess_exec(
        sys.executable, "-I", path, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert attacker.stdout is not None
    try:
        assert int(await attacker.stdout.readline()) == connections
        yield
    finally:
        attacker.kill()
        await attacker.wait()


@pytest.mark.parametrize(("kind", "connections", "who"), EACH)
def test_tiny_pieces_at_full_speed_delay_nobody(kind: str, connections: int, who: str) -> None:
    async def attack(stage: Stage) -> None:
        before_mb = stage.memory_mb
        sends = partial(sending, stage.port, kind, connections, who)
        await stage.honest_beside(_while_they_send, kind, meanwhile=sends)
        assert stage.memory_mb - before_mb < 150

    run(attack, max_body_mb=8.0, limits=LIMITS)


async def _while_they_send() -> None:
    await asyncio.sleep(0.1)
