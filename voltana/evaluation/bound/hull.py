"""Lower convex hulls, and the convex power curve of a machine that may mix operating points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from voltana.values import FloatArray


def lower_hull(x: FloatArray, y: FloatArray) -> list[int]:
    """Indices of the vertices of the lower convex hull, by ascending x (A. M. Andrew, 1979).

    Args:
        x: Shape (n,), in any order.
        y: Shape (n,).
    """
    xs, ys = x.tolist(), y.tolist()
    hull: list[int] = []
    for i in np.lexsort((y, x)).tolist():
        if hull and xs[hull[-1]] == xs[i]:
            continue
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (ys[b] - ys[a]) * (xs[i] - xs[a]) < (ys[i] - ys[a]) * (xs[b] - xs[a]):
                break
            hull.pop()
        hull.append(i)
    return hull


@dataclass(frozen=True, slots=True, eq=False)
class PowerCurve:
    """Least power above idle at each speed, of a machine that may mix speeds and idleness.

    Convex and piecewise linear from (0, 0): below the critical speed (S. Irani, S. Shukla and
    R. Gupta, "Algorithms for power savings", ACM Trans. Algorithms 2007) it is the chord to
    idleness, so that racing to idle is the same as going slow.

    Attributes:
        speeds: Vertices in work/s, ascending from 0.
        powers_w: Power there, in W, from 0.
    """

    speeds: FloatArray
    powers_w: FloatArray

    @classmethod
    def of(cls, speeds: FloatArray, powers_w: FloatArray, machines: int) -> PowerCurve:
        """The curve of `machines` alike machines that can run at the given points."""
        x = np.concatenate(([0.0], speeds))
        y = np.concatenate(([0.0], powers_w))
        hull = lower_hull(x, y)
        last = int(np.argmax(x[hull]))
        return cls(machines * x[hull[: last + 1]], machines * y[hull[: last + 1]])

    @property
    def slopes(self) -> FloatArray:
        """Marginal energy per work of each piece, in J, ascending."""
        slopes: FloatArray = np.diff(self.powers_w) / np.diff(self.speeds)
        return slopes

    def prices(self, speeds: FloatArray) -> FloatArray:
        """Marginal energy per work at each speed, in J; beyond the fastest, that of the fastest."""
        piece = np.searchsorted(self.speeds[1:-1], speeds, side="left")
        prices: FloatArray = self.slopes[piece]
        return prices

    def profit_w(self, prices: FloatArray) -> FloatArray:
        """Convex conjugate: max over speeds of price x speed - power, in W."""
        profit = np.zeros_like(prices)
        for speed, power_w in zip(self.speeds, self.powers_w, strict=True):
            profit = np.maximum(profit, prices * speed - power_w)
        return profit
