"""What the hooks rely on in SGLang, checked before anything is measured."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

from voltana_ring.hooks import contract as shared

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SCHEDULER = "sglang.srt.managers.scheduler.Scheduler"

FIRST_VERSION = (0, 5, 11)
"""The first with plugins."""

NEXT_VERSION = (0, 6, 0)
"""From here on nothing is known; the plugin stays passive."""

METHODS: Mapping[str, tuple[str, ...]] = {
    "run_batch": ("self", "batch"),
    "process_batch_result": ("self", "batch", "result"),
}
"""Methods that are hooked, and how their parameters begin."""

BATCH_FIELDS = frozenset(
    {"reqs", "forward_mode", "seq_lens_cpu", "extend_lens", "prefix_lens", "decoding_reqs"}
)
REQUEST_FIELDS = frozenset({"rid", "output_ids", "finished_reason"})
"""What requests have from the start; without it they are not followed, and promised nothing."""
MODE_NAMES = frozenset({"EXTEND", "DECODE", "MIXED", "IDLE"})
SCHEDULER_FIELDS = ("server_args", "waiting_queue", "disaggregation_mode")
QUEUES: Mapping[str, tuple[str, ...]] = {
    "null": (),
    "prefill": ("disagg_prefill_bootstrap_queue",),
    "decode": ("disagg_decode_prealloc_queue",),
}


def installed_version() -> str:
    """Version of SGLang; empty where it is not installed."""
    try:
        return metadata.version("sglang")
    except metadata.PackageNotFoundError:
        return ""


def version_problem(version: str) -> str:
    """Why a version is not measured; empty if it is."""
    return shared.version_problem("SGLang", version, FIRST_VERSION, NEXT_VERSION)


def static_problems() -> list[str]:
    """What SGLang's classes lack of what the hooks rely on; imports SGLang."""
    scheduler = importlib.import_module("sglang.srt.managers.scheduler").Scheduler
    problems = [*shared.method_problems(scheduler, METHODS)]
    batch = importlib.import_module("sglang.srt.managers.schedule_batch").ScheduleBatch
    fields = BATCH_FIELDS - set(getattr(batch, "__dataclass_fields__", ()))
    problems += [f"ScheduleBatch has no {name}" for name in sorted(fields)]
    names = MODE_NAMES - set(forward_modes().values())
    problems += [f"ForwardMode has no {name}" for name in sorted(names)]
    return problems


def requests_can_be_followed() -> bool:
    """Whether requests tell what following them takes; imports SGLang."""
    request = importlib.import_module("sglang.srt.managers.schedule_batch").Req
    told = getattr(getattr(request.__init__, "__code__", None), "co_names", ())
    return set(told) >= REQUEST_FIELDS and request.__hash__ is object.__hash__


def instance_problems(scheduler: Any, mode: str) -> list[str]:
    """What a scheduler lacks of what the hooks rely on."""
    if mode not in QUEUES:
        return [f"disaggregation mode {mode!r} is unknown"]
    wanted = (*SCHEDULER_FIELDS, *QUEUES[mode])
    return [f"the scheduler has no {name}" for name in wanted if not hasattr(scheduler, name)]


def hook_problems(owner: type, hooks: Mapping[str, Callable[..., Any]]) -> list[str]:
    """Which hooks are not in force: SGLang only logs one that it could not apply.

    Args:
        owner: The class whose methods are hooked.
        hooks: What should be around each method.
    """
    return [
        f"the hook on {name} is not in force"
        for name, hook in hooks.items()
        if not _is_around(getattr(owner, name, None), hook)
    ]


def forward_modes() -> dict[int, str]:
    """SGLang's forward modes by number."""
    module = importlib.import_module("sglang.srt.model_executor.forward_batch_info")
    return {int(mode): str(mode.name) for mode in module.ForwardMode}


def _is_around(method: Any, hook: Callable[..., Any]) -> bool:
    """Whether `hook`, or what was put around it alone to time it, is in a method's wrappers."""
    while method is not None:
        cells = getattr(method, "__closure__", None) or ()
        held = [cell.cell_contents for cell in cells]
        if any(one is hook or getattr(one, "__wrapped__", None) is hook for one in held):
            return True
        method = getattr(method, "__wrapped__", None)
    return False
