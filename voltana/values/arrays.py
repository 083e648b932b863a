"""Shapes of arrays, as types."""

from __future__ import annotations

import numpy as np

FloatArray = np.ndarray[tuple[int], np.dtype[np.float64]]

Table = np.ndarray[tuple[int, int], np.dtype[np.float64]]
"""Numbers by row and column."""
