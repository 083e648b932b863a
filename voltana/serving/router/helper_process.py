"""Python processes of the router's own, for what would hold up its loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sys
from typing import TYPE_CHECKING

from voltana.serving.router.problem import Problem
from voltana.serving.router.sending import PIECE

if TYPE_CHECKING:
    from asyncio.subprocess import Process

BROKEN = (OSError, EOFError, RuntimeError, asyncio.IncompleteReadError)
"""What a child that has died looks like; uvloop raises `RuntimeError` where its pipe is closed."""

NICER = 10
"""Requests that are served come before what children do, from their first import on."""

_BEGIN = f"""
import os, runpy, sys
os.nice({NICER})
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


async def start(module: str) -> Process:
    """Run a module, which is spoken to by its standard input and output.

    Args:
        module: Its name; it can import what this process can.

    Raises:
        Problem: If the host has no room for one more process, or no descriptors for its pipes.
    """
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _BEGIN,
            module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    except OSError as error:
        raise busy(f"it cannot start a process ({error.strerror})") from error


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


def busy(why: str) -> Problem:
    """What a request is told that needs a process of its own where there is none for it."""
    return Problem(
        503,
        f"this router cannot read so long a request now: {why}. Send the request again later.",
        "busy",
        retry_after_s=1.0,
    )


async def end(process: Process) -> None:
    """Kill a child, if it lives, and wait for its end.

    What it has said is read to its end: asyncio waits for its pipes, and looks no more at one that
    holds more than somebody has read.
    """
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    if process.stdin is not None:
        process.stdin.close()
    if process.stdout is not None:
        with contextlib.suppress(*BROKEN):
            while await process.stdout.read(PIECE):
                pass
    await process.wait()


def be_modest(memory_bytes: int) -> None:
    """Take no more memory than that; the child calls it."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
