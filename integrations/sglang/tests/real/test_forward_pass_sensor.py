"""The plugin and ForwardPassMetrics as sensors of one engine, in the same run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from measured import Watch, measured_spec, metrics_address, send_many
from servers import wait_for
from voltana.serving.sensors.forward_pass import ForwardPassSources
from voltana.timebase import MonotonicTime
from voltana_ring.layout import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Fleet


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sensed")


def test_both_sensors_count_the_same_iterations(fleet: Fleet, folder: Path) -> None:
    (server,) = fleet.get(measured_spec("sensed", "unified", folder))
    sources = ForwardPassSources(
        [f"{metrics_address('sensed', folder)}.0"],
        folder=folder / "rings",
        instance="sensed",
        role="unified",
        max_batch_tokens=8192,
        time=MonotonicTime(),
    )
    try:
        assert wait_for(sources.find)  # a heartbeat
        reader = sources.open(sources.find()[0])
        with Watch("sensed", folder) as watch:
            reader.drain()
            send_many(server, 320)
        told = reader.drain()
    finally:
        sources.close()
    sensed = [one for one in told if one.kind is Kind.FINISHED]
    hooked = watch.finished()
    assert len(hooked) >= 1000
    assert reader.lost == reader.torn == 0
    counts = [
        [(r.load.prefill_tokens, r.load.decode_requests, r.load.decode_kv_tokens) for r in records]
        for records in (sensed, hooked)
    ]
    assert counts[0] == counts[1]
    # Prompts that are computed together and have cached beginnings are taken to be alike.
    pairs = [sum(r.load.prefill_attended_pairs for r in records) for records in (sensed, hooked)]
    assert pairs[0] == pytest.approx(pairs[1], rel=0.02)
    # The forward pass alone is shorter than from its launch to its result.
    assert sum(one.latency_s for one in sensed) < sum(one.latency_s for one in hooked)
    launched = {one.iteration for one in told if one.kind is Kind.LAUNCHED}
    share = sum(one.iteration in launched for one in sensed) / len(sensed)
    print(f"{len(hooked)} iterations alike, {share:.0%} foreseen, {pairs[0] / pairs[1]:.4f} pairs")  # noqa: T201
    assert share > 0.2
