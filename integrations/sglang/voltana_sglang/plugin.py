"""The entry point of SGLang's plugin system: registers the hooks, if voltana is configured.

SGLang calls this in every process. Without ``VOLTANA_SGLANG_CONFIG`` it does nothing at all.
"""

from __future__ import annotations

import os

from voltana_sglang import CONFIG_VARIABLE


def register() -> None:
    """Register the hooks with SGLang; never raises."""
    if not os.environ.get(CONFIG_VARIABLE):
        return
    import logging  # noqa: PLC0415

    try:
        _register()
    except Exception:
        logging.getLogger("sglang.voltana").exception("voltana: PASSIVE, it cannot be put in place")


def _register() -> None:
    import importlib  # noqa: PLC0415

    # By name: SGLang has no types, and is absent where only agents and routers run.
    registry = importlib.import_module("sglang.srt.plugins.hook_registry")
    from voltana_sglang.hooks.around import (  # noqa: PLC0415
        around_on_idle,
        around_process_batch_result,
        around_run_batch,
    )

    scheduler = "sglang.srt.managers.scheduler.Scheduler"
    registry.HookRegistry.register(f"{scheduler}.__init__", _after_init, registry.HookType.AFTER)
    registry.HookRegistry.register(
        f"{scheduler}.run_batch", around_run_batch, registry.HookType.AROUND
    )
    registry.HookRegistry.register(
        f"{scheduler}.process_batch_result", around_process_batch_result, registry.HookType.AROUND
    )
    if _has_on_idle():
        registry.HookRegistry.register(
            f"{scheduler}.on_idle", around_on_idle, registry.HookType.AROUND
        )


def _after_init(result: object, scheduler: object, *args: object, **kwargs: object) -> object:
    """After ``Scheduler.__init__``: a scheduler process alone loads what measures."""
    import logging  # noqa: PLC0415

    try:
        from voltana_sglang.hooks.attach import after_init  # noqa: PLC0415
    except Exception:
        logging.getLogger("sglang.voltana").exception("voltana: PASSIVE, it cannot be imported")
        return result
    return after_init(result, scheduler, *args, **kwargs)


def _has_on_idle() -> bool:
    """Whether this version has the method: a hook on a missing one is logged as an error."""
    from importlib import metadata  # noqa: PLC0415

    numbers = metadata.version("sglang").split(".")[:3]
    return tuple(int(number) for number in numbers if number.isdigit()) >= (0, 5, 13)
