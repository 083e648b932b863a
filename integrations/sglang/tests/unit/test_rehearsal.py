"""A whole rehearsal: the very processes of production, on boards that are not there."""

from __future__ import annotations

import math

import pytest
from rehearsed import director_of

from voltana.rehearsal import fake_driver
from voltana.rehearsal.measured import measure

FACTOR = 0.5


@pytest.fixture(scope="module")
def director(tmp_path_factory):
    if fake_driver.compiler() is None:
        pytest.skip("no C compiler to build the fake driver with (install gcc)")
    return director_of(tmp_path_factory.mktemp("rehearsal"), ["static-low"], factor=FACTOR)


@pytest.fixture(scope="module")
def evidence(director):
    """Of a policy whose energy nobody's lateness changes much."""
    return director.rehearsed("static-low", fake_driver.built(), 9.0)


def test_every_request_gets_all_its_tokens_through_the_router(director, evidence):
    assert [one.error for one in evidence.replayed.told] == [""] * len(director.scenario.trace)
    assert (evidence.replayed.ttft_s > 0).all()
    assert (evidence.replayed.mean_itl_s > 0).all()


def test_the_daemon_holds_the_policys_clock_at_the_driver(director, evidence):
    held = {clock for r in evidence.readings if r.at_s > evidence.start_s for clock in r.clock_mhz}
    assert held == {1005.0}
    assert {clock_mhz for _, _, clock_mhz in evidence.set_calls} == {1005}
    for rows in evidence.rows.values():
        assert rows
        assert [row[2] for row in rows] == pytest.approx([1005.0] * len(rows))


def test_energy_from_outside_is_what_the_plant_says_of_the_iterations(director, evidence):
    """The driver's counter against the sum over iterations and idling, by instance."""
    horizon_s = 9.0
    measured = measure("static-low", evidence, director.scenario.cluster.slo, horizon_s=horizon_s)
    idle_w = director.scenario.plant.idle_power_w(1005.0)
    start_s = evidence.start_s * FACTOR
    expected_j = 0.0
    for rows in evidence.rows.values():
        within = [row for row in rows if start_s <= row[0] < start_s + horizon_s]
        expected_j += sum(row[6] for row in within)
        expected_j += idle_w * (horizon_s - sum(row[1] for row in within))
    assert measured.energy_j == pytest.approx(expected_j, rel=0.02)
    assert measured.requests_completed == measured.requests_offered
    assert math.isnan(measured.energy_saved_vs_static_max)


def test_agents_learned_from_the_real_ring_and_promise_nothing_for_a_fixed_clock(evidence):
    assert {agent["role"] for agent in evidence.agents} == {"prefill", "decode"}
    for agent in evidence.agents:
        assert agent["health"] == "ok"
        assert agent["actuator"] == "daemon"
        assert not agent["dry_run"]
        assert agent["records_lost"] == agent["records_torn"] == 0
        # Of launches that came together, only the last one is decided on.
        assert 0 < sum(agent["decisions"].values()) <= len(evidence.rows[agent["instance"]])
        assert agent["decisions"]["certified"] == 0


def test_logs_and_records_are_kept(director, evidence):
    kept = director.folder / "static-low"
    assert {path.name for path in (kept / "logs").iterdir()} >= {
        "daemon.log", "launch.log", "router.log", "prefill-0.log", "agent-decode-0.log",
    }  # fmt: skip
    assert (kept / "records" / "decode-0.jsonl").stat().st_size > 0
