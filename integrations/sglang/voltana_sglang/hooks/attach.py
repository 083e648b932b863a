"""Attaches a meter to a scheduler that was just made, or says why not."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from typing import TYPE_CHECKING, Any

from voltana_ring.hooks.guard import METER
from voltana_ring.hooks.rings import make_ring
from voltana_ring.hooks.settings import check_name, read_settings
from voltana_sglang import CONFIG_VARIABLE, INSTANCE_VARIABLE
from voltana_sglang.hooks import contract
from voltana_sglang.hooks.around import (
    around_on_idle,
    around_process_batch_result,
    around_run_batch,
)
from voltana_sglang.hooks.device_times import device_times
from voltana_sglang.hooks.engine_facts import mode_of, read_facts
from voltana_sglang.hooks.meter import Meter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from voltana_ring.hooks.facts import EngineFacts

HOOKS: dict[str, Callable[..., Any]] = {
    "run_batch": around_run_batch,
    "process_batch_result": around_process_batch_result,
}
"""Hooks without which nothing can be measured."""

IDLE_HOOK = "on_idle"
"""From 0.5.13; without it the agent concludes from silence that nothing runs."""

# A child of SGLang's own logger: its level and format hold, and the log shows it.
_log = logging.getLogger("sglang.voltana")


def after_init(result: Any, scheduler: Any, *_args: Any, **_kwargs: Any) -> Any:
    """After ``Scheduler.__init__``; never raises."""
    try:
        attach(scheduler, os.environ)
    except Exception as error:  # noqa: BLE001  (the engine serves whatever happens here)
        passive(f"{type(error).__name__}: {error}")
    return result


def passive(why: str) -> None:
    """Say that nothing is measured, and why."""
    _log.warning("voltana: PASSIVE, nothing is measured or controlled: %s", why)


def attach(scheduler: Any, environment: Any) -> None:
    """Attach a meter to a scheduler, where everything that it relies on is there.

    Raises:
        SettingsError: If the configuration cannot be used.
        OSError: If the ring cannot be made.
    """
    from pathlib import Path  # noqa: PLC0415  (kept out of what register() imports)

    version = contract.installed_version()
    problems = [problem for problem in (contract.version_problem(version),) if problem]
    problems = problems or contract.static_problems()
    problems = problems or contract.hook_problems(type(scheduler), HOOKS)
    mode = mode_of(scheduler)
    problems = problems or contract.instance_problems(scheduler, mode)
    if problems:
        passive("; ".join(problems))
        return
    path = Path(environment[CONFIG_VARIABLE])
    settings = read_settings(path)
    facts = read_facts(scheduler, version)
    if not facts.leads:
        _log.info("voltana: rank %d of this group measures for it", 0)
        return
    name = check_name(environment.get(INSTANCE_VARIABLE) or f"{facts.role}-{facts.port}")
    says_idle = not contract.hook_problems(type(scheduler), {IDLE_HOOK: around_on_idle})
    facts = dataclasses.replace(facts, says_idle=says_idle)
    meter = _meter(scheduler, mode, settings.rings, name, facts)
    setattr(scheduler, METER, meter)
    idle = "" if says_idle else ", idling concluded from silence"
    _log.info(
        "voltana: hooks are live on SGLang %s: measuring %s (%s, dp %d, pp %d)%s",
        version, name, facts.role, facts.dp_rank, facts.pp_rank, idle,
    )  # fmt: skip
    if settings.starts_agent:
        from voltana_ring.hooks.start_agent import start_agent  # noqa: PLC0415

        start_agent(path, name, settings, "voltana_sglang", _log)


def _meter(scheduler: Any, mode: str, rings: Path, instance: str, facts: EngineFacts) -> Meter:
    return Meter(
        scheduler,
        make_ring(rings, instance, facts, _log),
        mode=mode,
        speculative=facts.speculative,
        pipelined=facts.pp_size > 1,
        follows=contract.requests_can_be_followed(),
        modes=contract.forward_modes(),
        synchronous=facts.device == "cpu",
        synchronize=_synchronize(scheduler, facts.device),
        device=None if facts.device == "cpu" else device_times(scheduler, time.monotonic),
    )


def _synchronize(scheduler: Any, device: str) -> Callable[[], None] | None:
    """Waits for the device where a result has no event; a CPU computes in run_batch itself."""
    module = getattr(scheduler, "device_module", None)
    if device == "cpu" or not hasattr(module, "current_stream"):
        return None

    def wait() -> None:
        module.current_stream().synchronize()  # type: ignore[union-attr]

    return wait
