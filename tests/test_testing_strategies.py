"""The strategies draw what the ports allow, and importing the suites needs no Hypothesis."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import Phase as Phases
from hypothesis import find, given, settings
from hypothesis import strategies as st

from tests.honest import HonestController, HonestRouter
from voltana.errors import UnknownNameError
from voltana.levels import LevelSet, resolve
from voltana.testing import strategies as vst
from voltana.testing.latencies import LATENCY_KINDS, latencies_s
from voltana.values import MAX_DEADLINE_BUCKETS, Phase, Role, Status


@pytest.mark.parametrize("phase", list(Phase))
def test_loads_belong_to_their_phase(phase):
    @given(vst.loads(phase))
    def check(load):
        assert load.phase is phase
        assert load.prefill_attended_pairs >= load.prefill_tokens

    check()


@given(st.data())
def test_level_sets_fit_their_table(data):
    table = data.draw(vst.tables())
    level_set = data.draw(vst.level_sets(table))
    assert isinstance(level_set, LevelSet)
    chosen = level_set.levels(table)
    assert chosen
    assert set(chosen) <= set(table)


@given(st.floats(0, 1e4).flatmap(vst.queues))
def test_queues_are_cumulative_and_bounded(queue):
    assert len(queue.deadlines) <= MAX_DEADLINE_BUCKETS
    tokens = [bucket.cumulative_tokens for bucket in queue.deadlines]
    assert tokens == sorted(set(tokens))


@given(vst.forecasts())
def test_forecasts_keep_their_contract(forecast):
    assert (forecast.upper_s >= forecast.mean_s).all()
    assert not np.isnan(forecast.upper_s).any()
    assert forecast.mean_s.shape == forecast.upper_s.shape == forecast.clocks_mhz.shape


@given(vst.decisions())
def test_decisions_claim_only_what_holds(decision):
    if decision.status is Status.CERTIFIED:
        assert decision.forecast.upper_at(decision.clock_mhz) <= decision.budget_s


@given(vst.outcomes(), vst.limits())
def test_outcomes_and_limits_are_plausible(outcome, limit):
    assert 0 < outcome.latency_s < math.inf
    assert limit.source


@given(vst.observations())
def test_a_controller_survives_every_observation(observation):
    levels = HonestController().levels_mhz.tolist()
    decision = HonestController().decide(observation)
    assert resolve(decision.clock_mhz, levels, observation.bounds) in levels


@given(vst.requests(), vst.candidates())
def test_a_router_survives_every_pool(request, candidates):
    assert len({candidate.role for candidate in candidates}) == 1
    names = [candidate.instance for candidate in candidates]
    assert len(set(names)) == len(names)
    assert HonestRouter().route(request, candidates) in names


def drawn(strategy, condition):
    find(strategy, condition, settings=settings(max_examples=1000, phases=[Phases.generate]))


def test_the_awkward_cases_are_drawn():
    drawn(vst.observations(), lambda o: math.isnan(o.power_w))
    drawn(vst.observations(), lambda o: o.bounds.min_mhz > o.bounds.max_mhz)
    drawn(vst.queues(), lambda q: any(b.deadline_s < 0 for b in q.deadlines))
    drawn(vst.forecasts(), lambda f: np.isinf(f.upper_s).all())
    drawn(vst.candidates(Role.DECODE), lambda pool: any(c.predictor is None for c in pool))
    drawn(vst.candidates(Role.DECODE), lambda pool: any(c.predictor is not None for c in pool))


@pytest.mark.parametrize("kind", LATENCY_KINDS)
def test_latency_sequences_are_positive_and_repeatable(kind):
    @given(vst.latency_sequences(kind, max_size=60))
    def check(latencies):
        assert 1 <= len(latencies) <= 60
        assert all(0 < latency_s < math.inf for latency_s in latencies)

    check()
    one, same, other = (latencies_s(kind, 200, 0.02, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_latency_sequences_have_their_temper():
    made = {kind: latencies_s(kind, 4000, 0.02, 3) / 0.02 for kind in LATENCY_KINDS}
    assert made["stationary"].std() < 0.1
    assert made["drifting"].max() > 2.5
    assert 0.2 < (made["bursty"] > 3).mean() < 0.8
    assert made["heavy-tailed"].max() > 10 * np.median(made["heavy-tailed"])
    assert abs(made["periodic"].mean() - 1.5) < 0.1
    calm, hostile = made["adversarial"][:200], made["adversarial"][2000:]
    assert (hostile > 5).mean() > (calm > 5).mean()


def test_an_unknown_temper_is_refused():
    with pytest.raises(UnknownNameError, match="unknown kind of latency sequence 'burst'"):
        latencies_s("burst", 3, 0.02, 0)


def test_without_hypothesis_the_suites_import_and_the_strategies_name_the_extra():
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "import voltana.testing\n"
        "from voltana.errors import MissingExtraError\n"
        "try:\n"
        "    import voltana.testing.strategies\n"
        "except MissingExtraError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "pip install 'voltana[testing]'" in done.stdout
