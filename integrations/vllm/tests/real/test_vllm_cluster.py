"""``voltana-vllm launch`` on real servers: the loop closes, and parts die one after the other.

The GPUs are fake, driver and all; clocks are set through the real daemon.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from measured import Ring, finished
from tests.actuation import driver
from tests.actuation.daemons import Daemon
from tests.actuation.driver import Machine
from tests.clusters import faults
from tests.clusters.calls import administration, post, wait_for
from tests.clusters.launched import TABLES, Engine, Launched
from vllm_server import ARGUMENTS, ENVIRONMENT, PYTHON, START_TIMEOUT_S, greedy, prompt_of, transfer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from voltana.serving.ring_records import Record

FASTEST_MHZ = 1410
LOOSE = {"ttft_ms": 60_000, "itl_ms": 20_000}
"""Thresholds that a busy machine keeps, too."""

ROUNDS = 4
TOKENS = 32
LEAST_EXPLAINED = 0.1
"""Where loads explain less of what iterations take, the machine is too busy to show learning:"""
MOST_LOST = 1.1
"""then errors are held to so much of those of a mean that forgets as fast as the predictor does."""
FORGETTING = 0.98
"""`EcoPred`'s: by so much each label leaves those before it to the past."""


def body(number: int) -> dict[str, object]:
    """Prompts and answers of many lengths, so that batches differ."""
    return greedy(prompt_of(20 + number * 131 % 600, seed=number), TOKENS)


ENGINE = Engine(
    program="voltana_vllm",
    environment=ENVIRONMENT,
    launch={
        "interpreter": PYTHON,
        "arguments": ["--served-model-name", "tiny", *ARGUMENTS],
        "prefill_arguments": list(transfer("kv_producer")),
        "decode_arguments": list(transfer("kv_consumer")),
        "start_timeout_s": START_TIMEOUT_S,
    },
    path="/v1/completions",
    body=body,
    tokens=lambda answer: list(answer["choices"][0]["token_ids"]),
    length=TOKENS,
)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Three fake A100s."""
    if driver.compiler() is None:
        pytest.skip("no C compiler to build the fake driver with (install gcc)")
    folder = tmp_path_factory.mktemp("machine")
    made = Machine(folder, driver.build(folder), devices=3)
    yield made
    made.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the launch, its daemon and its logs live."""
    return tmp_path_factory.mktemp("launch")


@pytest.fixture(scope="module")
def daemon(machine: Machine, folder: Path) -> Iterator[Daemon]:
    """The daemon, restarted whenever it dies, as systemd does."""
    with Daemon(folder, machine, init=True) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(machine: Machine, daemon: Daemon, folder: Path, model: Path) -> Iterator[Launched]:
    """1P2D under a launch that keeps serving."""
    servers = {"prefill": 1, "decode": 2, "gpus": [0, 1, 2], "on_exit": "keep-serving"}
    with Launched(
        ENGINE, folder, model, servers, TABLES, environment=machine.environment()
    ) as made:
        made.wait_ready()
        for index in range(3):  # see VllmServer.wait
            post(
                f"http://127.0.0.1:{made.first_port + index}{ENGINE.path}",
                greedy(prompt_of(200), 5),
            )
        yield made


def test_every_part_is_ready_and_answers_alike_whichever_server_decodes(cluster: Launched) -> None:
    said = cluster.said()
    for name in [*faults.NAMES, *(f"agent-{name}" for name in faults.NAMES), "router"]:
        assert f"{name:<12} ready after" in said
    first, again = ([cluster.generate(number) for number in range(20)] for _ in range(2))
    assert first == again
    assert len({tuple(ids) for ids in first}) > 10
    alone = f"http://127.0.0.1:{cluster.first_port}{ENGINE.path}"
    assert first == [ENGINE.tokens(post(alone, body(number))) for number in range(20)]


def test_decisions_reach_the_driver_and_the_router_plans_on_what_agents_publish(
    cluster: Launched, machine: Machine
) -> None:
    def chosen() -> str:
        return administration(cluster.url, "/metrics").decode()

    with cluster.traffic() as traffic:
        assert machine.wait(
            lambda: all(machine.locked_mhz(gpu) for gpu in range(3)), cluster.patience_s
        )
        assert wait_for(
            lambda: 'choices_total{role="decode",source="feed"}' in chosen(), cluster.patience_s
        )
        assert traffic.completes_from(0.0, 20)
    assert traffic.lost == traffic.refused == []
    statuses = {name: cluster.well(name) for name in faults.NAMES}
    assert [status["role"] for status in statuses.values()] == ["prefill", "decode", "decode"]
    for status in statuses.values():
        assert not status["dry_run"]
        assert status["records_lost"] == status["records_torn"] == 0
        assert status["power_w"] > 0


def test_predictors_learn_online_and_beat_the_mean(cluster: Launched, folder: Path) -> None:
    legs = {"prefill-0": "prefill", "decode-0": "decode"}
    rings = {name: Ring(folder / "rings", name) for name in legs}
    for name in legs:
        cluster.put(name, "slo", **LOOSE)
    for turn in range(ROUNDS):
        # Whatever else the machine does makes some iterations slow; what is learned shows in time.
        for clients, answers in ((1, 15), (24, 72)):
            with cluster.traffic(clients) as traffic:
                assert traffic.completes_from(0.0, answers)
        errors = {name: cluster.status(name)["prediction"][leg] for name, leg in legs.items()}
        if turn and all(e["mae_ms"] < e["mean_predictor_mae_ms"] for e in errors.values()):
            break
    records = {name: finished(ring.taken()) for name, ring in rings.items()}
    for ring in rings.values():
        ring.close()
    explained = {name: explained_by_load(records[name]) for name in legs}
    sys.stdout.write(f"\n{json.dumps(errors)}\nexplained by loads: {json.dumps(explained)}\n")
    for name, found in errors.items():
        most_ms = found["mean_predictor_mae_ms"]
        if explained[name] <= LEAST_EXPLAINED:
            most_ms = MOST_LOST * max(most_ms, 1e3 * error_of_a_mean_that_forgets(records[name]))
        assert found["mae_ms"] < most_ms, name
    account = cluster.status("decode-0")["guarantee"]
    assert account["decided"] > 0
    assert account["missed"] <= account["bound"]


def explained_by_load(records: list[Record]) -> float:
    """Share of the mean predictor's error that the best linear model in hindsight saves.

    Where other work takes the processor for many times what an iteration takes, loads explain
    nothing of how long it lasts, and no predictor can know it.
    """
    loads = [record.load for record in records]
    rows = np.array(
        [
            (1.0, ld.prefill_tokens, ld.prefill_attended_pairs, ld.decode_requests,
             ld.decode_kv_tokens)
            for ld in loads
        ]
    )  # fmt: skip
    latency_s = np.array([record.latency_s for record in records])
    fitted_s = rows @ np.linalg.lstsq(rows, latency_s, rcond=None)[0]
    left_s = np.abs(latency_s - fitted_s).mean() / np.abs(latency_s - latency_s.mean()).mean()
    return 1.0 - float(left_s)


def error_of_a_mean_that_forgets(records: list[Record]) -> float:
    """Mean absolute error in seconds: what noise leaves to whoever follows a machine that changes.

    The mean of all labels is better where nothing but noise is in them, and has to be.
    """
    total_s = weight = 0.0
    errors_s = []
    for record in records:
        if weight:
            errors_s.append(abs(record.latency_s - total_s / weight))
        total_s = FORGETTING * total_s + record.latency_s
        weight = FORGETTING * weight + 1.0
    return float(np.mean(errors_s))


def test_every_request_is_told_and_ends_once_in_the_account(cluster: Launched) -> None:
    """One whose KV cache is kept for a decode server is in the prefill server's table still."""
    cluster.put("prefill-0", "slo", **LOOSE)
    with cluster.traffic() as traffic:
        assert traffic.completes_from(0.0, 20)  # a latency that is not known is promised to nobody
    assert wait_for(lambda: settled(cluster), cluster.patience_s)
    before = cluster.status("prefill-0")["guarantee"]["requests"]["ttft"]
    for number in range(30):
        assert cluster.generate(number)
    assert wait_for(lambda: settled(cluster), cluster.patience_s)
    after = cluster.status("prefill-0")["guarantee"]["requests"]["ttft"]
    more = {name: after[name] - before[name] for name in after}
    assert more["arrived"] == 30
    assert more["lost"] == more["withdrawn"] == 0
    assert more["promised"] == more["scored"] > 15
    assert after["missed"] <= after["bound"]


def settled(cluster: Launched) -> bool:
    """Whether every request that the prefill server promised has ended."""
    return not cluster.status("prefill-0")["guarantee"]["requests"]["ttft"]["in_flight"]


def test_a_change_of_the_slo_takes_effect_in_the_driver(
    cluster: Launched, machine: Machine
) -> None:
    decode = [name for name in faults.NAMES if name.startswith("decode")]
    for name in decode:
        cluster.put(name, "slo", **LOOSE)
    with cluster.traffic(8):
        assert machine.wait(lambda: slowed(machine), cluster.patience_s) or scatters(cluster)
        for name in decode:
            cluster.put(name, "slo", itl_ms=0.01)  # cannot be kept: the fastest clock
        assert machine.wait(
            lambda: FASTEST_MHZ in {machine.locked_mhz(gpu) for gpu in (1, 2)}, cluster.patience_s
        )
        for name in decode:
            cluster.put(name, "slo", **LOOSE)
        assert machine.wait(lambda: slowed(machine), cluster.patience_s) or scatters(cluster)


def scatters(cluster: Launched) -> bool:
    """Whether a decode server's iterations scatter too much for anything to be promised of them.

    They are computed at the fastest clock then, whatever the thresholds (docs/guarantee.md): a
    machine with many other processes takes the processor away for many times an iteration.
    """
    statuses = [cluster.status(name) for name in faults.NAMES if name.startswith("decode")]
    sys.stdout.write(f"\n{json.dumps(statuses)}\n")
    return any(status["binding"] == "uncertainty" for status in statuses)


def slowed(machine: Machine) -> bool:
    """Whether both decode servers run below the fastest clock."""
    return all(0 < machine.locked_mhz(gpu) < FASTEST_MHZ for gpu in (1, 2))


def test_a_dry_run_acts_on_nothing(cluster: Launched, machine: Machine) -> None:
    for name in faults.NAMES:
        cluster.put(name, "dry-run", dry_run=True)
    assert wait_for(lambda: not machine.any_locked(), cluster.patience_s)
    calls = machine.set_calls()
    with cluster.traffic() as traffic:
        assert traffic.completes_from(0.0, 20)
    for name in faults.NAMES:
        status = cluster.status(name)
        assert status["dry_run"] is True
        assert status["target_mhz"] > 0  # what it would have asked for
    assert machine.set_calls() == calls
    assert not machine.any_locked()
    for name in faults.NAMES:
        cluster.put(name, "dry-run", dry_run=False)
    with cluster.traffic():
        assert wait_for(machine.any_locked, cluster.patience_s)


def test_top_shows_every_instance(cluster: Launched) -> None:
    listed = cluster.logs / "agents.json"
    done = subprocess.run(
        [sys.executable, "-m", "voltana", "top", "--json", "--from", str(listed)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    shown = {row["instance"]: row for row in json.loads(done.stdout)}
    assert set(shown) == set(faults.NAMES)
    assert all(row["clock_mhz"] > 0 for row in shown.values())


def test_a_killed_agent_costs_its_clock_for_a_moment_and_no_request(
    cluster: Launched, machine: Machine
) -> None:
    faults.kill_an_agent(cluster, machine)


def test_a_killed_router_is_back_and_its_clients_were_told(cluster: Launched) -> None:
    faults.kill_the_router(cluster)


def test_a_killed_daemon_costs_clocks_for_a_moment_and_no_request(
    cluster: Launched, machine: Machine, daemon: Daemon
) -> None:
    faults.kill_the_daemon(cluster, machine, daemon)


def test_a_killed_decode_server_is_left_out(cluster: Launched, machine: Machine) -> None:
    faults.kill_a_decode_server(cluster, machine)


def test_without_a_prefill_server_everything_ends_and_no_clock_stays(
    cluster: Launched, machine: Machine
) -> None:
    faults.kill_the_prefill_server(cluster, machine)
