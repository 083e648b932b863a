"""What a rehearsal measured, from outside: energy, attainment, clocks, lag and lateness."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from voltana.evaluation.metrics import plain_figures
from voltana.rehearsal.lags import decision_lags_s, percentile
from voltana.rehearsal.live_events import DOUBLINGS
from voltana.slo import attainment
from voltana_actuatord.timebase import LEAST_FACTOR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from voltana.rehearsal.load import Replayed
    from voltana.rehearsal.meter import Reading
    from voltana.slo import Slo

LATE_SHARE = 0.01
"""Of the events of virtual engines those that may be late."""

WAITED_SHARE = 0.25
"""Of the time that which router or an agent may wait for a processor. Where niceness was not in
force a router waited for 62 % of it and refused requests, and for 7 % where it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lateness:
    """How well the machine kept up.

    Attributes:
        happened: Events of all virtual engines.
        late: Those that were over 5 ms late, on the wall, by how often 5 ms double to that.
        latest_s: The most that one was late, on the wall.
        waited_share: Share of the time that router or an agent waited for a processor, the one that
            waited longest.
    """

    happened: int
    late: tuple[int, ...]
    latest_s: float
    waited_share: float = 0.0

    @property
    def share(self) -> float:
        """Share of the events that were late."""
        return sum(self.late) / max(self.happened, 1)

    @property
    def too_slow(self) -> bool:
        """Whether figures would be those of this machine, and not of the cluster."""
        return self.share > LATE_SHARE or self.waited_share > WAITED_SHARE

    def factor_to_try(self, factor: float) -> float:
        """A factor at which this machine would probably keep up.

        What is late by twice as much as is allowed takes time that runs half as fast.
        """
        most = LATE_SHARE * self.happened
        halvings = next(k for k in range(len(self.late) + 1) if sum(self.late[k:]) <= most)
        if self.waited_share > WAITED_SHARE:  # half the work a second
            halvings = max(halvings, 1)
        return float(max(factor / 2**halvings, LEAST_FACTOR))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The figures of one policy; nan where there is nothing to measure.

    Attributes:
        policy: Its name.
        energy_j: Energy of all boards from the trace's start to the common end.
        prefill_energy_j: That of the prefill instances.
        decode_energy_j: That of the decode instances.
        energy_saved_vs_static_max: Share of static-max's that was not used; nan if that was not
            rehearsed.
        ttft_attainment: Share of offered requests whose first token came within the threshold.
        itl_attainment: Share of requests of two tokens or more with a mean gap within it.
        ttft_p50_s: Median time to first token.
        ttft_p99_s: 99th percentile of it.
        requests_offered: Requests of the trace.
        requests_completed: Those that got their last token.
        errors: What went wrong, and how often.
        prefill_clock_mhz: Clock that the driver held, averaged over time and prefill instances.
        decode_clock_mhz: That of the decode instances.
        clocks_mhz: Mean clock of each instance, by its name.
        default_clock_s: Seconds that boards ran at their fastest clock, summed over the boards.
        certified_share: Share of decisions that promised their budget and could.
        lag_p50_s: From the launch of an iteration to the clock in force that was chosen for it.
        lag_p99_s: 99th percentile of it; both in the rehearsal's time.
        lag_assumed_s: What the simulator assumes: the driver's call and settling alone.
        lag_wall_p50_s: From the launch to the driver's call, on the wall.
        lag_wall_p99_s: 99th percentile of it.
        decision_latest_s: The longest of it, in the rehearsal's time.
        decided_share: Decisions of agents over launches: of launches that come together, only the
            last one is decided on.
        sent_late_s: The most that the load was late in sending a request.
    """

    policy: str
    energy_j: float
    prefill_energy_j: float
    decode_energy_j: float
    energy_saved_vs_static_max: float
    ttft_attainment: float
    itl_attainment: float
    ttft_p50_s: float
    ttft_p99_s: float
    requests_offered: int
    requests_completed: int
    errors: Mapping[str, int]
    prefill_clock_mhz: float
    decode_clock_mhz: float
    clocks_mhz: Mapping[str, float]
    default_clock_s: float
    certified_share: float
    lag_p50_s: float
    lag_p99_s: float
    lag_assumed_s: float
    lag_wall_p50_s: float
    lag_wall_p99_s: float
    decision_latest_s: float
    decided_share: float
    sent_late_s: float

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values; None where a figure is not finite."""
        return plain_figures(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """What was recorded of one policy's rehearsal.

    Attributes:
        replayed: The requests, as their clients saw them.
        readings: Of the meter.
        rows: Iterations of each instance, by its name: fields of `live_runner.Row`.
        lateness: How well the machine kept up.
        set_calls: Calls that set a clock: wall's monotonic seconds, board, MHz.
        agents: What agents said of themselves at the end.
        start_s: When the trace started, on the wall's monotonic clock.
        factor: Seconds of the rehearsal in one of the wall's.
        devices: Boards of each instance, by its name.
        fastest_mhz: The boards' default clock.
        driver_s: What a change of clock takes in the driver, in the rehearsal's seconds.
    """

    replayed: Replayed
    readings: Sequence[Reading]
    rows: Mapping[str, Sequence[Sequence[float]]]
    lateness: Lateness
    set_calls: Sequence[tuple[float, int, int]]
    agents: Sequence[Mapping[str, Any]]
    start_s: float
    factor: float
    devices: Mapping[str, tuple[int, ...]]
    fastest_mhz: float
    driver_s: float


def read_records(
    folder: Path, names: Sequence[str], from_s: float, until_s: float
) -> tuple[dict[str, list[list[float]]], Lateness]:
    """What engines wrote: all their iterations, and how late their events were within a time.

    Args:
        folder: Where they wrote.
        names: Of the instances.
        from_s: When the trace began, in the rehearsal's time; what is late at the start, while
            processes are started, harms nobody.
        until_s: When it ended, likewise.
    """
    rows: dict[str, list[list[float]]] = {}
    happened, late, latest_s = 0, np.zeros(DOUBLINGS, dtype=int), 0.0
    for name in names:
        lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        parts = [json.loads(line) for line in lines]
        rows[name] = [row for part in parts for row in part["rows"]]
        within = [part for part in parts if from_s <= part["at_s"] <= until_s]
        if within:
            happened += within[-1]["happened"] - within[0]["happened"]
            late += np.array(within[-1]["late"]) - within[0]["late"]
            latest_s = max(latest_s, *(part["latest_s"] for part in within))
    return rows, Lateness(happened=happened, late=tuple(late.tolist()), latest_s=latest_s)


def measure(
    policy: str,
    evidence: Evidence,
    slo: Slo,
    *,
    horizon_s: float,
    reference_energy_j: float = math.nan,
) -> Measured:
    """Work out the figures.

    Args:
        policy: Name of the policy.
        evidence: What was recorded.
        slo: The thresholds.
        horizon_s: Up to when energy and clocks count, in seconds from the trace's start.
        reference_energy_j: Energy of static-max up to then.
    """
    replayed, devices = evidence.replayed, evidence.devices
    kept = attainment(
        slo, ttft_s=replayed.ttft_s, mean_itl_s=replayed.mean_itl_s, itl_s=np.zeros(0)
    )
    ends_s = evidence.start_s + horizon_s / evidence.factor
    energy_j = _by_instance(evidence, ends_s, "energy_j")
    clocks = _mean_clocks(evidence, ends_s)
    lags_s = decision_lags_s(
        evidence.rows,
        evidence.set_calls,
        {name: gpus[0] for name, gpus in devices.items()},
        factor=evidence.factor,
        from_s=evidence.start_s,
    )
    errors: dict[str, int] = {}
    for one in replayed.told:
        if one.error:
            errors[one.error] = errors.get(one.error, 0) + 1
    total_j = sum(energy_j.values())
    ttft_s = np.sort(replayed.ttft_s)
    return Measured(
        policy=policy,
        energy_j=total_j,
        prefill_energy_j=sum(j for name, j in energy_j.items() if name.startswith("prefill")),
        decode_energy_j=sum(j for name, j in energy_j.items() if name.startswith("decode")),
        energy_saved_vs_static_max=1 - total_j / reference_energy_j,
        ttft_attainment=kept.ttft,
        itl_attainment=kept.itl,
        ttft_p50_s=percentile(ttft_s, 50),
        ttft_p99_s=percentile(ttft_s, 99),
        requests_offered=len(replayed.told),
        requests_completed=int(sum(one.last_s < math.inf for one in replayed.told)),
        errors=errors,
        prefill_clock_mhz=_mean([c for name, c in clocks.items() if name.startswith("prefill")]),
        decode_clock_mhz=_mean([c for name, c in clocks.items() if name.startswith("decode")]),
        clocks_mhz={name: clocks[name] for name in devices},
        default_clock_s=_default_clock_s(evidence, ends_s),
        certified_share=_certified(evidence.agents),
        lag_p50_s=percentile(lags_s, 50) + evidence.driver_s,
        lag_p99_s=percentile(lags_s, 99) + evidence.driver_s,
        lag_assumed_s=evidence.driver_s,
        lag_wall_p50_s=percentile(lags_s, 50) / evidence.factor,
        lag_wall_p99_s=percentile(lags_s, 99) / evidence.factor,
        decision_latest_s=percentile(lags_s, 100),
        decided_share=_decided(evidence),
        sent_late_s=replayed.sent_late_s,
    )


def _by_instance(evidence: Evidence, ends_s: float, field: str) -> dict[str, float]:
    """What a counter of the meter rose by, from the start of the trace, summed over boards."""
    at_s = np.array([reading.at_s for reading in evidence.readings])
    counters = np.array([getattr(reading, field) for reading in evidence.readings])
    span_s = [evidence.start_s, ends_s]
    rose = [float(np.diff(np.interp(span_s, at_s, counter))[0]) for counter in counters.T]
    return {name: float(sum(rose[gpu] for gpu in gpus)) for name, gpus in evidence.devices.items()}


def _mean_clocks(evidence: Evidence, ends_s: float) -> dict[str, float]:
    """Clock that the driver held, averaged over time, of the first board of each instance."""
    within = [r.clock_mhz for r in evidence.readings if evidence.start_s <= r.at_s <= ends_s]
    return {
        name: _mean([clocks[gpus[0]] for clocks in within])
        for name, gpus in evidence.devices.items()
    }


def _default_clock_s(evidence: Evidence, ends_s: float) -> float:
    """Seconds at the fastest clock, summed over boards; a board that cannot be read counts none."""
    within = [r for r in evidence.readings if evidence.start_s <= r.at_s <= ends_s]
    wall_s = sum(
        (later.at_s - reading.at_s) * sum(mhz >= evidence.fastest_mhz for mhz in reading.clock_mhz)
        for reading, later in pairwise(within)
    )
    return wall_s * evidence.factor


def _decided(evidence: Evidence) -> float:
    launches = sum(map(len, evidence.rows.values()))
    decisions = [agent["decisions"] for agent in evidence.agents if agent.get("decisions")]
    return sum(sum(one.values()) for one in decisions) / launches if launches else math.nan


def _certified(agents: Sequence[Mapping[str, Any]]) -> float:
    decisions = [agent["decisions"] for agent in agents if agent.get("decisions")]
    total = sum(sum(one.values()) for one in decisions)
    return sum(one["certified"] for one in decisions) / total if total else math.nan


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan
