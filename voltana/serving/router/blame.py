"""Whom failed tries count against: the request first, and a server only when others do better.

A request that makes servers break would otherwise be tried on one after the other, and eject them
all. So what breaks a try is held against the request until another server answers it, which shows
that the server was to blame; one that breaks two servers that are well is tried on no third.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.serving.router.problem import Lost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from voltana.serving.router.pool import Backend
    from voltana.serving.router.problem import Problem

MOST_BROKEN = 2
"""Servers that one request may break."""

BURST = 100.0
FLOOR_PER_S = 10.0
"""Repetitions at once, and by second, that are always allowed."""

_FAILED = frozenset({500, 502, 504})
"""Statuses that may be the request's doing; others of 5xx say that a server has no time for it."""


class Blame:
    """The failed tries of one request."""

    __slots__ = ("_broken",)

    def __init__(self) -> None:
        self._broken: dict[Backend, str] = {}

    def suspect(self, backend: Backend, problem: Problem) -> None:
        """A try failed on a server, for a reason that may lie with either."""
        if isinstance(problem, Lost):
            if not problem.dead:
                self._broken[backend] = problem.why
        elif problem.status in _FAILED:
            self._broken[backend] = problem.message

    def poison(self, servers: Iterable[Backend]) -> bool:
        """Whether it broke so many of the servers, which are well, that no other must be risked."""
        broken = sum(backend.healthy for backend in self._broken)
        return broken >= MOST_BROKEN and any(backend not in self._broken for backend in servers)

    def answered(self) -> None:
        """A server answered the request, so that those which did not are to blame."""
        for backend, why in self._broken.items():
            backend.failed(why)


class RetryBudget:
    """Repetitions that are left, so that servers in trouble do not get twice the requests.

    What a dead server leaves behind is moved to others without asking it, and so is a request whose
    connection broke for the first time.

    Args:
        share: Repetitions by requests.
        now_s: Time source.
    """

    def __init__(self, share: float, now_s: Callable[[], float]) -> None:
        self._share = share
        self._now_s = now_s
        self._left = BURST
        self._at_s = now_s()

    def request(self) -> None:
        """A request came in."""
        self._left = min(BURST, self._left + self._share)

    def allows(self, problem: Problem, number: int) -> bool:
        """Whether a try that failed may be repeated; counts it.

        Args:
            problem: What it failed with.
            number: Of the try, from 0.
        """
        if isinstance(problem, Lost) and (problem.dead or number == 0):
            return True
        now_s = self._now_s()
        self._left = min(BURST, self._left + FLOOR_PER_S * (now_s - self._at_s))
        self._at_s = now_s
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
