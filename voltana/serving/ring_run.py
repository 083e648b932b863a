"""Records of batches that repeat the one before, of which a ring holds nothing but their times."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from voltana.serving.ring_records import MAX_COUNT, MAX_TIME_S
from voltana.values import Load
from voltana_ring.layout import MOST_PAIRS, PAIR_WORDS, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.serving.ring_records import Record

LATER = 1.05
"""Of the time of an iteration: one that lasts as long as the one before has ended by then."""

AGAIN = 0.1
"""Of the time that an iteration has lasted so far is waited for again."""

LEAST_WAIT_S, MOST_WAIT_S = 1e-3, 0.1

_NAN = float("nan")


class Run:
    """The run behind the records of a slot; see `voltana_ring.layout.RUN`.

    Args:
        records: Those records; the last is the launch that is repeated.
        begins: The fields of `RUN`.
        first: Where its first pair is, in words.
        last: Where the number of its pairs will be.

    Attributes:
        last: See above.
        pairs: How many were read.

    Raises:
        ValueError: If it is none that a writer makes.
    """

    def __init__(
        self,
        records: Sequence[Record],
        begins: tuple[int, int, float, float],
        first: int,
        last: int,
    ) -> None:
        _, self._number, launch_s, self._ready_s = begins
        launched = records[-1] if records else None
        if launched is None or launched.kind is not Kind.LAUNCHED:
            raise ValueError("a run behind no launch")
        if not (launched.iteration - 1 <= self._number <= launched.iteration):
            raise ValueError(f"a run from result {self._number} on")
        times_s = self._ready_s, launch_s, launched.launch_s
        if not all(0.0 < time_s <= MAX_TIME_S for time_s in times_s):
            raise ValueError(f"a run from the times {times_s} on")
        load = launched.load
        if load.decode_kv_tokens + MOST_PAIRS * load.decode_requests > MAX_COUNT:
            raise ValueError(f"a run of {load.decode_requests} requests")
        self._of = launched
        own = () if self._number == launched.iteration else (launch_s,)
        self._launches_s = deque((*own, launched.launch_s))
        self._first, self.last = first, last
        self._most = min((last - first) // PAIR_WORDS, MOST_PAIRS - 1)
        self.pairs = 0
        lasted_s = [record.latency_s for record in records if record.latency_s > 0]
        self._period_s = lasted_s[-1] if lasted_s else 0.0

    def wait_s(self, now_s: float) -> float:
        """How long to wait for the next pair: until it is likely there, then a little at a time.

        Args:
            now_s: The current time.
        """
        launch_s: float = self._launches_s[-1]
        ahead_s = launch_s + LATER * self._period_s - now_s
        return min(max(ahead_s, LEAST_WAIT_S, AGAIN * (now_s - launch_s)), MOST_WAIT_S)

    def ready_s(self, times_s: memoryview[float], pair: int) -> float:
        """When the result of a pair was ready; of a ring that is not what it was, of its last.

        Args:
            times_s: The ring, as numbers.
            pair: Which.
        """
        return times_s[self._first + PAIR_WORDS * min(pair, self._most - 1)]

    def take(self, times_s: memoryview[float], most: int | None = None) -> list[list[Record]]:
        """The records of the pairs that have come: a result and a launch each.

        Args:
            times_s: The ring, as numbers.
            most: Pairs up to which it is read; None: as many as are there.
        """
        made: list[list[Record]] = []
        most = self._most if most is None else min(most, self._most)
        while self.pairs < most:
            at = self._first + PAIR_WORDS * self.pairs
            ready_s, launch_s = times_s[at], times_s[at + 1]
            # What is zero, or not a number, follows nothing.
            if not self._launches_s[-1] <= ready_s <= launch_s <= MAX_TIME_S:
                break
            made.append(self._records(ready_s, launch_s))
            self.pairs += 1
        return made

    def _records(self, ready_s: float, launch_s: float) -> list[Record]:
        of, began_s = self._of, self._launches_s.popleft()
        self._launches_s.append(launch_s)
        number, launched = self._number, of.iteration + self.pairs + 1
        latency_s = ready_s - max(began_s, self._ready_s)
        self._period_s = ready_s - self._ready_s
        self._number, self._ready_s = number + 1, ready_s
        ended = of._replace(
            kind=Kind.FINISHED, iteration=number, at_s=ready_s, load=self._load(number),
            launch_s=began_s, ready_s=ready_s, latency_s=latency_s, waiting=(), rooms=(),
        )  # fmt: skip
        begun = of._replace(
            iteration=launched, at_s=launch_s, load=self._load(launched), launch_s=launch_s,
            ready_s=_NAN, latency_s=_NAN, waiting=(), rooms=(),
        )  # fmt: skip
        return [ended, begun]

    def _load(self, iteration: int) -> Load:
        """What an iteration computes: a token more for each request than the one before."""
        load = self._of.load
        return Load(
            decode_requests=load.decode_requests,
            decode_kv_tokens=load.decode_kv_tokens
            + (iteration - self._of.iteration) * load.decode_requests,
        )
