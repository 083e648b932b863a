"""Workers that are processes of this machine.

Each is a fresh interpreter that holds one end of a pipe: nothing is forked, so that threads of the
caller (progress bars) cannot leave a lock behind. They end with the process that started them,
however that ends. A worker that dies (killed for want of memory, say) costs its task a second
attempt, and the others nothing.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING

from voltana.errors import invalid
from voltana.evaluation.sweep.work import Outcome, Task, attempt
from voltana.garbage import look_seldom

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

ATTEMPTS = 2
"""Times that a task is given to a worker before its deaths count as the task's fault."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Workers share the cores; each computes on one."""


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    task: Task | None = None
    dead: bool = False


class LocalWorkers:
    """Runs tasks in processes of this machine.

    Args:
        count: Processes; None takes as many as this process may use cores.
        prepare: What each of them calls first, such as what says where logs go; can be pickled.
    """

    def __init__(
        self, count: int | None = None, *, prepare: Callable[[], None] | None = None
    ) -> None:
        if count is not None and count < 1:
            raise invalid("workers", count, "at least 1", "Leave it out for one a core.")
        self._count = count or len(os.sched_getaffinity(0))
        self._prepare = prepare
        self._attempts: dict[str, int] = {}

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """See `voltana.evaluation.sweep.work.Workers.run`."""
        waiting = deque(tasks)
        workers = [_start(self._prepare) for _ in range(min(self._count, len(tasks)))]
        try:
            for worker in workers:
                _give(worker, waiting)
            while busy := [worker for worker in workers if worker.task is not None]:
                ready = connection.wait([worker.pipe for worker in busy])
                for worker in (worker for worker in busy if worker.pipe in ready):
                    outcome = self._received(worker, waiting)
                    if worker.dead and waiting:
                        workers.remove(worker)
                        workers.append(_start(self._prepare))
                    for free in workers:
                        _give(free, waiting)
                    if outcome is not None:
                        yield outcome
        finally:
            for worker in workers:
                worker.pipe.close()
                worker.process.terminate()
            for worker in workers:
                worker.process.join()

    def _received(self, worker: _Worker, waiting: deque[Task]) -> Outcome | None:
        """What a worker sent; None if it died and its task has another attempt."""
        task, worker.task = worker.task, None
        assert task is not None
        try:
            outcome: Outcome = worker.pipe.recv()
        except (EOFError, ConnectionError):
            worker.process.join()
            worker.pipe.close()
            worker.dead = True
            self._attempts[task.key] = self._attempts.get(task.key, 0) + 1
            if self._attempts[task.key] < ATTEMPTS:
                waiting.appendleft(task)
                return None
            code = worker.process.exitcode or 0
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            return Outcome(
                key=task.key,
                error=f"its process ended with {how}, {ATTEMPTS} times. If memory is short, run "
                "fewer workers or a shorter scenario.",
            )
        return outcome


def _start(prepare: Callable[[], None] | None) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, prepare), daemon=True)
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update({name: value or ONE_THREAD[name] for name, value in before.items()})
    try:
        process.start()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
    theirs.close()
    return _Worker(process, ours)


def _give(worker: _Worker, waiting: deque[Task]) -> None:
    """Give a worker its next task; one that has died meanwhile is found out at its pipe's end."""
    if waiting and worker.task is None and not worker.dead:
        worker.task = waiting.popleft()
        with contextlib.suppress(BrokenPipeError):
            worker.pipe.send(worker.task)


def _serve(pipe: Connection, prepare: Callable[[], None] | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started us ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _leave_output()
    look_seldom()
    if prepare is not None:
        prepare()
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send(attempt(pipe.recv()))


def _leave_output() -> None:
    """Leave standard output to the results of who started us: what is printed here goes beside."""
    if sys.stderr is None:  # closed
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  (as long as the process)
    elif sys.stdout is not None:  # whatever does not go through Python, too
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a program's own are none
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.stdout = sys.stderr


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
