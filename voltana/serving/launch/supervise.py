"""Keeps the processes of a launch: start in stages, watch, end without an orphan.

Where serving shall go on whatever ends, routers and agents are started again: they are back before
the servers have missed them. Servers are not: an engine that died once for lack of memory dies
again, it takes minutes to load a model, and an operator's own supervisor (systemd, Kubernetes) is
the better place for that policy.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Literal, Protocol

from voltana.errors import VoltanaError
from voltana.serving.launch.child_process import ChildProcess, how_it_ended
from voltana.serving.launch.restarts import Restarts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from voltana.serving.launch.child_process import ProcessSpec

OnExit = Literal["shut-down", "keep-serving"]

SERVING = ("unified", "prefill", "decode", "router")
"""Kinds without which nothing is served; of each kind that was started one must be left."""

_POLL_S = 0.25


class LaunchError(VoltanaError):
    """A process did not start, or ended while it was needed."""


class Reports(Protocol):
    """Where a launch tells what happens; one line each."""

    def __call__(self, name: str, text: str) -> None:
        """Say `text` of the process `name`."""
        ...


class Supervisor:
    """The processes of one launch.

    Args:
        stages: Processes that start together, in the order of the stages.
        logs: Folder for one log a process; made if absent.
        report: Told of every event.
        start_timeout_s: How long a stage may take to become ready.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[ProcessSpec]],
        logs: Path,
        report: Reports,
        start_timeout_s: float = 600.0,
    ) -> None:
        self._stages = stages
        self._logs = logs
        self._report = report
        self._start_timeout_s = start_timeout_s
        self._children: list[ChildProcess] = []
        self._seen_ended: set[str] = set()
        self._restarts = Restarts()
        self._due_s: dict[str, float] = {}
        self._coming: list[ChildProcess] = []

    @property
    def children(self) -> tuple[ChildProcess, ...]:
        """What was started so far, in order."""
        return tuple(self._children)

    def start(self, stopped: Callable[[], bool]) -> bool:
        """Start every stage and wait until it is ready.

        Args:
            stopped: Whether the launch was told to end meanwhile.

        Returns:
            Whether everything is ready; False if `stopped` came first.

        Raises:
            LaunchError: If a process cannot be started, ends or is not ready in time, with the
                end of its log.
        """
        for stage in self._stages:
            started = []
            for spec in stage:
                started.append(child := self._begun(spec))
                self._children.append(child)
                self._report(spec.name, f"starting, log {child.log}")
            if not self._await_ready(started, stopped):
                return False
        return True

    def run(self, stopped: Callable[[], bool], on_exit: OnExit) -> None:
        """Watch until told to end.

        Args:
            stopped: Whether the launch was told to end.
            on_exit: What to do when a process ends by itself.

        Raises:
            LaunchError: If a process ended and nothing can be served any more, or `on_exit` says
                so.
        """
        while not stopped():
            for child in self._newly_ended():
                if on_exit == "shut-down":
                    raise LaunchError(self._what_ended(child))
                self._go_on_without(child)
            self._start_due()
            time.sleep(_POLL_S)

    def shut_down(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """End everything, the last stage first; may be called twice.

        Args:
            hurry: Whether to kill at once.
        """
        by_stage = [
            [child for child in self._children if child.spec in stage] for stage in self._stages
        ]
        for children in reversed(by_stage):
            for child in children:
                child.terminate()
            for child in children:
                self._end(child, hurry)
        self._children.clear()

    def _go_on_without(self, child: ChildProcess) -> None:
        """Plan its next start, or do without it.

        Raises:
            LaunchError: If nothing can be served without it.
        """
        what = self._what_ended(child)
        child.finish(0.0)  # whatever is left of its own children
        self._plan_again(child, what, time.monotonic() - child.started_s)

    def _plan_again(self, child: ChildProcess, what: str, lived_s: float) -> None:
        name = child.spec.name
        wait_s = self._restarts.wait_s(name, lived_s)
        if child.spec.restarts and wait_s is not None:
            self._due_s[name] = time.monotonic() + wait_s
            self._report(name, f"{what.splitlines()[0]}; starting it again in {wait_s:g} s")
        elif self._can_serve():
            given_up = " once too often" if child.spec.restarts else ""
            self._report(name, f"{what.splitlines()[0]}{given_up}; serving goes on")
        else:
            raise LaunchError(what)

    def _start_due(self) -> None:
        """Start again what has waited for long enough, and tell what is ready."""
        for place, child in enumerate(self._children):
            name = child.spec.name
            if self._due_s.get(name, math.inf) > time.monotonic():
                continue
            del self._due_s[name]
            try:
                again = self._begun(child.spec, again=True)
            except LaunchError as error:  # the host's trouble may pass, and the others serve on
                self._plan_again(child, str(error), 0.0)
                continue
            self._seen_ended.discard(name)
            self._children[place] = again
            self._coming = [c for c in self._coming if c is not child] + [again]
        for child in [child for child in self._coming if child.probe()]:
            self._coming.remove(child)
            self._report(child.spec.name, f"ready again after {child.ready_after_s:.1f} s")

    def _begun(self, spec: ProcessSpec, *, again: bool = False) -> ChildProcess:
        """Start a process, and make the folder of logs if somebody took it away.

        Raises:
            LaunchError: If the host does not allow it.
        """
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
            return ChildProcess(spec, self._logs, again=again)
        except OSError as error:
            raise LaunchError(f"{spec.name} cannot be started: {error}") from error

    def _end(self, child: ChildProcess, hurry: Callable[[], bool]) -> None:
        ends_s = time.monotonic() + child.spec.grace_s
        while child.status() is None and time.monotonic() < ends_s and not hurry():
            time.sleep(0.05)
        child.finish(0.0)
        self._report(child.spec.name, "ended")

    def _await_ready(self, started: list[ChildProcess], stopped: Callable[[], bool]) -> bool:
        ends_s = time.monotonic() + self._start_timeout_s
        waiting = list(started)
        while waiting and not stopped():
            for child in self._newly_ended():
                raise LaunchError(self._what_ended(child))
            for child in [child for child in waiting if child.probe()]:
                waiting.remove(child)
                self._report(child.spec.name, f"ready after {child.ready_after_s:.1f} s")
            if waiting and time.monotonic() > ends_s:
                raise LaunchError(self._what_is_late(waiting[0]))
            time.sleep(_POLL_S if waiting else 0.0)
        return not waiting

    def _newly_ended(self) -> list[ChildProcess]:
        ended = [
            child
            for child in self._children
            if child.spec.name not in self._seen_ended and child.status() is not None
        ]
        self._seen_ended.update(child.spec.name for child in ended)
        return ended

    def _can_serve(self) -> bool:
        started = {child.spec.kind for child in self._children if child.spec.kind in SERVING}
        left = {
            child.spec.kind
            for child in self._children
            if child.status() is None or child.spec.name in self._due_s
        }
        return started <= left

    def _what_ended(self, child: ChildProcess) -> str:
        how = how_it_ended(child.status() or 0)
        return f"{child.spec.name} ended by itself ({how}), log {child.log}\n{child.last_words()}"

    def _what_is_late(self, child: ChildProcess) -> str:
        return (
            f"{child.spec.name} is not ready after {self._start_timeout_s:g} s, log {child.log}; "
            f"raise launch.start_timeout_s if it only needs longer\n{child.last_words()}"
        )
