"""What the plugin relies on in SGLang's sources, checked without importing or running them.

As a program it reads the wheels of several versions and checks each:
``python -m tools.sglang_signatures 0.5.11 0.5.12 ...`` (``make sglang-matrix``).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tools.signatures import check_versions, class_of, lacking, method_complaints, method_of, parsed

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEDULER = "sglang/srt/managers/scheduler.py"
REGISTRY = "sglang/srt/plugins/hook_registry.py"
BATCH = "sglang/srt/managers/schedule_batch.py"
FORWARD_MODES = "sglang/srt/model_executor/forward_batch_info.py"

METHODS = {
    "run_batch": ["self", "batch", "pp_proxy_tensors"],
    "process_batch_result": ["self", "batch", "result"],
}
"""Methods of Scheduler that every event loop calls, and their arguments."""

MODES = {"EXTEND", "DECODE", "MIXED", "IDLE", "TARGET_VERIFY", "PREBUILT"}
HOOK_TYPES = {"BEFORE", "AFTER", "AROUND", "REPLACE"}
REQUEST_FIELDS = {"rid", "output_ids", "finished_reason"}
BATCH_FIELDS = {"reqs", "forward_mode", "seq_lens_cpu", "extend_num_tokens"}


def complaints(read: Callable[[str], str]) -> list[str]:
    """What a version lacks; empty if the plugin can measure it.

    Args:
        read: Returns the source at a path, such as `SCHEDULER`; raises KeyError or OSError.
    """
    try:
        trees = parsed(read, (SCHEDULER, REGISTRY, BATCH, FORWARD_MODES))
    except (KeyError, OSError) as error:
        return [f"no such file: {error}"]
    found = method_complaints(class_of(trees[SCHEDULER], "Scheduler"), METHODS)
    found += lacking(
        (trees[FORWARD_MODES], "ForwardMode", MODES),
        (trees[REGISTRY], "HookType", HOOK_TYPES),
        (trees[BATCH], "ScheduleBatch", BATCH_FIELDS),
        (trees[BATCH], "Req", REQUEST_FIELDS),
    )
    if method_of(class_of(trees[REGISTRY], "HookRegistry"), "register") is None:
        found.append("HookRegistry.register is gone")
    return found


if __name__ == "__main__":
    sys.exit(check_versions("sglang", sys.argv[1:], complaints))
