"""Builds what controls an instance, from the configuration and what the engine says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from voltana.cluster.context import EngineLimits, instance_context
from voltana.policies import get_policy, load_predictor, with_overrides
from voltana.policies.users_own import blame
from voltana.predictors.profile import Stack
from voltana.serving.agent.persistence import restore_predictor
from voltana.serving.bounds import number
from voltana.values import Role

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from voltana.policy import InstanceContext, InstancePolicy
    from voltana.ports import PowerPredictor, Predictor
    from voltana.serving.config import Config
    from voltana.serving.config_tables import EngineTable
    from voltana.slo import Slo

ROLES = {"prefill": Role.PREFILL, "decode": Role.DECODE, "unified": Role.COLOCATED}

UNKNOWN = "unknown"

DEFAULT_POWER_W = 700.0
"""Power limit of a GPU of which nothing is known: the prior's scale, soon learned better."""

_log = structlog.get_logger("voltana.serving.building")


def stack_of(config: Config, info: dict[str, Any]) -> Stack:
    """What latencies are measured on; a profile of another stack is a mere prior."""
    return Stack(
        hardware=config.engine.hardware or UNKNOWN,
        model=str(info.get("model") or UNKNOWN),
        tensor_parallel=max(1, int(info.get("tp_size", 1))),
        engine=str(info.get("engine") or "sglang"),  # plugins before 0.2 do not say
        engine_version=str(info.get("version") or UNKNOWN),
    )


def engine_limits(engine: EngineTable, info: Mapping[str, Any]) -> EngineLimits:
    """What an engine takes at once: as it says itself, else as configured, else unlimited.

    What the engine says stands above the configuration: it is what it runs with.

    Args:
        engine: The configuration.
        info: What its engine says of itself.
    """
    said = {
        "max_batch_tokens": _said(info, "max_prefill_tokens"),
        "max_running_requests": _said(info, "max_running_requests"),
        "kv_capacity_tokens": _said(info, "kv_capacity_tokens"),
        "kv_reserved_tokens": _said(info, "kv_reserved_tokens"),
    }
    known = {name: _first_known(value, getattr(engine, name)) for name, value in said.items()}
    return EngineLimits(
        **{name: value for name, value in known.items() if value is not None},
        prompts_first=info.get("prompts_first") is True,
    )


def unknown_limits(engine: EngineTable, info: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of what controllers and routers plan with and neither engine nor configuration says."""
    return tuple(
        name
        for name in ("kv_capacity_tokens", "kv_reserved_tokens", "max_running_requests")
        if _said(info, name) is None and getattr(engine, name) is None
    )


def make_context(
    config: Config,
    *,
    instance: str,
    info: dict[str, Any],
    limits: EngineLimits,
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
        limits: What it takes at once.
        table_mhz: Clocks of its devices.
        slo: The thresholds.
        predictor: One that has learned; None makes one.
        power: Likewise.

    Raises:
        ConfigError: If a profile or a model of the configuration does not exist.
    """
    engine = config.engine
    return instance_context(
        instance,
        ROLES[info["role"]],
        table_mhz=table_mhz,
        slo=slo,
        limits=limits,
        datasheet=_datasheet(engine, slo),
        max_power_w=_power_w(engine),
        predictor=predictor,
        power=power,
    )


def make_predictor(config: Config, context: InstanceContext, saved: Path, stack: Stack) -> Any:
    """The predictor to begin with: what was saved, a profile, a user's own, or the policy's (None).

    Raises:
        ConfigError: If the reference of a user's own leads nowhere or to something else.
        ProfileError: If the profile that the configuration names is none.
    """
    reference = config.policy.predictor
    own = (
        None if reference is None else load_predictor(reference, context, field="policy.predictor")
    )
    return restore_predictor(own, saved, config.policy.profile, stack)


def make_policy(
    reference: str, context: InstanceContext, levels: str | None = None
) -> InstancePolicy:
    """What controls the instance, on the configured levels.

    Raises:
        ConfigError: If there is no such policy, or it cannot run here; if the level set is none, or
            has no supported clock.
    """
    with blame(reference):
        policy = with_overrides(
            get_policy(reference), levels=levels, read_device_mhz=lambda _device: context.table_mhz
        )
        return policy.control(context)


def _said(info: Mapping[str, Any], name: str) -> int | None:
    """A limit as an engine says it; None where it says nothing that it can mean.

    0 tokens is a reserve, but no capacity; -1 stands for no limit in settings of some engines.
    """
    try:
        return int(number(name, info.get(name), 0 if name == "kv_reserved_tokens" else 1))
    except ValueError:
        return None


def _first_known(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


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
