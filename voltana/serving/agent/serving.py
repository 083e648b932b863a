"""What runs on one ring: its reader, its loop, and the models that outlive a change of policy."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.controllers.rate_limit import RateLimited
from voltana.loop import ControlLoop
from voltana.serving.agent.accounting import Account
from voltana.serving.agent.building import (
    engine_limits,
    make_context,
    make_policy,
    make_predictor,
    stack_of,
)
from voltana.serving.agent.guarantee import Guarantee, guarantee_path
from voltana.serving.agent.persistence import restore_own, save_predictor, state_path
from voltana.serving.agent.ring_loop import RingLoop
from voltana.values import Role
from voltana_ring.paths import SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from voltana.cluster.context import EngineLimits
    from voltana.policy import InstanceContext
    from voltana.ports import Controller, PowerPredictor, Predictor, TimeSource
    from voltana.serving.agent.instance_clock import InstanceClock
    from voltana.serving.agent.sensing import EchoSensor, SampledSensor
    from voltana.serving.config import Config
    from voltana.serving.config_tables import ActuatorTable
    from voltana.serving.sensors.port import RecordReader
    from voltana.slo import Slo
    from voltana.values import Domain, Limit

FIRST_RANK = "@dp0.pp0.tp0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What may be changed while an agent runs.

    Attributes:
        policy: Name or reference of the policy.
        levels: Level set; None leaves it to the policy.
        slo: The thresholds.
    """

    policy: str
    levels: str | None
    slo: Slo


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A ring, and what runs on it.

    Attributes:
        name: Name of the loop.
        reader: Reads the ring.
        ring_loop: Runs on it.
        predictor: Latency model that has learned; a policy that learns nothing keeps it.
        power: Power model, likewise.
        role: What the engine serves.
        engine: What the engine takes at once.
    """

    name: str
    reader: RecordReader
    ring_loop: RingLoop
    predictor: Predictor | None
    power: PowerPredictor | None
    role: str
    engine: EngineLimits

    @property
    def control(self) -> ControlLoop:
        """What decides and learns in it."""
        return self.ring_loop.loop

    @property
    def guarantee(self) -> Guarantee:
        """What was promised on the ring."""
        return self.ring_loop.guarantee

    def save(self, config: Config) -> None:
        """Save what was learned, and have what was promised on the disk.

        Raises:
            OSError: If the file cannot be written.
        """
        path = state_path(config.agent.state, self.name)
        save_predictor(self.predictor, path, stack_of(config, self.reader.info))
        self.guarantee.sync()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """Builds what runs on a ring.

    Attributes:
        config: The configuration.
        role: What the server was started as; None asks the engine.
        domain: Its devices.
        clock: Their clock.
        sensor: Reads them.
        time: The only source of time.
    """

    config: Config
    role: str | None
    domain: Domain
    clock: InstanceClock
    sensor: SampledSensor | EchoSensor
    time: TimeSource

    def build(
        self,
        reader: RecordReader,
        settings: Settings,
        limits: Iterable[Limit],
        before: Served | None = None,
    ) -> Served:
        """Build what runs on a ring, to be started; it goes on with what an earlier one learned.

        Raises:
            VoltanaError: If the settings do not fit this engine.
        """
        info = reader.info | ({"role": self.role} if self.role else {})
        engine = engine_limits(self.config.engine, info)
        context = self._context(loop_name(reader.path), info, engine, settings, before)
        policy = make_policy(settings.policy, context, settings.levels)
        if context.predictor is None and policy.predictor is not None:
            restore_own(policy.predictor, state_path(self.config.agent.state, context.instance))
        loop = ControlLoop(
            instance=context.instance,
            domain=self.domain,
            controller=_limited(policy.controller, self.config.actuator),
            actuator=self.clock.member(context.instance),
            sensor=self.sensor,
            time=self.time,
            levels_mhz=policy.levels_mhz,
            predictor=policy.predictor,
            power=policy.power,
            limits=limits,
            lease_s=self.config.actuator.lease_s,
        )
        ring_loop = RingLoop(
            loop,
            self.sensor,
            slo=ring_slo(context.role, settings.slo),
            max_batch_tokens=context.max_batch_tokens,
            account=Account() if before is None else before.ring_loop.account,
            guarantee=self._guarantee(context.instance, info)
            if before is None
            else before.guarantee,
            time=self.time,
        )
        return Served(
            name=context.instance,
            reader=reader,
            ring_loop=ring_loop,
            predictor=policy.predictor or context.predictor,
            power=policy.power or context.power,
            role=info["role"],
            engine=engine,
        )

    def _guarantee(self, name: str, info: dict[str, object]) -> Guarantee:
        return Guarantee(guarantee_path(self.config.agent.state, name, stack_of(self.config, info)))

    def _context(
        self,
        name: str,
        info: dict[str, object],
        engine: EngineLimits,
        settings: Settings,
        before: Served | None,
    ) -> InstanceContext:
        context = make_context(
            self.config,
            instance=name,
            info=info,
            limits=engine,
            table_mhz=self.clock.known_table(),
            slo=settings.slo,
            predictor=None if before is None else before.predictor,
            power=None if before is None else before.power,
        )
        if context.predictor is not None:
            return context
        saved = state_path(self.config.agent.state, name)
        made = make_predictor(self.config, context, saved, stack_of(self.config, info))
        return dataclasses.replace(context, predictor=made)


def _limited(controller: Controller, table: ActuatorTable) -> Controller:
    """The controller; its clock falls no faster than the configuration allows."""
    if not table.dwell_s and table.max_step_mhz is None:
        return controller
    step_mhz = math.inf if table.max_step_mhz is None else table.max_step_mhz
    return RateLimited(controller, dwell_s=table.dwell_s, max_step_mhz=step_mhz)


def loop_name(ring: Path) -> str:
    """Name of a loop: that of the instance, with the rank where it is not the first."""
    return ring.name.removesuffix(SUFFIX).removesuffix(FIRST_RANK)


def ring_slo(role: Role, slo: Slo) -> Slo:
    """The thresholds that a ring is held to.

    Where one engine serves both phases, prompts come between tokens: what its decode iterations
    take says nothing of what requests were ahead of their mean, so that nothing of it is spent.
    """
    return dataclasses.replace(slo, spending=1.0) if role is Role.COLOCATED else slo
