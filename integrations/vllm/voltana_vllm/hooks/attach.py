"""Attaches a meter to a scheduler that was just made, or says why not."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voltana_ring.hooks.guard import METER
from voltana_ring.hooks.rings import make_ring
from voltana_ring.hooks.settings import check_name, read_settings
from voltana_vllm import CONFIG_VARIABLE, INSTANCE_VARIABLE, ROLE_VARIABLE
from voltana_vllm.hooks import contract
from voltana_vllm.hooks.around import ASKED, HOOKS
from voltana_vllm.hooks.engine_facts import leads_here, read_facts, told_role
from voltana_vllm.hooks.meter import Meter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana_ring.hooks.facts import EngineFacts

# A child of vLLM's own logger: its level and format hold, and the log shows it.
_log = logging.getLogger("vllm.voltana")


def after_init(scheduler: Any) -> None:
    """After ``Scheduler.__init__``; never raises."""
    try:
        attach(scheduler, os.environ)
    except Exception as error:  # noqa: BLE001  (the engine serves whatever happens here)
        passive(f"{type(error).__name__}: {error}")


def passive(why: str) -> None:
    """Say that nothing is measured, and why."""
    _log.warning("voltana: PASSIVE, nothing is measured or controlled: %s", why)


def attach(scheduler: Any, environment: Mapping[str, str]) -> None:
    """Attach a meter to a scheduler, where everything that it relies on is there.

    Raises:
        SettingsError: If the configuration cannot be used.
        ValueError: If the role is none.
        OSError: If the ring cannot be made.
    """
    problems = contract.instance_problems(scheduler)
    problems = problems or contract.hook_problems(type(scheduler), HOOKS)
    name = environment.get(INSTANCE_VARIABLE, "")
    if not (problems or name):
        # An engine core does not know the server's port, by which servers could be told apart.
        problems = [f"set {INSTANCE_VARIABLE} to a name that no other server here has"]
    if problems:
        passive("; ".join(problems))
        return
    path = Path(environment[CONFIG_VARIABLE])
    settings = read_settings(path)
    check_name(name)
    facts = read_facts(
        scheduler, contract.installed_version(), told_role(environment, ROLE_VARIABLE)
    )
    setattr(scheduler, METER, _meter(scheduler, settings.rings, name, facts))
    _log.info(
        "voltana: hooks are in force on vLLM %s: measuring %s (%s, dp %d)",
        facts.version, name, facts.role, facts.dp_rank,
    )  # fmt: skip
    if settings.starts_agent and leads_here(scheduler):
        from voltana_ring.hooks.start_agent import start_agent  # noqa: PLC0415

        start_agent(path, name, settings, "voltana_vllm", _log)


def _meter(scheduler: Any, rings: Path, instance: str, facts: EngineFacts) -> Meter:
    return Meter(
        scheduler,
        make_ring(rings, instance, facts, _log),
        speculative=facts.speculative,
        statuses=contract.status_numbers(),
        waits=contract.engine_waits(scheduler)
        and not contract.hook_problems(type(scheduler), ASKED),
    )
