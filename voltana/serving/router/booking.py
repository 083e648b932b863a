"""Keeps the ledger true to one try, whether its decode server is known at once or chosen late."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.cluster.ledger import Entry

if TYPE_CHECKING:
    from voltana.cluster.ledger import Ledger
    from voltana.ports import TimeSource


class Booking:
    """One try in the ledger.

    Args:
        ledger: What is in flight.
        time: Time source.
        key: Unique id of the try.
        prefill: Name of its prefill server; None where one server serves both phases.
        requests: Prompts of it.
        prompt_tokens: Their length, estimated.
    """

    def __init__(
        self,
        ledger: Ledger,
        time: TimeSource,
        *,
        key: str,
        prefill: str | None,
        requests: int,
        prompt_tokens: int,
    ) -> None:
        self._ledger = ledger
        self._time = time
        self._key = key
        self._prefill = prefill
        self._requests = requests
        self._prompt_tokens = prompt_tokens
        self._booked = False

    def prefill_alone(self) -> None:
        """The prefill leg is about to be sent, and nobody knows yet where it is decoded."""
        if self._prefill is not None:
            self._booked = True
            self._book(None, self._prefill, ())

    def decode(self, name: str, marks: tuple[int, ...]) -> None:
        """The decode server is known; `marks` are numbers by which reports may name the try."""
        if self._booked:
            self._ledger.finished(self._key)
        self._book(self._prefill, name, marks)

    def prefilled(self) -> None:
        """The prefill leg is complete."""
        self._ledger.prefilled(self._key, self._time.now_s())

    def prefilled_alone(self) -> None:
        """Likewise, where no decode server is known: from now on the try is in flight nowhere."""
        self._ledger.finished(self._key)
        self._prefill = None  # what is sent to the decode server is a leg of its own

    def finished(self) -> None:
        """The try is over; may be called twice."""
        self._ledger.finished(self._key)

    def _book(self, prefill: str | None, decode: str, marks: tuple[int, ...]) -> None:
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
