"""How many instances of each role a workload needs: the P:D ratio as a decision.

Pairs of prefill and decode instances are tried, instances that serve both phases, and where that
is asked for both beside each other. Every layout of at most so many boards serves the same requests
under the same policies, by simulation on the sweep runner, so that what has been simulated once is
kept. Of those that keep the targets of both SLOs, that one is best which takes the least energy a
request, or the fewest boards (and of those the least energy). For the fewest boards, layouts are
simulated by their size until one keeps the targets.
"""

from __future__ import annotations

import enum
import itertools
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from voltana.config import parse_scenario
from voltana.errors import ConfigError, VoltanaError, invalid
from voltana.evaluation.scenario import check_scenario, overlay
from voltana.evaluation.sweep import make_plan, run_sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from voltana.evaluation.sweep import Plan, SweepOutcome, Workers

    Progress = Callable[[int, int, int], None]

MOST_LAYOUTS = 500
"""Layouts of one question; each is a simulation of the whole workload under every policy."""


_COUNTS = ("tensor_parallel", "prefill", "decode", "colocated")
_TOGETHER = {"prefill": 0, "decode": 0, "colocated": 1}


class Objective(enum.StrEnum):
    """What is to be least."""

    ENERGY = "energy"
    BOARDS = "boards"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Layout:
    """Instances of a cluster.

    Attributes:
        boards: All of them.
        tensor_parallel: Boards of an instance.
        prefill: Prefill instances.
        decode: Decode instances.
        colocated: Instances for both phases.
    """

    boards: int
    tensor_parallel: int
    prefill: int = 0
    decode: int = 0
    colocated: int = 0

    def __str__(self) -> str:
        pairs = f"{self.prefill}P{self.decode}D" if self.prefill else ""
        together = f"{self.colocated}C" if self.colocated else ""
        return f"{'+'.join(filter(None, (pairs, together)))}, TP {self.tensor_parallel}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What a layout took and kept under a policy.

    Attributes:
        layout: The instances.
        policy: Name of the policy.
        energy_per_request_j: Energy of all boards over finished requests; inf where none finished.
        mean_power_w: Of all boards.
        ttft_attainment: Share of requests that kept the TTFT.
        itl_attainment: Share of requests that kept the ITL.
        keeps: Whether both are at least their targets.
    """

    layout: Layout
    policy: str
    energy_per_request_j: float
    mean_power_w: float
    ttft_attainment: float
    itl_attainment: float
    keeps: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Provision:
    """The answer.

    Attributes:
        best: What to run; None where nothing that was tried keeps the targets.
        options: Everything that was simulated, the best first, then those that keep the targets.
        left_out: Why a number of boards an instance was not tried, by that number.
        pairs_only: Why a policy was not tried on colocated instances, by its name.
        failures: Why layouts could not be simulated.
    """

    best: Option | None
    options: tuple[Option, ...]
    left_out: Mapping[int, str] = field(default_factory=dict)
    pairs_only: Mapping[str, str] = field(default_factory=dict)
    failures: tuple[str, ...] = ()


def layouts(
    most_boards: int, tensor_parallels: Sequence[int], *, mixtures: bool = False
) -> tuple[Layout, ...]:
    """All layouts that serve both phases, in pairs or together, by the number of their boards.

    Args:
        most_boards: Boards that there are.
        tensor_parallels: Boards an instance that may be tried.
        mixtures: Whether pairs stand beside colocated instances too.

    Raises:
        ConfigError: If there is none, or there are too many.
    """
    tried = sorted(set(tensor_parallels))
    count = sum(_count(most_boards // tp, mixtures=mixtures) for tp in tried)
    if count > MOST_LAYOUTS:  # before they are made: of a million boards they fill any memory
        raise invalid(
            "boards",
            most_boards,
            f"so few that at most {MOST_LAYOUTS} layouts come of it, not {count}",
            "Give fewer --boards or one --tp, or leave --mixtures out.",
        )
    found = [
        Layout(boards=tp * (p + d), tensor_parallel=tp, prefill=p, decode=d)
        for tp in tried
        for p, d in itertools.product(range(1, most_boards // tp), repeat=2)
        if tp * (p + d) <= most_boards
    ]
    found += [
        Layout(boards=tp * count, tensor_parallel=tp, colocated=count)
        for tp in tried
        for count in range(1, most_boards // tp + 1)
    ]
    if mixtures:
        found += [
            replace(pairs, boards=pairs.boards + pairs.tensor_parallel * count, colocated=count)
            for pairs in found
            if pairs.prefill
            for count in range(1, (most_boards - pairs.boards) // pairs.tensor_parallel + 1)
        ]
    if not found:
        raise invalid(
            "boards",
            most_boards,
            f"at least {min(tried)}, one instance for both phases",
            "Give more --boards, or fewer boards an instance (--tp).",
        )
    return tuple(sorted(found))


def _count(instances: int, *, mixtures: bool) -> int:
    """How many layouts so many instances of one size make: pairs, together, and mixtures."""
    most = max(instances, 0)
    return math.comb(most, 2) + most + (math.comb(most, 3) if mixtures else 0)


def provision(
    base: Mapping[str, Any],
    *,
    most_boards: int,
    tensor_parallels: Sequence[int],
    objective: Objective,
    folder: Path,
    workers: Workers,
    progress: Progress | None = None,
    mixtures: bool = False,
) -> Provision:
    """Find the layout and the policy that serve a scenario best.

    Args:
        base: Tables of the scenario; its instances and boards an instance are replaced.
        most_boards: Boards that there are.
        tensor_parallels: Boards an instance that may be tried.
        objective: What is to be least.
        folder: Where simulations are kept; the same question goes on where it was broken off.
        workers: Where they run.
        progress: As of `run_sweep`, for the layouts that are simulated next.
        mixtures: See `layouts`.

    Raises:
        ConfigError: If the scenario, or every number of boards an instance, cannot be run.
    """
    fitting, left_out = _fitting(base, tensor_parallels)
    together, pairs_only = _served_together(base, fitting[0])
    found = layouts(most_boards, fitting, mixtures=mixtures)
    if not together:
        found = tuple(one for one in found if not one.colocated)
    if not found:
        name, why = next(iter(pairs_only.items()))
        raise invalid(
            "boards",
            most_boards,
            f"at least {2 * min(fitting)} for {name}, which is tried on pairs alone",
            f"Give more --boards or another --policy ({why}).",
        )
    left_out |= _too_large(fitting, found, most_boards)
    stages = [found]
    if objective is Objective.BOARDS:
        stages = [tuple(group) for _, group in itertools.groupby(found, lambda one: one.boards)]
    options: list[Option] = []
    failures: list[str] = []

    def run(plan: Plan) -> SweepOutcome:
        return run_sweep(plan, folder, workers, progress)

    for stage in stages:
        made, failed = _simulated(base, stage, together, run)
        options += made
        failures += failed
        if objective is Objective.BOARDS and any(option.keeps for option in made):
            break
    options.sort(key=lambda option: rank(option, objective))
    best = options[0] if options and options[0].keeps else None
    return Provision(
        best=best,
        options=tuple(options),
        left_out=left_out,
        pairs_only=pairs_only,
        failures=tuple(failures),
    )


def _fitting(
    base: Mapping[str, Any], tensor_parallels: Sequence[int]
) -> tuple[list[int], dict[int, str]]:
    """Boards an instance that the model can have, and why others are left out."""
    fitting, left_out = [], {}
    for tp in tensor_parallels:
        try:
            _check(base, tensor_parallel=tp, prefill=1, decode=1, colocated=0)
        except VoltanaError as error:
            left_out[tp] = str(error)
        else:
            fitting.append(tp)
    if not fitting:
        raise ConfigError(next(iter(left_out.values())))
    return fitting, left_out


def _too_large(fitting: Sequence[int], found: Sequence[Layout], most_boards: int) -> dict[int, str]:
    """Why numbers of boards an instance that the model can have come in no layout."""
    tried = {one.tensor_parallel for one in found}
    least = 1 if any(one.colocated for one in found) else 2
    return {
        tp: str(
            invalid(
                "boards",
                most_boards,
                f"at least {least * tp} for instances of {tp}",
                "Give more --boards, or leave it out of --tp.",
            )
        )
        for tp in fitting
        if tp not in tried
    }


def _served_together(base: Mapping[str, Any], tp: int) -> tuple[list[str], dict[str, str]]:
    """Policies that colocated instances can have, and why others cannot."""
    able, pairs_only = [], {}
    for name in parse_scenario(base).policies:
        try:
            _check({**base, "policies": [name]}, tensor_parallel=tp, **_TOGETHER)
        except VoltanaError as error:
            pairs_only[name] = str(error)
        else:
            able.append(name)
    return able, pairs_only


def _check(base: Mapping[str, Any], **cluster: int) -> None:
    """Check a scenario on other instances."""
    check_scenario(parse_scenario(overlay(base, {"cluster": cluster})))


def _simulated(
    base: Mapping[str, Any],
    stage: Sequence[Layout],
    together: Sequence[str],
    run: Callable[[Plan], SweepOutcome],
) -> tuple[list[Option], list[str]]:
    """Serve the requests on pairs under every policy, on colocated instances under those able."""
    made: list[Option] = []
    failures: list[str] = []
    for alone, tables in ((False, base), (True, {**base, "policies": list(together)})):
        tried = [one for one in stage if bool(one.colocated) is alone]
        if not tried:
            continue
        rows = [{f"cluster.{name}": getattr(one, name) for name in _COUNTS} for one in tried]
        plan = make_plan(tables, rows=rows)
        outcome = run(plan)
        wanted = set(plan.points[0].file.policies)
        made += [_option(row) for row in outcome.rows if row["policy"] in wanted]
        called = {point.key: one for point, one in zip(plan.points, tried, strict=True)}
        failures += [f"{called[key]}: {why}" for key, why in outcome.failures.items()]
    return made, failures


def _option(row: Mapping[str, Any]) -> Option:
    counts = {name: int(row[f"cluster.{name}"]) for name in _COUNTS}
    tp, instances = counts["tensor_parallel"], sum(counts.values()) - counts["tensor_parallel"]
    ttft, itl = (_figure(row[f"{name}_attainment"], 1.0) for name in ("ttft", "itl"))
    return Option(
        layout=Layout(boards=tp * instances, **counts),
        policy=str(row["policy"]),
        energy_per_request_j=_figure(row["energy_per_request_j"], math.inf),
        mean_power_w=_figure(row["mean_power_w"], math.nan),
        ttft_attainment=ttft,
        itl_attainment=itl,
        keeps=ttft >= row["slo.ttft_target"] and itl >= row["slo.itl_target"],
    )


def _figure(value: Any, absent: float) -> float:
    """A figure of a sweep's row, which has None where there was nothing to measure."""
    return absent if value is None else float(value)


def rank(option: Option, objective: Objective) -> tuple[object, ...]:
    """The best first; what keeps too little comes last, by how much it keeps."""
    if not option.keeps:
        return (1, -min(option.ttft_attainment, option.itl_attainment), option.layout)
    energy_j = option.energy_per_request_j
    if objective is Objective.BOARDS:
        return (0, option.layout.boards, energy_j, option.layout, option.policy)
    return (0, energy_j, option.layout, option.policy)
