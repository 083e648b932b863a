"""Within the error of what is wanted the level in force stays: no clock follows noise.

What is asked for is an average over a few seconds, and differs from what will be by its standard
error. A level that is right for some demand within that error is as good a guess as any other, and
a change has its price.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def within_error(enough: NDArray[np.bool_], in_force: int) -> int:
    """Index of the level in force if it is right within the error, else of the one that is right.

    Args:
        enough: Whether each level is fast enough for what is asked for less its error, as it is,
            and with its error, shape (3, n); once a level is enough, so are faster ones. The
            fastest one stands for enough where none is, and is set so.
        in_force: Index of the level in force.
    """
    enough[:, -1] = True
    low, index, high = enough.argmax(axis=1).tolist()
    return in_force if low <= in_force <= high else index
