"""Which packages an extra brings; its absence is one line that names it.

Only the standard library is imported, and nothing is loaded to see whether it is there.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

from voltana.errors import MissingExtraError

EXTRAS = {
    "analysis": ("control",),
    "plots": ("matplotlib",),
    "serving": (
        "aiohttp",
        "msgspec",
        "orjson",
        "prometheus_client",
        "uvloop",
        "voltana_ring",
        "zmq",
    ),
    "ray": ("ray",),
    "report": ("plotly",),
    "sweep": ("pyarrow",),
}
"""Modules by the extra that brings them; those that one file alone imports are named there."""


def missing(extra: str) -> tuple[str, ...]:
    """Modules of an extra that are not installed."""
    return tuple(name for name in EXTRAS[extra] if not _is_there(name))


def require(extra: str, what: str) -> None:
    """Check that an extra is installed.

    Args:
        extra: One of `EXTRAS`.
        what: What needs it.

    Raises:
        MissingExtraError: If a package of it is not, with the line that installs it.
    """
    absent = missing(extra)
    if absent:
        raise MissingExtraError(
            f"{what} needs {', '.join(absent)}, not installed here. "
            f"Run: pip install 'voltana[{extra}]'",
            name=", ".join(absent),
        )


def _is_there(name: str) -> bool:
    if name in sys.modules:
        return sys.modules[name] is not None
    return find_spec(name) is not None
