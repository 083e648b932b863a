"""Iterations at chosen loads: their time and power, beside the plant's where it knows the board.

A point is run again and again for as long as it is held. Times are those of the plugin's ring;
power is the mean over the whole hold, gaps between iterations included, and the plant's is put
together likewise: its energy of every iteration that ran, and idle power for the rest.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gpu.board import watch
from benchmarks.gpu.engine_times import of_point
from benchmarks.gpu.read_along import read_along
from benchmarks.gpu.readings import Sampler
from voltana.serving.profile.design import Point
from voltana.serving.profile.run import DECODE_STEPS, ProfileRunError
from voltana.serving.profile.source import RingIterations
from voltana.values import Phase
from voltana_sglang.dialect.profiled_server import SglangServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from benchmarks.gpu.engine_times import EngineTimes
    from benchmarks.gpu.readings import Reading, ReadOnlyGpu
    from benchmarks.gpu.results import Results
    from benchmarks.gpu.serving import Servers
    from benchmarks.gpu.settings import Settings
    from voltana.plant import PlantModel
    from voltana.serving.launch.instances import Instance
    from voltana.serving.profile.run import Iteration

MOST_STEPS = 1000
ITERATIONS = "iterations"
"""Folder of files with every iteration of a point."""

RING_DELAY_S = 0.2
"""Until the last record of a run is in the ring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What a grid is measured with.

    Attributes:
        settings: The run.
        servers: Starts servers.
        results: Keeps figures.
        gpus: Boards of the server.
        plant: What the plant makes of them; None without.
    """

    settings: Settings
    servers: Servers
    results: Results
    gpus: tuple[ReadOnlyGpu, ...]
    plant: PlantModel | None


def decode_grid(bench: Bench, report: Progress) -> None:
    """Every batch at every context that fits, on a server that decodes alone."""
    wanted = [
        (f"{batch} x {context}", batch, context)
        for context in bench.settings.contexts
        for batch in bench.settings.batches
    ]
    missing = [point for point in wanted if point[0] not in bench.results.points("decode")]
    if not missing:
        return
    with bench.servers.decode_only() as instance:
        idle_s, trace = bench.settings.idle_s, bench.settings.out / "served_idle.npz"
        bench.results.step("served_idle", lambda: watch(bench.gpus, idle_s, trace))
        for name, batch, context in report.over("decode", missing):
            point = Point(
                phase=Phase.DECODE, requests=batch, prompt_tokens=context, clock_mhz=1.0
            )  # the clock is whatever the board runs at
            figures = _decode(bench, instance.url, instance.name, point)
            bench.results.put_point("decode", name, figures)


def prefill_grid(bench: Bench, instance: Instance, report: Progress) -> None:
    """Single prompts of every length that fits in one iteration, on a server for both phases."""
    for name, tokens in report.over("prefill", missing_prompts(bench)):
        point = Point(phase=Phase.PREFILL, requests=1, prompt_tokens=tokens, clock_mhz=1.0)
        figures = _prefill(bench, instance.url, instance.name, point)
        bench.results.put_point("prefill", name, figures)


def missing_prompts(bench: Bench) -> list[tuple[str, int]]:
    """Names and lengths of the prompts that have not been measured."""
    wanted = [(str(tokens), tokens) for tokens in bench.settings.prompts]
    return [point for point in wanted if point[0] not in bench.results.points("prefill")]


class Progress:
    """Tells after every point how many are left, and about how long they take."""

    def __init__(self, say: Callable[[str, str], None]) -> None:
        self._say = say

    def over(self, name: str, points: Sequence[Any]) -> Iterator[Any]:
        """The points, one after the other."""
        started_s = time.monotonic()
        for done, point in enumerate(points):
            yield point
            left_s = (time.monotonic() - started_s) / (done + 1) * (len(points) - done - 1)
            self._say(name, f"{point[0]}: {done + 1} of {len(points)}, {left_s:.0f} s left")


def _decode(bench: Bench, url: str, name: str, point: Point) -> dict[str, Any]:
    first = SglangServer(url)
    room = first.about.limits.max_tokens // point.requests - point.prompt_tokens
    room = min(room, first.about.limits.max_context - point.prompt_tokens - 1)
    if point.requests > first.about.limits.max_requests or room < DECODE_STEPS:
        return {"skipped": f"does not fit: {first.about.limits}"}
    with RingIterations(bench.servers.rings, name) as iterations:
        first.run(point)  # warm, and tells how long a step takes
        time.sleep(RING_DELAY_S)
        steps = [i.latency_s for i in iterations.drain() if is_of(point, i)]
        if not steps:
            return {"skipped": "requests never ran together in one batch"}
        wanted = int(bench.settings.hold_s / float(np.median(steps)))
        steps_each = max(DECODE_STEPS, min(wanted, room, MOST_STEPS))
        server = SglangServer(url, seed=1, decode_steps=steps_each)
        return _hold(bench, server, iterations, point)


def _prefill(bench: Bench, url: str, name: str, point: Point) -> dict[str, Any]:
    server = SglangServer(url)
    limits = server.about.limits
    if point.prompt_tokens > min(limits.max_prefill_tokens, limits.max_context - 1):
        return {"skipped": f"does not fit in one iteration: {limits}"}
    with RingIterations(bench.servers.rings, name) as iterations:
        server.run(point)
        return _hold(bench, server, iterations, point)


def _hold(
    bench: Bench, server: SglangServer, iterations: RingIterations, point: Point
) -> dict[str, Any]:
    """Run a point for its time, and say what was measured.

    Raises:
        ProfileRunError: If the plugin measured nothing.
    """
    iterations.drain()
    times = bench.servers.times
    if times is not None:
        times.drain()
    started_s = time.monotonic()
    with read_along(iterations.drain) as ran, Sampler(bench.gpus) as sampler:
        while time.monotonic() - started_s < bench.settings.hold_s:
            server.run(point)
    time.sleep(RING_DELAY_S)
    ran += iterations.drain()
    whole = [iteration for iteration in ran if is_of(point, iteration)]
    if not whole:
        raise ProfileRunError(
            f"no iteration with {point.requests} requests of {point.prompt_tokens} tokens was "
            "measured: the plugin must be loaded. Look for 'voltana' in the server's log."
        )
    _keep(bench.settings.out / ITERATIONS, point, ran)
    reading = sampler.reading()
    figures = _figures(whole, ran, reading) | of_plant(bench.plant, whole, ran, reading)
    return figures | (_of_engine(point, times) if times is not None else {})


def _keep(folder: Path, point: Point, ran: Sequence[Iteration]) -> None:
    """Every iteration of a point in a file, for models to be fitted to."""
    folder.mkdir(exist_ok=True)
    rows = [
        (
            one.load.prefill_tokens,
            one.load.prefill_attended_pairs,
            one.load.decode_requests,
            one.load.decode_kv_tokens,
            one.latency_s,
        )
        for one in ran
    ]
    name = f"{point.phase.value}-{point.requests}x{point.prompt_tokens}.npz"
    np.savez_compressed(folder / name, rows=np.array(rows))


def _of_engine(point: Point, times: EngineTimes) -> dict[str, Any]:
    """What the engine itself measured of the same iterations."""
    seconds = of_point(point, times.drain())
    if not seconds:
        return {}
    return {
        "engine_iterations": len(seconds),
        "engine_median_ms": round(1e3 * float(np.median(seconds)), 4),
    }


def is_of(point: Point, iteration: Iteration) -> bool:
    """Whether an iteration is one of the point: the whole batch, or the whole prompt."""
    load = iteration.load
    if point.phase is Phase.DECODE:
        return not load.prefill_tokens and load.decode_requests == point.requests
    whole = point.requests * point.prompt_tokens
    return load.prefill_tokens == whole and not load.decode_requests


def _figures(
    whole: Sequence[Iteration], ran: Sequence[Iteration], reading: Reading
) -> dict[str, Any]:
    times_ms = 1e3 * np.array([iteration.latency_s for iteration in whole])
    return {
        "iterations": len(whole),
        "median_ms": round(float(np.median(times_ms)), 4),
        "p99_ms": round(float(np.percentile(times_ms, 99)), 4),
        "busy": round(sum(iteration.latency_s for iteration in ran) / reading.seconds, 4),
        **reading.figures(),
    }


def of_plant(
    plant: PlantModel | None,
    whole: Sequence[Iteration],
    ran: Sequence[Iteration],
    reading: Reading,
) -> dict[str, Any]:
    """The plant's time and power for the same iterations at the clock that ran."""
    if plant is None or not np.isfinite(reading.clock_mhz):
        return {}
    clocks = plant.hardware.clocks_mhz
    clock_mhz = float(np.clip(reading.clock_mhz, clocks[0], clocks[-1]))
    times_s = [plant.latency_s(iteration.load, clock_mhz) for iteration in whole]
    measured_s = np.median([iteration.latency_s for iteration in whole])
    energy_j = sum(plant.power_w(one.load, clock_mhz) * one.latency_s for one in ran)
    busy_s = sum(iteration.latency_s for iteration in ran)
    idle_w = plant.idle_power_w(clock_mhz)
    power_w = (energy_j + idle_w * max(0.0, reading.seconds - busy_s)) / reading.seconds
    measured_w = reading.counter_w if np.isfinite(reading.counter_w) else reading.sensor_w
    return {
        "plant_ms": round(1e3 * float(np.median(times_s)), 4),
        "plant_time_error": round(float(np.median(times_s) / measured_s - 1), 4),
        "plant_w": round(power_w, 2),
        "plant_power_error": round(power_w / measured_w - 1, 4),
    }
