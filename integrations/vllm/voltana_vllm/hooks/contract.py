"""What the hooks rely on in vLLM, checked before anything is measured."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from voltana_ring.hooks import contract as shared

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SCHEDULER_MODULE = "vllm.v1.core.sched.scheduler"

FIRST_VERSION = (0, 25, 1)
"""The first whose sources were checked."""

NEXT_VERSION = (0, 34, 0)
"""From here on nothing is known; the plugin stays passive."""

MARK = "_voltana_hook"
"""Attribute of a method that is hooked: the hook."""

METHODS: Mapping[str, tuple[str, ...]] = {
    "schedule": ("self",),
    "update_from_output": ("self", "scheduler_output", "model_runner_output"),
}
"""Methods that are hooked, and how their parameters begin."""

MORE_METHODS: Mapping[str, tuple[str, ...]] = {
    "_free_request": ("self", "request"),
    "get_grammar_bitmask": ("self", "scheduler_output"),
}
"""Likewise; those that can be done without."""

OUTPUT_FIELDS = frozenset(
    {
        "finished_req_ids",
        "num_scheduled_tokens",
        "scheduled_cached_reqs",
        "scheduled_new_reqs",
        "scheduled_spec_decode_tokens",
        "total_num_scheduled_tokens",
    }
)
CACHED_FIELDS = frozenset({"num_computed_tokens", "resumed_req_ids"})
"""Of `scheduled_cached_reqs`."""

REQUEST_FIELDS = frozenset(
    {
        "arrival_time",
        "kv_transfer_params",
        "num_computed_tokens",
        "num_prompt_tokens",
        "request_id",
        "status",
    }
)
STATUS_NAMES = frozenset(
    {"FINISHED_ABORTED", "FINISHED_ERROR", "PREEMPTED", "WAITING_FOR_STREAMING_REQ"}
)
SCHEDULER_FIELDS = ("requests", "running", "waiting", "vllm_config", "finished_req_ids")
QUEUES = ("kv_holding_waiting", "waiting", "skipped_waiting")
"""Queues of a scheduler in the order in which it looks at them; versions have two of them."""


def installed_version() -> str:
    """Version of vLLM; empty where it does not tell. Builds have distributions of other names."""
    return str(getattr(importlib.import_module("vllm"), "__version__", ""))


def version_problem(version: str) -> str:
    """Why a version is not measured; empty if it is."""
    return shared.version_problem("vLLM", version, FIRST_VERSION, NEXT_VERSION)


def static_problems() -> list[str]:
    """What vLLM's classes lack of what the hooks rely on; imports its scheduler."""
    scheduler = importlib.import_module(SCHEDULER_MODULE).Scheduler
    problems = [*shared.method_problems(scheduler, METHODS)]
    module = importlib.import_module("vllm.v1.core.sched.output")
    for name, fields in (
        ("SchedulerOutput", OUTPUT_FIELDS),
        ("CachedRequestData", CACHED_FIELDS),
    ):
        missing = fields - set(getattr(getattr(module, name, None), "__dataclass_fields__", ()))
        problems += [f"{name} has no {field}" for field in sorted(missing)]
    requests = importlib.import_module("vllm.v1.request")
    missing = REQUEST_FIELDS - set(requests.Request.__init__.__code__.co_names)
    problems += [f"Request has no {name}" for name in sorted(missing)]
    missing = STATUS_NAMES - set(requests.RequestStatus.__members__)
    problems += [f"RequestStatus has no {name}" for name in sorted(missing)]
    return problems


def instance_problems(scheduler: Any) -> list[str]:
    """What a scheduler lacks of what the hooks rely on, or has in their place."""
    problems = [
        f"the scheduler has no {name}" for name in SCHEDULER_FIELDS if not hasattr(scheduler, name)
    ]
    if not any(hasattr(scheduler, name) for name in QUEUES if name != "waiting"):
        problems.append(f"the scheduler has none of {', '.join(QUEUES)}")
    return problems


def hook_problems(owner: type, hooks: Mapping[str, Callable[..., Any]]) -> list[str]:
    """Which hooks cannot be in force.

    Args:
        owner: The class of a scheduler; one that overrides a method may still call ours.
        hooks: What should be around each method.
    """
    return [
        f"the hook on {name} is not in force"
        for name, hook in hooks.items()
        if not any(getattr(vars(base).get(name), MARK, None) is hook for base in owner.__mro__)
    ]


def engine_waits(scheduler: Any) -> bool:
    """Whether the engine hands batches to other processes, and waits for them itself.

    Where it computes them itself, the next it says of a batch is that most of it is done.
    """
    config = scheduler.vllm_config.parallel_config
    return getattr(config, "distributed_executor_backend", None) == "mp"


def has_method(scheduler: type, name: str) -> bool:
    """Whether a scheduler's class has a method of `MORE_METHODS`, as it is hooked."""
    return not [*shared.method_problems(scheduler, {name: MORE_METHODS[name]})]


def is_hooked(method: Any) -> bool:
    """Whether a method has a hook of ours around it, whoever wrapped that since."""
    while method is not None:
        if hasattr(method, MARK):
            return True
        method = getattr(method, "__wrapped__", None)
    return False


def status_numbers() -> dict[str, int]:
    """The statuses that the hooks ask about, as numbers."""
    statuses = importlib.import_module("vllm.v1.request").RequestStatus
    return {name: int(statuses[name]) for name in STATUS_NAMES}
