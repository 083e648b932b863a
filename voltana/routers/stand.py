"""Stand: where a decode instance stands between what it runs and what it serves in time.

Its boundary is the largest viable batch (docs/viability.md); what else limits it are its KV cache
and the requests that its engine runs at once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from voltana.planning import LET_IN_BY, memory_tokens, requests_of
from voltana.routers.triage import Boundary, expected_in_time, expected_s, traps

if TYPE_CHECKING:
    from voltana.values import Candidate, Load

SURE = 2.0
"""Standard errors by which fewer requests may end than are expected to."""


class Stand:
    """Where an instance stands, whatever the next prompt is.

    Args:
        candidate: The instance.
        boundary: Its largest viable batch.
        load: What its next iteration computes.

    Attributes:
        beyond: Requests by which its batch would be beyond its boundary with one more.
        most_prompt: Longest prompt that it has room for; -1 if none, or if the batch is full.
    """

    __slots__ = (
        "_boundary", "_candidate", "_capacity", "_fits_in_the_end", "_known",
        "_load", "_memory", "_most_prompt_to_come", "_places", "_requests", "_reserved", "_running",
        "_runs", "beyond", "most_prompt",
    )  # fmt: skip

    def __init__(self, candidate: Candidate, boundary: int, load: Load) -> None:
        state = candidate.state
        self._candidate, self._boundary, self._load = candidate, boundary, load
        self._requests, self._running = requests_of(candidate), state.running_requests
        self._runs = self._running + state.queued_requests
        self._capacity, self._reserved = candidate.kv_capacity_tokens, candidate.kv_reserved_tokens
        self._places = candidate.max_running_requests
        self._memory = memory_tokens(candidate, self._reserved)
        self._known: Boundary | None = None
        self._fits_in_the_end: bool | None = None
        self._most_prompt_to_come: float | None = None
        self.beyond = self._requests + 1 - boundary
        takes = self.beyond <= 0 and self._requests < self._places
        room = self._capacity - self._reserved - self._memory if takes else -1.0
        # What is free as counted, which rounding may put beside what is free.
        self.most_prompt = room if room < 0 or not self.lacking(room) else math.nextafter(room, 0)

    @property
    def expected_share(self) -> float:
        """Share of its threshold that an iteration is expected to take with all that comes."""
        all_come = self.known()._replace(requests=self._requests)
        return expected_s(all_come, 1) / all_come.budget_s

    def known(self) -> Boundary:
        """What it serves in time; what was worked out of it holds for a state of the instance."""
        if self._known is None:
            candidate, load = self._candidate, self._load
            assert candidate.predictor is not None
            self._known = Boundary(
                candidate.predictor,
                candidate.levels_mhz[-1],
                candidate.budget_s,
                load.decode_kv_tokens / load.decode_requests if load.decode_requests else 1.0,
                self._boundary,
                round(self._in_the_end()),
                asked={},
            )
        return self._known

    @property
    def traps(self) -> bool:
        """Whether one request more may lead to where nothing leads back from."""
        return traps(self.known(), self.beyond)

    def line_in_time(self, prompt_tokens: float, waited_s: float) -> float:
        """Requests that have to end before there is room for one more.

        Infinite where that is too late for its first token, as often as requests end here, where
        that is not known, and beyond the boundary, which is not for want of room.

        Args:
            prompt_tokens: The prompt.
            waited_s: How long it has waited already.
        """
        lacking, ends_per_s = self.lacking(prompt_tokens), self._candidate.ends_per_s
        let_in_s = LET_IN_BY * (self._candidate.ttft_s - waited_s)
        if self.beyond > 0 or not let_in_s < math.inf or not lacking <= let_in_s * ends_per_s:
            return math.inf
        return lacking

    def line(self, prompt_tokens: float, *, alone: bool) -> float:
        """Requests beyond its places, where some of these are spoken for but not yet taken.

        Infinite where something else than places is lacking, or as many are beyond them already as
        places are spoken for: about so many end while those are prefilled, as these places have.

        Args:
            prompt_tokens: The prompt.
            alone: Whether there is no other: then any line may be joined, as nobody that waits
                will know better later, and each place would be empty until the next is prefilled.
        """
        spoken_for = self._places - self._runs
        beyond_places = self._requests - self._places
        if (
            self.beyond > 0
            or not (alone or beyond_places < spoken_for)
            or self._needed(prompt_tokens) > self._capacity
        ):
            return math.inf
        return beyond_places

    def lacking(self, prompt_tokens: float) -> float:
        """Requests that have to end before there is room for one more; 0 or less where there is.

        What the engine counts: contexts, and what it reserves for each, and those that run.
        """
        needed = self._needed(prompt_tokens)
        beyond = self._requests + 1 - self._places
        places = beyond if beyond > 0.0 else 0.0
        if needed <= self._capacity:
            return places
        return max((needed - self._capacity) * (self._requests + 1) / needed, places)

    def has_room_in_the_end(self, prompt_tokens: float) -> bool:
        """Whether it has room for one more once what is prefilled has joined, as far as expected.

        Its batch fits the threshold by its mean then: of what nobody can put off, some tokens are
        late by chance, and no request is by its mean.
        """
        if prompt_tokens > self._room_in_the_end():
            return False
        if self._in_the_end() + 1.0 <= self._boundary:
            return True
        if self._fits_in_the_end is None:  # worked out once for a state of the instance
            self._fits_in_the_end = expected_in_time(self.known())
        return self._fits_in_the_end

    @property
    def most_prompt_to_come(self) -> float:
        """Longest prompt that it has room for, or will as others end; -1 if none.

        As many end before there is room as have while its line waited; and it has room in the end.
        Of a burst all come at once, and few end meanwhile.
        """
        if self._most_prompt_to_come is None:  # worked out once for a state of the instance
            self._most_prompt_to_come = max(self.most_prompt, self._to_come())
        return self._most_prompt_to_come

    def _to_come(self) -> float:
        requests, ended = self._requests + 1, self._candidate.ended_meanwhile
        if self.beyond > 0 or requests - ended > self._places:
            return -1.0
        # What is `lacking` is so many at most, where this much is needed.
        needed = self._capacity * requests / (requests - ended) if ended < requests else math.inf
        return min(needed - self._memory - self._reserved, self._room_in_the_end())

    def _room_in_the_end(self) -> float:
        """Tokens that it has room for once what is prefilled has joined; -1 without a place."""
        state, line = self._candidate.state, self._requests - self._runs
        requests = self._in_the_end() + 1.0
        if requests > self._places:
            return -1.0
        line_tokens = self._candidate.reserved.prompt_tokens * self._joining() / max(line, 1)
        taken = state.kv_tokens + state.queued_tokens + line_tokens + self._reserved * requests
        return self._capacity - taken

    def _in_the_end(self) -> float:
        """Requests that run once those that are prefilled have joined, at most."""
        return self._runs + self._joining()

    def _joining(self) -> float:
        """Requests of those that are prefilled by which the batch grows, at most.

        One that neither grows nor shrinks loses as many meanwhile, by chance fewer: a number of
        ends is Poisson distributed.
        """
        line = max(self._requests - self._runs, 0.0)
        return min(line, SURE * math.sqrt(line))

    def _needed(self, prompt_tokens: float) -> float:
        """What the KV cache would have to hold with one more."""
        return self._memory + prompt_tokens + self._reserved

    def waiting(self, *, room: bool) -> float:
        """Requests that wait for its room, at most; 0 or less where none does.

        While those before it are prefilled, as many end as are expected to.

        Args:
            room: Whether another instance has room, so that nobody waits but those sent here.
        """
        lacking = self.lacking(0.0) - (self._requests - self._in_the_end())
        return min(lacking, self._requests - self._running) if room else lacking
