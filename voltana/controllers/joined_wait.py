"""JoinedWait: within what time the prompts of a batch came to the device.

A host prepares one prompt after the other, so that the wait of the oldest prompt of a batch may
have been before the scheduler saw it, and the others have waited nearly as long. What came while
the batch before ran has waited for that alone; what an idle device computes has not waited for it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voltana.values import Queue


class JoinedWait:
    """Tells the wait for the device, batch by batch, from that before.

    Attributes:
        longest_s: How long the oldest prompt of the last batch has waited for the device, at most;
            the others came within that. Where nobody tells of idling, or some of the batch waited
            behind the one before, all of its wait.
        before_s: How long it had waited elsewhere before, at least, as may those that come next.
        woke: Whether the last batch began on an idle device.
    """

    __slots__ = ("_begun_s", "_behind", "_idle", "before_s", "longest_s", "woke")

    def __init__(self) -> None:
        self.longest_s = self.before_s = 0.0
        self._begun_s = -math.inf
        self._behind = self._idle = self.woke = False

    def idle(self) -> None:
        """Nothing runs: the next prompt is computed as soon as it is there."""
        self._idle, self._behind = True, False

    def begin(self, queue: Queue, now_s: float) -> None:
        """Note the batch that begins now, and what waits behind it."""
        since_s = 0.0 if self._idle else math.inf if self._behind else now_s - self._begun_s
        self.longest_s = min(queue.oldest_wait_s, max(since_s, 0.0))
        self.before_s = queue.oldest_wait_s - self.longest_s
        self._begun_s, self._behind = now_s, queue.requests > 0
        self.woke, self._idle = self._idle, False
