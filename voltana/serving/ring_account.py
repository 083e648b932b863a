"""Makes the records of a ring from what its engine's scheduler said, moment by moment.

The engine says facts (`voltana_ring.scheduled`); what they come to is worked out here, where it
costs the engine nothing: what a batch computes, what waits, and what became of requests.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from voltana.serving.ring_records import Record
from voltana.serving.ring_requests import Requests
from voltana.values import Load
from voltana_ring.hooks.queue_view import NOTHING, earlier, view_of
from voltana_ring.layout import MAX_ENTRIES, Flag, Kind
from voltana_ring.scheduled import Part, Told

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from voltana.cluster.queueing import Waiting
    from voltana.serving.ring_records import Changed
    from voltana.serving.ring_scheduled import Prompt, Scheduled

MAX_OPEN = 4096
"""Launches that are kept without a result; more than any engine has in flight."""


class _Launch(NamedTuple):
    """A batch in flight: its record, and the requests whose prompts it completes."""

    record: Record
    done: tuple[int, ...]


class RingAccount:
    """The account of one ring.

    Attributes:
        told: Changes of requests that were told; one is left out where some may have been missed.
    """

    def __init__(self) -> None:
        self.told = 0
        self._requests = Requests()
        self._open: dict[int, _Launch] = {}
        self._rows: list[Scheduled] = []  # whose moment has not come
        self._waiting: list[Waiting] = []
        self._queue = 0, 0, math.nan
        self._entries: list[Waiting] = []
        self._ready_s, self._token_s = 0.0, math.nan

    def miss(self) -> None:
        """A moment was not read."""
        self.told += 1
        self._rows = []

    def take(self, told: Scheduled) -> list[Record]:
        """The records of a moment: of the result that is there, then of what is launched."""
        if told.flags & Told.MORE:
            self._rows.append(told)
            return []
        told = self._whole(told)
        records = self._ended(told)
        changes, rooms = self._requests.arrive(told)
        self._requests.preempt(told.queued)
        joined = self._requests.join(told) if told.iteration else []
        computed, remote = self._requests.compute(told.prompts)
        joined += self._requests.decode(remote, told.now_s)
        self._wait(told)
        if not told.iteration:
            return records + self._idle(told, changes, rooms)
        launched = self._launched(told, computed, rooms)
        done = tuple(p.name for p in told.prompts if not p.flags & Part.CHUNK)
        self._keep(_Launch(launched, done))
        return [*records, *self._told(launched, [*changes, *joined], told.launch_s), launched]

    def follow(self, records: Iterable[Record]) -> None:
        """Note records that others made of the pairs of a run."""
        for record in records:
            if record.kind is Kind.LAUNCHED:
                self._keep(_Launch(record, ()))
            else:
                self._open.pop(record.iteration, None)
                self._ready_s = self._token_s = record.ready_s

    def decoded(self, ready_s: float) -> None:
        """Note when the last result of a run was ready, none of whose records was made."""
        self._ready_s = self._token_s = ready_s

    def _keep(self, launch: _Launch) -> None:
        self._open[launch.record.iteration] = launch
        if len(self._open) > MAX_OPEN:
            del self._open[next(iter(self._open))]

    def _whole(self, told: Scheduled) -> Scheduled:
        """A moment with the rows that it had no place for."""
        if not self._rows:
            return told
        parts, self._rows = [*self._rows, told], []
        return told._replace(
            arrived=tuple(row for part in parts for row in part.arrived),
            ended=tuple(row for part in parts for row in part.ended),
            out=tuple(row for part in parts for row in part.out),
            prompts=tuple(row for part in parts for row in part.prompts),
            queued=tuple(row for part in parts for row in part.queued),
        )

    def _ended(self, told: Scheduled) -> list[Record]:
        """The result that is there, and what became of requests by then."""
        requests, at_s = self._requests, told.ready_s or told.now_s
        launch = self._open.pop(told.ready, None)
        if told.ready:  # results come in order: of those before it none will
            for number in [number for number in self._open if number < told.ready]:
                del self._open[number]
        changes: list[Changed] = []
        latency_s = 0.0
        if launch is not None:
            latency_s = at_s - max(launch.record.launch_s, self._ready_s)
            changes += requests.first_tokens(launch.done, told.ended, at_s)
        if told.ready:
            self._ready_s = at_s
            if launch is None or launch.record.load.decode_requests:
                self._token_s = at_s  # of no other than a run's launches the record may lack
        changes += requests.end(told.ended, self._token_s, at_s)
        if launch is None:
            return self._told(self._nothing(told), changes, at_s)
        ended = launch.record._replace(
            kind=Kind.FINISHED, at_s=at_s, ready_s=at_s, latency_s=latency_s, waiting=(), rooms=(),
        )  # fmt: skip
        return [*self._told(launch.record, changes, at_s), ended]

    def _wait(self, told: Scheduled) -> None:
        """Note what waits; told rows stand for those before."""
        if told.queued or not told.waiting:
            self._waiting = self._requests.wait(told.queued)
        waiting, rests = self._waiting, self._requests.rests()
        view = NOTHING if not waiting else view_of(waiting, lambda _, one: one, told.waiting)
        tokens, oldest_s = view.tokens, view.oldest_s
        for rest in rests:
            tokens += rest.new_tokens
            oldest_s = earlier(oldest_s, rest.arrived_s)
        self._queue = told.waiting + len(rests), tokens, oldest_s
        self._entries = [*rests, *waiting][:MAX_ENTRIES]

    def _launched(
        self, told: Scheduled, computed: Sequence[Prompt], rooms: Sequence[int]
    ) -> Record:
        """What is launched.

        Args:
            told: The moment.
            computed: The prompts of which a part is computed.
            rooms: Numbers by which routers know requests that are new.
        """
        waiting, waiting_tokens, oldest_s = self._queue
        for prompt in computed:
            oldest_s = earlier(oldest_s, self._requests.arrived_s(prompt.name))
        load = _load(told, computed)
        flags = Flag.SPECULATIVE if told.flags & Told.SPECULATIVE else Flag(0)
        if waiting > MAX_ENTRIES:
            flags |= Flag.CUT
        return Record(
            kind=Kind.LAUNCHED, iteration=told.iteration, at_s=told.launch_s, load=load,
            flags=flags, waiting_requests=waiting, waiting_tokens=waiting_tokens,
            oldest_s=oldest_s, launch_s=told.launch_s, ready_s=math.nan, latency_s=math.nan,
            waiting=tuple(self._entries) if load.prefill_tokens else (), rooms=tuple(rooms),
        )  # fmt: skip

    def _idle(
        self, told: Scheduled, changes: Sequence[Changed], rooms: Sequence[int]
    ) -> list[Record]:
        """What is told where nothing is launched."""
        nothing = self._nothing(told)._replace(rooms=tuple(rooms))
        records = self._told(nothing, changes, told.now_s)
        return [*records, nothing] if told.flags & Told.IDLE else records

    def _nothing(self, told: Scheduled) -> Record:
        waiting, waiting_tokens, oldest_s = self._queue
        flags = Flag.SPECULATIVE if told.flags & Told.SPECULATIVE else Flag(0)
        return Record(
            kind=Kind.IDLE, iteration=0, at_s=told.now_s, load=Load(), flags=flags,
            waiting_requests=waiting, waiting_tokens=waiting_tokens, oldest_s=oldest_s,
            launch_s=told.now_s, ready_s=math.nan, latency_s=math.nan, waiting=(), rooms=(),
        )  # fmt: skip

    def _told(self, of: Record, changes: Sequence[Changed], at_s: float) -> list[Record]:
        """What became of requests, as a record before that which it belongs to."""
        if not changes:
            return []
        number, self.told = self.told, self.told + len(changes)
        return [
            of._replace(
                kind=Kind.CHANGES, iteration=number, at_s=at_s, waiting=(), rooms=(),
                ready_s=math.nan, latency_s=math.nan, changes=tuple(changes),
            )
        ]  # fmt: skip


def _load(told: Scheduled, computed: Sequence[Prompt]) -> Load:
    """What a batch computes.

    Args:
        told: The moment of its launch.
        computed: The prompts of which it computes a part; all other rows decode.
    """
    tokens = sum(prompt.tokens for prompt in computed)
    # Of rows that are new the scheduler says by themselves what they had in their caches before.
    before = told.computed + sum(p.before for p in told.prompts if p.flags & Part.NEW)
    return Load(
        prefill_tokens=tokens,
        prefill_attended_pairs=sum(
            p.tokens * p.before + p.tokens * (p.tokens + 1) / 2 for p in computed
        ),
        decode_requests=told.rows - len(computed),
        decode_kv_tokens=before + told.tokens - tokens - sum(p.before for p in computed),
    )
