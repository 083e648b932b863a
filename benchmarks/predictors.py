"""EcoPred against river's own regressors: on recorded iterations, and in the closed loop.

``python -m benchmarks.predictors`` prints two tables, ``--write`` puts them into
docs/predictors.md, and ``--quick`` takes a minute. Every contender is `EcoPred`, with its own
regressor or another one in its place, so features, bound and guarantee are the same.

On record: the iterations of one prefill and one decode instance under the default policy, replayed
one by one; each is forecast before it is learned, and scored against its noisy label. In the loop:
the default policy with that predictor.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from river import forest, linear_model, tree

from benchmarks.sweep import results
from voltana.evaluation.scenario import load_scenario
from voltana.levels import A100_CLOCKS_MHZ, EvenlySpaced
from voltana.plant.simulation import Simulation
from voltana.policies import get_policy
from voltana.predictors import EcoPred
from voltana.values import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from voltana.evaluation.metrics import Result
    from voltana.policy import InstanceContext, InstancePolicy, Policy
    from voltana.ports import PredictorSnapshot
    from voltana.values import FloatArray, Forecast, Load, Outcome

PAGE = Path(__file__).parents[1] / "docs" / "predictors.md"
BEGIN = "<!-- predictors: begin (written by `python -m benchmarks.predictors --write`) -->"
END = "<!-- predictors: end -->"

LEVELS = 28
EVERY = 20
"""One label in so many is timed, with a forecast over all levels: the others with one clock."""

CONTENDERS: Mapping[str, Callable[[InstanceContext], EcoPred]] = {
    "EcoPred": lambda context: EcoPred.from_datasheet(context.datasheet),
    "EcoPred, no prior": lambda context: EcoPred(max_clock_mhz=context.table_mhz[-1]),
    "BayesianLinearRegression": lambda context: _in_place(
        context, linear_model.BayesianLinearRegression()
    ),
    "LinearRegression, scaled": lambda context: _in_place(context, linear_model.LinearRegression()),
    "HoeffdingTreeRegressor": lambda context: _in_place(context, tree.HoeffdingTreeRegressor()),
    "ARFRegressor, 5 trees": lambda context: _in_place(
        context, forest.ARFRegressor(n_models=5, seed=1)
    ),
}


class Size(NamedTuple):
    """How much is measured."""

    recorded_s: float
    loop_s: float
    seeds: Sequence[int]
    rate_rps: float = 60.0


FULL, QUICK = Size(60.0, 30.0, (1, 2)), Size(10.0, 3.0, (1,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short runs, one seed")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--write", action="store_true", help="put the tables into the document")
    given = parser.parse_args()
    size = QUICK if given.quick else FULL
    text = "\n\n".join(
        [on_record(given.only, size), in_the_loop(given.only, size), _what_was_run(size)]
    )
    print(text)
    if given.write:
        head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        tail = rest.partition(END)[2]
        PAGE.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")


def on_record(names: Sequence[str], size: Size) -> str:
    """Errors, coverage of the bound and cost of each contender on the same labels."""
    _report(f"recording {size.recorded_s:g} s of the default policy")
    recorded = _recorded(size)
    lines = [
        "On record | prefill MAE, ms | bound held, % | decode MAE, ms | bound held, % | "
        "forecast of 28 levels, us | learn, us",
        "---|---:|---:|---:|---:|---:|---:",
    ]
    for name in names:
        cells, costs = [], []
        for phase, (context, labels) in recorded.items():
            _report(f"on record: {name}, {len(labels)} labels of {phase.value}")
            score = _replay(CONTENDERS[name](context), labels)
            cells.append(f"{score.mae_ms:.2f} | {100 * score.held:.1f}")
            costs.append((score.forecast_us, score.learn_us))
        asked, taught = (statistics.fmean(cost) for cost in zip(*costs, strict=True))
        lines.append(f"{name} | {' | '.join(cells)} | {asked:.0f} | {taught:.0f}")
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)


def in_the_loop(names: Sequence[str], size: Size) -> str:
    """Energy, attainments and the cost of a decision of the default policy with each contender."""
    lines = [
        "In the loop | energy saved, % | TTFT kept, % | ITL kept, % | ITL of tokens, % | "
        "certified, % | of those late, % | decision p50, us | run time over the first's",
        "---|---:|---:|---:|---:|---:|---:|---:|---:",
    ]
    workload = {"name": "sharegpt", "rate_rps": size.rate_rps, "duration_s": size.loop_s}
    first_s = 0.0
    for name in names:
        _report(f"in the loop: {name}, {len(size.seeds)} x {size.loop_s:g} s")
        policy = _with_predictor(CONTENDERS[name])
        made = results({name: policy}, size.seeds, {"workload": workload})[name]
        wall_s = sum(result.wall_s for result in made)
        first_s = first_s or wall_s
        lines.append(f"{name} | {_loop_cells(made)} | {wall_s / first_s:.2g} x")
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)


class _Score(NamedTuple):
    mae_ms: float
    held: float
    forecast_us: float
    learn_us: float


def _replay(predictor: EcoPred, labels: Sequence[Outcome]) -> _Score:
    """Forecast each label at its clock, then learn it; the bound counts where it is finite."""
    levels = np.array(EvenlySpaced(LEVELS).levels(A100_CLOCKS_MHZ))
    errors, held, asked_us, taught_us = [], [], [], []
    for index, label in enumerate(labels):
        forecast = predictor.forecast(label.load, np.array([label.clock_mhz]))
        errors.append(1e3 * abs(float(forecast.mean_s[0]) - label.latency_s))
        if np.isfinite(forecast.upper_s[0]):
            held.append(bool(forecast.upper_s[0] >= label.latency_s))
        if index % EVERY == 0:
            started = time.perf_counter()
            predictor.forecast(label.load, levels)
            asked_us.append(1e6 * (time.perf_counter() - started))
        started = time.perf_counter()
        predictor.learn(label)
        taught_us.append(1e6 * (time.perf_counter() - started))
    return _Score(
        mae_ms=statistics.fmean(errors),
        held=statistics.fmean(held) if held else float("nan"),
        forecast_us=statistics.median(asked_us),
        learn_us=statistics.median(taught_us),
    )


class _Recorder:
    """A predictor that keeps what it is taught."""

    def __init__(self, inner: EcoPred) -> None:
        self._inner = inner
        self.labels: list[Outcome] = []

    def forecast(self, load: Load, clocks_mhz: FloatArray) -> Forecast:
        return self._inner.forecast(load, clocks_mhz)

    def learn(self, outcome: Outcome) -> None:
        self.labels.append(dataclasses.replace(outcome, decision=None))
        self._inner.learn(outcome)

    def snapshot(self) -> PredictorSnapshot:
        return self._inner.snapshot()


def _recorded(size: Size) -> dict[Phase, tuple[InstanceContext, list[Outcome]]]:
    """What the first instance of either role ran, and what it is."""
    kept: dict[str, tuple[InstanceContext, _Recorder]] = {}

    def make(context: InstanceContext) -> _Recorder:
        recorder = _Recorder(EcoPred.from_datasheet(context.datasheet))
        kept.setdefault(context.role.value, (context, recorder))
        return recorder

    workload = {"name": "sharegpt", "rate_rps": size.rate_rps, "duration_s": size.recorded_s}
    scenario = load_scenario(None, {"policies": ["voltana"], "seed": 11, "workload": workload})
    policy = _with_predictor(make)
    Simulation(scenario.cluster, policy, scenario.trace, seed=11, plant=scenario.plant).run()
    return {Phase(role): (context, recorder.labels) for role, (context, recorder) in kept.items()}


def _with_predictor(make: Callable[[InstanceContext], EcoPred | _Recorder]) -> Policy:
    policy = get_policy("voltana")

    def control(context: InstanceContext) -> InstancePolicy:
        return policy.control(dataclasses.replace(context, predictor=make(context)))

    return dataclasses.replace(policy, control=control)


def _loop_cells(made: Sequence[Result]) -> str:
    def mean(column: str) -> float:
        return statistics.fmean(getattr(result, column) for result in made)

    shares = (
        "energy_saved_vs_static_max",
        "ttft_attainment",
        "itl_attainment",
        "itl_token_attainment",
        "certified_share",
        "certified_violation_rate",
    )
    figures = [f"{100 * mean(share):.2f}" for share in shares]
    return " | ".join([*figures, f"{mean('decide_p50_us'):.0f}"])


def _in_place(context: InstanceContext, regressor: object) -> EcoPred:
    return EcoPred(max_clock_mhz=context.table_mhz[-1], regressor=regressor)


def _what_was_run(size: Size) -> str:
    return (
        f"Llama-3.1-8B on A100, two prefill and two decode instances, sharegpt at "
        f"{size.rate_rps:g} requests/s: {size.recorded_s:g} s on record, {len(size.seeds)} x "
        f"{size.loop_s:g} s in the loop."
    )


def _report(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
