"""Long series reduced to a few hundred points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from voltana.values import FloatArray

BINS = 300
"""About one bin for every pixel of a panel."""


def binned(
    times_s: FloatArray, values: ArrayLike, end_s: float, bins: int = BINS
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Least, mean and greatest value in each of `bins` equal stretches of time.

    So reduced, a run of millions of iterations is as quick to draw as a short one.

    Args:
        times_s: Shape (n,), ascending, in [0, end_s].
        values: Shape (n,).
        end_s: End of the last stretch.
        bins: Number of stretches.

    Returns:
        Middle of each stretch, and its least, mean and greatest value, shape (bins,) each; nan in
        a stretch without values, so that a plot leaves a gap there.
    """
    edges_s = np.linspace(0.0, end_s, bins + 1)
    starts = np.searchsorted(times_s, edges_s[:-1])
    counts = np.diff(np.append(starts, len(times_s)))
    series = np.asarray(values, dtype=float)
    low, mean, high = (np.full(bins, np.nan) for _ in range(3))
    filled = counts > 0
    if filled.any():
        at = starts[
            filled
        ]  # reduceat reduces up to the next start: empty stretches between hold none
        low[filled] = np.minimum.reduceat(series, at)
        high[filled] = np.maximum.reduceat(series, at)
        mean[filled] = np.add.reduceat(series, at) / counts[filled]
    return (edges_s[:-1] + edges_s[1:]) / 2, low, mean, high
