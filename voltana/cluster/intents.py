"""What a router intends for its instances, told to each some times a second.

What an instance receives while a router fills another one is not what it will receive, and only
the router knows (docs/viability.md, "What is intended"). The simulated dispatcher and the serving
router run this same code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.ports import Intends, intended_by, offers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from voltana.ports import Router
    from voltana.values import Candidate, IntendedDemand

INTENDED_EVERY_S = 0.25
"""How often it is worked out: as often as a controller plans."""


class Intents:
    """Asks a router what it intends, and tells the instances.

    Args:
        router: Chooses among them; one that does not satisfy `voltana.ports.Intends` tells nothing.
        tell: Called with the name of an instance, and what is intended for it.

    Attributes:
        any: Whether the router says what it intends.
    """

    def __init__(self, router: Router, tell: Callable[[str, IntendedDemand], None]) -> None:
        self._router = router
        self._tell = tell
        self.any = offers(router, Intends)

    def step(self, candidates: Sequence[Candidate]) -> None:
        """`INTENDED_EVERY_S` have passed; an instance that nothing is told of goes by itself."""
        if self.any and candidates:
            for instance, demand in intended_by(self._router, candidates).items():
                self._tell(instance, demand)
