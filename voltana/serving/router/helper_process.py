"""Python processes of the router's own, for what would hold up its loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sys
from typing import TYPE_CHECKING

from voltana.serving.router.connections import PIECE

if TYPE_CHECKING:
    from asyncio.subprocess import Process

BROKEN = (OSError, EOFError, RuntimeError, asyncio.IncompleteReadError)
"""What a child that has died looks like; uvloop raises `RuntimeError` where its pipe is closed."""

NICER = 10
"""Requests that are served come before what children do."""


async def start(module: str) -> Process:
    """Run a module, which is spoken to by its standard input and output.

    Args:
        module: Its name; it can import what this process can.
    """
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


async def send(process: Process, content: bytes | bytearray) -> None:
    """Send something long, as fast as it is read.

    Raises:
        OSError, RuntimeError: If the child has died.
    """
    if process.stdin is None:
        raise EOFError
    view = memoryview(content)
    for at in range(0, len(view), PIECE):
        process.stdin.write(view[at : at + PIECE])
        await process.stdin.drain()


async def end(process: Process) -> None:
    """Kill a child, if it lives, and wait for its end."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    if process.stdin is not None:
        process.stdin.close()
    await process.wait()


def be_modest(memory_bytes: int) -> None:
    """Let others go first, and take no more memory than that; the child calls it."""
    os.nice(NICER)
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
