"""Who decides where a request goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from voltana.ports.abilities import offers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voltana.values import Candidate, Deferral, IntendedDemand, Need, Request


@runtime_checkable
class Router(Protocol):
    """Chooses an instance for a request; pure, and keeps no ledger of its own."""

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str | Deferral:
        """Name one of `candidates` (never empty, all of one role), or defer the request.

        A request whose `Request.slack_s` is 0 is not deferred.

        Raises:
            RoutingError: If none of them can take the request.
        """
        ...


@runtime_checkable
class Needy(Protocol):
    """What a router is beside that if it falls back to something simpler where models are missing.

    Whoever runs it says so where a candidate lacks what it needs.
    """

    @property
    def needs(self) -> frozenset[Need]:
        """What it needs of every candidate; may be a plain class attribute."""
        ...


def needs_of(router: Router) -> frozenset[Need]:
    """What a router says that it needs; nothing where it says nothing."""
    return router.needs if isinstance(router, Needy) else frozenset()


@runtime_checkable
class Defers(Protocol):
    """What a router is beside that if it may defer requests that have some slack.

    Beside an engine a router that does not say so is shown no slack, and so defers nothing.
    """

    @property
    def defers(self) -> bool:
        """Whether it does; may be a plain class attribute."""
        ...


def may_defer(router: Router) -> bool:
    """Whether a router says that it defers."""
    return isinstance(router, Defers) and router.defers


@runtime_checkable
class Intends(Protocol):
    """What a router is beside that if it knows what each instance will be asked for.

    What an instance receives while it is filled, or another one is, says little of that.
    """

    def intended(self, candidates: Sequence[Candidate]) -> Mapping[str, IntendedDemand]:
        """What it intends for instances, by name; pure, like `Router.route`.

        Instances that are not named go by what they measure themselves.
        """
        ...


def intended_by(router: Router, candidates: Sequence[Candidate]) -> Mapping[str, IntendedDemand]:
    """What a router intends for instances; nothing where it does not say."""
    return router.intended(candidates) if offers(router, Intends) else {}
