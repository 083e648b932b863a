"""Promised requests beside an engine: what its ring tells of them, handed to the one account.

The engine's hooks number what they tell, so that a gap shows: records were overwritten unread, or
torn. What became of the requests that were under way then cannot be known, and all of them count as
lost, which the bound forgives (docs/guarantee-requests.md, "Promised requests").
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from voltana.cluster.least_slack import LeastSlack
from voltana.cluster.promised_requests import PromisedRequests
from voltana.cluster.request_promises import RequestPromises
from voltana.predictors.conformal.quantile_tracker import read_number
from voltana.slo import Slo
from voltana.values import Load
from voltana_ring.layout import Change

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from voltana.loop import ControlLoop
    from voltana.serving.ring_records import Record

GRACE_S = 1.0
"""A first token may be told so much later than it was there; a deadline waits for that."""

LEGS = ("ttft", "itl")

_PROMISES = {Change.WAITS: "ttft", Change.JOINED: "itl"}
"""What a promise is given at, and about which threshold."""


class ToldRequests:
    """The promised requests of one ring.

    Attributes:
        promises: The account.
        slack: What requests were faster than they had to be; None where nobody asks.
        gaps: How often something that was told has not been read.
        error: What last went wrong in a user's predictor; empty if nothing did.
    """

    def __init__(self) -> None:
        self.promises = RequestPromises(None, Slo(ttft_s=1.0, itl_s=1.0), 1)
        self.slack: LeastSlack | None = None
        self.gaps = 0
        self.error = ""
        self._told: int | None = None
        self._carried: dict[str, dict[str, float]] = {}
        self._text = ""
        self._heard = 0

    @property
    def told(self) -> int | None:
        """Changes that were told so far; None where what was told before is not known."""
        return self._told

    def use(self, loop: ControlLoop, slo: Slo, max_batch_tokens: int) -> None:
        """Promise by this loop from now on; what is under way keeps what was promised."""
        self.promises.loop, self.promises.slo = loop, slo
        self.promises.max_batch_tokens = max_batch_tokens
        if slo.spending == 1.0:
            self.slack = None
        elif self.slack is None or self.slack.itl_s != slo.itl_s:
            self.slack = LeastSlack(slo.itl_s)

    def take(self, record: Record) -> None:
        """Work through a record of changes."""
        if self._told is not None and self._told != record.iteration:
            self.lose()
        self._told = record.iteration + len(record.changes)
        self._text = ""
        promises, load = self.promises, record.load
        for number, (name, at_s, what, tokens) in enumerate(record.changes, record.iteration):
            if what is Change.WAITS:
                pending = load.prefill_tokens + record.waiting_tokens
                self._promise(
                    partial(
                        promises.arrived, name, arrival_s=at_s, pending_tokens=pending,
                        now_s=record.at_s,
                    )
                )  # fmt: skip
            elif what is Change.FIRST:
                self._file(name, at_s, known=True)
                promises.first_token(name, at_s)
            elif what is Change.JOINED:
                self._file(name, at_s)
                batch = Load.decode(load.decode_requests, load.decode_kv_tokens)
                self._promise(partial(promises.joined, name, batch, at_s))
            elif what is Change.ENDED:
                self._leave(name)
                self._promise(partial(promises.ended, name, at_s, tokens))
            elif what is Change.ABORTED:
                self._leave(name)
                self._promise(partial(promises.ended, name, at_s, tokens, aborted_s=record.at_s))
            else:
                promises.aborted(name, at_s)
            if number < self._heard and what in _PROMISES:
                getattr(promises, _PROMISES[what]).presume(name)

    def presume(self, heard: int | None) -> None:
        """Say how many changes an agent that was killed had heard, beyond what it has written.

        What it promised then is not known: to those of which this one would promise nothing, for
        its model may know less, it may have been promised, and they count as lost.
        """
        self._heard = heard or 0

    def expire(self, now_s: float) -> None:
        """Score those whose deadline has passed."""
        before = self.promises.ttft.scored
        self.promises.expire(now_s - GRACE_S)
        if self.promises.ttft.scored != before:
            self._text = ""

    def lose(self) -> None:
        """Something was told and not read, or the engine is gone."""
        self.gaps += 1
        if self.slack is not None:
            self.slack.clear()
        self.promises.lose()
        unread = self._heard - (self._told or 0)
        for leg in LEGS:
            if unread > 0:  # whatever has arrived: what was promised may never have been written
                getattr(self.promises, leg).presume_many(unread)
        self._told, self._heard = None, 0
        self._text = ""

    def accounts(self) -> dict[str, dict[str, float]]:
        """The account of each threshold about which a request has arrived."""
        found = {}
        for leg in LEGS:
            own = _sum(self._carried.get(leg, {}), getattr(self.promises, leg).account())
            if own["arrived"]:
                found[leg] = own
        return found

    def to_json(self) -> str:
        """All of it as a JSON table; `restore` reads it."""
        if not self._text:
            told = "null" if self._told is None else self._told
            ttft, itl = self.promises.ttft.to_json(), self.promises.itl.to_json()
            carried = json.dumps(self._carried)
            self._text = f'{{"told":{told},"ttft":{ttft},"itl":{itl},"carried":{carried}}}'
        return self._text

    def restore(self, values: Mapping[str, Any]) -> None:
        """Read what `to_json` wrote; what was promised by another statement stays in the account.

        Raises:
            KeyError: If a key is missing.
            TypeError: If a value is of another kind.
            ValueError: If a number is none that can have been written.
        """
        told = values["told"]
        self._told = None if told is None else int(read_number(told, 0))
        self._carried = {
            leg: {str(name): read_number(value, 0) for name, value in account.items()}
            for leg, account in values["carried"].items()
        }
        for leg in LEGS:
            made = PromisedRequests.restore(values[leg])
            if made.statement == getattr(self.promises, leg).statement:
                setattr(self.promises, leg, made)
            else:
                made.lose()
                self._carried[leg] = _sum(self._carried.get(leg, {}), made.account())

    def _file(self, name: int, first_s: float, *, known: bool = False) -> None:
        """Note when a request had its first token; `known`: of one that decodes already."""
        if self.slack is not None and (not known or name in self.slack):
            self.slack.join(name, first_s)

    def _leave(self, name: int) -> None:
        if self.slack is not None:
            self.slack.leave(name)

    def _promise(self, ask: Callable[[], None]) -> None:
        """Promise, or score; a user's predictor or controller that fails must not end the loop."""
        try:
            ask()
        except Exception as error:  # noqa: BLE001  (it must not end the loop)
            self.error = f"{type(error).__name__}: {error}"


def _sum(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: one.get(name, 0.0) + value for name, value in other.items()}
