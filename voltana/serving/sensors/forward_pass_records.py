"""Makes of ForwardPassMetrics the records that a ring would have.

A message tells an iteration after its end. A control loop decides when one begins: so each message
also makes a launch record of the iteration that ought to follow, by the rules of continuous
batching. If that comes as foreseen, it has the launch's number, and its label scores what was
decided; if not, it has the next number, and the decision is given up: nothing is promised for
loads that were not foreseen.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from voltana.serving.ring_records import Record
from voltana.serving.sensors.arrivals_inferred import ArrivalsInferred
from voltana.serving.sensors.forward_pass_message import attended_pairs_of
from voltana.values import Load
from voltana_ring.layout import Flag, Kind

if TYPE_CHECKING:
    from voltana.serving.sensors.forward_pass_message import ForwardPass

IDLE = Load()

SILENT_S = 0.25
"""The least silence after which a decode step that was foreseen is taken not to have come."""

_SILENT_STEPS = 8.0
_LEAST_SHARE = 0.5
"""Of its own time that a step takes at least, for others to be missing before it."""


class ForwardPassRecords:
    """Follows the iterations of one engine.

    Args:
        max_batch_tokens: Prompt tokens of one iteration.
        joins: Whether what was prefilled is decoded by the same engine.

    Attributes:
        lost: Iterations of which nothing was heard, as far as counters and totals show it.
    """

    def __init__(self, max_batch_tokens: int, *, joins: bool) -> None:
        self.lost = 0
        self._joins = joins
        self._max_batch_tokens = max_batch_tokens
        self._arrivals = ArrivalsInferred()
        self._number = 0
        self._foreseen: Record | None = None
        self._last: ForwardPass | None = None
        self._at_s = math.nan
        self._counter: int | None = None
        self._decoding = (0, 0)
        self._batch_oldest_s = math.nan

    def take(self, told: ForwardPass, at_s: float) -> list[Record]:
        """What a message says.

        Args:
            told: The message.
            at_s: When it came.
        """
        by_counter = self._skipped(told)
        if told.is_heartbeat:
            self.lost += by_counter  # one of them, at most, was a heartbeat
            return self._rest(told, at_s)
        missed = max(by_counter, self._missing_in_totals(told, at_s))
        self.lost += missed
        launch_s = at_s - told.wall_s
        self._follow_queue(told, launch_s)
        finished = self._record(Kind.FINISHED, told, at_s)._replace(
            iteration=self._numbered(told.load, missed),
            load=told.load,
            launch_s=launch_s,
            ready_s=at_s,
            latency_s=told.wall_s,
        )
        following = self._following(told)
        self._last, self._at_s = told, at_s
        if following is None:
            return [finished, *self._rest(told, at_s)]
        self._number += 1
        launched = self._record(Kind.LAUNCHED, told, at_s)
        self._foreseen = launched._replace(
            iteration=self._number, load=following, launch_s=at_s, oldest_s=self._arrivals.oldest_s
        )
        return [finished, self._foreseen]

    def silent(self, now_s: float) -> list[Record]:
        """What it means that nothing has come by now.

        An engine says that it is idle only after a second, if at all. A decode step that has not
        come after several of its length had no request left.
        """
        last = self._last
        if self._foreseen is None or last is None or self._foreseen.load.prefill_tokens:
            return []
        if now_s - self._at_s <= max(SILENT_S, _SILENT_STEPS * last.wall_s):
            return []
        return self._rest(last, now_s)

    def _rest(self, told: ForwardPass, at_s: float) -> list[Record]:
        """Nothing runs."""
        self._foreseen, self._last, self._decoding = None, None, (0, 0)
        if told.is_heartbeat:
            self._arrivals.take(told.waiting_prompts, 0, at_s)
        return [self._record(Kind.IDLE, told, at_s)]

    def _skipped(self, told: ForwardPass) -> int:
        """Messages that the sender has numbered and that did not come."""
        before, self._counter = self._counter, told.counter
        if before is None or told.counter is None:
            return 0
        return max(told.counter - before - 1, 0)

    def _missing_in_totals(self, told: ForwardPass, at_s: float) -> int:
        """Decode steps that a sender dropped before it numbered them.

        The KV cache of a batch grows by one token a request and step. Where the same requests have
        grown by several, and the time has passed, the steps between were not told. Speculative
        decoding makes several tokens a step, in the time of one.
        """
        last = self._last
        if last is None or not _decodes_alone(last) or not _decodes_alone(told):
            return 0
        requests = told.load.decode_requests
        grown = told.load.decode_kv_tokens - last.load.decode_kv_tokens
        if requests != last.load.decode_requests or grown <= requests or grown % requests:
            return 0
        missed = grown // requests - 1
        passed_s = at_s - self._at_s - told.wall_s
        return missed if passed_s >= missed * _LEAST_SHARE * told.wall_s > 0 else 0

    def _numbered(self, load: Load, missed: int) -> int:
        """Number of an iteration: the one that was foreseen, or one that none was foreseen by."""
        foreseen, self._foreseen = self._foreseen, None
        if foreseen is not None and not missed and _alike(foreseen.load, load):
            return self._number
        self._number += 1 + missed
        return self._number

    def _follow_queue(self, told: ForwardPass, launch_s: float) -> None:
        """Who waits since when, and the oldest of this batch."""
        last = self._last
        # A prompt that is cut goes on with what was computed of it as its prefix.
        goes_on = (
            last is not None and 0 < last.prompt_tokens <= told.prefix_tokens and told.prompts > 0
        )
        started = max(told.prompts - goes_on, 0)
        earliest_s = launch_s if last is None else min(self._at_s, launch_s)
        oldest_s = self._arrivals.take(told.waiting_prompts, started, earliest_s)
        carried = (self._batch_oldest_s,) if goes_on else ()
        known = [at_s for at_s in (oldest_s, *carried) if not math.isnan(at_s)]
        self._batch_oldest_s = min(known, default=math.nan)

    def _following(self, told: ForwardPass) -> Load | None:
        """What ought to be computed next; None if nothing is there to compute."""
        self._decoding = self._decoding_after(told)
        decode = Load.decode(*self._decoding)
        prefill = self._next_prompts(told)
        if prefill is None:
            return decode if decode.decode_requests else None
        if told.load.prefill_tokens and told.load.decode_requests:  # an engine that mixes
            return dataclasses.replace(
                prefill,
                decode_requests=decode.decode_requests,
                decode_kv_tokens=decode.decode_kv_tokens,
            )
        return prefill

    def _decoding_after(self, told: ForwardPass) -> tuple[int, int]:
        """Requests that decode next, and their tokens; who has ended is not told."""
        requests, kv = self._decoding
        if told.load.decode_requests:
            requests = told.load.decode_requests
            kv = told.load.decode_kv_tokens + requests
        if self._joins and told.prompts:
            requests += told.prompts
            kv += told.prompt_tokens + told.prefix_tokens + told.prompts
        return requests, kv

    def _next_prompts(self, told: ForwardPass) -> Load | None:
        """The next prompts, as many as fit a batch; None where none waits, or none is let in."""
        if not told.waiting_prompts:
            return None
        last = self._last
        stuck = (
            last is not None
            and last.waiting_prompts > 0
            and not told.prompts
            and told.load.decode_requests > 0
        )
        if stuck:
            return None
        tokens = min(told.waiting_prompt_tokens, self._max_batch_tokens)
        if not tokens:
            return None
        mean = max(told.waiting_prompt_tokens // told.waiting_prompts, 1)
        prompts = max(tokens // mean, 1)
        pairs = attended_pairs_of(prompts, tokens, 0, 0.0)
        return Load(prefill_tokens=tokens, prefill_attended_pairs=pairs)

    def _record(self, kind: Kind, told: ForwardPass, at_s: float) -> Record:
        """A record with what waits, and nothing that runs."""
        return Record(
            kind=kind,
            iteration=self._number,
            at_s=at_s,
            load=IDLE,
            flags=Flag(0),
            waiting_requests=told.waiting_prompts + told.waiting_decodes,
            waiting_tokens=told.waiting_prompt_tokens + told.waiting_decode_tokens,
            oldest_s=self._batch_oldest_s if kind is Kind.FINISHED else self._arrivals.oldest_s,
            launch_s=math.nan,
            ready_s=math.nan,
            latency_s=math.nan,
            waiting=self._arrivals.waiting(told.waiting_prompt_tokens),
            rooms=(),
        )


def _decodes_alone(told: ForwardPass) -> bool:
    return told.load.decode_requests > 0 and not told.load.prefill_tokens


def _alike(foreseen: Load, load: Load) -> bool:
    """Whether a load is the one that was foreseen, for all that a prediction can tell."""
    return (
        foreseen.prefill_tokens == load.prefill_tokens
        and foreseen.decode_requests == load.decode_requests
        and abs(foreseen.decode_kv_tokens - load.decode_kv_tokens) <= load.decode_requests
    )
