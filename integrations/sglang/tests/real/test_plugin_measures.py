"""What the plugin measures in a real engine, against what that says itself."""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from measured import Watch, measured_spec, send_many
from servers import ENVIRONMENT, post, room
from voltana.values import Phase
from voltana_ring.layout import Kind

if TYPE_CHECKING:
    from servers import Fleet


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("measured")


@pytest.fixture
def measured(fleet: Fleet, folder):
    return fleet.get(measured_spec("measured", "unified", folder))[0]


def assert_equal_counts(watch: Watch, at_least: int) -> None:
    ours, theirs = watch.pairs()
    assert len(ours) >= at_least
    assert watch.reader.lost == watch.reader.torn == 0
    assert [pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1]] == []


def test_the_engine_says_that_its_hooks_are_live(measured):
    assert "voltana: hooks are live on SGLang" in measured.log_text()
    assert "PASSIVE" not in measured.log_text()


def test_every_iteration_is_counted_as_sglang_counts_it(measured, folder):
    with Watch("measured", folder) as watch:
        send_many(measured, 320)
    assert_equal_counts(watch, 1000)
    launched = [r for r in watch.records if r.kind is Kind.LAUNCHED]
    finished = watch.finished()
    assert [r.iteration for r in launched] == [r.iteration for r in finished]
    assert [r.load for r in launched] == [r.load for r in finished]
    assert all(r.latency_s > 0 for r in finished)


def test_latency_agrees_with_sglangs_where_the_device_takes_most_of_it(measured, folder):
    """Our latency begins with run_batch, SGLang's with the forward pass in it.

    The few tenths of a millisecond between count with a model of two layers, so that the long
    iterations are compared.
    """
    with Watch("measured", folder) as watch:
        send_many(measured, 15, at_once=1, prompt=(1800, 2000), output=(2, 2), seed=2)
    pairs = [
        (record.latency_s, metrics["wall_time"])
        for record, metrics in zip(watch.finished(), watch.published(), strict=True)
        if record.load.phase is Phase.PREFILL and record.load.prefill_tokens > 1500
    ]
    assert len(pairs) >= 12
    ratios = [ours / theirs for ours, theirs in pairs]
    prefills = [r for r in watch.finished() if r.load.phase is Phase.PREFILL]
    assert all(0 <= r.launch_s - r.oldest_s < 60 for r in prefills)  # arrivals are known
    # The median, and the sum of the middle: what the machine does between two readings of a clock
    # strikes a few of them.
    assert statistics.median(ratios) == pytest.approx(1.0, abs=0.05)
    middle = sorted(pairs, key=lambda pair: pair[0] / pair[1])[2:-2]
    assert sum(o for o, _ in middle) / sum(t for _, t in middle) == pytest.approx(1.0, abs=0.05)


def test_chunked_and_mixed_batches_are_counted_as_sglang_counts_them(fleet, folder):
    flags = ("--chunked-prefill-size", "128", "--enable-mixed-chunk")
    (server,) = fleet.get(measured_spec("mixed", "unified", folder, *flags))
    with Watch("mixed", folder) as watch:
        send_many(server, 80, prompt=(50, 500), output=(10, 40), seed=3)
    phases = {record.load.phase for record in watch.finished()}
    assert phases == {Phase.PREFILL, Phase.DECODE, Phase.MIXED}
    ours, theirs = watch.pairs()
    assert len(ours) == len(theirs)
    assert [o[:2] for o in ours] == [t[:2] for t in theirs]
    pure = [
        (o, t)
        for o, t, record in zip(ours, theirs, watch.finished(), strict=True)
        if record.load.phase is not Phase.MIXED
    ]
    assert [pair for pair in pure if pair[0] != pair[1]] == []
    # In a mixed batch SGLang reads the requests' lengths after some have grown by the result.
    mixed = [
        (o[2], t[2], o[1])
        for o, t, record in zip(ours, theirs, watch.finished(), strict=True)
        if record.load.phase is Phase.MIXED
    ]
    assert all(abs(o - t) <= requests for o, t, requests in mixed)
    chunked = [r for r in watch.records if r.kind is Kind.LAUNCHED and r.waiting]
    assert any(waiting.done_tokens > 0 for r in chunked for waiting in r.waiting)


def test_both_halves_of_a_pair_are_counted_and_name_what_joins(fleet, folder):
    prefill, decode = fleet.get(
        measured_spec("measured-p", "prefill", folder),
        measured_spec("measured-d", "decode", folder),
    )
    with Watch("measured-p", folder) as first, Watch("measured-d", folder) as second:
        rooms = [room() for _ in range(3)]
        for number in rooms:
            body = {
                "text": "one two three",
                "sampling_params": {"temperature": 0.0, "max_new_tokens": 8, "ignore_eos": True},
                "bootstrap_host": "127.0.0.1",
                "bootstrap_port": prefill.bootstrap_port,
                "bootstrap_room": number,
            }
            with ThreadPoolExecutor(1) as pool:
                leg = pool.submit(post, f"{prefill.url}/generate", body)
                post(f"{decode.url}/generate", body)
                leg.result()
        send_many(prefill, 40, output=(1, 1), seed=4)
        send_many(decode, 40, seed=5)
    assert all(0 <= r.launch_s - r.oldest_s < 120 for r in first.finished())
    assert_equal_counts(first, 10)
    assert_equal_counts(second, 100)
    assert {r.load.phase for r in first.finished()} == {Phase.PREFILL}
    assert {r.load.phase for r in second.finished()} == {Phase.DECODE}
    named = {number for r in first.records for number in r.rooms}
    assert set(rooms) <= named
    joined = [number for r in second.records for number in r.rooms]
    assert [joined.count(number) for number in rooms] == [1, 1, 1]


def test_the_installed_sglang_has_all_that_the_hooks_rely_on():
    """In a process of its own: SGLang's import warns, and reads the environment."""
    code = (
        "from voltana_sglang.hooks import contract;"
        "print(repr(contract.version_problem(contract.installed_version())),"
        "contract.static_problems())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "'' []"


def test_a_raising_hook_does_not_end_the_engine(fleet, folder, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "from voltana_sglang.hooks import meter\n"
        "real = meter.Meter.launch\n"
        "def launch(self, batch):\n"
        "    if self.iterations >= 3:\n"
        "        raise ZeroDivisionError('injected')\n"
        "    return real(self, batch)\n"
        "meter.Meter.launch = launch\n"
    )
    spec = measured_spec("raising", "unified", folder)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    spec = dataclasses.replace(spec, environment=(*spec.environment, ("PYTHONPATH", path)))
    (server,) = fleet.get(spec)
    answer = server.generate(
        text="one two three",
        sampling_params={"temperature": 0.0, "max_new_tokens": 30, "ignore_eos": True},
    )
    assert answer["meta_info"]["completion_tokens"] == 30
    assert server.healthy()
    said = server.log_text()
    assert "ZeroDivisionError: injected" in said
    assert said.count("switched off after 5 errors") == 1
    assert not list((folder / "rings").glob("raising*.ring"))
