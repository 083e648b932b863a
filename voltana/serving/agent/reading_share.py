"""How much of one ring is read: a ring that is flooded, or full of nonsense, must not be all."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voltana.serving.ring_records import Record
    from voltana.serving.sensors.port import RecordReader

RECORDS_PER_S = 4000.0
"""Ten times what engines write that are controlled well: two or three an iteration."""

SAVED = 4096.0
"""Records that a ring may have at once after a rest: an agent that was held up catches up."""

REFUSED_COST = 64.0
"""What cannot be read counts as so many records: a sound engine writes hardly any, and what is left
of a ring full of nonsense looks sound, and costs decisions."""

AT_ONCE = 16
"""The newest records alone are read at once of a ring that has used up its share."""

_LITTLE = SAVED / 8


class ReadingShare:
    """The share of one ring, which it has back as soon as it writes less.

    Args:
        now_s: The current time.
    """

    def __init__(self, now_s: float) -> None:
        self._left, self._at_s = SAVED, now_s

    def read(self, reader: RecordReader, now_s: float) -> list[Record]:
        """What has come since the last call, as far as the share goes.

        Args:
            reader: Reads the ring.
            now_s: The current time.
        """
        earned = max(now_s - self._at_s, 0.0) * RECORDS_PER_S
        self._left, self._at_s = min(SAVED, self._left + earned), now_s
        if self._left < AT_ONCE:
            return []
        refused = reader.torn
        records = reader.drain(None if self._left > _LITTLE else AT_ONCE)
        self._left -= len(records) + REFUSED_COST * (reader.torn - refused)
        return records
