"""What a router intends for its instances, told to each some times a second.

What an instance receives while a router fills another one is not what it will receive, and only
the router knows (docs/viability.md, "What is intended"). The simulated dispatcher and the serving
router run this same code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.ports import intended_by
from voltana.values.routing import held_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from voltana.ports import Router
    from voltana.values import Candidate, IntendedDemand

INTENDED_EVERY_S = 0.5
"""How often it is worked out: twice while it is believed (`voltana.loop.INTENDED_S`), as one may be
lost; a demand is an average over far longer."""


def tell_intents(
    router: Router,
    candidates: Sequence[Candidate],
    tell: Callable[[str, IntendedDemand], None],
    may_hold_s: Callable[[], float],
) -> None:
    """`INTENDED_EVERY_S` have passed: ask a router what it intends, and tell the instances.

    Args:
        router: Chooses among them; one that does not satisfy `voltana.ports.Intends` tells nothing.
        candidates: The instances; one that nothing is told of goes by itself.
        tell: Called with the name of an instance, and what is intended for it.
        may_hold_s: How long a request like those that come may be held back: a router would hold it
            longer than its deadline leaves. Asked for where a router holds.
    """
    if not candidates:
        return
    intended = intended_by(router, candidates)
    if any(demand.held_s > 0.0 for demand in intended.values()):
        most_s = may_hold_s()
        intended = {
            instance: held_for(demand, held_s=min(demand.held_s, most_s))
            for instance, demand in intended.items()
        }
    for instance, demand in intended.items():
        tell(instance, demand)
