"""One clock for prompts and tokens: gaps between tokens are kept, not iterations."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from tests.gap_steps import CLOCKS, LEVELS, MODEL, SLO, Rising, make, row, seen
from voltana.controllers.both_phases import BothPhases
from voltana.controllers.cycles import DecodeCycles, PromptsBeside
from voltana.evaluation.compare import compare
from voltana.evaluation.metrics import measure
from voltana.evaluation.scenario import load_scenario
from voltana.plant.simulation import Simulation
from voltana.policies import get_policy
from voltana.policies.default import voltana
from voltana.routers.by_role import ByRole
from voltana.routers.least_loaded import LeastLoaded
from voltana.serving.agent.serving import ring_slo
from voltana.slo import Slo
from voltana.testing.samples import candidate, request
from voltana.values import DeadlineBucket, Load, Queue, Role, Status


def test_once_prompts_have_ceased_their_gaps_ask_for_no_clock():
    controller, now_s, target_mhz = make(), 0.0, 500.0
    prompts, decode = Load.prefill([(19, 0)]), Load.decode(10, 100)

    def run(*loads):
        nonlocal now_s, target_mhz
        for load in loads:
            decision = controller.decide(seen(load, now_s, slack_s=0.05, target_mhz=target_mhz))
            target_mhz = decision.clock_mhz
            now_s += float(MODEL.forecast(load, np.array([target_mhz])).mean_s[0])
            controller.plan(now_s)

    run(*[prompts, decode] * 300)
    assert target_mhz > 500.0  # 29 ms at the fastest clock, and 58 ms at the slowest
    run(*[decode] * 200)
    assert target_mhz == 500.0
    run(prompts, decode)
    assert target_mhz > 500.0


def calm():
    """A controller that has seen short gaps and prompts alone, and so asks for a slow level."""
    controller, now_s, target_mhz = make(), 0.0, 500.0
    for step in range(1000):
        load = Load.decode(10, 100) if step % 20 else Load.prefill([(2, 0)])
        decision = controller.decide(seen(load, now_s, slack_s=0.05, target_mhz=target_mhz))
        target_mhz = decision.clock_mhz
        now_s += float(MODEL.forecast(load, np.array([decision.clock_mhz])).mean_s[0])
        controller.plan(now_s)
    return controller, now_s, target_mhz


def test_prompts_between_tokens_are_run_so_that_the_gap_is_kept():
    controller, now_s, target_mhz = calm()
    assert target_mhz <= 600.0
    controller.decide(seen(Load.decode(10, 100), now_s, slack_s=0.05, target_mhz=target_mhz))
    now_s += 0.01  # at the fastest clock
    # 15 ms of prompts and 10 ms of decode in 35 ms: 715 MHz, though either fits alone at 500 MHz.
    decision = controller.decide(
        seen(Load.prefill([(15, 0)]), now_s, slack_s=0.035, target_mhz=1000.0)
    )
    assert decision.clock_mhz == 800.0
    assert decision.status is Status.CERTIFIED
    # With 8 ms of prompts that wait as well: 943 MHz.
    bucket = DeadlineBucket(
        deadline_s=now_s + 0.5,
        cumulative_tokens=8,
        cumulative_attended_pairs=36.0,
        cumulative_batches=1,
    )
    queue = Queue(requests=1, tokens=8, deadlines=(bucket,))
    waiting = seen(Load.prefill([(15, 0)]), now_s, slack_s=0.035, queue=queue, target_mhz=1000.0)
    assert controller.decide(waiting).clock_mhz == 1000.0


def test_what_no_clock_keeps_runs_slowly():
    controller, now_s, target_mhz = calm()
    decision = controller.decide(
        seen(Load.prefill([(100, 0)]), now_s, slack_s=0.05, target_mhz=target_mhz)
    )
    assert decision.clock_mhz < 1000.0
    late = Queue(oldest_wait_s=0.55)  # and fast where its own first token would be late
    later_s = now_s + 0.2  # that batch has run, and who came meanwhile may be in time still
    decision = controller.decide(seen(Load.prefill([(100, 0)]), later_s, slack_s=0.05, queue=late))
    assert decision.clock_mhz == 1000.0


def test_what_no_clock_keeps_is_in_a_hurry_while_it_is_means_that_bind():
    """Means suffer from long gaps; that much was late by the clock does not speed up lost ones."""
    controller, now_s, _ = calm()
    for load in [Load.prefill([(25, 0)]), Load.decode(10, 100)] * 60:  # 70 ms for 35
        controller.decide(seen(load, now_s, slack_s=0.05, target_mhz=500.0))
        now_s += float(MODEL.forecast(load, CLOCKS[:1]).mean_s[0])
        controller.plan(now_s)
    hopeless = seen(Load.prefill([(100, 0)]), now_s, slack_s=0.05, target_mhz=500.0)
    for means_bind, clock_mhz in ((True, 1000.0), (False, 500.0)):
        controller.late_gaps.means_bind = means_bind
        assert controller.decide(hopeless).clock_mhz == clock_mhz


def test_cycles_and_batches_are_forecast_with_what_the_other_phase_takes():
    cycles = DecodeCycles(MODEL, CLOCKS)
    cycles.stretch = np.full(len(LEVELS), 2.0)
    load = Load.decode(10, 100)
    assert cycles.forecast(load, CLOCKS).upper_s == pytest.approx(2.0 * row(load))
    mean_s, _ = cycles.forecast_batches(np.array([10.0]), np.array([100.0]), CLOCKS[:3])
    assert mean_s[0] == pytest.approx(2.0 * row(load)[:3])
    mixed = Load(
        prefill_tokens=4, prefill_attended_pairs=8.0, decode_requests=10, decode_kv_tokens=100
    )
    beside = PromptsBeside(MODEL)
    beside.note(mixed)
    both = beside.forecast(Load.prefill([(5, 0)]), CLOCKS)
    assert both.mean_s[-1] == pytest.approx(0.015)
    # Where 15 tokens fit a batch, 20 of prompts beside 10 that decode take four of them.
    beside = PromptsBeside(MODEL, 15)
    beside.note(mixed)
    several = beside.forecast(Load.prefill([(20, 0)]), CLOCKS)
    assert several.mean_s[-1] == pytest.approx(4 * 0.015)
    # A batch that is larger fits all the same.
    beside.note(dataclasses.replace(mixed, prefill_tokens=20))
    assert beside.forecast(Load.prefill([(20, 0)]), CLOCKS).mean_s[-1] == pytest.approx(0.030)


def test_colocated_instances_are_taken_in_turn():
    router = ByRole(LeastLoaded())
    for role, expected in ((Role.COLOCATED, {"a", "b"}), (Role.DECODE, {"a"})):
        candidates = [dataclasses.replace(candidate(0, role), instance=name) for name in "ab"]
        assert {router.route(request(0), candidates) for _ in range(4)} == expected


class Untold:
    """A controller that nobody tells what is left of a gap, as beside a real engine."""

    def __init__(self, inner):
        self.inner, self.plan = inner, inner.plan
        self.viability_account = inner.viability_account

    def decide(self, observation):
        return self.inner.decide(dataclasses.replace(observation, slack_s=math.nan))


@pytest.mark.parametrize("mixed", [False, True])
def test_where_nobody_tells_what_is_left_of_a_gap_as_much_is_kept(mixed):
    """Beside real engines: the law works out from the iterations since when tokens are awaited."""
    scenario = load_scenario(
        None,
        {
            "policies": ["static-max"],
            "cluster": {"colocated": 1},
            "engine": {"mixed_chunk": mixed},
            "workload": {"rate_rps": 14.0, "duration_s": 20.0},
        },
    )

    def control(context):
        made = voltana(context)
        return dataclasses.replace(made, controller=Untold(made.controller))

    results = []
    for policy in (
        get_policy("static-max"),
        dataclasses.replace(get_policy("voltana"), control=control),
    ):
        simulation = Simulation(scenario.cluster, policy, scenario.trace, plant=scenario.plant)
        simulation.run()
        record = simulation.record()
        results.append(
            measure("p", record, scenario.cluster.slo, reference_energy_j=math.inf, wall_s=0.0)
        )
    fastest, ours = results
    for name in ("ttft_attainment", "itl_attainment", "itl_token_attainment"):
        assert getattr(ours, name) >= getattr(fastest, name) - 0.01, name
    assert ours.colocated_clock_mhz < 0.97 * fastest.colocated_clock_mhz


def test_slack_of_mean_gaps_is_not_spent_where_prompts_come_between():
    slo = Slo(ttft_s=0.6, itl_s=0.065, spending=1.2)
    assert ring_slo(Role.COLOCATED, slo).spending == 1.0
    assert ring_slo(Role.DECODE, slo) is slo


@pytest.mark.parametrize("mixed", [False, True])
def test_voltana_keeps_within_a_point_of_what_static_max_keeps(mixed):
    scenario = load_scenario(
        None,
        {
            "policies": ["static-max", "voltana"],
            "cluster": {"colocated": 2},
            "engine": {"mixed_chunk": mixed},
            "workload": {"rate_rps": 30.0, "duration_s": 20.0},
        },
    )
    fastest, ours = (run.result for run in compare(scenario).runs)
    for name in ("ttft_attainment", "itl_attainment", "itl_token_attainment"):
        assert getattr(ours, name) >= getattr(fastest, name) - 0.01, name
    assert ours.energy_saved_vs_static_max > 0.03


def test_a_rise_that_the_first_requests_asked_for_is_not_held():
    """The law of decode alone waits three seconds for the batch to settle."""
    controller = make()
    held = controller.decode.held
    rising = [float(mhz) for mhz in LEVELS]
    assert held.hold(0, rising, 0.0) == 0
    assert held.hold(5, rising, 0.1) == 5
    assert min(held.hold(0, rising, 0.2 + step / 10) for step in range(10)) == 0


def test_a_lost_deadline_is_no_hurry_where_batches_are_mixed_either():
    """Requests that decode beside it do not make it a hurry, but for what they have left."""
    controller, now_s, target_mhz = calm()
    late = Queue(oldest_wait_s=5.0)
    mixed = Load(
        prefill_tokens=4, prefill_attended_pairs=8.0, decode_requests=10, decode_kv_tokens=100
    )
    # A clock that has still to rise would be too late for 14 ms.
    for slack_s, in_force_mhz, fastest in (
        (0.05, target_mhz, False),
        (0.014, target_mhz, False),
        (0.014, 1000.0, True),
    ):
        for _ in range(3):  # what has waited so long has joined a batch that was late already
            now_s += 0.1
            decision = controller.decide(
                seen(mixed, now_s, slack_s=slack_s, queue=late, target_mhz=in_force_mhz)
            )
        assert (decision.clock_mhz == 1000.0) is fastest


def test_ends_say_how_long_answers_are_and_gaps_what_of_them_is_late():
    controller, now_s, _ = calm()
    reserve = controller.decode.reserve.rho
    assert controller.decode.envelope.owed_tokens > 100.0
    for _ in range(200):
        for _ in range(10):
            controller.decide(seen(Load.decode(10, 100), now_s))
            now_s += 0.01
        for _ in range(10):  # so that ten tokens are an answer
            controller.request_ended(late=True)
    assert controller.decode.envelope.owed_tokens < 20.0
    assert controller.decode.reserve.rho == reserve


def test_answers_of_one_token_leave_no_gaps_and_ask_for_no_clock():
    """Nobody waits for a second token, so that deadlines alone set the clock, from the start on."""
    controller, now_s, clocks_mhz = make(), 0.0, []
    for _ in range(100):
        decision = controller.decide(seen(Load.prefill([(5, 0)]), now_s, slack_s=math.inf))
        controller.plan(now_s)
        clocks_mhz.append(decision.clock_mhz)
        now_s += 0.1
    assert max(clocks_mhz[10:]) < 1000.0


def test_at_the_power_limit_no_level_is_faster_than_what_boards_hold():
    """Prompts that no board runs as fast as its fastest level are nobody's to keep."""

    class Limited(Rising):
        """As `Rising`; 300 W are drawn at 800 MHz."""

    free = BothPhases(MODEL, Limited(), LEVELS, SLO)
    bound = BothPhases(MODEL, Limited(), LEVELS, SLO, max_power_w=300.0)
    for controller in (free, bound):
        now_s = 0.0
        for step in range(1, 200):
            # 38 ms of prompts and 10 of decode at the fastest level, and 60 ms at 800 MHz.
            load = Load.prefill([(38, 0)]) if step % 5 == 0 else Load.decode(10, 100)
            controller.decide(seen(load, now_s, slack_s=0.05, target_mhz=800.0))
            now_s += float(row(load)[3])
    assert free.late_gaps.late_at_fastest(1.0, 0.0) == 0.0
    assert bound.late_gaps.late_at_fastest(1.0, 0.0) == pytest.approx(0.25, abs=0.01)
