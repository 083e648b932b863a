"""Colocated instances are routed to by another router than decode instances.

A router for decode looks at iterations: at the batch at which one is late, and at the clock that it
needs. Where prompts come between two tokens, neither tells what a request feels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.ports import intended_by, may_defer, needs_of
from voltana.routers.shared_gaps import SharedGaps
from voltana.routers.with_places import WithPlaces
from voltana.values import Role

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voltana.ports import Router
    from voltana.values import Candidate, Deferral, IntendedDemand, Need, Request


class ByRole:
    """Satisfies `voltana.ports.Router`.

    Args:
        inner: Routes among decode instances.
        colocated: Routes among colocated ones; None lets prompts share gaps (`SharedGaps`) among
            those that have a place left, and takes these in turn where engines mix prompts with
            decode: sent where the least is pending, as many more prompts would come between tokens
            alone, each of which makes a gap late.
    """

    def __init__(self, inner: Router, colocated: Router | None = None) -> None:
        self._inner = inner
        self._colocated: Router = WithPlaces(SharedGaps()) if colocated is None else colocated

    @property
    def needs(self) -> frozenset[Need]:
        """Those of the router of decode instances."""
        return needs_of(self._inner)

    @property
    def defers(self) -> bool:
        """Whether either defers requests."""
        return may_defer(self._inner) or may_defer(self._colocated)

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str | Deferral:
        """See `voltana.ports.Router.route`."""
        together = candidates[0].role is Role.COLOCATED
        return (self._colocated if together else self._inner).route(request, candidates)

    def intended(self, candidates: Sequence[Candidate]) -> Mapping[str, IntendedDemand]:
        """See `voltana.ports.Intends`; that of the router of decode instances."""
        together = candidates[0].role is Role.COLOCATED
        return intended_by(self._colocated if together else self._inner, candidates)

    def __repr__(self) -> str:
        return f"ByRole({self._inner!r}, colocated={self._colocated!r})"
