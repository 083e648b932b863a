"""What a plan asks of the live model is what a snapshot of it would say, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from river.linear_model import BayesianLinearRegression

from voltana.controllers.energy_optimal import EnergyOptimal
from voltana.controllers.held_back import held_back
from voltana.controllers.memory import Memory
from voltana.planning import first_safe
from voltana.predictors.conformal import Conformal
from voltana.predictors.conformal.groups import BySize
from voltana.predictors.ecopred import EcoPred
from voltana.predictors.linear_power import LinearPower
from voltana.slo import Slo
from voltana.testing.samples import LinearSnapshot, observation
from voltana.values import Exposure, Load, Outcome
from voltana.viability import tabulate

LEVELS = np.arange(570.0, 1411.0, 30.0)


def taught(**options: object) -> Conformal:
    """A guarded model that has learned a few hundred decode iterations."""
    regressor = options.pop("regressor", None)
    made = Conformal(EcoPred(regressor=regressor), first=0.1, **options)
    rng = np.random.default_rng(3)
    for step in range(200):
        batch = int(rng.integers(1, 200))
        clock_mhz = float(rng.choice(LEVELS))
        latency_s = (0.01 + 1e-4 * batch) * (0.5 + 700.0 / clock_mhz)
        load = Load.decode(batch, 300 * batch)
        made.learn(
            Outcome(load=load, clock_mhz=clock_mhz, latency_s=latency_s, ended_at_s=float(step))
        )
    return made


def by_batch(load: Load) -> str:
    """A group of the user's own, which parts decode batches."""
    return "large" if load.decode_requests > 64 else "small"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"group": BySize()},
        {"group": by_batch},
        {"level_edges_mhz": (800.0, 1100.0)},
        {"regressor": BayesianLinearRegression()},
    ],
    ids=["plain", "by size", "user's groups", "level edges", "river"],
)
@pytest.mark.parametrize("widened", [0.0, 0.3])
def test_the_live_table_is_that_of_a_snapshot(options: dict[str, object], widened: float) -> None:
    live = taught(**options)
    live.widen(widened)
    for capacity_tokens in (30_000.0, 90_000.0, 30_000.0):  # the features of batches are kept
        asked = {"context_tokens": 300.0, "threshold_s": 0.05}
        one = tabulate(live, LEVELS, kv_capacity_tokens=capacity_tokens, **asked)
        other = tabulate(live.snapshot(), LEVELS, kv_capacity_tokens=capacity_tokens, **asked)
        assert np.array_equal(one.mean_s, other.mean_s)
        assert np.array_equal(one.upper_s, other.upper_s)


def test_a_model_that_knows_nothing_bounds_no_batch() -> None:
    table = tabulate(Conformal(EcoPred()), LEVELS, context_tokens=300.0, threshold_s=0.05)
    assert np.isinf(table.upper_s).all()


def test_a_plan_stands_on_what_was_known_when_it_was_asked_for() -> None:
    """Its second half comes a step later; what is learned until then must not be in it."""
    plans = []
    for learns in (False, True):
        power, model = LinearPower(), taught()
        controller = EnergyOptimal(
            model,
            power,
            tuple(LEVELS.tolist()),
            Slo(ttft_s=0.6, itl_s=0.05),
            memory=Memory(capacity_tokens=90_000.0),
            max_power_w=250.0,
        )
        for step in range(400):
            batch = 60 + step // 8
            seen = observation(Load.decode(batch, 300 * batch), now_s=10.0 + 0.03 * step)
            controller.decide(seen)
        controller.plan(30.0)
        if learns:
            load = Load.decode(110, 33_000)
            power.learn_window(240.0, [Exposure(load=load, clock_mhz=1410.0, duration_s=1.0)])
            for _ in range(50):
                model.learn(Outcome(load=load, clock_mhz=1410.0, latency_s=0.04, ended_at_s=31.0))
        plans.append(controller.plan_in_force)
    assert plans[0] == plans[1]
    assert plans[0].slowest


def test_a_plan_that_fails_fails_once() -> None:
    class Broken(LinearPower):
        def snapshot(self):  # type: ignore[no-untyped-def]
            return self

        def forecast_w(self, load, clocks_mhz):  # type: ignore[no-untyped-def]
            raise RuntimeError("no power")

        def power_curve(self, load):  # type: ignore[no-untyped-def]
            return None

    controller = EnergyOptimal(
        LinearSnapshot(),
        Broken(),
        tuple(LEVELS.tolist()),
        Slo(ttft_s=0.6, itl_s=0.05),
        max_power_w=300.0,
    )
    controller._load = Load.decode(10, 3000)
    controller.plan(1.0)
    with pytest.raises(RuntimeError, match="no power"):
        _ = controller.plan_in_force
    assert controller.plan_in_force.slowest == ()


def test_within_the_power_limit_no_level_is_looked_at_but_the_fastest() -> None:
    asked = []

    class Watched(LinearPower):
        def forecast_w(self, load, clocks_mhz):  # type: ignore[no-untyped-def]
            asked.append(load)
            return super().forecast_w(load, clocks_mhz)

    table = tabulate(taught(), LEVELS, context_tokens=300.0, threshold_s=0.05)
    assert held_back(table, Watched(), 64, 1e6) is table
    assert not asked
    assert held_back(table, Watched(), 64, 150.0) is not table
    assert asked


@pytest.mark.parametrize("budget_s", [0.0, 0.01, 0.02, 0.05, 1.0])
def test_the_first_safe_level_is_that_of_a_search_through_all(budget_s: float) -> None:
    curve = taught().snapshot().curve(Load.decode(64, 19_200))
    levels = LEVELS.tolist()
    safe = [curve.upper_s(mhz) <= budget_s for mhz in levels]
    begins = safe.index(True) if True in safe else len(safe)
    for guess in range(len(levels) + 2):
        assert first_safe(curve, levels, budget_s, guess) == begins
    assert first_safe(curve, [], budget_s) == 0


def test_where_the_guess_is_right_two_levels_are_looked_at() -> None:
    curve, levels, asked = taught().snapshot().curve(Load.decode(64, 19_200)), LEVELS.tolist(), []

    class Watched:
        mean_s = curve.mean_s

        def upper_s(self, clock_mhz: float) -> float:
            asked.append(clock_mhz)
            return curve.upper_s(clock_mhz)

    budget_s = curve.upper_s(levels[5])
    assert first_safe(Watched(), levels, budget_s, guess=5) == 5
    assert sorted(asked) == levels[4:6]
