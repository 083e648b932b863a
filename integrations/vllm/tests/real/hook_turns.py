"""Hooks on and off in turns within one engine core, and others in their place that do little.

Which comes first is drawn: runs of alike requests take alike many iterations, so that turns by
the count alone fall on the same places of every run, where blocks are allocated for instance.
"""

from __future__ import annotations

import enum
import random
import struct
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from voltana_ring.hooks.guard import METER
from voltana_vllm.hooks.around import HOOKS, MORE_HOOKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ROW = struct.Struct("=qqqqqq")
"""The turn's `Hooks`; requests of an iteration that only decodes, else 0; the time at which it was
scheduled; what timed hooks took of the one before, and of that where the engine waits, in ns; the
number of the turn."""

IN_A_TURN = 12
"""Iterations that hooks stay the same: few, for what else a machine does soon changes."""

IN_A_TIMED_TURN = 364
"""Of ours: more, so that a run that is full, and begun anew, is among them as often
as it is."""

LEFT_OUT = 4
"""The first of a turn are not compared: hooks that were off look at the batch anew."""

BLOCK = 100


class Hooks(enum.IntEnum):
    """What is around the scheduler in a turn.

    OFF, ON: nothing, our hooks. TIMED: ours, with their thread CPU time. EMPTY, FEW: hooks of no
    line, and of five, timed likewise: what no hook in Python can be below, here and now.
    """

    OFF = 0
    ON = 1
    TIMED = 2
    EMPTY = 3
    FEW = 4


def turns(rng: random.Random) -> Iterator[Hooks]:
    """Pairs of pairs, ABBA or BAAB, in which growth cancels; and what is timed between them."""
    off, on = Hooks.OFF, Hooks.ON
    while True:
        for _ in range(2):
            yield from rng.choice(((off, on, on, off), (on, off, off, on)))
        yield from rng.sample((Hooks.TIMED, Hooks.EMPTY, Hooks.FEW), 3)


class Timed:
    """Hooks, and the thread CPU time that they take, with what is around the scheduler's methods.

    Args:
        hooks: What the scheduler calls.
    """

    errors = 0

    def __init__(self, hooks: Any) -> None:
        self.now_s, self.doubt, self.close = time.monotonic, hooks.doubt, hooks.close
        self._hooks = hooks
        self._scheduler = SimpleNamespace(**{METER: hooks})
        self._around = {
            name: hook(lambda _scheduler, output, *_more: output)
            for name, hook in (HOOKS | MORE_HOOKS).items()
        }
        self.spent_ns = self.waiting_ns = 0

    @property
    def due(self) -> Any:
        """What is still to be measured."""
        return self._hooks.due

    def scheduled(self, output: Any) -> None:
        """Time the hook on a batch."""
        self.spent_ns += cost_ns(self._around["schedule"], self._scheduler, output)

    def asked(self) -> None:
        """Time the hook where the engine begins to wait."""
        waiting_ns = cost_ns(self._around["get_grammar_bitmask"], self._scheduler, None)
        self.spent_ns += waiting_ns
        self.waiting_ns += waiting_ns

    def overdue(self) -> None:
        """As the hooks do."""
        self._hooks.overdue()

    def freed(self, request: Any) -> None:
        """Time the hook on the end of a request."""
        self.spent_ns += cost_ns(self._around["_free_request"], self._scheduler, request)

    def updated(self, output: Any, ready_s: float) -> None:
        """Time the hook on a result."""
        self.spent_ns += cost_ns(self._around["update_from_output"], self._scheduler, output)


def cost_ns(call: Callable[..., None], *args: Any) -> int:
    """Thread CPU time that a call takes."""
    time.thread_time_ns()  # in no cache; what it costs is none of the call's
    first, began = time.thread_time_ns(), time.thread_time_ns()
    call(*args)
    clock = began - first  # what reading it costs here and now
    return time.thread_time_ns() - began - clock


class Empty:
    """Hooks that do nothing."""

    due = None
    now_s = staticmethod(time.monotonic)

    def asked(self) -> None:
        """Nothing."""

    def scheduled(self, output: Any) -> None:
        """Nothing."""

    def updated(self, output: Any, ready_s: float) -> None:
        """Nothing."""

    def freed(self, request: Any) -> None:
        """Nothing."""

    def doubt(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Few(Empty):
    """Hooks that note a launch and a result, in five lines."""

    def __init__(self) -> None:
        self._open: dict[int, float] = {}
        self.latency_s = 0.0

    def scheduled(self, output: Any) -> None:
        """Note a launch."""
        if output.total_num_scheduled_tokens:
            self._open[id(output)] = time.monotonic()

    def updated(self, output: Any, ready_s: float) -> None:
        """Note a result."""
        launch_s = self._open.pop(id(output), None)
        if launch_s is not None:
            self.latency_s = ready_s - launch_s


class Turns:
    """Changes what is around a scheduler, turn by turn, and writes how long iterations took.

    Args:
        scheduler: The scheduler.
        meter: Its meter.
        path: Where rows go.
    """

    def __init__(self, scheduler: Any, meter: Any, path: Path) -> None:
        self._scheduler, self._path = scheduler, path
        self._schedule = scheduler.schedule
        self._hooks = {
            Hooks.OFF: None,
            Hooks.ON: meter,
            Hooks.TIMED: Timed(meter),
            Hooks.EMPTY: Timed(Empty()),
            Hooks.FEW: Timed(Few()),
        }
        self._meter = meter
        self._order = turns(random.Random(1))
        self._left, self._now, self._turn = 0, Hooks.OFF, 0
        self._rows = bytearray()

    def schedule(self, *args: Any) -> Any:
        """In the place of the scheduler's own."""
        if not self._left:
            self._now = next(self._order)
            self._left = IN_A_TIMED_TURN if self._now is Hooks.TIMED else IN_A_TURN
            self._meter.doubt()  # it may have been off
            self._turn += 1
        began_ns = time.perf_counter_ns()
        self._left -= 1
        hooks = self._hooks[self._now]
        took_ns, waiting_ns = getattr(hooks, "spent_ns", 0), getattr(hooks, "waiting_ns", 0)
        if took_ns:
            hooks.spent_ns = hooks.waiting_ns = 0
        setattr(self._scheduler, METER, hooks)
        output = self._schedule(*args)
        requests = len(output.num_scheduled_tokens)
        decodes = requests == output.total_num_scheduled_tokens and not output.scheduled_new_reqs
        self._rows += ROW.pack(
            self._now, requests * decodes, began_ns, took_ns, waiting_ns, self._turn
        )
        if len(self._rows) >= BLOCK * ROW.size:
            with self._path.open("ab") as file:
                file.write(self._rows)
            self._rows.clear()
        return output
