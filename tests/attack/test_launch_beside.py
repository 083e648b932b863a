"""Requests to an engine that a launch runs while other launches beside it are killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from tests.attack.own_time import OwnTime, stands
from tests.attack.test_launch_kill import gone, mark, marked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["mark"]

ROOT = Path(__file__).parents[2]
LEAST = 100

ENGINE = """
import asyncio, os, sys
from aiohttp import web
async def answer(request):
    await asyncio.sleep(0.002)
    return web.json_response({"text": "Paris"})
async def main():
    app = web.Application()
    app.router.add_post("/generate", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print("listens", runner.addresses[0][1], os.getpid(), flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""

LAUNCH = """
import sys
from pathlib import Path
from voltana.serving.launch.child_process import ProcessSpec
from voltana.serving.launch.strays import sole_launch
from voltana.serving.launch.supervise import Supervisor
said = lambda *what: print(*what, flush=True)
spec = ProcessSpec(name="decode-0", kind="decode", command=(sys.executable, "-c", sys.argv[1]))
with sole_launch(Path(sys.argv[2]), said):
    supervisor = Supervisor([[spec]], Path(sys.argv[2]), said)
    supervisor.start(lambda: False)
    supervisor.run(lambda: False, "keep-serving")
"""

KILLER = """
import sys
from pathlib import Path
from tests.attack.test_launch_kill import gone, grown, start
folder, mark = Path(sys.argv[1]), sys.argv[2]
launch = start(folder, mark)
grown(folder, 2)
launch.kill()
launch.wait()
print(f"killed, and left {gone(mark)}", flush=True)
"""
"""Starts a launch, and kills it: a process of its own, that takes nothing of the client's time."""


@contextlib.asynccontextmanager
async def killing(folder: Path, mark: str) -> AsyncIterator[asyncio.StreamReader]:
    """A launch is started and killed; a line when all of it is gone."""
    folder.mkdir()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        KILLER,
        str(folder),
        f"{mark}sibling",
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        yield process.stdout
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            process.kill()
        await process.wait()
        for pid in marked(f"{mark}sibling"):  # of a test that fails
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_requests_to_an_engine_stand_beside_launches_that_are_killed(
    tmp_path: Path, mark: str
) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    launch = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, ENGINE, str(logs)],
        env=os.environ | {"MARK": mark},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    turn = 0

    async def check() -> None:
        async with asyncio.timeout(60):
            while not (said := (logs / "decode-0.log")).exists() or b"\n" not in said.read_bytes():
                await asyncio.sleep(0.05)
        _, port, pid = said.read_text().split()
        url = f"http://127.0.0.1:{port}/generate"
        async with aiohttp.ClientSession() as session, OwnTime(int(pid)) as own:

            async def one() -> float:
                began = own.now()
                async with session.post(url, json={"text": "a"}) as reply:
                    assert reply.status == 200
                    assert await reply.json() == {"text": "Paris"}
                return own.taken_s(began)

            async def quiet() -> list[float]:
                latency_s = []
                for _ in range(2 * LEAST):
                    latency_s.append(await one())
                    await asyncio.sleep(0.005)
                return latency_s

            async def attacked() -> list[float]:
                nonlocal turn
                turn += 1
                latency_s: list[float] = []
                async with killing(tmp_path / f"siblings {turn}", mark) as said:
                    line = asyncio.create_task(said.readline())
                    while not line.done() or len(latency_s) < LEAST:
                        latency_s.append(await one())
                        await asyncio.sleep(0.005)
                    assert await line == b"killed, and left []\n"
                return latency_s

            await one()
            await stands(quiet, attacked, name="launches that are killed")

    try:
        asyncio.run(check())
        assert launch.poll() is None
    finally:
        launch.kill()
        launch.wait()
    assert gone(mark) == []
    assert gone(mark + "sibling") == []
