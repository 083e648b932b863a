"""What a file of a guarantee has in it, as far as it can be used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana.serving.agent.issued import from_json
from voltana.serving.agent.token_gaps import TokenGaps
from voltana.serving.agent.two_slots import DamagedError

if TYPE_CHECKING:
    from voltana.predictors.conformal import Conformal
    from voltana.values import Decision

UNREADABLE = (
    DamagedError, OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError,
    RecursionError,
)  # fmt: skip
"""What reading a file that is not as it was written may raise."""

MOST = 2.0**53
"""Whatever was counted."""


def scorable(decision: Decision | None, issuer: Conformal) -> bool:
    """Whether a decision that was kept has a weight that the statement allows."""
    margin = None if decision is None or decision.forecast is None else decision.forecast.margin
    return margin is None or margin.weight <= issuer.statement.max_weight


def checked(values: Any, name: str) -> dict[str, Any]:
    """What was written, if all of it can be used.

    Args:
        values: What a file has in it.
        name: Its name; what another loop or stack wrote is not taken.

    Raises:
        KeyError: If a key is missing.
        TypeError: If a value is of another kind.
        ValueError: If a number is below 0, or more than can have been counted.
    """
    if not isinstance(values, dict):
        raise TypeError("the state must be a table")
    if values.get("name", name) != name:
        raise ValueError(f"it is {values['name']!r} under another name")
    ring = values["ring"]
    if not isinstance(ring["identity"], str):
        raise TypeError("a ring has a name")
    numbers = [
        ring["position"], values["decisions"], values["certified"], *values["carried"].values(),
        *values["causes"].values(), *values["account"].values(), *values["own_causes"].values(),
    ]  # fmt: skip
    for number in numbers:
        if not 0 <= number <= MOST:
            raise ValueError(f"{number!r} is no count")
    for iteration, _, issued in values["open"]:
        int(iteration)
        from_json(issued)
    if values.get("gaps") is not None:
        TokenGaps().restore(values["gaps"])
    return values
