"""What one policy cost and kept on one trace."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.evaluation.budget_kept import budget_kept
from voltana.slo import attainment
from voltana.values import Role, Status
from voltana.viability_account import total

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voltana.controllers.budget_schedule import BudgetSchedule
    from voltana.controllers.power_budget import PowerBudget
    from voltana.plant.record import RunRecord
    from voltana.plant.workload.trace import IntArray
    from voltana.slo import Slo
    from voltana.values import FloatArray


PEAK_S = 5
"""Seconds over which peak power is averaged."""
COLOCATED_FIGURES = frozenset({"colocated_energy_j", "colocated_clock_mhz", "colocated_busy"})
"""What a run tells only where it has colocated instances."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The figures of one policy; nan where there is nothing to measure.

    Attributes:
        policy: Its name.
        energy_j: Energy of all boards up to the common end of all compared policies.
        prefill_energy_j: That of the prefill instances.
        decode_energy_j: That of the decode instances.
        colocated_energy_j: That of the colocated instances; nan where there are none, as the clock
            and the share below, and `to_dict` leaves all three out then.
        energy_saved_vs_static_max: Share of the energy of the fastest clock that was not used.
        energy_per_request_j: Energy over finished requests.
        energy_per_output_token_j: Energy over the output tokens of finished requests.
        ttft_attainment: Share of offered requests whose first token came within the threshold.
        itl_attainment: Share of requests of two tokens or more with a mean gap within it.
        itl_token_attainment: Share of gaps between two tokens within it.
        ttft_p50_s: Median time to first token of the offered requests; inf where it never came.
        ttft_p99_s: 99th percentile of it.
        itl_p50_s: Median gap between two tokens, over tokens.
        itl_p99_s: 99th percentile of it.
        requests_offered: Requests that arrived.
        requests_completed: Requests that got their last token.
        clock_changes: Clock commands issued.
        prefill_clock_mhz: Real clock of the prefill instances, averaged over time, idle included.
        decode_clock_mhz: That of the decode instances.
        prefill_busy: Share of the time that the prefill instances computed.
        decode_busy: That of the decode instances.
        colocated_clock_mhz: Real clock of the colocated instances, likewise.
        colocated_busy: Share of the time that they computed.
        certified_share: Share of decisions that promised their budget and could.
        saturated_share: Share of decisions for which no clock was safe.
        void_share: Share of decisions that promised nothing.
        bindings: Share of the decisions for which each constraint set the clock, by its name
            (docs/policies.md); those that never did are left out.
        violation_rate: Share of the iterations with a budget that took longer than it, whatever
            their decisions promised; nan where no decision had a budget.
        certified_violation_rate: The same share of those whose decisions were certified.
        guarantee: Account of the guarantee, summed over the instances (docs/guarantee.md):
            ``violated`` is proven to be at most ``bound``. None where no predictor keeps one.
        viability: Windows of the demand envelope, those that broke it, decode steps, those outside
            the viable set, and both shares, over all instances (docs/viability.md). None where no
            controller counts that.
        mean_power_w: Power of all boards, averaged up to the common end.
        peak_power_w: The same over the worst 5 s; nan in runs that are shorter.
        power_budget: How the power budget was kept, as in
            `voltana.evaluation.budget_kept.budget_kept`; None where there is none.
        retractions: Times that a running request was put back for want of KV cache.
        iterations: Engine iterations.
        decide_p50_us: Median wall-clock time of a control decision.
        decide_p99_us: 99th percentile of it.
        prefix_hit_rate: Share of the prompt tokens of the offered requests that were found in a
            prefix cache; nan where the trace says of nothing that prompts share.
        simulated_s: Simulated time up to the common end.
        wall_s: Wall-clock time that the simulation took.
    """

    policy: str
    energy_j: float
    prefill_energy_j: float
    decode_energy_j: float
    energy_saved_vs_static_max: float
    energy_per_request_j: float
    energy_per_output_token_j: float
    ttft_attainment: float
    itl_attainment: float
    itl_token_attainment: float
    ttft_p50_s: float
    ttft_p99_s: float
    itl_p50_s: float
    itl_p99_s: float
    requests_offered: int
    requests_completed: int
    clock_changes: int
    prefill_clock_mhz: float
    decode_clock_mhz: float
    prefill_busy: float
    decode_busy: float
    certified_share: float
    saturated_share: float
    void_share: float
    bindings: Mapping[str, float]
    violation_rate: float
    certified_violation_rate: float
    guarantee: Mapping[str, float] | None
    viability: Mapping[str, float | None] | None
    requests: Mapping[str, Mapping[str, float]] | None
    mean_power_w: float
    peak_power_w: float
    retractions: int
    iterations: int
    decide_p50_us: float
    decide_p99_us: float
    prefix_hit_rate: float
    simulated_s: float
    wall_s: float
    colocated_energy_j: float = math.nan
    colocated_clock_mhz: float = math.nan
    colocated_busy: float = math.nan
    power_budget: Mapping[str, float] | None = None

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values; None where a figure is not finite."""
        figures = asdict(self)
        if math.isnan(self.colocated_energy_j):
            figures = {k: v for k, v in figures.items() if k not in COLOCATED_FIGURES}
        return plain_figures(figures)


def plain_figures(figures: Mapping[str, object]) -> dict[str, object]:
    """Figures as JSON has them: None where one is not finite, no scalars of numpy."""
    return {key: _plain(value) for key, value in figures.items()}


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return plain_figures(value)
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value


def measure(
    policy: str,
    record: RunRecord,
    slo: Slo,
    *,
    reference_energy_j: float,
    wall_s: float,
    budget: BudgetSchedule | None = None,
    ledger: PowerBudget | None = None,
) -> Result:
    """Work out the figures of one run.

    Args:
        policy: Name of the policy.
        record: What the simulation measured, energy integrated to the common end.
        slo: The thresholds.
        reference_energy_j: Energy of the fastest clock on the same trace, to the same end.
        wall_s: Wall-clock time that the simulation took.
        budget: The power budget; None where there is none.
        ledger: What divided it.
    """
    kept = attainment(
        slo,
        ttft_s=record.ttft_s,
        mean_itl_s=record.mean_itl_s,
        itl_s=record.gap_s,
        itl_tokens=record.gap_tokens,
    )
    done = np.isfinite(record.completed_s)
    energy_j = record.energy_j()
    ttft_p50_s, ttft_p99_s = weighted_percentiles(record.ttft_s, (50, 99))
    itl_p50_s, itl_p99_s = weighted_percentiles(record.gap_s, (50, 99), record.gap_tokens)
    decide_p50_s, decide_p99_s = weighted_percentiles(record.decide_s, (50, 99))
    shares = _status_shares(record)
    viable = total(instance.viability for instance in record.instances)
    return Result(
        policy=policy,
        energy_j=energy_j,
        prefill_energy_j=record.energy_j(Role.PREFILL),
        decode_energy_j=record.energy_j(Role.DECODE),
        energy_saved_vs_static_max=1 - _ratio(energy_j, reference_energy_j),
        energy_per_request_j=_ratio(energy_j, int(done.sum())),
        energy_per_output_token_j=_ratio(energy_j, int(record.output_tokens[done].sum())),
        ttft_attainment=kept.ttft,
        itl_attainment=kept.itl,
        itl_token_attainment=kept.itl_tokens,
        ttft_p50_s=ttft_p50_s,
        ttft_p99_s=ttft_p99_s,
        itl_p50_s=itl_p50_s,
        itl_p99_s=itl_p99_s,
        requests_offered=len(done),
        requests_completed=int(done.sum()),
        clock_changes=sum(i.clock_changes for i in record.instances),
        prefill_clock_mhz=_mean_clock_mhz(record, Role.PREFILL),
        decode_clock_mhz=_mean_clock_mhz(record, Role.DECODE),
        prefill_busy=_busy(record, Role.PREFILL),
        decode_busy=_busy(record, Role.DECODE),
        certified_share=shares[Status.CERTIFIED],
        saturated_share=shares[Status.SATURATED],
        void_share=shares[Status.VOID],
        bindings=_binding_shares(record),
        violation_rate=_violation_rate(record, *Status),
        certified_violation_rate=_violation_rate(record, Status.CERTIFIED),
        guarantee=_guarantee(record),
        viability=None if viable is None else viable.figures(),
        requests=_requests(record),
        mean_power_w=_ratio(energy_j, record.end_s),
        peak_power_w=_peak_power_w(record),
        retractions=sum(i.retractions for i in record.instances),
        iterations=sum(i.iterations for i in record.instances),
        decide_p50_us=decide_p50_s * 1e6,
        decide_p99_us=decide_p99_s * 1e6,
        prefix_hit_rate=_hit_rate(record),
        simulated_s=record.end_s,
        wall_s=wall_s,
        colocated_energy_j=record.energy_j(Role.COLOCATED) or math.nan,
        colocated_clock_mhz=_mean_clock_mhz(record, Role.COLOCATED),
        colocated_busy=_busy(record, Role.COLOCATED),
        power_budget=None if budget is None else budget_kept(record.power_w, budget, ledger),
    )


def weighted_percentiles(
    values: FloatArray, percents: tuple[float, ...], weights: IntArray | None = None
) -> tuple[float, ...]:
    """The smallest values that the given percents of the weight do not exceed.

    Args:
        values: Shape (n,), in any order; inf is a value like any other.
        percents: Each in [0, 100].
        weights: Shape (n,), how often each value occurred; None means once.

    Returns:
        One value per percent; nan if there are no values.
    """
    if len(values) == 0:
        return tuple(math.nan for _ in percents)
    order = np.argsort(values)
    reached = np.cumsum(np.ones(len(values)) if weights is None else weights[order])
    wanted = np.asarray(percents) / 100 * reached[-1]
    places = np.minimum(np.searchsorted(reached, wanted - 1e-9), len(values) - 1)
    return tuple(float(value) for value in values[order][places])


def _hit_rate(record: RunRecord) -> float:
    if record.cached_tokens is None:
        return math.nan
    return _ratio(float(record.cached_tokens.sum()), float(record.prompt_tokens.sum()))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _mean_clock_mhz(record: RunRecord, role: Role) -> float:
    return _mean([i.mean_clock_mhz for i in record.instances if i.role is role])


def _busy(record: RunRecord, role: Role) -> float:
    busy_s = _mean([i.busy_s for i in record.instances if i.role is role])
    return _ratio(busy_s, record.end_s)


def _peak_power_w(record: RunRecord) -> float:
    if len(record.power_w) < PEAK_S:
        return math.nan
    return float(np.convolve(record.power_w, np.full(PEAK_S, 1 / PEAK_S), mode="valid").max())


def _violation_rate(record: RunRecord, *statuses: Status) -> float:
    broken = sum(i.broken.get(status, 0) for i in record.instances for status in statuses)
    budgeted = sum(i.budgeted.get(status, 0) for i in record.instances for status in statuses)
    return _ratio(broken, budgeted)


def _requests(record: RunRecord) -> Mapping[str, Mapping[str, float]] | None:
    """Accounts of promised requests, summed over the instances of each leg."""
    legs = {}
    for role, leg in ((Role.PREFILL, "ttft"), (Role.DECODE, "itl")):
        accounts = [i.requests for i in record.instances if i.role is role and i.requests]
        if accounts:
            legs[leg] = {name: sum(a[name] for a in accounts) for name in accounts[0]}
    return legs or None


def _guarantee(record: RunRecord) -> Mapping[str, float] | None:
    accounts = [i.guarantee for i in record.instances if i.guarantee is not None]
    if not accounts:
        return None
    return {name: sum(account[name] for account in accounts) for name in accounts[0]}


def _binding_shares(record: RunRecord) -> Mapping[str, float]:
    counts = Counter[str]()
    for instance in record.instances:
        for binding, count in instance.bindings.items():
            counts[binding.value] += count
    total = counts.total()
    return {name: _ratio(count, total) for name, count in counts.most_common() if count}


def _status_shares(record: RunRecord) -> Mapping[Status, float]:
    counts = {status: sum(i.statuses[status] for i in record.instances) for status in Status}
    total = sum(counts.values())
    return {status: _ratio(count, total) for status, count in counts.items()}
