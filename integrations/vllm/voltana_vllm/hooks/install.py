"""Puts the hooks around the methods of vLLM's scheduler, once a process."""

from __future__ import annotations

import functools
import importlib
import logging
from typing import TYPE_CHECKING, Any

from voltana_vllm.hooks import contract
from voltana_vllm.hooks.around import HOOKS, MORE_HOOKS
from voltana_vllm.hooks.attach import after_init, passive

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("vllm.voltana")


def install() -> None:
    """Hook the scheduler's class; stay passive where it is not what is known."""
    version = contract.installed_version()
    problems = [problem for problem in (contract.version_problem(version),) if problem]
    problems = problems or contract.static_problems()
    if problems:
        passive("; ".join(problems))
        return
    scheduler = importlib.import_module(contract.SCHEDULER_MODULE).Scheduler
    more = {name: hook for name, hook in MORE_HOOKS.items() if contract.has_method(scheduler, name)}
    for name, hook in (HOOKS | more).items():
        original = getattr(scheduler, name)
        if not contract.is_hooked(original):
            setattr(scheduler, name, _hooked(original, hook))
    original = scheduler.__init__
    if not contract.is_hooked(original):
        scheduler.__init__ = _after(original)
    _log.debug("voltana: hooks are in place on vLLM %s", version)


def _hooked(original: Callable[..., Any], hook: Callable[..., Any]) -> Callable[..., Any]:
    hooked: Callable[..., Any] = hook(original)
    setattr(hooked, contract.MARK, hook)
    return hooked


def _after(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def made(scheduler: Any, *args: Any, **kwargs: Any) -> None:
        original(scheduler, *args, **kwargs)
        after_init(scheduler)

    setattr(made, contract.MARK, after_init)
    return made
