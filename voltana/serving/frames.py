"""Lets go of the frames that an error was raised through.

Libraries keep errors in objects that those frames hold: a cycle each time. Where strangers cause
thousands of them, looking for cycles stops the event loop for tenths of a second.
"""

from __future__ import annotations


def let_go(error: BaseException | None) -> None:
    """Have an error, and what caused it, forget where it was raised.

    Args:
        error: It has been dealt with, and nobody prints where it came from; None is none.
    """
    seen = 0
    while error is not None and seen < _MOST:
        error.__traceback__ = None
        error, seen = error.__cause__ or error.__context__, seen + 1


_MOST = 16
"""Errors that caused one another; they may do so in a circle."""
