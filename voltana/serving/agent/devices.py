"""Opens the devices of an instance as the configuration says."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import structlog

from voltana.errors import ConfigError, VoltanaError, invalid
from voltana.serving.agent.sensing import EchoSensor, SampledSensor
from voltana.serving.agent.switchable import Switchable

if TYPE_CHECKING:
    from voltana.ports import Actuator, Sensor, TimeSource
    from voltana.serving.config import Config
    from voltana.values import Domain

_log = structlog.get_logger("voltana_sglang.devices")


def open_actuator(
    config: Config, domain: Domain | None, time: TimeSource, *, dry_run: bool
) -> Switchable:
    """The actuator of an instance.

    Args:
        config: The configuration.
        domain: Its GPUs; None where it has none.
        time: Source of time.
        dry_run: Whether to leave the devices alone, whatever the configuration says.

    Raises:
        ConfigError: If the configuration does not say what is needed.
        ActuatorError: If the device, or the daemon, cannot be opened.
    """
    kind = config.actuator.kind
    table_mhz = _table(config, domain)
    dry_run = dry_run or kind == "dry-run"
    if kind in {"daemon", "nvml"} and domain is None:
        raise ConfigError(
            f"actuator.kind = {kind!r} needs the GPUs of the instance: must be given as --gpus or "
            "in [[instance]]. Take kind 'simulated' where there are none."
        )
    if not table_mhz and (dry_run or kind == "simulated"):
        raise invalid(
            "engine.table_mhz",
            (),
            "the clocks of the device",
            "No GPU can be asked: name engine.hardware, or list the clocks.",
        )
    return Switchable(
        functools.partial(_open_live, config, domain, time, table_mhz), table_mhz, dry_run=dry_run
    )


def open_sensor(
    actuator: Switchable, domain: Domain | None, time: TimeSource
) -> SampledSensor | EchoSensor:
    """Reads the GPUs through NVML, which needs no privilege; else what the actuator says."""
    sensor = None if domain is None else _nvml_sensor(domain, time)
    if sensor is not None:
        return SampledSensor(sensor, time)
    return EchoSensor(actuator.status, actuator.table()[-1], time)


def _open_live(
    config: Config, domain: Domain | None, time: TimeSource, table_mhz: tuple[float, ...]
) -> Actuator:
    table = config.actuator
    if domain is None or table.kind == "simulated":
        from voltana.actuators import RecordingActuator  # noqa: PLC0415

        return RecordingActuator(table_mhz, time=time, settle_s=0.02)
    if table.kind == "nvml":
        from voltana.actuators import NvmlActuator  # noqa: PLC0415

        return NvmlActuator(domain)
    from voltana.actuators import ActuatorProcess  # noqa: PLC0415

    return ActuatorProcess(
        domain,
        socket_path=table.socket,
        lease_s=table.lease_s,
        table_mhz=table_mhz or None,
        time_source=time,
    )


def _table(config: Config, domain: Domain | None) -> tuple[float, ...]:
    """Clocks of the device: of the file, of the device itself, or of the hardware's profile."""
    engine = config.engine
    if engine.table_mhz:
        return tuple(sorted(set(engine.table_mhz)))
    if domain is not None:
        from voltana.actuators import nvml_clock_table  # noqa: PLC0415

        try:
            return tuple(map(float, sorted(nvml_clock_table(domain.devices[0]))))
        except VoltanaError as error:
            _log.info("NVML does not tell the clocks", error=str(error))
    if engine.hardware is not None:
        from voltana.plant.hardware import load_hardware  # noqa: PLC0415

        return tuple(map(float, load_hardware(engine.hardware).clocks_mhz))
    return ()


def _nvml_sensor(domain: Domain, time: TimeSource) -> Sensor | None:
    from voltana.actuators import NvmlSensor  # noqa: PLC0415

    try:
        sensor = NvmlSensor(domain, time)
        sensor.read()
    except VoltanaError as error:
        _log.warning("the GPUs cannot be read; clocks are what the actuator says", error=str(error))
        return None
    return sensor
