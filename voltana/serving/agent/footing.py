"""What an agent stands on: the instance's devices, and what reads and sets their clock.

Which GPUs these are the engine says best; until it does, and where it does not, the configuration
does. When the engine says otherwise, as after a restart on other GPUs, all of it is built anew, and
settings, limits and what was learned are kept.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import structlog

from voltana.errors import VoltanaError
from voltana.serving.agent.devices import ON_GPUS, open_devices
from voltana.serving.agent.energy import EnergyAccount
from voltana.serving.agent.group import Group
from voltana.serving.agent.publishing import Publishing
from voltana.serving.agent.reported import reported_gpus
from voltana.serving.agent.steering import Steered
from voltana_actuatord.backoff import Backoff
from voltana_actuatord.faults import DriverError
from voltana_actuatord.gpu_names import gpu_uuids

if TYPE_CHECKING:
    from voltana.ports import TimeSource
    from voltana.serving.agent.service import AgentOptions
    from voltana.serving.config import Config
    from voltana.serving.feed import FeedPublisher

FIRST_TRY_S, LAST_TRY_S = 1.0, 30.0
"""Between two tries to open GPUs that the engine reports."""


class Footing:
    """The devices of an instance and what is built on them; one thread may use it.

    Args:
        config: The configuration.
        options: What the agent is told beside it.
        feed: Where states are published.
        time: The only source of time.

    Attributes:
        devices: The GPUs, their clock and their sensor.
        group: The loops.
        energy: Their energy.
        publishing: What routers are told.
        steered: What routers of others may be steered by.

    Raises:
        ConfigError: If the configuration does not say what is needed.
        ActuatorError: If a device that the configuration names cannot be opened.
    """

    def __init__(
        self, config: Config, options: AgentOptions, feed: FeedPublisher, time: TimeSource
    ) -> None:
        self._config = config
        self._options = options
        self._feed = feed
        self._time = time
        self._log = structlog.get_logger("voltana.serving.footing").bind(instance=options.instance)
        self._tries = Backoff(FIRST_TRY_S, LAST_TRY_S)
        self._try_at_s = -math.inf
        self._lacking = ""
        self._own = self._translated(options.gpus)
        self._stand_on(self._own, dry_run=options.dry_run)

    def follow_engine(self) -> None:
        """Stand on the GPUs that the engine reports; what cannot be opened is tried again."""
        now_s = self._time.now_s()
        if now_s < self._try_at_s:
            return
        try:
            reported = reported_gpus(self._config.agent.rings, self._options.instance)
            gpus = reported or self._own
            if set(gpus) == set(self.devices.domain.devices):
                return
            self._move(gpus)
        except VoltanaError as error:
            self._give_up(str(error))
            self._try_at_s = now_s + self._tries.next_s()
        else:
            self._lacking = ""
            self._tries.reset()
            self._log.info("the engine's GPUs", gpus=list(gpus), reported=bool(reported))

    def close(self) -> None:
        """Let the engines go and give the clocks back; may be called twice."""
        self.group.close()
        self.devices.close()

    def _translated(self, gpus: tuple[str | int, ...]) -> tuple[str, ...]:
        """UUIDs of the GPUs that the agent was told; a dry run goes on without a driver."""
        try:
            return gpu_uuids(gpus)
        except DriverError as error:
            if not self._options.dry_run and self._config.actuator.kind in ON_GPUS:
                raise
            self._log.warning("the GPUs are not known", error=str(error))
            return ()

    def _stand_on(self, gpus: tuple[str, ...], *, dry_run: bool, lacking: str = "") -> None:
        name = self._options.instance
        self.devices = open_devices(
            self._config, name, gpus, self._time, dry_run=dry_run, lacking=lacking
        )
        self.group = Group(
            self._config,
            instance=name,
            role=self._options.role,
            domain=self.devices.domain,
            clock=self.devices.clock,
            sensor=self.devices.sensor,
            time=self._time,
        )
        self.energy = EnergyAccount(self.devices.sensor, self.group)
        self.publishing = Publishing(self._feed, self.group, self.energy, self._time)
        self.steered = Steered(self.group, self.publishing)

    def _move(self, gpus: tuple[str, ...], lacking: str = "") -> None:
        """Leave the devices for others."""
        before, dry_run = self.group, self.devices.clock.dry_run
        self.close()
        self._stand_on(gpus, dry_run=dry_run, lacking=lacking)
        self.group.carry_on(before)

    def _give_up(self, why: str) -> None:
        """Stand on nothing for now: loops are refused with the reason."""
        if why != self._lacking:
            self._lacking = why
            self._log.error("the engine's GPUs cannot be used", error=why)
            self._move((), lacking=why)
