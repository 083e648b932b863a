"""What a router intends for its instances, told to each while requests come.

What an instance receives while a router fills another one is not what it will receive, and only the
router knows (docs/viability.md, "What is intended"). The simulated dispatcher and the serving router
run this same code.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

from voltana.ports import Intends, offers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from voltana.ports import Router, TimeSource
    from voltana.values import Candidate

INTENDED_EVERY_S = 0.25
"""How often it is worked out: as often as a controller plans."""


class Intents:
    """Asks a router what it intends, and tells the instances.

    Args:
        router: Chooses among them; one that does not satisfy `voltana.ports.Intends` tells nothing.
        time: Source of time.
        tell: Called with the name of an instance, and the tokens/s that are intended for it.
    """

    def __init__(
        self, router: Router, time: TimeSource, tell: Callable[[str, float], None]
    ) -> None:
        self._router = cast("Intends", router) if offers(router, Intends) else None
        self._time = time
        self._tell = tell
        self._due_s = -math.inf

    def look(self, candidates: Sequence[Candidate]) -> None:
        """A request has been routed among `candidates`."""
        if self._router is None:
            return
        now_s = self._time.now_s()
        if now_s < self._due_s:
            return
        self._due_s = now_s + INTENDED_EVERY_S
        for instance, tokens_per_s in self._router.intended(candidates).items():
            self._tell(instance, tokens_per_s)
