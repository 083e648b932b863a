"""A group on a fake engine and a recorded clock, in time that is turned by hand."""

from __future__ import annotations

import contextlib

import numpy as np
from fake_scheduler import FakeEngine

from voltana.actuators import RecordingActuator
from voltana.serving.agent.group import Group
from voltana.serving.agent.instance_clock import InstanceClock
from voltana.serving.agent.sensing import EchoSensor
from voltana.serving.config import parse_config
from voltana.timebase import ManualTime
from voltana.values import Domain, Load

TABLE = tuple(map(float, range(600, 1411, 15)))


class World:
    """A group on a fake engine and a recorded clock, in time that is turned by hand."""

    def __init__(self, folder, **tables):
        self.time = ManualTime(1000.0)
        tables.setdefault("agent", {})
        tables["agent"] |= {"rings": str(folder / "rings"), "state": str(folder / "state")}
        self.config = parse_config(tables)
        self.actuator = RecordingActuator(TABLE, time=self.time)
        self.engine = FakeEngine(self.config.agent.rings, "decode-0", self.time.now_s)
        self.rng = np.random.default_rng(7)
        self.group = self.make_group()

    def make_group(self):
        return Group(
            self.config,
            instance="decode-0",
            role=None,
            domain=Domain(name="decode-0"),
            clock=InstanceClock(
                lambda _dry: self.actuator, Domain(name="decode-0"), self.time, dry_run=False
            ),
            sensor=EchoSensor(self.actuator.status, TABLE[-1], self.time),
            time=self.time,
        )

    def run(self, iterations, engine=None):
        """Decode iterations, the agent prompt."""
        engine = engine or self.engine
        for _ in range(iterations):
            requests, kv = int(self.rng.integers(1, 30)), int(self.rng.integers(100, 6000))
            load = Load.decode(requests, kv)
            launch_s = engine.launch(load)
            self.group.drain()
            latency_s = (0.004 + 1e-4 * requests + 1e-6 * kv) * self.rng.normal(1.0, 0.02)
            self.time.advance(latency_s)
            engine.finish(load, launch_s, latency_s)
            self.group.drain()

    def clocks(self):
        return [command.clock_mhz for command in self.actuator.commands]


@contextlib.contextmanager
def worlds_in(folder):
    """Makes worlds of given tables in `folder`, and closes them at its end."""
    worlds = []

    def make(**tables):
        worlds.append(World(folder, **tables))
        return worlds[-1]

    yield make
    for world in worlds:
        world.group.close()
        world.engine.close()


@contextlib.contextmanager
def promising_world(folder, slo, engine, **facts):
    """One whose default policy keeps `slo` for `engine`; `facts` are of its scheduler."""
    world = World(folder, engine=dict(engine), policy={"controller": "voltana"})
    if facts:
        world.engine.close()
        rings = world.config.agent.rings
        world.engine = FakeEngine(rings, "decode-0", world.time.now_s, **facts)
    world.group.scan()
    world.group.set_slo(slo)
    try:
        yield world
    finally:
        world.group.close()
        world.engine.close()


def served(group):
    """The one engine that a group serves."""
    return next(iter(group._served.values()))
