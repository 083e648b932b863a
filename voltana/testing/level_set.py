"""The contract of `voltana.levels.LevelSet`, as named checks."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.errors import ConfigError
from voltana.levels import LevelSet
from voltana.testing import samples
from voltana.testing.report import NotApplicable, Report, expect, run_checks, title_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

OTHER_TABLES: tuple[tuple[float, ...], ...] = (
    tuple(float(mhz) for mhz in range(345, 1981, 15)),  # an H100's
    tuple(210.0 + 7.5 * i for i in range(200)),
    (900.0, 1410.0),
    (1410.0,),
)
"""Tables of other devices, which a level set may refuse."""


@dataclass(frozen=True, slots=True)
class _Subject:
    make: Callable[[], LevelSet]
    table_mhz: tuple[float, ...]


def check_level_set(
    factory: Callable[[], LevelSet],
    *,
    table_mhz: Sequence[float] = samples.CLOCKS_MHZ,
    skip: Collection[str] = (),
) -> Report:
    """Hold a level set to its contract.

    Args:
        factory: Makes a fresh level set for every check; two of them must be alike.
        table_mhz: Clocks of a device that it fits, ascending; an A100's unless told otherwise.
            Those of others it may refuse.
        skip: Names of checks to leave out; those of `LEVEL_SET_CHECKS`.
    """
    subject = _Subject(factory, tuple(map(float, table_mhz)))
    return run_checks(title_of(factory), subject, LEVEL_SET_CHECKS, skip)


def has_the_method_of_the_port(subject: _Subject) -> None:
    """A level set has levels(table_mhz); it needs no base class."""
    made = subject.make()
    expect(
        isinstance(made, LevelSet),
        f"{type(made).__name__} lacks levels",
        "Add the method; voltana.levels.LevelSet has the signature.",
    )


def fits_its_device(subject: _Subject) -> None:
    """levels() yields one level or more for the table that it is meant for."""
    levels = subject.make().levels(subject.table_mhz)
    remedy = "Return a level, or raise ConfigError where none fits."
    expect(len(levels) > 0, "no level at all", remedy)


def levels_are_clocks_of_the_table(subject: _Subject) -> None:
    """Every level is a clock that the device supports, whichever device that is."""
    for table, levels in _answers(subject):
        strange = [mhz for mhz in levels if mhz not in table]
        seen = f"{strange[:3]} of a table of {table[0]:g}-{table[-1]:g} MHz"
        expect(not strange, seen, "Choose the nearest supported clock; build no clock of your own.")


def levels_ascend(subject: _Subject) -> None:
    """levels() yields a tuple of finite clocks in MHz, ascending, without repetition."""
    for _, levels in _answers(subject):
        holds = (
            isinstance(levels, tuple)
            and all(0 < mhz < math.inf for mhz in levels)
            and all(low < high for low, high in itertools.pairwise(levels))
        )
        expect(holds, f"levels() = {str(levels)[:80]}", "Return tuple(sorted(set(levels))).")


def is_never_empty(subject: _Subject) -> None:
    """On a device where no clock fits it raises ConfigError; it never yields nothing."""
    for table, levels in _answers(subject):
        seen = f"no level of a table of {table[0]:g}-{table[-1]:g} MHz"
        expect(len(levels) > 0, seen, "Raise with voltana.errors.invalid, naming what fits.")


def refuses_an_empty_table(subject: _Subject) -> None:
    """A device that reports no clock raises ConfigError."""
    try:
        levels = subject.make().levels(())
    except ConfigError:
        return
    expect(holds=False, seen=f"levels {levels!r}", remedy="Raise with voltana.errors.invalid.")


def keeps_the_table(subject: _Subject) -> None:
    """levels() does not write to the table that it is given."""
    table = list(subject.table_mhz)
    subject.make().levels(table)
    expect(table == list(subject.table_mhz), "the table changed", "Copy it before you sort it.")


def takes_any_sequence(subject: _Subject) -> None:
    """The table may be a tuple or a list, of floats or of whole numbers."""
    expected = subject.make().levels(subject.table_mhz)
    tables: list[Sequence[float]] = [list(subject.table_mhz)]
    if all(mhz == int(mhz) for mhz in subject.table_mhz):
        tables.append([int(mhz) for mhz in subject.table_mhz])
    for table in tables:
        levels = subject.make().levels(table)
        seen = f"{levels[:3]} for {type(table).__name__} of {type(table[0]).__name__}, not tuple"
        expect(tuple(levels) == tuple(expected), seen, "Convert with tuple(map(float, table_mhz)).")


def is_deterministic(subject: _Subject) -> None:
    """The same table yields the same levels, of one level set and of two alike ones."""
    level_set = subject.make()
    answers = [made.levels(subject.table_mhz) for made in (level_set, level_set, subject.make())]
    holds = all(tuple(answer) == tuple(answers[0]) for answer in answers)
    expect(holds, "levels differ from call to call", "Keep state and chance out of levels().")


LEVEL_SET_CHECKS: tuple[Callable[[_Subject], None], ...] = (
    has_the_method_of_the_port,
    fits_its_device,
    levels_are_clocks_of_the_table,
    levels_ascend,
    is_never_empty,
    refuses_an_empty_table,
    keeps_the_table,
    takes_any_sequence,
    is_deterministic,
)
"""The suite that `check_level_set` runs."""


def _answers(subject: _Subject) -> Iterator[tuple[tuple[float, ...], Sequence[float]]]:
    """Each table that it does not refuse, and its levels."""
    level_set, answered = subject.make(), False
    for table in (subject.table_mhz, *OTHER_TABLES):
        try:
            levels = level_set.levels(table)
        except ConfigError:
            continue
        answered = True
        yield table, levels
    if not answered:
        raise NotApplicable("it refuses every table")
