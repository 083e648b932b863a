"""Sets the policies of a comparison against the lower bound of the same trace and horizon."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from voltana.evaluation.bound.bound import Bound, lower_bound, relaxations
from voltana.slo import Attainment

if TYPE_CHECKING:
    from voltana.evaluation.compare import Comparison
    from voltana.evaluation.metrics import Result
    from voltana.plant.cluster import ClusterSpec

APPLIES_FROM = 0.99
"""Attainment of the fastest clock from which the bound says something."""

MARGIN = 0.01
"""By how much the policies under the bound may attain less than the fastest clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyGap:
    """One policy against the bound.

    Attributes:
        result: Its figures.
        covered: Whether it attains what the bound's policies do, so that the bound holds for it.
        share_of_saving: Its saving over that of the bound; nan where the bound saves nothing.
        prefill_gap_j: Energy of its prefill instances above the bound's; nan where instances serve
            both phases.
        decode_gap_j: The same of its decode instances.
    """

    result: Result
    covered: bool
    share_of_saving: float
    prefill_gap_j: float
    decode_gap_j: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundReport:
    """The bound of a comparison.

    Attributes:
        bound: The bound; None where it does not apply.
        reason: Why it does not apply; empty where it does.
        saving: Share of the energy of the fastest clock that the bound does not use; nan likewise.
        policies: The compared policies against it; empty likewise.
        relaxations: What the bound allows that no policy can do.
    """

    bound: Bound | None
    reason: str
    saving: float
    policies: tuple[PolicyGap, ...]
    relaxations: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Everything as JSON, relaxations included; null where a figure is not finite."""
        made = {
            "applies": self.bound is not None,
            "reason": self.reason,
            "saving": self.saving,
            "bound": None if self.bound is None else _bound_dict(self.bound),
            "relaxations": self.relaxations,
            "policies": [
                {**asdict(gap), "result": gap.result.to_dict(), "policy": gap.result.policy}
                for gap in self.policies
            ],
        }
        return json.dumps(_finite(made), indent=2)


def allowance(result: Result, margin: float = MARGIN) -> Attainment:
    """What policies under the bound attain at least: what `result` does, less a margin."""
    return Attainment(
        ttft=result.ttft_attainment - margin,
        itl=result.itl_attainment - margin,
        itl_tokens=result.itl_token_attainment - margin,
    )


def bound_comparison(comparison: Comparison, margin: float = MARGIN) -> BoundReport:
    """Work out the bound of a comparison's trace, to its common end.

    Args:
        comparison: The runs, of the fastest clock among them.
        margin: By how much policies may attain less than the fastest clock.
    """
    reference = comparison.reference.result
    reason = _why_not(reference)
    scenario = comparison.scenario
    allowed = relaxations(scenario.cluster)
    if reason:
        return BoundReport(
            bound=None, reason=reason, saving=math.nan, policies=(), relaxations=allowed
        )
    bound = lower_bound(
        scenario.cluster,
        scenario.plant,
        scenario.trace,
        allowance(reference, margin),
        comparison.reference.record.end_s,
    )
    saved_j = reference.energy_j - bound.energy_j
    return BoundReport(
        bound=bound,
        reason="",
        saving=saved_j / reference.energy_j,
        policies=tuple(
            _gap(run.result, bound, reference.energy_j, scenario.cluster) for run in comparison.runs
        ),
        relaxations=allowed,
    )


def covers(bound: Bound, result: Result) -> bool:
    """Whether a policy attains enough, without putting requests back, for the bound to hold."""
    return (
        result.requests_completed == result.requests_offered
        and result.retractions == 0
        and not result.ttft_attainment < bound.attained.ttft - _ROUNDING
        and not result.itl_attainment < bound.attained.itl - _ROUNDING
        and not result.itl_token_attainment < bound.attained.itl_tokens - _ROUNDING
    )


_ROUNDING = 1e-9


def _gap(result: Result, bound: Bound, reference_j: float, cluster: ClusterSpec) -> PolicyGap:
    saved_j, saving_j = reference_j - result.energy_j, reference_j - bound.energy_j
    idle_prefill_j = bound.idle_j * cluster.prefill / bound.instances
    if cluster.colocated:  # whose energy is of both phases
        idle_prefill_j = math.nan
    return PolicyGap(
        result=result,
        covered=covers(bound, result),
        share_of_saving=saved_j / saving_j if saving_j > 0 else math.nan,
        prefill_gap_j=result.prefill_energy_j - bound.prefill_j - idle_prefill_j,
        decode_gap_j=result.decode_energy_j - bound.decode_j - (bound.idle_j - idle_prefill_j),
    )


def _why_not(reference: Result) -> str:
    kept = {
        "TTFT": reference.ttft_attainment,
        "ITL by request": reference.itl_attainment,
        "ITL by token": reference.itl_token_attainment,
    }
    missed = [f"{name} {100 * share:.2f} %" for name, share in kept.items() if share < APPLIES_FROM]
    if not missed:
        return ""
    return (
        f"the bound does not apply: at the fastest clock the cluster attains {', '.join(missed)}, "
        f"below {100 * APPLIES_FROM:g} %, so there is no slack to trade for energy. Lower the "
        "rate, add instances or loosen the SLO."
    )


def _bound_dict(bound: Bound) -> dict[str, object]:
    return {**asdict(bound), "energy_j": bound.energy_j}


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
