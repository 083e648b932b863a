"""Opens the devices of an instance as the configuration says: their clock, and their sensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from voltana.actuators import DryRun, RecordingActuator
from voltana.errors import ConfigError, VoltanaError, invalid
from voltana.serving.agent.instance_clock import InstanceClock
from voltana.serving.agent.sensing import EchoSensor, SampledSensor
from voltana.values import Domain

if TYPE_CHECKING:
    from voltana.ports import Actuator, TimeSource
    from voltana.serving.config import Config

ON_GPUS = frozenset({"daemon", "in-process", "power-cap"})
SETTLE_S = 0.02
"""Until a clock of a simulated device is in force."""

_log = structlog.get_logger("voltana.serving.devices")


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """What an instance runs on.

    Attributes:
        domain: Its GPUs by UUID; none where it has none, or where they are not known yet.
        clock: Their clock.
        sensor: Reads them.
    """

    domain: Domain
    clock: InstanceClock
    sensor: SampledSensor | EchoSensor

    def close(self) -> None:
        """Give the clocks back and read no more; may be called twice."""
        self.sensor.close()
        self.clock.close()


def open_devices(
    config: Config,
    instance: str,
    gpus: tuple[str, ...],
    time: TimeSource,
    *,
    dry_run: bool,
    lacking: str = "",
) -> Devices:
    """Open the devices of an instance.

    Args:
        config: The configuration.
        instance: Name of the instance.
        gpus: UUIDs of its GPUs; empty where it has none, or where they are not known yet.
        time: Source of time.
        dry_run: Whether to leave the devices alone, whatever the configuration says.
        lacking: What keeps them from being opened at all.

    Raises:
        ConfigError: If the configuration does not say what a simulated device is.
        ActuatorError: If the device, or the daemon, cannot be opened.
    """
    domain = Domain(name=instance, devices=gpus)
    kind = config.actuator.kind
    dry_run = dry_run or kind == "dry-run"
    if not (gpus or dry_run) and kind in ON_GPUS:
        lacking = lacking or (
            f"actuator.kind = {kind!r} needs the GPUs of the instance, and no engine reports "
            "them: must be given as --gpus or in [[instance]]. Take kind 'simulated' where "
            "there are none."
        )
    table_mhz = () if lacking else _table(config, domain)
    if not table_mhz and not lacking and (dry_run or kind == "simulated"):
        raise no_clocks()
    clock = InstanceClock(
        lambda dry: _open(config, domain, time, table_mhz, dry_run=dry),
        domain,
        time,
        dry_run=dry_run,
        lacking=lacking,
    )
    try:
        sensor = _open_sensor(clock, domain, time)
    except BaseException:
        clock.close()
        raise
    return Devices(domain=domain, clock=clock, sensor=sensor)


def no_clocks() -> ConfigError:
    """The error of devices whose clocks nobody tells."""
    return invalid(
        "engine.table_mhz",
        (),
        "the clocks of the device",
        "No GPU can be asked: name engine.hardware and engine.model, or list the clocks.",
    )


def _open(
    config: Config,
    domain: Domain,
    time: TimeSource,
    table_mhz: tuple[float, ...],
    *,
    dry_run: bool,
) -> Actuator:
    table = config.actuator
    if dry_run:
        return DryRun(RecordingActuator(table_mhz, time=time))
    if table.kind == "simulated" or not domain.devices:
        return RecordingActuator(table_mhz, time=time, settle_s=SETTLE_S)
    if table.kind == "in-process":
        from voltana.actuators import InProcessActuator  # noqa: PLC0415

        return InProcessActuator(domain)
    if table.kind == "power-cap":
        from voltana.actuators import PowerCapActuator  # noqa: PLC0415

        return PowerCapActuator(domain, watts=table.caps_w)
    from voltana.actuators import ActuatorProcess  # noqa: PLC0415

    return ActuatorProcess(
        domain,
        socket_path=table.socket,
        lease_s=table.lease_s,
        table_mhz=table_mhz or None,
        time_source=time,
    )


def _table(config: Config, domain: Domain) -> tuple[float, ...]:
    """Clocks of the device: of the file, of the device itself, or of the hardware's profile."""
    engine = config.engine
    if engine.table_mhz:
        return tuple(sorted(set(engine.table_mhz)))
    if domain.devices:
        from voltana.actuators import gpu_clock_table  # noqa: PLC0415

        try:
            return gpu_clock_table(domain.devices[0])
        except VoltanaError as error:
            _log.info("the driver does not tell the clocks", error=str(error))
    if engine.hardware is not None:
        from voltana.plant.hardware import load_hardware  # noqa: PLC0415

        return tuple(map(float, load_hardware(engine.hardware).clocks_mhz))
    return ()


def _open_sensor(
    clock: InstanceClock, domain: Domain, time: TimeSource
) -> SampledSensor | EchoSensor:
    """Reads the GPUs through their driver, which needs no privilege; else what the clock says."""
    if domain.devices:
        from voltana.actuators import GpuSensor  # noqa: PLC0415

        try:
            return SampledSensor(GpuSensor(domain, time), time)
        except VoltanaError as error:
            text = "the GPUs cannot be read; clocks are what the actuator says"
            _log.warning(text, error=str(error))
    table = clock.table()
    return EchoSensor(clock.status, table[-1] if table else float("nan"), time)
