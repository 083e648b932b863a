"""Checks what agents and router would refuse, before anything starts or is shown."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from voltana.serving.launch.instances import in_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.serving.config import Config
    from voltana.serving.launch.instances import Instance


def check_components(config: Config) -> None:
    """Check that everything that the configuration names exists.

    What needs a live engine, such as a factory that is given its context, only runs there; and a
    user's own modules are not looked for here if agents live in another environment.

    Raises:
        VoltanaError: At the first hardware, model, policy, predictor, level set, profile or router
            that does not exist or is not allowed, naming the remedy.
    """
    from voltana.levels import parse_levels  # noqa: PLC0415  (policies load NumPy)
    from voltana.plant.hardware import load_hardware  # noqa: PLC0415
    from voltana.plant.model import load_model  # noqa: PLC0415
    from voltana.policies.named import get_policy  # noqa: PLC0415
    from voltana.policy import load_object  # noqa: PLC0415
    from voltana.predictors.profile import load_profile  # noqa: PLC0415
    from voltana.predictors.tables import holds_tables, load_tables  # noqa: PLC0415
    from voltana.serving.feed_key import check_leaves, find_feed_key  # noqa: PLC0415  (loads ZMQ)
    from voltana.serving.router.routers import make_routers  # noqa: PLC0415

    engine, policy = config.engine, config.policy
    if engine.hardware is not None and engine.model is not None:
        load_hardware(engine.hardware)
        load_model(engine.model)
    elsewhere = config.agent.interpreter is not None
    if not (elsewhere and ":" in policy.controller):
        get_policy(policy.controller)
    if policy.predictor is not None and not elsewhere:
        load_object(policy.predictor)
    if policy.levels is not None:
        parse_levels(policy.levels, read_device_mhz=lambda _device: engine.table_mhz)
    if policy.profile is not None:
        if holds_tables(policy.profile):
            load_tables(policy.profile)
        else:
            load_profile(policy.profile)
    make_routers(config.router)
    config.thresholds()
    key = find_feed_key(config.agent.feed_key_file, os.environ)
    address = f"tcp://{in_url(config.agent.feed_host)}:1"
    check_leaves("agent.feed_host", address, key, open_to_all=config.agent.feed_open)


def check_clocks(
    config: Config, fleet: Sequence[Instance], uuids: Sequence[str], *, dry_run: bool
) -> None:
    """Check that somebody tells the clocks, before servers load models for minutes.

    Args:
        config: The configuration.
        fleet: The servers.
        uuids: GPUs of this host: engines may report them, and drivers tell their clocks.
        dry_run: Whether agents leave the clocks alone.

    Raises:
        ConfigError: If agents would refuse to start, for nothing tells them.
    """
    from voltana.serving.agent.devices import no_clocks  # noqa: PLC0415  (loads NumPy)

    told = config.engine.table_mhz or config.engine.hardware is not None
    named = any(one.gpus for one in fleet) or any(one.gpus for one in config.instance)
    have_gpus = named or bool(uuids)
    without = dry_run or config.actuator.kind in {"dry-run", "simulated"}
    if without and not (told or have_gpus):
        raise no_clocks()
