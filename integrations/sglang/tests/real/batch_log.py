"""A plugin for tests: writes down what a scheduler sees and forms, step by step, as JSON lines.

It is found by SGLang where its folder and a ``.dist-info`` that names it are on the path.
"""

from __future__ import annotations

import functools
import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VARIABLE = "VOLTANA_TEST_BATCH_LOG"
_SCHEDULER = "sglang.srt.managers.scheduler.Scheduler"


def install(folder: Path) -> None:
    """Make `folder` one from which SGLang loads this plugin."""
    info = folder / "voltana_test_batch_log-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: voltana-test-batch-log\nVersion: 0\n"
    )
    (info / "entry_points.txt").write_text("[sglang.srt.plugins]\nbatch_log = batch_log:register\n")


def register() -> None:
    """Hook the scheduler, where a log was asked for."""
    if VARIABLE not in os.environ:
        return
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(f"{_SCHEDULER}.get_next_batch_to_run", _schedule, HookType.AROUND)
    HookRegistry.register(f"{_SCHEDULER}.process_batch_result", _commit, HookType.AROUND)


@functools.cache
def _log() -> Any:
    return open(os.environ[VARIABLE], "w", buffering=1)  # noqa: PTH123


_SEEN: set[str] = set()
_LAST: list[Any] = [None]


def _say(*event: Any) -> None:
    if event != _LAST[0]:  # an idle scheduler says nothing new
        _log().write(json.dumps(event) + "\n")
    _LAST[0] = event if event == ("step", None) else None


def _schedule(original: Callable[..., Any], scheduler: Any, *args: Any, **kwargs: Any) -> Any:
    if not _SEEN:
        _SEEN.add("")
        _say("engine", {
            "capacity_tokens": scheduler.token_to_kv_pool_allocator.size,
            "chunk_tokens": scheduler.chunked_prefill_size,
            "batch_tokens": scheduler.max_prefill_tokens,
            "max_requests": scheduler.max_running_requests,
            "page_tokens": scheduler.page_size,
            "mixed": scheduler.is_mixed_chunk,
            "prefix_cache": not scheduler.tree_cache.disable,
        })  # fmt: skip
    for request in scheduler.waiting_queue:
        if request.rid not in _SEEN:
            _SEEN.add(request.rid)
            most = request.sampling_params.max_new_tokens
            _say("arrived", request.rid, list(request.origin_input_ids), most)
    plan = original(scheduler, *args, **kwargs)
    batch = plan.batch_to_run
    if batch is None:
        _say("step", None)
        return plan
    decoding = list(batch.decoding_reqs or []) if batch.forward_mode.is_extend() else batch.reqs
    count = len(batch.reqs) - len(decoding)
    chunks = [[r.rid, r.extend_len] for r in batch.reqs[:count]]
    _say("step", [chunks, [r.rid for r in batch.reqs[count:]], int(batch.seq_lens_cpu.sum())])
    return plan


def _commit(original: Callable[..., Any], scheduler: Any, *args: Any, **kwargs: Any) -> Any:
    result = original(scheduler, *args, **kwargs)
    _say("commit", len(args))
    return result
