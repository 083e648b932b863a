"""What the plugin relies on in vLLM's sources, checked without importing or running them.

As a program it reads the wheels of several versions and checks each:
``python -m tools.vllm_signatures 0.32.0 0.33.0 ...`` (``make vllm-matrix``).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tools.signatures import (
    assigned,
    check_versions,
    class_of,
    lacking,
    method_complaints,
    method_of,
    parsed,
)

if TYPE_CHECKING:
    import ast
    from collections.abc import Callable

SCHEDULER = "vllm/v1/core/sched/scheduler.py"
ASYNC_SCHEDULER = "vllm/v1/core/sched/async_scheduler.py"
OUTPUT = "vllm/v1/core/sched/output.py"
QUEUE = "vllm/v1/core/sched/request_queue.py"
REQUEST = "vllm/v1/request.py"
CORE = "vllm/v1/engine/core.py"
PLUGINS = "vllm/plugins/__init__.py"

METHODS = {
    "get_grammar_bitmask": ["self", "scheduler_output"],
    "schedule": ["self", "throttle_prefills"],
    "update_from_output": ["self", "scheduler_output", "model_runner_output"],
}
"""Methods of Scheduler that the engine core calls, and their arguments."""

OWN_METHODS = {"_free_request": ["self", "request", "delay_free_blocks"]}
"""Likewise those that it calls itself."""

SCHEDULER_FIELDS = {
    "block_size", "cache_config", "finished_req_ids", "kv_cache_config", "max_num_running_reqs",
    "max_num_scheduled_tokens", "requests", "running", "vllm_config", "waiting",
}  # fmt: skip
SECOND_QUEUES = {"kv_holding_waiting", "skipped_waiting"}
"""A scheduler has one of them."""

OUTPUT_FIELDS = {
    "finished_req_ids", "num_scheduled_tokens", "scheduled_cached_reqs", "scheduled_new_reqs",
    "scheduled_spec_decode_tokens", "total_num_scheduled_tokens",
}  # fmt: skip
REQUEST_FIELDS = {
    "arrival_time", "is_prefill_chunk", "kv_transfer_params", "num_computed_tokens",
    "num_prompt_tokens", "pooling_params", "request_id", "status",
}  # fmt: skip
REQUEST_PROPERTIES = ("num_tokens", "num_output_tokens", "is_finished")
STATUSES = {"FINISHED_ABORTED", "FINISHED_ERROR", "PREEMPTED", "WAITING_FOR_STREAMING_REQ"}


def complaints(read: Callable[[str], str]) -> list[str]:
    """What a version lacks; empty if the plugin can measure it.

    Args:
        read: Returns the source at a path, such as `SCHEDULER`; raises KeyError or OSError.
    """
    try:
        paths = (SCHEDULER, ASYNC_SCHEDULER, OUTPUT, QUEUE, REQUEST, CORE, PLUGINS)
        trees = parsed(read, paths)
    except (KeyError, OSError) as error:
        return [f"no such file: {error}"]
    return [
        *_scheduler(trees[SCHEDULER], trees[ASYNC_SCHEDULER]),
        *_fields(trees),
        *_calls(read(CORE), read(PLUGINS)),
    ]


def _scheduler(plain: ast.Module, asynchronous: ast.Module) -> list[str]:
    scheduler, other = class_of(plain, "Scheduler"), class_of(asynchronous, "AsyncScheduler")
    found = method_complaints(scheduler, METHODS | OWN_METHODS)
    found += [
        f"AsyncScheduler has a {name} of its own" for name in METHODS if method_of(other, name)
    ]
    names = assigned(scheduler)
    if missing := SCHEDULER_FIELDS - names:
        found.append(f"Scheduler lacks {sorted(missing)}")
    if not SECOND_QUEUES & names:
        found.append(f"Scheduler has none of {sorted(SECOND_QUEUES)}")
    return found


def _fields(trees: dict[str, ast.Module]) -> list[str]:
    found = lacking(
        (trees[OUTPUT], "SchedulerOutput", OUTPUT_FIELDS),
        (trees[OUTPUT], "CachedRequestData", {"num_computed_tokens", "resumed_req_ids"}),
        (trees[OUTPUT], "NewRequestData", {"req_id", "num_computed_tokens"}),
        (trees[REQUEST], "Request", REQUEST_FIELDS),
        (trees[REQUEST], "RequestStatus", STATUSES),
    )
    for path, name, methods in (
        (REQUEST, "Request", REQUEST_PROPERTIES),
        (QUEUE, "FCFSRequestQueue", ("peek_request", "__len__", "__iter__")),
        (QUEUE, "PriorityRequestQueue", ("peek_request", "__len__")),
    ):
        owner = class_of(trees[path], name)
        found += [f"{name}.{one} is gone" for one in methods if method_of(owner, one) is None]
    return found


def _calls(core: str, plugins: str) -> list[str]:
    calls = [f"self.scheduler.{name}(" for name in METHODS]
    found = [f"the engine core does not call {text}" for text in calls if text not in core]
    if '"vllm.general_plugins"' not in plugins:
        found.append("there is no entry point vllm.general_plugins")
    return found


if __name__ == "__main__":
    sys.exit(check_versions("vllm", sys.argv[1:], complaints))
