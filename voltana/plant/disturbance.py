"""What goes wrong in mid-run: an instance that becomes slower than it was."""

from __future__ import annotations

import math
from dataclasses import dataclass

from voltana.errors import invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """A slowdown of one instance from some time on.

    Attributes:
        instance: Its name, such as ``decode-0``.
        from_s: When it begins.
        until_s: When it ends.
        factor: On the latency of iterations, as when an attention backend is changed.
        pause_s: Added to every iteration whatever the clock, as by a host that keeps the device
            waiting; the device idles meanwhile.

    Raises:
        ConfigError: If a field is outside its range.
    """

    instance: str
    from_s: float = 0.0
    until_s: float = math.inf
    factor: float = 1.0
    pause_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.from_s >= 0:
            raise invalid("from_s", self.from_s, "0 s or more", "Give seconds from the start.")
        if not self.until_s > self.from_s:
            raise invalid("until_s", self.until_s, "above from_s", "Leave it out: to the end.")
        if not 0 < self.factor < math.inf:
            raise invalid("factor", self.factor, "above 0, finite", "1.4 is 40 % slower.")
        if not 0 <= self.pause_s < math.inf:
            raise invalid("pause_s", self.pause_s, "0 s or more, finite", "0 pauses never.")

    def acts_at(self, now_s: float) -> bool:
        """Whether it does at `now_s`."""
        return self.from_s <= now_s < self.until_s
