"""Robust linear regression with signed coefficients, for profiled samples.

Huber's M-estimator (Huber 1964) by iteratively reweighted non-negative least squares (Lawson and
Hanson 1974).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from voltana.values import FloatArray

    Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]

HUBER = 1.345
"""Residuals beyond this many standard deviations weigh less; 95 % efficient for Gaussian noise."""

_MAD_TO_STANDARD = 1.4826


def fit_nonnegative(
    x: Matrix, y: FloatArray, weights: FloatArray | None = None, *, rounds: int = 8
) -> FloatArray:
    """Non-negative coefficients that minimise Huber's loss of ``weights * (y - x @ c)``.

    Args:
        x: One row a sample, shape (m, n).
        y: Labels, shape (m,).
        weights: One over the standard deviation of each label, up to a factor; None for equal ones.
        rounds: Reweighting steps.

    Returns:
        Shape (n,).
    """
    from scipy.optimize import nnls  # noqa: PLC0415  (SciPy is slow to import)

    base = np.ones_like(y) if weights is None else weights
    # Columns of unit length: nnls compares gradients of coefficients with one absolute tolerance.
    length = np.linalg.norm(x * base[:, None], axis=0)
    length[length == 0] = 1.0
    huber = np.ones_like(y)
    coefficients: FloatArray = np.zeros(x.shape[1])
    for _ in range(rounds):
        root = base * np.sqrt(huber)
        coefficients = nnls(x * root[:, None] / length, y * root)[0] / length
        residual = np.abs(base * (y - x @ coefficients))
        scale = _MAD_TO_STANDARD * float(np.median(residual))
        if scale <= 0:
            break
        huber = np.minimum(1.0, HUBER * scale / np.maximum(residual, 1e-300))
    return coefficients
