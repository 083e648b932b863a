"""What is promised to the requests of a simulated cluster, at the arrival at each of its legs.

A request is promised its TTFT when it reaches a prefill instance, if what is pending there and its
own prompt fit at the fastest permitted clock; and its mean ITL when its cache reaches a decode
instance, if an iteration of the batch that it joins fits there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

from voltana.cluster.promised_requests import PromisedRequests
from voltana.planning import mean_at
from voltana.ports import KeepsAccount, TellsExpected, offers
from voltana.values import Load

if TYPE_CHECKING:
    from voltana.plant.job import Job
    from voltana.plant.runner import Runner


class RequestPromises:
    """The promises of one instance.

    Args:
        runner: Its loop tells the latency model and the levels.
        threshold_s: Of TTFT or of the mean ITL.
    """

    def __init__(self, runner: Runner, threshold_s: float) -> None:
        self.ledger = PromisedRequests()
        self._loop = runner.loop
        self._threshold_s = threshold_s

    @property
    def kept(self) -> bool:
        """Whether the policy proves anything at all."""
        return offers(self._loop.predictor, KeepsAccount)

    def first_token(
        self, job: Job, pending_tokens: int, max_tokens: int, other_s: float, now_s: float
    ) -> None:
        """Promise a TTFT, or not.

        Args:
            job: What arrives.
            pending_tokens: Prompt tokens that are pending, its own included.
            max_tokens: Of one iteration.
            other_s: What host and network take on top.
            now_s: The current time.
        """
        if not self.kept:
            return
        self.ledger.expire(now_s)
        batches = math.ceil(pending_tokens / max_tokens)
        mean_tokens = pending_tokens // batches
        load = Load.prefill([(mean_tokens, 0)])
        # Those of the batch that runs wait no more for its whole, nor do those behind it for less.
        expected_s = other_s + batches * self._mean_s(load)
        left_s = job.arrival_s + self._threshold_s - now_s
        self.ledger.arrive(job.index, expected_s=expected_s, left_s=left_s, now_s=now_s)

    def delivered(self, job: Job, now_s: float) -> None:
        """Score a TTFT."""
        self.ledger.end(job.index, missed=now_s - job.arrival_s > self._threshold_s)

    def tokens(self, job: Job, batch: Load) -> None:
        """Promise a mean ITL, or not: the batch is what its first iteration would compute."""
        if self.kept and job.output_tokens > 1:
            self.ledger.arrive(job.index, expected_s=self._mean_s(batch), left_s=self._threshold_s)

    def completed(self, job: Job, now_s: float) -> None:
        """Score a mean ITL."""
        if job.output_tokens > 1:
            mean_s = (now_s - job.first_token_s) / (job.output_tokens - 1)
            self.ledger.end(job.index, missed=mean_s > self._threshold_s)

    def _mean_s(self, load: Load) -> float:
        predictor, fastest_mhz = self._loop.predictor, self._loop.fastest_mhz()
        if predictor is None:
            return math.inf
        if offers(predictor, TellsExpected):
            return cast("TellsExpected", predictor).expected_s(load, fastest_mhz)
        return mean_at(predictor, load, fastest_mhz)
