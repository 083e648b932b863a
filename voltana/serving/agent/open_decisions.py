"""Decisions whose labels have not come: each ends as a label, or as lost with its cause."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from voltana.predictors.conformal import Conformal
from voltana.values import Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voltana.ports import Predictor
    from voltana.values import Decision

MOST_OPEN = 64
"""More than any engine has in flight, and few enough that all of them are written at once."""

RECORD_LOST = "record lost"
"""Later iterations have ended: the record of this one was overwritten, or torn."""

_MOST_WRAPPED = 8

ENGINE_GONE = "engine gone"
TOO_MANY = "too many open"
RESTART = "restart"
"""An agent was killed between a decision and its label, and the ring has no record of it."""


class Open(NamedTuple):
    """A decision, and who issued its forecast: it is scored there whatever was changed since."""

    decision: Decision | None
    issuer: Predictor | None


UNKNOWN = Open(None, None)
"""Of an iteration of which nothing was decided, or that cannot be scored."""


class OpenDecisions:
    """Decisions by the number of their iteration; engines end iterations in order."""

    def __init__(self) -> None:
        self._open: dict[int, Open] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[tuple[int, Open]]:
        return iter(self._open.items())

    def add(self, iteration: int, decision: Decision | None, issuer: Predictor | None) -> None:
        """Note a decision; the oldest is given up where there are too many."""
        if iteration in self._open:  # told twice: only one result comes
            lose(self._open.pop(iteration), RECORD_LOST)
        if len(self._open) >= MOST_OPEN:
            lose(self._open.pop(next(iter(self._open))), TOO_MANY)
        self._open[iteration] = Open(decision, issuer)

    def end(self, iteration: int) -> Open:
        """Take out what ended; earlier iterations have ended too, and their records are lost."""
        for earlier in [number for number in self._open if number < iteration]:
            lose(self._open.pop(earlier), RECORD_LOST)
        return self._open.pop(iteration, UNKNOWN)

    def give_up(self, cause: str) -> None:
        """Lose all of them."""
        for found in self._open.values():
            lose(found, cause)
        self._open.clear()

    def certified(self) -> int:
        """How many certified ones are open."""
        return sum(
            found.decision is not None and found.decision.status is Status.CERTIFIED
            for found in self._open.values()
        )


def guarantee_of(predictor: Any) -> Conformal | None:
    """The guarantee in a predictor, under whatever is wrapped around it."""
    return next((one for one in _layers(predictor) if isinstance(one, Conformal)), None)


def drifts_of(predictor: Any) -> int | None:
    """Alarms of drift that a predictor counts, or one that it is wrapped around; None if none."""
    found = (getattr(one, "drifts", None) for one in _layers(predictor))
    return next((drifts for drifts in found if isinstance(drifts, int)), None)


def _layers(predictor: Any) -> Iterator[Any]:
    """A predictor, what it is wrapped around, and so on."""
    for _ in range(_MOST_WRAPPED):
        if predictor is None:
            return
        yield predictor
        predictor = getattr(predictor, "predictor", None)


def lose(found: Open, cause: str) -> None:
    """Tell who issued a decision that its label will not come."""
    guarantee = guarantee_of(found.issuer)
    if found.decision is not None and guarantee is not None:
        guarantee.lose(found.decision, cause)
