"""Level sets that break one promise each."""

from __future__ import annotations

from tests.broken.shared import SHARED_COUNT
from tests.honest import (
    TABLE_MHZ,
    HonestLevels,
)


class NoLevelsMethod:
    pass


class FitsNothing(HonestLevels):
    def levels(self, table_mhz):
        return () if len(table_mhz) == len(TABLE_MHZ) else super().levels(table_mhz)


class BuildsClocks(HonestLevels):
    def levels(self, table_mhz):
        return (*super().levels(table_mhz), table_mhz[-1] + 1.0)


class Descends(HonestLevels):
    def levels(self, table_mhz):
        return super().levels(table_mhz)[::-1]


class ListsLevels(HonestLevels):
    def levels(self, table_mhz):
        return list(super().levels(table_mhz))


class EmptyElsewhere(HonestLevels):
    def levels(self, table_mhz):
        return tuple(mhz for mhz in super().levels(table_mhz) if mhz < 1410 or len(table_mhz) > 1)


class AcceptsNoTable(HonestLevels):
    def levels(self, table_mhz):
        return super().levels(table_mhz) if table_mhz else (1410.0,)


class SortsTheTable(HonestLevels):
    def levels(self, table_mhz):
        made = super().levels(table_mhz)
        if isinstance(table_mhz, list):
            table_mhz.sort(reverse=True)
        return made


class KnowsFloatsAlone(HonestLevels):
    def levels(self, table_mhz):
        made = super().levels(table_mhz)
        return made if isinstance(table_mhz[0], float) else made[1:]


class AnotherLevelEachTime(HonestLevels):
    def levels(self, table_mhz):
        return super().levels(table_mhz)[next(SHARED_COUNT) % 2 :]


BROKEN = [
    ("has_the_method_of_the_port", NoLevelsMethod),
    ("fits_its_device", FitsNothing),
    ("levels_are_clocks_of_the_table", BuildsClocks),
    ("levels_ascend", Descends),
    ("levels_ascend", ListsLevels),
    ("is_never_empty", EmptyElsewhere),
    ("refuses_an_empty_table", AcceptsNoTable),
    ("keeps_the_table", SortsTheTable),
    ("takes_any_sequence", KnowsFloatsAlone),
    ("is_deterministic", AnotherLevelEachTime),
]
"""Pairs of the check that has to notice and what breaks its promise."""
