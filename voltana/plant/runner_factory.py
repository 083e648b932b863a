"""Puts the runner of each simulated instance together: board, policy, control loop, noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.cluster.context import instance_context
from voltana.loop import ControlLoop
from voltana.plant.adapters import SimulatedActuator, SimulatedSensor
from voltana.plant.bench import PlantBench
from voltana.plant.board import SimulatedBoard
from voltana.plant.noise import LognormalNoise
from voltana.plant.runner import Runner
from voltana.values import Domain

if TYPE_CHECKING:
    from voltana.plant.cluster import ClusterSpec
    from voltana.plant.events import EventQueue
    from voltana.plant.iteration import PlantModel
    from voltana.policy import InstanceContext, Policy
    from voltana.values import Role

CALL_DEVIATION = 0.43
"""Log deviation of the clock call's latency: median 3.5 ms and p99 about 10 ms, as measured."""


class RunnerFactory:
    """Makes the runners of one run; each draws noise of its own from the run's seed.

    Args:
        cluster: What serves.
        policy: What controls.
        plant: Latency and power of the boards.
        events: Simulated time.
        seed: Of all noise.
        record_timeline: Whether to keep a row for each iteration.
    """

    def __init__(
        self,
        cluster: ClusterSpec,
        policy: Policy,
        plant: PlantModel,
        events: EventQueue,
        *,
        seed: int,
        record_timeline: bool,
    ) -> None:
        self._cluster = cluster
        self._policy = policy
        self._plant = plant
        self._events = events
        self._seed = seed
        self._record_timeline = record_timeline
        self._seeds = iter(np.random.SeedSequence(seed).spawn(4 * cluster.instances + 1))
        self._bench = PlantBench(plant, self._noise(cluster.engine.latency_noise))

    def make(self, name: str, role: Role) -> Runner:
        """The runner of an instance; the order of calls decides its noise."""
        cluster, engine = self._cluster, self._cluster.engine
        hardware = cluster.hardware
        board = SimulatedBoard(
            self._plant,
            clock_mhz=hardware.clocks_mhz[-1],
            call_noise=self._noise(CALL_DEVIATION),
            call_s=hardware.clock_call_s,
            settle_s=hardware.clock_settle_s if engine.settle_s is None else engine.settle_s,
            energy_tick_s=engine.energy_tick_s,
        )
        control = self._policy.control(self._context(name, role))
        loop = ControlLoop(
            instance=name,
            domain=Domain(
                name=name, devices=tuple(f"{name}.{i}" for i in range(cluster.tensor_parallel))
            ),
            controller=control.controller,
            actuator=SimulatedActuator(board, self._events, hardware.clocks_mhz),
            sensor=SimulatedSensor(board, self._noise(engine.sensor_noise)),
            time=self._events,
            levels_mhz=control.levels_mhz,
            predictor=control.predictor,
            power=control.power,
        )
        return Runner(
            board,
            loop,
            latency_noise=self._noise(engine.latency_noise),
            energy_window_s=engine.energy_window_s,
            record_timeline=self._record_timeline,
            disturbances=[d for d in cluster.disturbances if d.instance == name],
        )

    def _context(self, name: str, role: Role) -> InstanceContext:
        cluster = self._cluster
        return instance_context(
            name,
            role,
            table_mhz=cluster.hardware.clocks_mhz,
            slo=cluster.slo,
            limits=cluster.limits_of(role),
            datasheet=cluster.datasheet(),
            max_power_w=cluster.hardware.tdp_w * cluster.tensor_parallel,
            seed=self._seed,
            bench=self._bench,
        )

    def _noise(self, deviation: float) -> LognormalNoise:
        return LognormalNoise(np.random.default_rng(next(self._seeds)), deviation)
