"""Keeps the ledger true to one try, whether its decode server is known at once or chosen late."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.cluster.ledger import Entry
from voltana.values import Reservation

if TYPE_CHECKING:
    from voltana.cluster.ledger import Ledger
    from voltana.ports import TimeSource
    from voltana.serving.router.chooser import Pair
    from voltana.serving.router.energy_split import Tally
    from voltana.serving.router.pool import Backend


class Booking:
    """One try in the ledger.

    Args:
        ledger: What is in flight.
        time: Time source.
        key: Unique id of the try.
        requests: Prompts of it.
        prompt_tokens: Their length, estimated.
        tally: What it computes where, for its tenant.
        lease_s: After how long a prefill server gives up a KV cache that nobody fetches; None where
            none is kept beyond the prefill leg.
    """

    def __init__(
        self,
        ledger: Ledger,
        time: TimeSource,
        *,
        key: str,
        requests: int,
        prompt_tokens: int,
        tally: Tally,
        lease_s: float | None = None,
    ) -> None:
        self._tally = tally
        self._lease_s = lease_s
        self._keeper: str | None = None  # the prefill server that holds its KV cache
        self._decode: str | None = None
        self._ledger = ledger
        self._time = time
        self._key = key
        self._prefill: str | None = None
        self._requests = requests
        self._prompt_tokens = prompt_tokens

    def prefilled_by(self, prefill: Backend | None) -> None:
        """Its prefill server is chosen; None where one server serves both phases."""
        self._prefill = None if prefill is None else prefill.name

    def planned(self, pair: Pair) -> None:
        """Its servers are chosen, and nothing is sent yet; whoever is next has to know of it."""
        self.prefilled_by(pair.prefill)
        self._book(self._prefill, pair.decode.name, ())

    def planned_late(self, decode: Backend) -> None:
        """Its decode server is chosen after the prefill, and nothing is sent there yet."""
        self._book(None, decode.name, ())

    def prefill_alone(self) -> None:
        """The prefill leg is about to be sent, and nobody knows yet where it is decoded."""
        if self._prefill is not None:
            self._tally.sent(self._prefill)
            self._book(None, self._prefill, ())

    def decode(self, name: str, marks: tuple[int, ...]) -> None:
        """The decode server is known; `marks` are numbers by which reports may name the try."""
        self._decode = name
        if self._prefill is None:
            self._tally.decodes(name)
        else:
            self._tally.sent(self._prefill)
        self._book(self._prefill, name, marks)

    def prefilled(self) -> None:
        """The prefill leg is complete."""
        self._tally.prefilled()
        if self._decode is not None:
            self._tally.decodes(self._decode)
        self._ledger.prefilled(self._key, self._time.now_s())

    def prefilled_alone(self) -> None:
        """Likewise, where no decode server is known: from now on the try is in flight nowhere."""
        self._tally.prefilled()
        self._ledger.finished(self._key)
        if self._lease_s is not None and self._prefill is not None:
            self._keeper = self._prefill
            self._hold(self._keeper)
        self._prefill = None  # what is sent to the decode server is a leg of its own

    def unseen(self) -> None:
        """The decode server is asked for a whole answer, which does not show when it fetches.

        The KV cache counts as held for as long as those usually are whose fetching is seen.
        """
        if self._keeper is not None:
            caches = self._ledger.caches
            caches.end_after(self._key, caches.usual_s, self._time.now_s())

    def fetched(self, *, seen: bool) -> None:
        """The decode server has the KV cache; `seen` if it is told as soon as it has."""
        self._keeper = None
        if seen:
            self._ledger.caches.fetched(self._key, self._time.now_s())
        else:
            self._ledger.caches.let_go(self._key)

    def released(self) -> None:
        """The prefill server was told that nobody wants the KV cache."""
        self._keeper = None
        self._ledger.caches.let_go(self._key)

    def finished(self) -> None:
        """The try is over; may be called twice.

        A KV cache that was not seen to be fetched is there until its lease ends.
        """
        self._tally.finished()
        self._ledger.finished(self._key)
        keeper, self._keeper = self._keeper, None
        if keeper is not None and self._lease_s is not None:
            self._hold(keeper)  # again: `unseen` may have counted it as gone
            self._ledger.caches.end_after(self._key, self._lease_s, self._time.now_s())

    def _hold(self, keeper: str) -> None:
        what = Reservation(requests=self._requests, prompt_tokens=self._prompt_tokens)
        self._ledger.caches.hold(self._key, keeper, what, self._time.now_s())

    def _book(self, prefill: str | None, decode: str, marks: tuple[int, ...]) -> None:
        self._ledger.finished(self._key)  # what was known of it before, if anything
        self._ledger.book(
            Entry(
                rid=self._key,
                prefill=prefill,
                decode=decode,
                requests=self._requests,
                prompt_tokens=self._prompt_tokens,
                sent_s=self._time.now_s(),
                rooms=marks,
            )
        )
