"""All the loops of one instance: one for each scheduler process, on one clock."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import structlog

from voltana.cluster.candidates import InstanceFacts, instance_facts, latency_model
from voltana.cluster.context import iteration_budget_s, limits_together
from voltana.errors import invalid
from voltana.serving.agent.building import ROLES, unknown_limits
from voltana.serving.agent.figures import figures_of
from voltana.serving.agent.open_decisions import ENGINE_GONE
from voltana.serving.agent.reading_share import ReadingShare
from voltana.serving.agent.serving import Settings, Workshop
from voltana.serving.sensors.choosing import open_sources
from voltana.values import InstanceState

if TYPE_CHECKING:
    from pathlib import Path

    from voltana.ports import PowerPredictor, TimeSource
    from voltana.serving.agent.instance_clock import InstanceClock
    from voltana.serving.agent.sensing import EchoSensor, SampledSensor
    from voltana.serving.agent.serving import Served
    from voltana.serving.config import Config
    from voltana.serving.config_tables import Role
    from voltana.slo import Slo
    from voltana.values import Domain, Exposure, IntendedDemand, Limit

_log = structlog.get_logger("voltana.serving.group")

MOST_LIMITS = 32
"""Sources of limits at a time."""


class Group:
    """The loops of an instance; one thread may use it.

    Args:
        config: The configuration.
        instance: Name of the instance.
        role: What its server was started as; None asks the engine.
        domain: Its devices.
        clock: Their clock; not closed here.
        sensor: Reads them.
        time: The only source of time.

    Attributes:
        settings: What is in force.
    """

    def __init__(
        self,
        config: Config,
        *,
        instance: str,
        role: Role | None,
        domain: Domain,
        clock: InstanceClock,
        sensor: SampledSensor | EchoSensor,
        time: TimeSource,
    ) -> None:
        self._config = config
        self._instance = instance
        self._role = role
        self._sensor = sensor
        self._clock = clock
        self._time = time
        self._workshop = Workshop(
            config=config, role=role, domain=domain, clock=clock, sensor=sensor, time=time
        )
        self._sources = open_sources(config, instance, role, time)
        self._served: dict[Path, Served] = {}
        self._refused: dict[Path, str] = {}
        self._shares: dict[Path, ReadingShare] = {}
        self._unfrozen: dict[str, str] = {}
        self._limits: dict[str, Limit] = {}
        self.settings = Settings(
            policy=config.policy.controller, levels=config.policy.levels, slo=config.thresholds()
        )

    def carry_on(self, before: Group) -> None:
        """Take settings and limits over from a group on other devices."""
        self.settings, self._limits = before.settings, before._limits

    @property
    def attached(self) -> bool:
        """Whether there is an engine."""
        return bool(self._served)

    @property
    def engine_lives(self) -> bool:
        """Whether an engine of the instance lives, one that cannot be controlled included."""
        return bool(self._served or self._refused)

    @property
    def role(self) -> str | None:
        """What the instance serves; None before it is known."""
        first = self._first()
        return self._role if first is None else first.role

    @property
    def error(self) -> str:
        """What is wrong with a loop, or with the only engine there is; empty if nothing is."""
        if not self._served:
            return next(iter(self._refused.values()), "") or self._sources.problem()
        errors = (s.ring_loop.error for s in self._served.values())
        return next(filter(None, errors), "") or self._sources.problem()

    @property
    def doubt(self) -> str:
        """What cannot be vouched for, though everything works; empty if nothing is in doubt."""
        states = (s.guarantee.state for s in self._served.values())
        return next((f"the account is {s}" for s in states if s.startswith("damaged")), "")

    def scan(self) -> None:
        """Take up new rings, and let those go whose engine has ended.

        What cannot be controlled is reported once, and keeps no other ring from it.
        """
        for path, served in list(self._served.items()):
            if served.reader.replaced():
                self._release(path)
        found = self._sources.find()
        self._refused = {path: why for path, why in self._refused.items() if path in found}
        for path in found:
            if path not in self._served:
                self._take_up(path)

    def _take_up(self, path: Path) -> None:
        try:
            reader = self._sources.open(path)
            if reader.replaced():
                reader.close()  # left behind by an engine that was killed
                self._refused.pop(path, None)
                return
            try:
                made = self._workshop.build(reader, self.settings, self._limits.values())
                try:
                    made.ring_loop.start(reader)
                except BaseException:
                    made.guarantee.close()
                    raise
            except BaseException:
                reader.close()
                raise
        except Exception as error:  # noqa: BLE001  (another engine of the instance may be fine)
            why = str(error) or repr(error)
            if self._refused.get(path) != why:
                _log.error("an engine cannot be controlled", ring=str(path), error=why)
            self._refused[path] = why
            return
        self._refused.pop(path, None)
        self._served[path] = made
        _log.info("engine found", instance=made.name, **reader.info)
        unknown = unknown_limits(self._config.engine, reader.info)
        if unknown:
            _log.warning(
                "neither the engine nor [engine] says what it holds and runs at once: controllers "
                "and routers plan without it",
                instance=made.name,
                unknown=list(unknown),
            )

    def drain(self) -> bool:
        """Work through what engines wrote; whether there was anything."""
        any_records, now_s = False, self._time.now_s()
        for path, served in self._served.items():
            share = self._shares.setdefault(path, ReadingShare(now_s))
            records = share.read(served.reader, now_s)
            if records:
                any_records = True
                served.ring_loop.take(records)
                served.ring_loop.keep(served.reader)
        return any_records

    def wait_s(self) -> float:
        """How long to wait before `drain` is due though no bell rings; inf: until one does."""
        now_s = self._time.now_s()
        waits_s = (served.reader.wait_s(now_s) for served in self._served.values())
        return min(waits_s, default=math.inf)

    def tick(self, period_s: float) -> None:
        """A control step of each loop that had none for `period_s`."""
        self.drain()
        for served in self._served.values():
            served.ring_loop.tick(period_s)

    def set_slo(self, slo: Slo) -> None:
        """Change the thresholds; what was learned is kept."""
        self._rebuild(dataclasses.replace(self.settings, slo=slo))

    def set_policy(self, reference: str) -> None:
        """Change the policy; what was learned is kept.

        Raises:
            VoltanaError: If there is no such policy, or it cannot run here; the old one stays.
        """
        self._rebuild(dataclasses.replace(self.settings, policy=reference))

    def set_levels(self, levels: str | None) -> None:
        """Change the clocks that may be chosen.

        Raises:
            ConfigError: If they are no clocks of the device; the old ones stay.
        """
        self._rebuild(dataclasses.replace(self.settings, levels=levels))

    def set_limit(self, limit: Limit) -> None:
        """Impose a range of clocks, in place of an earlier one from the same source.

        Raises:
            ConfigError: If `MOST_LIMITS` other sources have one in force.
        """
        now_s = self._time.now_s()
        for source in [k for k, v in self._limits.items() if v.expires_at_s <= now_s]:
            del self._limits[source]
            for served in self._served.values():
                served.control.clear_limit(source)
        if limit.source not in self._limits and len(self._limits) >= MOST_LIMITS:
            raise invalid(
                "source",
                limit.source,
                f"one of {', '.join(self._limits)}, whose limits are in force",
                "Replace one of them, or wait until one ends.",
            )
        self._limits[limit.source] = limit
        for served in self._served.values():
            served.control.set_limit(limit)

    def state(self) -> InstanceState:
        """What routers should know: the sums over data-parallel ranks."""
        loops = [served.ring_loop for served in self._served.values()]
        states = [loop.state for loop in loops]
        measured = [s.demand_per_s for s in states if s.demand_per_s is not None]
        alone = states[0] if len(states) == 1 else None  # the batches of ranks end one by one
        return InstanceState(
            running_requests=sum(s.running_requests for s in states),
            kv_tokens=sum(s.kv_tokens for s in states),
            queued_requests=sum(s.queued_requests for s in states),
            queued_tokens=sum(s.queued_tokens for s in states),
            clock_mhz=self._sensor.read().clock_mhz,
            oldest_wait_s=max((s.oldest_wait_s for s in states), default=0.0),
            demand_per_s=sum(measured) if states and len(measured) == len(states) else None,
            ttft_margin=max((s.ttft_margin for s in states), default=0.0),
            computing_tokens=0 if alone is None else alone.computing_tokens,
            computing_for_s=0.0 if alone is None else alone.computing_for_s,
        )

    def intend(self, demand: IntendedDemand) -> None:
        """A router says what it intends for the instance; its ranks share it evenly."""
        ranks = max(len(self._served), 1)
        each = dataclasses.replace(demand, share=demand.share / ranks)
        for served in self._served.values():
            served.control.intend(each)

    def sampled_s(self) -> float:
        """When the oldest part of the state was sampled; nan where there is none."""
        return min(
            (served.ring_loop.sampled_s for served in self._served.values()), default=math.nan
        )

    def idle(self) -> bool:
        """Whether no engine computes."""
        return all(served.ring_loop.resting for served in self._served.values())

    def names_waiting(self) -> bool:
        """Whether every engine names its requests as soon as they wait."""
        infos = [served.reader.info for served in self._served.values()]
        return bool(infos) and all(info.get("names_waiting") is True for info in infos)

    def take_rooms(self) -> list[int]:
        """Bootstrap rooms of requests that joined since the last call."""
        rooms: list[int] = []
        for served in self._served.values():
            rooms += served.ring_loop.rooms
            served.ring_loop.rooms = []
        return rooms

    def take_exposures(self, now_s: float, clock_mhz: float) -> tuple[Exposure, ...]:
        """What the first loop ran since the last call; see `RingLoop.take_exposures`."""
        taken = [
            served.ring_loop.take_exposures(now_s, clock_mhz) for served in self._served.values()
        ]
        return taken[0] if taken else ()

    def power(self) -> PowerPredictor | None:
        """The power model of the first loop; None where there is none."""
        first = self._first()
        return None if first is None else first.control.power

    def learn_energy(self, energy_j: float, exposures: Any) -> None:
        """Hand the energy of a window to the power model of the first loop."""
        first = self._first()
        if first is not None:
            first.control.learn_energy(energy_j, exposures)

    def facts(self) -> InstanceFacts:
        """What routers are to know beside the state, its models frozen.

        Several data-parallel ranks have their memory together, and no model of the whole: each
        speaks of one of them.
        """
        first = self._first()
        if first is None or len(self._served) != 1:
            return InstanceFacts(
                levels_mhz=self.levels_mhz(),
                budget_s=self.budget_s(),
                limits=limits_together([served.engine for served in self._served.values()]),
                ttft_s=self.settings.slo.ttft_s,
            )
        loop = first.control
        return instance_facts(
            latency_model(loop),
            loop.power,
            levels_mhz=loop.levels_mhz,
            budget_s=self.budget_s(),
            limits=first.engine,
            ttft_s=self.settings.slo.ttft_s,
            failed=self._without,
        )

    def _without(self, kind: str, error: Exception) -> None:
        """A user's model that cannot be frozen must not end the agent: routers do without it."""
        if self._unfrozen.get(kind) != repr(error):
            self._unfrozen[kind] = repr(error)
            _log.warning(
                f"the {kind} gives no snapshot: routers do without it", error=self._unfrozen[kind]
            )

    def levels_mhz(self) -> tuple[float, ...]:
        """Clocks that may be chosen."""
        first = self._first()
        return self._clock.table() if first is None else first.control.levels_mhz

    def target_mhz(self) -> float:
        """Clock that was asked for last."""
        return self._clock.status().target_mhz

    def budget_s(self) -> float:
        """What an iteration may take."""
        return iteration_budget_s(ROLES[self.role or "unified"], self.settings.slo)

    def figures(self) -> dict[str, Any]:
        """Latency, attainment and prediction of the first loop, and what of its ring was lost."""
        return figures_of(
            tuple(self._served.values()),
            engine=self._config.engine,
            slo=self.settings.slo,
            budget_s=self.budget_s(),
        )

    def save(self) -> None:
        """Save what was learned.

        Raises:
            OSError: If a file cannot be written.
        """
        for served in self._served.values():
            served.save(self._config)

    def close(self) -> None:
        """Let go of the rings; may be called twice."""
        for path in list(self._served):
            self._release(path)
        self._sources.close()

    def _rebuild(self, settings: Settings) -> None:
        """Build every loop anew with changed settings; if one cannot be, all stay as they are."""
        made = {
            path: self._workshop.build(served.reader, settings, self._limits.values(), served)
            for path, served in self._served.items()
        }
        for path, served in made.items():
            served.ring_loop.start(served.reader, self._served[path].ring_loop)
        self._served = made
        self.settings = settings
        _log.info("settings changed", settings=str(settings))

    def _release(self, path: Path) -> None:
        served = self._served.pop(path)
        self._shares.pop(path, None)
        if served.reader.replaced():
            served.ring_loop.leave(served.reader, ENGINE_GONE)
        else:
            served.ring_loop.keep(served.reader)
        try:
            served.save(self._config)
        except OSError as error:
            _log.warning("what was learned cannot be saved", error=str(error))
        self._clock.leave(served.name)
        served.guarantee.close()
        served.reader.close()
        _log.info("engine gone", instance=served.name)

    def _first(self) -> Served | None:
        return next(iter(self._served.values()), None)
