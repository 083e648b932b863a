"""How seldom the collector looks for cycles, in processes that make many objects and hardly any."""

from __future__ import annotations

import gc

YOUNG = 20_000
"""New objects after which the collector looks at the young ones."""

_GENERATIONS = 20
"""Looks at a generation after which the next one is looked at too."""


def look_seldom() -> None:
    """Have the collector of this process look seldom.

    A simulated iteration makes dozens of objects, a served request hundreds, and all of them end
    with their last reference. As often as Python would look by itself, a full collection goes over
    all that the process has loaded, again and again: a twentieth of the time of a short simulation.
    """
    gc.set_threshold(YOUNG, _GENERATIONS, _GENERATIONS)
