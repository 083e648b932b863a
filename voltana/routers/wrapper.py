"""What routers that send requests by another one have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.ports import intended_by, may_defer, needs_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voltana.ports import Router
    from voltana.values import Candidate, IntendedDemand, Need


class RouterWrapper:
    """Passes on what the wrapped router needs, may do and intends.

    Args:
        inner: The wrapped router.
    """

    def __init__(self, inner: Router) -> None:
        self._inner = inner

    @property
    def needs(self) -> frozenset[Need]:
        """Those of the other router."""
        return needs_of(self._inner)

    @property
    def defers(self) -> bool:
        """Whether the other one defers requests."""
        return may_defer(self._inner)

    def intended(self, candidates: Sequence[Candidate]) -> Mapping[str, IntendedDemand]:
        """See `voltana.ports.Intends`; that of the other router."""
        return intended_by(self._inner, candidates)
