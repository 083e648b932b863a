"""The router's helper processes: killed, stopped, hung, without room to start, left in the middle.

Whatever becomes of one costs the request that it reads, and no other anything; none is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvloop

from tests.attack.router_stage import _children
from voltana.serving.router import reading
from voltana.serving.router.limits import LimitsTable
from voltana.serving.router.problem import Problem
from voltana.serving.router.reading import MEDIUM, PATIENCE, Reader
from voltana_sglang.dialect.engine import SglangEngine
from voltana_sglang.dialect.merging import AT_ONCE, Merging, merge_answers
from voltana_sglang.dialect.settings import SglangRouterTable

if TYPE_CHECKING:
    from voltana.serving.engine import Call

READING_S = 20.0
PROMPT = b'{"rid": "mine", "text": "' + b"word " * 20_000 + b'"}'
LONG = b'{"rid": "mine", "text": "a", "x": [' + b'"%s",' % (b"a" * 40) * 30_000 + b"1]}"
"""Its child writes it anew, without the client's id: more than a pipe and its reader hold."""

assert len(PROMPT) <= MEDIUM < len(LONG)


Run = Callable[[Awaitable[None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs what may take its time on a busy machine but not for ever; nothing is left."""

    def run_it(check: Awaitable[None]) -> None:
        async def limited() -> None:
            async with asyncio.timeout(240):
                await check

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(limited())
        assert not _helpers(), "a process is left behind"

    return run_it


def _helpers() -> list[int]:
    """Processes of the router's own that this one has started, dead ones that are unburied too."""
    found = []
    for child in _children(os.getpid()):
        with contextlib.suppress(OSError):
            if (
                Path(f"/proc/{child}/stat").read_text().split()[2] == "Z"
                or b"voltana" in Path(f"/proc/{child}/cmdline").read_bytes()
            ):
                found.append(child)
    return found


def reader(reading_s: float = READING_S) -> Reader:
    table = {"name": "u", "role": "unified", "url": "http://127.0.0.1:9"}
    settings = SglangRouterTable.model_validate({"port": 0, "backends": [table]})
    return Reader(SglangEngine(settings), LimitsTable(reading_s=reading_s))


async def read(made: Reader, raw: bytes) -> Call:
    call = await made.understand("/generate", bytearray(raw))
    assert len(call.raw) > len(raw) // 2
    return call


async def reads_on(made: Reader) -> None:
    """Every child is there, once it has given up what nobody waits for, and reads."""
    while made._readings:
        await asyncio.sleep(0.01)
    await asyncio.gather(*(read(made, raw) for raw in (PROMPT, PROMPT, LONG, LONG, LONG)))
    assert len(_helpers()) <= 3
    assert len(made._medium._idle) == 1
    assert len(made._long._idle) == 2


@contextlib.asynccontextmanager
async def closing(made: Reader):  # type: ignore[no-untyped-def]
    try:
        yield made
    finally:
        await made.close()


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_one_that_is_hit_amid_a_body_costs_that_body_alone(
    run: Run,
    blow: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "PATIENCE", 1.0)  # what stands still is not waited for long

    async def check() -> None:
        async with closing(reader(3.0)) as made:
            await made.warm()
            asked = [asyncio.create_task(read(made, LONG)) for _ in range(4)]
            while len(_helpers()) < 3:
                await asyncio.sleep(0.001)
            for pid in _helpers():
                os.kill(pid, blow)
            for answer in await asyncio.gather(*asked, return_exceptions=True):
                if isinstance(answer, BaseException):
                    assert isinstance(answer, Problem), answer
                    assert answer.status in {413, 503}, answer
            for lane in (made._medium, made._long):
                for child in lane._idle:
                    child._limits = LimitsTable(reading_s=READING_S)
            monkeypatch.undo()
            if blow is signal.SIGSTOP:  # one that is idle is noticed when it is needed
                for pid in _helpers():
                    os.kill(pid, signal.SIGCONT)
            await reads_on(made)

    run(check())


def test_one_that_has_no_core_is_no_fault_of_the_body(run: Run) -> None:
    """The client is told to come again, and not that its body is too large."""

    async def check() -> None:
        async with closing(reader(0.05)) as made:
            await made.warm()
            (child,) = _helpers()
            os.kill(child, signal.SIGSTOP)
            with pytest.raises(Problem, match="had no core") as caught:
                await read(made, PROMPT)
            assert caught.value.status == 503
            assert caught.value.retry_after_s == 1.0
            assert not _helpers()

    assert PATIENCE * 0.05 < 1.0
    run(check())


def test_without_room_for_a_process_requests_are_told_so_and_later_read(run: Run) -> None:
    async def check() -> None:
        async with closing(reader()) as made:
            descriptors = len(list(Path("/proc/self/fd").iterdir()))
            with no_descriptors():
                await made.warm()
                for raw in (PROMPT, LONG, LONG, LONG):
                    with pytest.raises(Problem, match="cannot start a process") as caught:
                        await read(made, raw)
                    assert caught.value.status == 503
                prefill = b'{"meta_info": {"x": "' + b"a" * AT_ONCE + b'"}}'
                with pytest.raises(Problem, match="cannot start a process"):
                    await Merging().merged(prefill, b"{}")
            assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors
            await reads_on(made)

    run(check())


@contextlib.contextmanager
def no_descriptors():  # type: ignore[no-untyped-def]
    """This process can open no more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(int(each.name) for each in Path("/proc/self/fd").iterdir()) + 1
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for handle in held:
            os.close(handle)


def test_clients_that_leave_at_any_moment_take_no_child_along(run: Run) -> None:
    """While it starts, reads, writes an answer that fills the pipe, and while they wait."""

    async def check() -> None:
        randoms = random.Random(10)
        async with closing(reader()) as made:
            await made.warm()
            for _ in range(12):
                asked = [
                    asyncio.create_task(read(made, randoms.choice((PROMPT, LONG))))
                    for _ in range(8)
                ]
                for task in asked:
                    await asyncio.sleep(randoms.random() * 0.02)
                    task.cancel()
                    if randoms.random() < 0.3:  # again, while the child is being ended
                        await asyncio.sleep(0)
                        task.cancel()
                await asyncio.gather(*asked, return_exceptions=True)
            await reads_on(made)

    run(check())


def test_one_whose_answer_nobody_reads_any_more_is_ended(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pipe is full, and the loop has stopped reading it."""

    async def check() -> None:
        stuck = asyncio.Event()

        async def wait(*_: object) -> bytearray:
            await asyncio.sleep(0.3)  # by now it has written what the pipe and the reader hold
            stuck.set()
            await asyncio.sleep(3600)
            raise AssertionError

        async with closing(reader()) as made:
            with monkeypatch.context() as patch:
                patch.setattr("voltana.serving.router.reading._read", wait)
                asked = asyncio.create_task(read(made, LONG))
                await stuck.wait()
                for each in (asked, *made._readings):  # as when the router ends
                    each.cancel()
                await asyncio.gather(asked, return_exceptions=True)
                while made._readings:
                    await asyncio.sleep(0.01)
            await reads_on(made)

    run(check())


def test_many_at_once_amid_kills_are_all_answered(run: Run) -> None:
    async def check() -> None:
        async with closing(reader()) as made:
            asked = [
                asyncio.create_task(read(made, (PROMPT, LONG)[number % 3 == 0]))
                for number in range(30)
            ]
            for _ in range(8):
                await asyncio.sleep(0.05)
                for child in _helpers():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert all(isinstance(a, Problem) for a in answers if isinstance(a, BaseException))
            assert sum(not isinstance(a, BaseException) for a in answers) >= 10
            await reads_on(made)

    run(check())


def test_a_merging_process_that_is_hit_costs_its_own_request(run: Run) -> None:
    prefill = b'{"meta_info": {"x": [' + b"1," * 1_000_000 + b"1]}}"

    async def check() -> None:
        line = Merging()
        for blow in (signal.SIGKILL, signal.SIGSTOP):
            asked = [asyncio.create_task(line.merged(prefill, b'{"meta_info": {}}'))]
            asked += [asyncio.create_task(line.merged(prefill, b'{"meta_info": {}}'))]
            while not _helpers():
                await asyncio.sleep(0.001)
            for child in _helpers():
                os.kill(child, blow)
            if blow is signal.SIGSTOP:
                asked[0].cancel()  # as the end of the request's time does
            first, second = await asyncio.gather(*asked, return_exceptions=True)
            assert isinstance(first, Problem | asyncio.CancelledError), first
            assert second == merge_answers(prefill, b'{"meta_info": {}}')

    run(check())
