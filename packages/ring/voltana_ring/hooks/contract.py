"""What every engine's plugin checks of the engine before it measures anything."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Version = tuple[int, int, int]


def version_problem(engine: str, version: str, first: Version, until: Version) -> str:
    """Why a version is not measured; empty if it is.

    Args:
        engine: The engine as people write it.
        version: What is installed.
        first: The first version that is known.
        until: From here on nothing is known.
    """
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if found is None:
        return f"{engine} of unknown version {version!r}"
    if first <= tuple(int(number) for number in found.groups()) < until:
        return ""
    known = ".".join(map(str, first)), ".".join(map(str, until))
    return f"{engine} {version} is unknown: {known[0]} and later, below {known[1]}, are known"


def method_problems(scheduler: type, methods: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Which methods of a scheduler are gone, or begin with other parameters.

    Args:
        scheduler: Its class.
        methods: How the parameters of each method begin.
    """
    for name, expected in methods.items():
        method = getattr(scheduler, name, None)
        begins = () if method is None else tuple(inspect.signature(method).parameters)
        if begins[: len(expected)] != expected:
            yield f"Scheduler.{name}{begins} instead of {expected}"
