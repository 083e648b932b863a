"""Builds what controls an instance, from the configuration and what the engine says of itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import structlog

from voltana.errors import ConfigError
from voltana.levels import parse_levels
from voltana.policies.named import get_policy
from voltana.policies.users_own import blame
from voltana.policy import InstanceContext, call_factory, load_object
from voltana.ports import Predictor
from voltana.predictors.profile import Stack
from voltana.serving.agent.persistence import restore_predictor
from voltana.values import Role

if TYPE_CHECKING:
    from pathlib import Path

    from voltana.policy import InstancePolicy
    from voltana.ports import PowerPredictor
    from voltana.serving.config import Config, EngineTable
    from voltana.slo import Slo

ROLES = {"prefill": Role.PREFILL, "decode": Role.DECODE, "unified": Role.COLOCATED}

UNKNOWN = "unknown"

DEFAULT_POWER_W = 700.0
"""Power limit of a GPU of which nothing is known: the prior's scale, soon learned better."""

_log = structlog.get_logger("voltana_sglang.building")


def stack_of(config: Config, info: dict[str, Any]) -> Stack:
    """What latencies are measured on; a profile of another stack is a mere prior."""
    return Stack(
        hardware=config.engine.hardware or UNKNOWN,
        model=str(info.get("model") or UNKNOWN),
        tensor_parallel=max(1, int(info.get("tp_size", 1))),
        engine="sglang",
        engine_version=str(info.get("version") or UNKNOWN),
    )


def make_context(
    config: Config,
    *,
    instance: str,
    info: dict[str, Any],
    table_mhz: tuple[float, ...],
    slo: Slo,
    predictor: Predictor | None = None,
    power: PowerPredictor | None = None,
) -> InstanceContext:
    """What a policy is told of an instance.

    Args:
        config: The configuration.
        instance: Name of the instance.
        info: What its engine says of itself.
        table_mhz: Clocks of its devices.
        slo: The thresholds.
        predictor: One that has learned; None makes one.
        power: Likewise.

    Raises:
        ConfigError: If a profile or a model of the configuration does not exist.
    """
    engine = config.engine
    return InstanceContext(
        instance=instance,
        role=ROLES[info["role"]],
        table_mhz=table_mhz,
        slo=slo,
        datasheet=_datasheet(engine, slo),
        max_batch_tokens=int(info.get("max_prefill_tokens") or 16384),
        max_running_requests=int(info.get("max_running_requests") or 1 << 30),
        max_power_w=_power_w(engine),
        kv_capacity_tokens=float(info.get("kv_capacity_tokens") or math.inf),
        predictor=predictor,
        power=power,
    )


def make_predictor(config: Config, context: InstanceContext, saved: Path, stack: Stack) -> Any:
    """The predictor to begin with: what was saved, a profile, a user's own, or the policy's (None).

    Raises:
        ConfigError: If the reference of a user's own leads nowhere or to something else.
        ProfileError: If the profile that the configuration names is none.
    """
    own: Predictor | None = None
    reference = config.policy.predictor
    if reference is not None:
        with blame(reference):
            made = call_factory(load_object(reference), context)
        if not isinstance(made, Predictor):
            raise ConfigError(
                f"policy.predictor = {reference!r} made {type(made).__name__}: must have "
                "forecast(), learn() and snapshot(). See docs/extending.md."
            )
        own = made
    return restore_predictor(own, saved, config.policy.profile, stack)


def make_policy(reference: str, context: InstanceContext) -> InstancePolicy:
    """What controls the instance.

    Raises:
        ConfigError: If there is no such policy, or it cannot run here.
    """
    with blame(reference):
        return get_policy(reference).control(context)


def levels_of(
    levels: str | None, table_mhz: tuple[float, ...], policy: InstancePolicy
) -> tuple[float, ...]:
    """Clocks that may be chosen: as configured, else the policy's own.

    Raises:
        ConfigError: If the level set is none, or has no supported clock.
    """
    if levels is None:
        return policy.levels_mhz
    return parse_levels(levels, read_device_mhz=lambda _device: table_mhz).levels(table_mhz)


def _datasheet(engine: EngineTable, slo: Slo) -> dict[str, float]:
    if engine.hardware is None or engine.model is None:
        return {}
    from voltana.plant.cluster import ClusterSpec  # noqa: PLC0415
    from voltana.plant.hardware import load_hardware  # noqa: PLC0415
    from voltana.plant.model import load_model  # noqa: PLC0415

    spec = ClusterSpec(
        hardware=load_hardware(engine.hardware),
        model=load_model(engine.model),
        slo=slo,
        tensor_parallel=engine.tensor_parallel,
    )
    return spec.datasheet()


def _power_w(engine: EngineTable) -> float:
    if engine.max_power_w is not None:
        return engine.max_power_w
    if engine.hardware is None:
        return DEFAULT_POWER_W * engine.tensor_parallel
    from voltana.plant.hardware import load_hardware  # noqa: PLC0415

    return float(load_hardware(engine.hardware).tdp_w) * engine.tensor_parallel
