"""The verdict: whether what was measured is what the simulator says, figure by figure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.evaluation.best_fixed import REFERENCE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.evaluation.metrics import Result
    from voltana.rehearsal.measured import Measured
    from voltana.rehearsal.spread import Spread

SAVED_POINTS = 2.0
"""How far a saving may be from the simulator's, in points of static-max's energy."""

KEPT_POINTS = 1.0
SPREADS = 2.0
"""How far an attainment may be: so many points, or so many deviations of the simulator's own."""

DECISION_LATE_S = 0.020
"""How late a decision may be, in the rehearsal's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One figure held against what is allowed.

    Attributes:
        policy: Whose it is.
        what: Which figure, in words.
        rehearsed: What was measured, in `unit`; nan where nothing was.
        simulated: What it is held against; nan where nothing is simulated.
        allowed: How far they may be apart; where nothing is simulated, the most that it may be.
        unit: ``%`` (differences are points) or ``ms``.
    """

    policy: str
    what: str
    rehearsed: float
    simulated: float
    allowed: float
    unit: str

    @property
    def difference(self) -> float:
        """How far apart they are; the figure itself where nothing is simulated."""
        return self.rehearsed - (0.0 if math.isnan(self.simulated) else self.simulated)

    @property
    def kept(self) -> bool:
        """Whether it is within what is allowed; what was not measured breaks nothing."""
        return math.isnan(self.rehearsed) or abs(self.difference) <= self.allowed


def verdict_on(
    policy: str, measured: Measured, simulated: Result, spread: Spread
) -> tuple[Check, ...]:
    """What is held against what, for one policy.

    Args:
        policy: Its name.
        measured: What was measured.
        simulated: What the simulator says of the same trace and seed.
        spread: How much that differs from seed to seed.
    """
    shares = [
        (f"{leg} kept", f"{leg.lower()}_attainment",
         max(KEPT_POINTS, 100 * SPREADS * getattr(spread, leg.lower())))
        for leg in ("TTFT", "ITL")
    ]  # fmt: skip
    if policy != REFERENCE:
        shares.insert(0, ("saved", "energy_saved_vs_static_max", SAVED_POINTS))
    checks = [
        Check(
            policy=policy,
            what=what,
            rehearsed=100 * getattr(measured, field),
            simulated=100 * getattr(simulated, field),
            allowed=allowed,
            unit="%",
        )
        for what, field, allowed in shares
    ]
    late = Check(
        policy=policy,
        what="latest decision",
        rehearsed=1e3 * measured.decision_latest_s,
        simulated=math.nan,
        allowed=1e3 * DECISION_LATE_S,
        unit="ms",
    )
    return (*checks, late)


def all_kept(checks: Mapping[str, tuple[Check, ...]]) -> bool:
    """Whether every figure of every policy is within what is allowed."""
    return all(check.kept for found in checks.values() for check in found)
