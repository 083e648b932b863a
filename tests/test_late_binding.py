"""Late binding: the decode instance is chosen when the prefill is done, and holds what it must."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.plants import LinearPlant, Turns, cluster, policy, trace
from voltana.cli.main import app
from voltana.cluster.held_caches import HeldCaches
from voltana.errors import ConfigError
from voltana.evaluation.compare import compare
from voltana.evaluation.comparison_report import caption
from voltana.evaluation.scenario import ARRIVALS, load_scenario
from voltana.plant.simulation import Simulation
from voltana.routers.fill_up import FillUp
from voltana.testing import samples
from voltana.values import NO_RESERVATION, Deferral, Reservation, Role

ROWS = ((0.0, 1000, 200), (0.05, 1000, 200), (0.1, 2000, 3))
"""Prompts of 0.1 s, 0.1 s and 0.2 s on one instance; two long answers and a short one."""


class Watching(Turns):
    """Notes what it is shown, and when."""

    def __init__(self, clock):
        super().__init__()
        self.clock, self.shown = clock, []

    def route(self, request, candidates):
        self.shown.append((round(self.clock(), 6), request, list(candidates)))
        return super().route(request, candidates)


def watched(rows=ROWS, *, routers=None, **engine):
    """A simulation that was run, and what its routers saw, by role."""
    made, seen = {}, {}

    def router(role):
        def make(_seed):
            one = (routers or {}).get(role, Watching)(lambda: made["run"].now_s)
            return seen.setdefault(role, one)  # that of colocated instances is asked nothing

        return make

    both = dataclasses.replace(
        policy(), prefill_router=router(Role.PREFILL), decode_router=router(Role.DECODE)
    )
    made["run"] = Simulation(cluster(decode=2, **engine), both, trace(*rows), plant=LinearPlant())
    made["run"].run()
    return made["run"], seen


def test_the_decode_router_sees_the_states_at_the_end_of_the_prefill():
    _, seen = watched(binding="late")
    decode = seen[Role.DECODE].shown
    assert [at_s for at_s, _, _ in decode] == [0.1, 0.2, 0.4]
    # The first answer runs by then, with a token every 10 ms; at the third prompt's arrival it
    # was not there yet.
    assert [c.state.running_requests for c in decode[1][2]] == [1, 0]
    assert [c.in_flight for c in decode[2][2]] == [1, 1]
    assert decode[1][2][0].state.kv_tokens > 1000
    assert [at_s for at_s, _, _ in seen[Role.PREFILL].shown] == [0.0, 0.05, 0.1]


def test_by_default_the_pair_is_chosen_at_arrival():
    simulation, seen = watched()
    assert [at_s for at_s, _, _ in seen[Role.DECODE].shown] == [0.0, 0.05, 0.1]
    assert [c.state.running_requests for c in seen[Role.DECODE].shown[2][2]] == [0, 0]
    late, _ = watched(binding="late")
    for one, other in zip(simulation.jobs, late.jobs, strict=True):
        assert (one.decode, one.completed_s) == (other.decode, other.completed_s)


def test_what_is_held_is_shown_until_it_is_pulled():
    """The third request finds what the first keeps while its KV cache waits for a decode batch."""
    _, seen = watched(
        ((0.0, 1000, 50), (0.0, 1000, 50), (0.0, 1000, 50), (0.35, 1000, 2), (2.0, 1000, 2)),
        binding="late",
        max_running_requests=1,
    )
    held = [shown[0].held for _, _, shown in seen[Role.PREFILL].shown]
    assert held == [NO_RESERVATION] * 3 + [Reservation(requests=1, prompt_tokens=1000)] + [
        NO_RESERVATION
    ]


def test_a_prompt_waits_for_memory_that_is_held_and_early_binding_counts_none():
    rows = ((0.0, 900, 100), (0.0, 900, 100), (0.0, 900, 2))
    options = {"kv_capacity_tokens": 2000, "max_running_requests": 1, "reserved_decode_tokens": 0}
    late, _ = watched(rows, binding="late", **options)
    early, _ = watched(rows, **options)
    # Two caches are pulled at once; the third prompt needs none to be free, the fourth does.
    assert late.finished == early.finished == 3
    more = (*rows, (0.0, 900, 2), (0.0, 900, 2), (0.0, 900, 2))
    late, _ = watched(more, binding="late", **options)
    early, _ = watched(more, **options)
    assert late.finished == early.finished == 6
    assert max(j.first_token_s for j in late.jobs) > 1.0
    assert late._prefill[0].held_tokens == 0
    assert late._prefill[0].runner.iterations >= early._prefill[0].runner.iterations


class Reluctant(Watching):
    """Defers everything as long as it may."""

    def route(self, request, candidates):
        if request.slack_s > 0:
            self.shown.append((round(self.clock(), 6), request, list(candidates)))
            return Deferral(for_s=0.05, reason="reluctant")
        return super().route(request, candidates)


def test_what_the_decode_router_defers_waits_after_its_prefill_and_no_longer_than_it_may():
    simulation, seen = watched(((0.0, 1000, 5),), routers={Role.DECODE: Reluctant}, binding="late")
    (job,) = simulation.jobs
    # 85 % of what the threshold of 0.5 s leaves after 0.1 s of prefill, and no longer.
    assert job.first_token_s == pytest.approx(0.1 + 0.85 * 0.4)
    assert seen[Role.DECODE].shown[0][0] == 0.1
    assert simulation._dispatcher.holding.counts.held == 0
    assert simulation._dispatcher.holding_late.counts.overdue == 1


def test_a_prompt_goes_where_held_caches_leave_room():
    full = samples.candidate(
        0, Role.PREFILL, kv_capacity_tokens=5_000, held=Reservation(requests=4, prompt_tokens=4_000)
    )
    other = samples.candidate(1, Role.PREFILL, kv_capacity_tokens=5_000)
    free = dataclasses.replace(full, held=NO_RESERVATION)
    request = samples.request(0)
    assert FillUp().route(request, [free, other]) == full.instance
    assert FillUp().route(request, [full, other]) == other.instance
    both = [full, dataclasses.replace(full, instance="p1")]
    assert FillUp().route(request, both) == full.instance  # nowhere is room: as without


def test_caches_are_counted_until_they_are_pulled_given_up_or_their_lease_ends():
    caches, two = HeldCaches(), Reservation(requests=2, prompt_tokens=30)
    caches.hold("a", "p", two, 1.0)
    caches.hold("b", "p", two, 1.0)
    caches.hold("c", "q", two, 1.0)
    assert caches.held("p", 1.0) == Reservation(requests=4, prompt_tokens=60)
    caches.fetched("a", 1.5)
    caches.fetched("a", 9.0)  # again: ignored
    caches.fetched("unknown", 9.0)
    assert (caches.held("p", 2.0), caches.usual_s) == (two, 0.5)
    caches.end_after("b", 30.0, 2.0)
    caches.end_after("unknown", 30.0, 2.0)
    assert caches.held("p", 31.9) == two
    assert caches.held("p", 32.0) == NO_RESERVATION
    caches.hold("b", "p", two, 33.0)  # the same id again is another cache
    caches.end_after("b", 1.0, 33.0)
    caches.hold("b", "p", two, 33.5)
    assert caches.held("p", 40.0) == two
    caches.let_go("b")
    caches.let_go("c")
    assert len(caches) == 0
    for rid in range(1000):  # nobody asks, and nothing piles up
        caches.hold(rid, "p", two, float(rid))
        caches.end_after(rid, 5.0, float(rid))
    assert len(caches) <= 7


def scenario(**cluster):
    return load_scenario(
        None,
        {
            "policies": ["voltana"],
            "cluster": cluster,
            "engine": {"binding": "late"},
            ARRIVALS: {"rate_rps": 20.0, "duration_s": 2.0},
        },
    )


def test_a_scenario_says_it_and_is_written_back_and_reported():
    made = scenario()
    assert made.file.engine.binding == "late"
    assert made.cluster.engine.binding == "late"
    assert "chosen when the prefill is done (late binding)" in caption(compare(made))
    assert load_scenario(None, {}).file.engine.binding == "early"


def test_pairs_beside_colocated_instances_are_bound_late():
    run = compare(scenario(prefill=1, decode=1, colocated=1)).runs[0]
    assert np.isfinite(run.record.completed_s).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--colocated", "2"), "engine.binding = 'late' is not allowed: must be early where every"),
        (("--binding", "never"), "engine.binding"),
    ],
)
def test_where_nothing_is_bound_it_is_refused(arguments, said):
    done = CliRunner().invoke(app, ["simulate", "--binding", "late", *arguments])
    assert done.exit_code != 0
    assert isinstance(done.exception, ConfigError) or said in done.output
    assert said in f"{done.exception} {done.output}"
