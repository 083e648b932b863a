"""What is promised to the requests of one instance, at the arrival at each of its legs.

A request is promised its TTFT when it reaches a prefill instance, if what is pending there and its
own prompt fit at the fastest permitted clock; and its mean ITL when it joins a decode batch, if an
iteration of that batch fits there. Simulator and agent drive the same one: the one knows of its
requests, the other is told by the ring. docs/guarantee-requests.md, "Promised requests".
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from voltana.cluster.promised_requests import PromisedRequests
from voltana.planning import mean_at
from voltana.ports import KeepsAccount, offers
from voltana.values import attended_pairs
from voltana.values.work import make_load

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from voltana.loop import ControlLoop
    from voltana.slo import Slo
    from voltana.values import Load


class RequestPromises:
    """The promises of one instance.

    Args:
        loop: Tells the latency model and the fastest clock; None promises nothing.
        slo: The thresholds.
        max_batch_tokens: Prompt tokens of one iteration.

    Attributes:
        loop: See above; may be changed while requests are under way, which keep what was promised.
        slo: Likewise.
        max_batch_tokens: Likewise.
        ttft: Promises of a TTFT.
        itl: Promises of a mean ITL.
    """

    def __init__(self, loop: ControlLoop | None, slo: Slo, max_batch_tokens: int) -> None:
        self.loop = loop
        self.slo = slo
        self.ttft = PromisedRequests()
        self.itl = PromisedRequests()
        self.max_batch_tokens = max_batch_tokens
        self._running: set[Hashable] = set()  # in a decode batch, whether promised anything or not

    @property
    def kept(self) -> bool:
        """Whether the policy proves anything at all."""
        return self.loop is not None and offers(self.loop.predictor, KeepsAccount)

    @property
    def ttft_margin(self) -> float:
        """The margin of first tokens; see `voltana.values.InstanceState`.

        No more than the greatest with which any is promised: what is above says that nothing can
        be promised now, and not how late they come. 0 where none is expected, as on decode legs.
        """
        ttft = self.ttft
        if not (ttft.arrived and self.kept):
            return 0.0
        margin, most = ttft.margin, ttft.statement.q_cert
        return margin if margin < most else most

    def arrived(
        self,
        key: Hashable,
        *,
        arrival_s: float,
        pending_tokens: int,
        now_s: float,
        other_s: float = 0.0,
    ) -> None:
        """Promise a TTFT, or not.

        Args:
            key: Names the request.
            arrival_s: When it arrived.
            pending_tokens: Prompt tokens that are pending here, its own included.
            now_s: The current time.
            other_s: What host and network take on top.
        """
        if not self.kept:
            return
        ttft_s = self.slo.ttft_s
        self.ttft.arrive(
            key,
            expected_s=other_s + self._prefill_s(pending_tokens),
            left_s=arrival_s + ttft_s - now_s,
            now_s=now_s,
            begun_s=arrival_s,
            threshold_s=ttft_s,
        )

    def first_token(self, key: Hashable, at_s: float) -> None:
        """Score a TTFT, and let the mean ITL begin."""
        self.itl.begin(key, at_s)
        self.ttft.end(key, missed=self.ttft.late(key, at_s))

    def joined(self, key: Hashable, batch: Load, at_s: float) -> None:
        """Promise a mean ITL, or not.

        Args:
            key: Names the request.
            batch: What its first iteration computes.
            at_s: When it had its first token.
        """
        self._running.add(key)
        if self.kept:
            itl_s = self.slo.itl_s
            self.itl.arrive(
                key,
                expected_s=self._mean_s(batch),
                left_s=itl_s,
                begun_s=at_s,
                threshold_s=itl_s,
            )

    def ended(
        self, key: Hashable, at_s: float, tokens: int, *, aborted_s: float = math.nan
    ) -> None:
        """Score a mean ITL at the last token or the abort.

        Args:
            key: Names the request.
            at_s: When it had its last token.
            tokens: Its tokens, the first included; with that alone there is no gap to score.
            aborted_s: When it was aborted; then the token that it waited for counts as well, for
                it came no earlier. nan for a request that was not.
        """
        followed = key in self.itl and tokens > 1
        late = self.itl.late(key, at_s, parts=max(tokens - 1, 1)) if followed else None
        if not math.isnan(aborted_s) and self.itl.late(key, aborted_s, parts=max(tokens, 1)):
            late = True
        if late is None:
            self.itl.withdraw(key)
        else:
            self.itl.end(key, missed=late)
        self._tell_end(key, late)

    def _tell_end(self, key: Hashable, late: bool | None) -> None:
        """Let the controller know that a request has left the batch, and whether it was late.

        No iteration tells how requests fare that have few tokens to make up for the wait before
        their first one, nor how many end: those as well that could be promised nothing, of which
        nobody knows when they began.
        """
        if key not in self._running:  # told before, or never in the batch
            return
        self._running.discard(key)
        if self.loop is not None:
            self.loop.request_ended(late=late)

    def aborted(self, key: Hashable, now_s: float) -> None:
        """Let a request go that was aborted before its first token: late by now, or nothing."""
        if self.ttft.late(key, now_s):
            self.ttft.end(key, missed=True)
        else:
            self.ttft.withdraw(key)

    def expire(self, now_s: float) -> None:
        """Score those as missed whose deadline has passed without a first token."""
        self.ttft.expire(now_s)

    def lose(self) -> None:
        """Let all go that are under way: nobody can tell what became of them."""
        self.ttft.lose()
        self.itl.lose()
        self._running.clear()

    def accounts(self) -> Mapping[str, Mapping[str, float]]:
        """The accounts, by threshold."""
        return {"ttft": self.ttft.account(), "itl": self.itl.account()}

    def _prefill_s(self, pending_tokens: int) -> float:
        """What all that is pending takes at the fastest clock."""
        if pending_tokens <= 0:
            return 0.0
        batches = math.ceil(pending_tokens / self.max_batch_tokens)
        # Those of the batch that runs wait no more for its whole, nor do those behind it for less.
        each = pending_tokens // batches
        load = make_load(prefill_tokens=each, prefill_attended_pairs=attended_pairs(each))
        return batches * self._mean_s(load)

    def _mean_s(self, load: Load) -> float:
        loop = self.loop
        predictor = None if loop is None else loop.predictor
        if predictor is None or loop is None:
            return math.inf
        return mean_at(predictor, load, loop.fastest_mhz())
