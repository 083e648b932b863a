"""A virtual engine: the plant's scheduling of one instance, run against the wall's clock.

Admission, batches, chunked prefill, KV capacity and the host's work are the plant's own code. What
is around it (requests, answers, the ring) is an engine's dialect: an integration builds that.
"""

from __future__ import annotations

import gc
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from voltana.errors import ConfigError
from voltana.plant.cluster import ClusterSpec, EngineOptions
from voltana.plant.decode import DecodeInstance
from voltana.plant.hardware import load_hardware
from voltana.plant.iteration import PlantModel
from voltana.plant.latency import LatencyModel
from voltana.plant.model import load_model
from voltana.plant.noise import LognormalNoise
from voltana.plant.prefill import PrefillInstance
from voltana.rehearsal.driver_view import DriverView
from voltana.rehearsal.live_board import LiveBoard
from voltana.rehearsal.live_events import LiveEvents
from voltana.rehearsal.live_runner import LiveRunner
from voltana.rehearsal.priority import go_first
from voltana.slo import Slo
from voltana.values import Load
from voltana_actuatord.timebase import time_factor

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from voltana.plant.job import Job
    from voltana.plant.runner import Runner

SETTINGS_VARIABLE = "VOLTANA_REHEARSAL"
"""Names the file of `EngineSettings` to the engines of a rehearsal."""

LOOK_S = 0.005
"""How often an engine looks at its clock, on the wall: well within the time that one takes to
settle, and what it finds takes effect when the driver says."""

IDLE_TICK_S = 0.5
_APART, _MOST_WARM = 64, 512
KEEP_S = 1.0
"""How often rows are written, on the wall."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What all engines of a rehearsal are told.

    Attributes:
        hardware: Hardware profile.
        model: Model profile.
        tensor_parallel: Boards of one instance.
        ttft_ms: TTFT threshold, from which deadlines in queues follow.
        itl_ms: ITL threshold.
        seed: Of all noise.
        options: Fields of `EngineOptions` that differ from its defaults.
        state: The driver's state.
        gpus: Indices of the boards of each instance, by its name.
        records: Folder of what the engines did.
    """

    hardware: str
    model: str
    tensor_parallel: int
    ttft_ms: float
    itl_ms: float
    seed: int
    options: Mapping[str, Any]
    state: str
    gpus: Mapping[str, tuple[int, ...]]
    records: str

    def write(self, path: Path) -> None:
        """Write them for the engines to read."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls) -> EngineSettings:
        """Those of the rehearsal that this process belongs to.

        Raises:
            ConfigError: If it belongs to none.
        """
        path = os.environ.get(SETTINGS_VARIABLE)
        if path is None:
            raise ConfigError(
                f"{SETTINGS_VARIABLE} is not set: must name the rehearsal that a virtual engine "
                "belongs to. Start engines with `voltana rehearse`."
            )
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))

    def cluster(self) -> ClusterSpec:
        """The cluster whose engine this is."""
        return ClusterSpec(
            hardware=load_hardware(self.hardware),
            model=load_model(self.model),
            slo=Slo(ttft_s=self.ttft_ms / 1e3, itl_s=self.itl_ms / 1e3),
            tensor_parallel=self.tensor_parallel,
            engine=EngineOptions(**self.options),
        )


class Engine:
    """What the engines of both roles have in common; one event loop runs it.

    Args:
        settings: Those of the rehearsal.
        name: Of the instance.
        loop: Whose time is the engine's.

    Attributes:
        cluster: What it is a part of.
        events: Its events.
        runner: Runs its iterations.
    """

    def __init__(
        self, settings: EngineSettings, name: str, loop: asyncio.AbstractEventLoop
    ) -> None:
        pace = time_factor()
        self.cluster = cluster = settings.cluster()
        self.events = LiveEvents(loop, pace)
        plant = PlantModel(cluster.hardware, cluster.model, cluster.tensor_parallel)
        _warm(plant, cluster)
        self._driver = DriverView(Path(settings.state), settings.gpus[name])
        board = LiveBoard(plant, self._driver, now_s=self.events.now_s(), pace=pace)
        seed = np.random.SeedSequence([settings.seed, *name.encode()])
        noise = LognormalNoise(np.random.default_rng(seed), cluster.engine.latency_noise)
        self.runner = LiveRunner(board, self.events, noise)
        self._loop = loop
        self._look_s = LOOK_S * pace
        self._keep_s = KEEP_S * pace
        self._records = Path(settings.records) / f"{name}.jsonl"

    def run(self, revise: Callable[[float], None]) -> None:
        """Begin to follow the driver's clock, and to keep what happens.

        Args:
            revise: Moves the end of the instance's iteration.
        """
        self.runner.revise = revise
        gc.collect()
        gc.freeze()  # what lives as long as the process need not be looked at again and again
        go_first()
        self._look()
        self._keep()
        self._tick(self.events.now_s())

    def close(self) -> None:
        """Keep what is left to be kept."""
        self._write()
        self._driver.close()

    def _look(self) -> None:
        self.runner.follow(self.events.catch_up())
        self._loop.call_later(self._look_s, self._look)

    def _keep(self) -> None:
        self._write()
        self._loop.call_later(self._keep_s, self._keep)

    def _tick(self, now_s: float) -> None:
        if self.runner.board.end_s == math.inf:
            self.runner.idle(now_s)
        self.events.schedule(now_s + IDLE_TICK_S, self._tick)

    def _write(self) -> None:
        """Append what happened to a file, so that it is there however this process ends."""
        events, rows = self.events, self.runner.rows
        said = {
            "at_s": events.now_s(),
            "happened": events.happened,
            "late": events.late,
            "latest_s": events.latest_s,
        }
        events.latest_s = 0.0
        try:
            with self._records.open("a", encoding="utf-8") as file:
                file.write(json.dumps(said | {"rows": rows}) + "\n")
        except OSError as error:
            raise SystemExit(
                f"virtual engine: its iterations cannot be kept in {self._records}: "
                f"{error.strerror}. Make room there."
            ) from None
        self.runner.rows = []


def _warm(plant: PlantModel, cluster: ClusterSpec) -> None:
    """Have the plant's tables worked out: the first load of a size takes tens of milliseconds."""
    fastest_mhz, options = cluster.hardware.clocks_mhz[-1], cluster.engine
    for tokens in range(1, options.max_prefill_tokens + _APART, _APART):
        plant.iterate(Load.prefill([(min(tokens, options.max_prefill_tokens), 0)]), fastest_mhz)
    for requests in range(1, min(options.max_running_requests, _MOST_WARM) + _APART, _APART):
        plant.iterate(Load.decode(requests, requests), fastest_mhz)


def prefill_instance(
    engine: Engine, *, take_up: Callable[[Job], None], hand_on: Callable[[Job, float], None]
) -> PrefillInstance:
    """The plant's prefill instance on an engine; see `PrefillInstance`."""
    cluster = engine.cluster
    return PrefillInstance(
        _as_runner(engine),
        engine.events,
        max_tokens=cluster.engine.max_prefill_tokens,
        ttft_s=cluster.slo.ttft_s,
        request_s=cluster.hardware.host.request_s,
        take_up=take_up,
        hand_on=hand_on,
    )


def decode_instance(
    engine: Engine,
    *,
    complete: Callable[[Job, float], None],
    deliver: Callable[[Job, Load, float], None],
) -> DecodeInstance:
    """The plant's decode instance on an engine; see `DecodeInstance`."""
    cluster = engine.cluster
    latency = LatencyModel(cluster.hardware, cluster.model, cluster.tensor_parallel)
    host = cluster.hardware.host
    return DecodeInstance(
        _as_runner(engine),
        engine.events,
        capacity_tokens=cluster.kv_capacity_tokens,
        reserved_tokens=cluster.engine.reserved_decode_tokens,
        max_requests=cluster.engine.max_running_requests,
        slack=None,
        step_s=host.step_s,
        token_s=host.token_s,
        transfer_s=latency.transfer_s if cluster.engine.transfer else lambda _tokens: 0.0,
        complete=complete,
        deliver=deliver,
    )


def _as_runner(engine: Engine) -> Runner:
    """An instance begins, finishes and idles its iterations, and nothing else, by its runner."""
    return cast("Runner", engine.runner)
