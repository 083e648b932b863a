"""What a router intends for its instances, told to each some times a second.

What an instance receives while a router fills another one is not what it will receive, and only
the router knows (docs/viability.md, "What is intended"). The simulated dispatcher and the serving
router run this same code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.ports import intended_by

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
) -> None:
    """`INTENDED_EVERY_S` have passed: ask a router what it intends, and tell the instances.

    Args:
        router: Chooses among them; one that does not satisfy `voltana.ports.Intends` tells nothing.
        candidates: The instances; one that nothing is told of goes by itself.
        tell: Called with the name of an instance, and what is intended for it.
    """
    if candidates:
        for instance, demand in intended_by(router, candidates).items():
            tell(instance, demand)
