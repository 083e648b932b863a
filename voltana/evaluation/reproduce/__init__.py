"""The published findings, each reproduced by one command: a sweep, a figure, a table, JSON."""

from importlib import import_module
from typing import TYPE_CHECKING

from voltana.errors import unknown_name

if TYPE_CHECKING:
    from voltana.evaluation.reproduce.finding import Finding

MAIN_RESULT = "main-result"
NAMES = (MAIN_RESULT, "levels", "windows", "slo", "u-curve", "boundaries")


def check_name(name: str) -> None:
    """Refuse a name that no finding has.

    Raises:
        UnknownNameError: If so.
    """
    if name not in NAMES:
        raise unknown_name("finding", name, list(NAMES))


def get_finding(name: str) -> "Finding":
    """The finding of a name; it needs the plots' extra.

    Raises:
        UnknownNameError: If there is none.
    """
    check_name(name)
    module = import_module(f"{__name__}.{name.replace('-', '_')}")
    found: Finding = module.FINDING
    return found
