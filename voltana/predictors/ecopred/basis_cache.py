"""Remembers the clock bases of the grids of clocks that were asked for last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.predictors.ecopred.features import bound_basis, clock_basis

if TYPE_CHECKING:
    from voltana.predictors.ecopred.features import Basis
    from voltana.values import FloatArray

_CACHED_GRIDS = 16


class BasisCache:
    """The clock bases of the grids that were asked for last; a pure function, remembered.

    Args:
        max_clock_mhz: Clock at which f_max / f is 1.
    """

    __slots__ = ("_known", "max_clock_mhz")

    def __init__(self, max_clock_mhz: float) -> None:
        self.max_clock_mhz = max_clock_mhz
        self._known: dict[tuple[bytes, float, float], tuple[Basis, Basis]] = {}

    def at(
        self, clocks_mhz: FloatArray, slowest_mhz: float, fastest_mhz: float
    ) -> tuple[Basis, Basis]:
        """Bases of the mean and of the bound at `clocks_mhz`, each of shape (3, n)."""
        key = (clocks_mhz.tobytes(), slowest_mhz, fastest_mhz)
        bases = self._known.get(key)
        if bases is None:
            if len(self._known) >= _CACHED_GRIDS:
                self._known.clear()
            bases = self._known[key] = (
                clock_basis(clocks_mhz, self.max_clock_mhz),
                bound_basis(clocks_mhz, self.max_clock_mhz, slowest_mhz, fastest_mhz),
            )
        return bases

    def __reduce__(self) -> tuple[type[BasisCache], tuple[float]]:
        # A copy starts empty: what is remembered can be computed again.
        return (BasisCache, (self.max_clock_mhz,))
