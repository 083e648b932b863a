"""Takes every numbered label once, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict

WINDOW = 4096
"""Labels that come this far behind the newest one are refused: whether they are new is unknown."""

ISSUERS = 64
"""Issuers (loops) that are remembered; the one that was quiet longest is forgotten first."""


class LabelLedger:
    """Which labels were taken, by issuer and number.

    Attributes:
        refused: Labels that came twice, or too late to tell.
    """

    __slots__ = ("_newest", "_taken", "refused")

    def __init__(self) -> None:
        self._taken: OrderedDict[str, dict[int, int]] = OrderedDict()
        self._newest: dict[str, int] = {}
        self.refused = 0

    def admit(self, issuer: str, sequence: int) -> bool:
        """Whether a label is new; it is taken then."""
        slots = self._taken.get(issuer)
        if slots is None:
            slots = self._taken[issuer] = {}
            self._newest[issuer] = sequence
            if len(self._taken) > ISSUERS:
                forgotten, _ = self._taken.popitem(last=False)
                del self._newest[forgotten]
        else:
            self._taken.move_to_end(issuer)
        slot = sequence % WINDOW
        newest = self._newest[issuer]
        if sequence <= newest - WINDOW or slots.get(slot, -1) >= sequence:
            self.refused += 1
            return False
        slots[slot] = sequence
        if sequence > newest:
            self._newest[issuer] = sequence
        return True

    def has(self, issuer: str, sequence: int) -> bool:
        """Whether a label is known to have been taken; changes nothing."""
        return self._taken.get(issuer, {}).get(sequence % WINDOW) == sequence

    def is_forgotten(self, issuer: str, sequence: int) -> bool:
        """Whether a label that was refused came too late to tell whether it is new."""
        return sequence <= self._newest.get(issuer, sequence) - WINDOW
