"""A minimal realisation: the same transfer function with the fewest states.

A loop of a decode instance has some 35 states, most of them compartments of ages that its input
barely reaches, and integrators that move nothing. The stable part is balanced and cut where its
Hankel singular values end, which changes the response at no frequency by more than twice the sum of
those cut (Glover, "All optimal Hankel-norm approximations of linear multivariable systems", Int. J.
Control 39, 1984); the other poles are kept apart, and dropped where nothing reaches them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import control
import numpy as np
from scipy import linalg

if TYPE_CHECKING:
    from typing import Any

    Matrix = np.ndarray[Any, np.dtype[np.float64]]

_INSIDE = 1.0 - 1e-7
"""Poles of a smaller modulus count as stable."""

_ROUNDING = 1e-13
"""What is left of zero in a Hankel singular value, over the sizes of input and output matrix."""

_LEAST = 1e-9
"""Share of the greatest Hankel singular value below which a state adds nothing but rounding."""

_DOUBLINGS = 40
"""So often doubled, a sum of samples outlasts the memory of any pole that counts as stable."""


def minimal(system: control.StateSpace) -> control.StateSpace:
    """The same system, with named signals, from its input to its output with the fewest states.

    Args:
        system: Discrete, one input and one output.
    """
    noise = _ROUNDING * float(linalg.norm(system.B) * linalg.norm(system.C))
    stable, rest = _separated(system.A, system.B, system.C)
    a, b, c = _joined(_balanced(*stable, noise), _reached(*rest, noise))
    return control.ss(
        a, b, c, system.D, system.dt,
        inputs=system.input_labels, outputs=system.output_labels, name=system.name,
        remove_useless_states=False,
    )  # fmt: skip


def _separated(
    a: Matrix, b: Matrix, c: Matrix
) -> tuple[tuple[Matrix, Matrix, Matrix], tuple[Matrix, Matrix, Matrix]]:
    """The part with poles inside the unit circle, and that with the others, in parallel."""
    schur, vectors, count = linalg.schur(a, sort=lambda re, im: np.hypot(re, im) < _INSIDE)
    inside, across, outside = schur[:count, :count], schur[:count, count:], schur[count:, count:]
    coupling = linalg.solve_sylvester(inside, -outside, -across)
    entered, left = vectors.T @ b, c @ vectors
    return (
        (inside, entered[:count] - coupling @ entered[count:], left[:, :count]),
        (outside, entered[count:], left[:, :count] @ coupling + left[:, count:]),
    )


def _balanced(a: Matrix, b: Matrix, c: Matrix, noise: float) -> tuple[Matrix, Matrix, Matrix]:
    """The stable system in coordinates in which it is as reachable as observable, cut off."""
    if not len(a):
        return a, b, c
    reach, seen = _gramian_root(a, b), _gramian_root(a.T, c.T)
    left, values, right = linalg.svd(seen.T @ reach)
    kept = int(np.sum(values > max(_LEAST * values[0], noise)))
    scale = 1.0 / np.sqrt(values[:kept])
    into = scale[:, None] * (left[:, :kept].T @ seen.T)
    out = (reach @ right[:kept].T) * scale
    return into @ a @ out, into @ b, c @ out


def _reached(a: Matrix, b: Matrix, c: Matrix, noise: float) -> tuple[Matrix, Matrix, Matrix]:
    """The part of a small system that its input reaches and its output shows (Ho and Kalman)."""
    size = len(a)
    if not size:
        return a, b, c
    powers = [np.linalg.matrix_power(a, k) for k in range(2 * size)]
    answer = [float((c @ power @ b)[0, 0]) for power in powers]
    hankel = np.array([[answer[i + j] for j in range(size)] for i in range(size)])
    shifted = np.array([[answer[i + j + 1] for j in range(size)] for i in range(size)])
    left, values, right = linalg.svd(hankel)
    kept = int(np.sum(values > max(_LEAST * values[0], noise)))
    root = np.sqrt(values[:kept])
    left, right = left[:, :kept], right[:kept]
    return (
        (left / root).T @ shifted @ (right.T / root),
        (root[:, None] * right)[:, :1],
        (left * root)[:1],
    )


def _joined(
    one: tuple[Matrix, Matrix, Matrix], other: tuple[Matrix, Matrix, Matrix]
) -> tuple[Matrix, Matrix, Matrix]:
    """Two systems in parallel."""
    return (
        linalg.block_diag(one[0], other[0]),
        np.vstack((one[1], other[1])),
        np.hstack((one[2], other[2])),
    )


def _gramian_root(a: Matrix, b: Matrix) -> Matrix:
    """R with R times its transpose the sum over k of a^k b b' a'^k (Smith's doubling).

    Built from factors alone, since a root of the sum itself would hold half its digits.
    """
    root, power = b, a
    for _ in range(_DOUBLINGS):
        more = power @ root
        if linalg.norm(more) <= np.finfo(float).eps * linalg.norm(root):
            break
        triangle = linalg.qr(np.hstack((root, more)).T, mode="r")[0]
        root, power = triangle[: len(a)].T, power @ power
    return root
