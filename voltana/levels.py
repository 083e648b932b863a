"""Pluggable frequency-level sets, and the resolution of demand and caps to a level.

The rule is that of Linux cpufreq: the controller demands, the core resolves. A demand rounds up to
the next level (never slower than asked), a cap rounds down (never faster than permitted), and the
cap wins.
"""

from __future__ import annotations

import bisect
import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from voltana.errors import ConfigError, invalid
from voltana.users_file import read_number, read_whole
from voltana.values import Bounds, Decision, Limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

A100_CLOCKS_MHZ: tuple[float, ...] = tuple(float(mhz) for mhz in range(210, 1411, 15))
"""Supported SM clocks of an A100: 81 values (NVML, supported graphics clocks)."""

PUBLISHED_LEVELS_MHZ: tuple[float, ...] = (1005.0, 1410.0)
"""The two levels of VoltanaLLM on A100 (arXiv 2509.04827)."""

_EPSILON_MHZ = 1e-6
_MOST_LEVELS = 4096
_FORMS = (
    "'all', 'published', 'even:N', 'above:MHZ', 'below:MHZ', 'nvml[:DEVICE]' or clocks such as "
    "'1005,1410'"
)


@runtime_checkable
class LevelSet(Protocol):
    """Chooses the levels that a controller may use from the clocks that a device supports."""

    def levels(self, table_mhz: Sequence[float]) -> tuple[float, ...]:
        """Levels in MHz, ascending, never empty, each one in `table_mhz`.

        Raises:
            ConfigError: If no supported clock fits.
        """
        ...


@dataclass(frozen=True, slots=True)
class Explicit:
    """The given clocks, which the device must support."""

    clocks_mhz: tuple[float, ...]

    def levels(self, table_mhz: Sequence[float]) -> tuple[float, ...]:
        """See `LevelSet.levels`."""
        if not self.clocks_mhz:
            raise invalid("levels_mhz", (), "at least one clock", "Name a clock in MHz.")
        table = _checked_table(table_mhz)
        for clock in self.clocks_mhz:
            if clock not in table:
                near = min(table, key=lambda mhz: abs(mhz - clock))
                raise invalid(
                    "levels_mhz",
                    clock,
                    f"a supported clock of {table[0]:g}-{table[-1]:g} MHz",
                    f"The nearest one is {near:g} MHz.",
                )
        return tuple(sorted(set(map(float, self.clocks_mhz))))


@dataclass(frozen=True, slots=True)
class Published:
    """The two published levels, scaled to the device: 1005 and 1410 MHz on an A100.

    On another device: its fastest clock, and the supported clock nearest to 1005/1410 of it.
    """

    def levels(self, table_mhz: Sequence[float]) -> tuple[float, ...]:
        """See `LevelSet.levels`."""
        table = _checked_table(table_mhz)
        low, high = PUBLISHED_LEVELS_MHZ
        wanted = table[-1] * low / high
        return tuple(sorted({min(table, key=lambda mhz: abs(mhz - wanted)), table[-1]}))


@dataclass(frozen=True, slots=True)
class EvenlySpaced:
    """`count` clocks, evenly spaced over the device's range (or from `min_mhz`), ends included."""

    count: int
    min_mhz: float = 0.0

    def levels(self, table_mhz: Sequence[float]) -> tuple[float, ...]:
        """See `LevelSet.levels`."""
        if not 1 <= self.count <= _MOST_LEVELS:
            raise invalid(
                "count",
                self.count,
                f"at least 1 and at most {_MOST_LEVELS}",
                "Ask for one level or more, and no more than a device has.",
            )
        table = Above(self.min_mhz).levels(table_mhz)
        if self.count == 1:
            return (table[-1],)
        step = (table[-1] - table[0]) / (self.count - 1)
        wanted = (table[0] + step * i for i in range(self.count))
        return tuple(sorted({min(table, key=lambda mhz: abs(mhz - w)) for w in wanted}))


@dataclass(frozen=True, slots=True)
class Supported:
    """Every clock that the device supports."""

    def levels(self, table_mhz: Sequence[float]) -> tuple[float, ...]:
        """See `LevelSet.levels`."""
        return _checked_table(table_mhz)


@dataclass(frozen=True, slots=True)
class Above:
    """Every supported clock at or above `min_mhz`."""

    min_mhz: float

    def levels(self, table_mhz: Sequence[float]) -> tuple[float, ...]:
        """See `LevelSet.levels`."""
        table = _checked_table(table_mhz)
        return _nonempty(
            tuple(mhz for mhz in table if mhz >= self.min_mhz - _EPSILON_MHZ), table, self
        )


@dataclass(frozen=True, slots=True)
class Below:
    """Every supported clock at or below `max_mhz`."""

    max_mhz: float

    def levels(self, table_mhz: Sequence[float]) -> tuple[float, ...]:
        """See `LevelSet.levels`."""
        table = _checked_table(table_mhz)
        return _nonempty(
            tuple(mhz for mhz in table if mhz <= self.max_mhz + _EPSILON_MHZ), table, self
        )


@dataclass(frozen=True, slots=True)
class Reported:
    """The clocks that a device reports itself, as far as the table has them too.

    Attributes:
        read_mhz: Asks the device, such as `voltana.actuators.gpu_clock_table`; called when the
            levels are resolved, not before.
    """

    read_mhz: Callable[[], Sequence[float]]

    def levels(self, table_mhz: Sequence[float]) -> tuple[float, ...]:
        """See `LevelSet.levels`."""
        table = _checked_table(table_mhz)
        reported = set(map(float, self.read_mhz()))
        return _nonempty(tuple(mhz for mhz in table if mhz in reported), table, sorted(reported))


def parse_levels(
    text: str, *, read_device_mhz: Callable[[int], Sequence[float]] | None = None
) -> LevelSet:
    """Read a level set as users write it.

    Args:
        text: ``all``, ``published``, ``even:N``, ``above:MHZ``, ``below:MHZ``, ``nvml`` or
            ``nvml:DEVICE``, or clocks in MHz separated by commas.
        read_device_mhz: Reads the clocks of a device by its index, for ``nvml``; None where no
            device can be asked.

    Raises:
        ConfigError: If the text is none of these.
    """
    kind, colon, value = text.strip().partition(":")
    try:
        if kind == "nvml":
            return _reported(text, read_whole(value) if colon else 0, read_device_mhz)
        if kind in _VALUED and colon:
            return _VALUED[kind](value)
        if kind in _NAMED and not colon:
            return _NAMED[kind]()
        return Explicit(tuple(read_number(part) for part in text.split(",")))
    except ConfigError:
        raise
    except ValueError:
        raise invalid("levels", text, _FORMS, "Give clocks in MHz.") from None


_NAMED: dict[str, Callable[[], LevelSet]] = {"all": Supported, "published": Published}
_VALUED: dict[str, Callable[[str], LevelSet]] = {
    "even": lambda count: EvenlySpaced(read_whole(count)),
    "above": lambda mhz: Above(read_number(mhz)),
    "below": lambda mhz: Below(read_number(mhz)),
}


def require_levels(levels_mhz: Sequence[float]) -> tuple[float, ...]:
    """`levels_mhz` as a tuple, if a controller can choose from them.

    Raises:
        ConfigError: If there is none, or one that is no clock, or they are not ascending.
    """
    levels = tuple(levels_mhz)
    clocks = all(0 < mhz < math.inf for mhz in levels)
    if not levels or not clocks or list(levels) != sorted(set(levels)):
        raise invalid(
            "levels_mhz",
            levels,
            "one clock or more in MHz, above 0, ascending, without repetition",
            "Build it with voltana.levels.",
        )
    return levels


def nearest_mhz(levels_mhz: Sequence[float], clock_mhz: float) -> float:
    """The level next to a clock, the lower one of two; the lowest where the clock is unknown.

    Args:
        levels_mhz: Ascending, at least one.
        clock_mhz: Nan, or nothing above 0, where nobody knows it.
    """
    above = bisect.bisect_left(levels_mhz, clock_mhz)
    if above == 0 or not clock_mhz > 0:
        return levels_mhz[0]
    if above == len(levels_mhz):
        return levels_mhz[-1]
    low, high = levels_mhz[above - 1], levels_mhz[above]
    return high if high - clock_mhz < clock_mhz - low else low


def idle_decision(levels_mhz: Sequence[float], idle_mhz: float | None) -> Decision:
    """To wait at a clock: at the lowest level where none is named.

    Raises:
        ConfigError: If it is no clock.
    """
    if idle_mhz is None:
        idle_mhz = levels_mhz[0]
    if not 0 < idle_mhz < math.inf:
        raise invalid("idle_mhz", idle_mhz, "above 0 MHz, finite", "None is the lowest level.")
    return Decision(clock_mhz=idle_mhz, reason="idle: wait slowly")


def combine_limits(limits: Iterable[Limit], now_s: float) -> Bounds:
    """The range that all limits in force leave, and who set either end.

    Expired limits do not count. Where a floor lies above a cap, the cap wins.
    """
    low, high = Limit(source="device"), Limit(source="device")
    for limit in limits:
        if limit.expires_at_s <= now_s:
            continue
        if limit.min_mhz > low.min_mhz:
            low = limit
        if limit.max_mhz < high.max_mhz:
            high = limit
    return Bounds(
        min_mhz=min(low.min_mhz, high.max_mhz),
        max_mhz=high.max_mhz,
        min_source=low.source,
        max_source=high.source,
    )


def resolve(demand_mhz: float, levels_mhz: Sequence[float], bounds: Bounds) -> float:
    """The level for a demand: demand and floor round up, the cap rounds down, the cap wins.

    Args:
        demand_mhz: What the controller wants; nan or inf asks for the fastest permitted clock.
        levels_mhz: Permitted levels, ascending, at least one.
        bounds: Range from all limits. A cap below every level yields the lowest level.

    Returns:
        One of `levels_mhz`.
    """
    cap = bisect.bisect_right(levels_mhz, bounds.max_mhz + _EPSILON_MHZ) - 1
    wanted_mhz = max(demand_mhz, bounds.min_mhz) if demand_mhz == demand_mhz else math.inf  # noqa: PLR0124  (the fastest nan test there is, on the hot path)
    index = bisect.bisect_left(levels_mhz, wanted_mhz - _EPSILON_MHZ)
    return levels_mhz[max(0, min(index, cap, len(levels_mhz) - 1))]


def _reported(
    text: str, device: int, read_device_mhz: Callable[[int], Sequence[float]] | None
) -> Reported:
    if read_device_mhz is None or device < 0:
        raise invalid(
            "levels",
            text,
            f"{_FORMS}; 'nvml' needs a device that can be asked",
            "Use 'all' for the clocks of the hardware that is simulated.",
        )
    return Reported(functools.partial(read_device_mhz, device))


def _checked_table(table_mhz: Sequence[float]) -> tuple[float, ...]:
    if not table_mhz:
        raise invalid("table_mhz", (), "at least one supported clock", "Query the device again.")
    return tuple(sorted({float(mhz) for mhz in table_mhz}))


def _nonempty(
    levels: tuple[float, ...], table: tuple[float, ...], asked: object
) -> tuple[float, ...]:
    if not levels:
        raise invalid(
            "levels",
            asked,
            f"a set that meets the supported {table[0]:g}-{table[-1]:g} MHz",
            "Move the threshold into that range.",
        )
    return levels
