"""Opens the source of records that a configuration names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.cluster.context import DEFAULT_BATCH_TOKENS
from voltana.errors import invalid
from voltana.serving.sensors.rings import Rings

if TYPE_CHECKING:
    from pathlib import Path

    from voltana.ports import TimeSource
    from voltana.serving.config import Config
    from voltana.serving.config_tables import Role
    from voltana.serving.sensors.port import RecordSources


def open_sources(
    config: Config, instance: str, role: Role | None, time: TimeSource
) -> RecordSources:
    """The source of an instance's records.

    Args:
        config: The configuration.
        instance: Name of the instance.
        role: What its server was started as; None asks the engine, as far as that says it.
        time: Source of time.

    Raises:
        ConfigError: If the configuration does not say what messages leave open.
    """
    folder = config.agent.rings
    if config.engine.sensor == "ring":
        return Rings(folder=folder, instance=instance)
    from voltana.serving.sensors.forward_pass import ForwardPassSources  # noqa: PLC0415

    if role is None:
        raise invalid(
            "instance.role",
            role,
            "prefill, decode or unified",
            "ForwardPassMetrics do not say what a server is for: name it, or give --role.",
        )
    return ForwardPassSources(
        endpoints_of(config, instance),
        folder=folder,
        instance=instance,
        role=role,
        max_batch_tokens=config.engine.max_batch_tokens or DEFAULT_BATCH_TOKENS,
        time=time,
    )


def endpoints_of(config: Config, instance: str) -> tuple[str, ...]:
    """Where the ranks of an instance publish: as configured, else beside where rings would be."""
    named = config.instance_named(instance).forward_pass_metrics
    return named or (f"{base_endpoint(config.agent.rings, instance)}.0",)


def base_endpoint(folder: Path, instance: str) -> str:
    """What an engine of one rank is told; it adds a dot and its rank."""
    return f"ipc://{folder / instance}.fpm"
