from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from tools.sglang_signatures import BATCH, FORWARD_MODES, REGISTRY, SCHEDULER, complaints

SOURCES = {
    SCHEDULER: """
class Scheduler:
    def run_batch(self, batch, pp_proxy_tensors=None): ...
    def process_batch_result(self, batch, result): ...
""",
    REGISTRY: """
class HookType:
    BEFORE = AFTER = 1
    AROUND = 2
    REPLACE = 3
class HookRegistry:
    def register(cls): ...
""",
    BATCH: """
class Req:
    def __init__(self, rid):
        self.rid = rid
        self.output_ids = []
        self.finished_reason: object = None
class ScheduleBatch:
    reqs: list
    forward_mode: object = None
    seq_lens_cpu: object = None
    extend_num_tokens: int = None
""",
    FORWARD_MODES: """
class ForwardMode:
    EXTEND = DECODE = MIXED = IDLE = TARGET_VERIFY = PREBUILT = 1
""",
}


def test_the_installed_sglang_is_as_the_plugin_expects() -> None:
    try:
        installed = distribution("sglang")
    except PackageNotFoundError:
        pytest.skip("SGLang is not installed: make sglang-setup")
    assert complaints(lambda path: Path(str(installed.locate_file(path))).read_text()) == []


def test_sources_as_expected_raise_no_complaint() -> None:
    assert complaints(SOURCES.__getitem__) == []


@pytest.mark.parametrize(
    ("path", "old", "new", "complaint"),
    [
        (SCHEDULER, "batch, pp_proxy_tensors=None", "work", "run_batch takes ['self', 'work']"),
        (SCHEDULER, "process_batch_result", "handle", "process_batch_result is gone"),
        (REGISTRY, "AROUND = 2", "pass", "HookType lacks ['AROUND']"),
        (REGISTRY, "register", "add", "HookRegistry.register is gone"),
        (BATCH, "seq_lens_cpu: object = None", "pass", "ScheduleBatch lacks ['seq_lens_cpu']"),
        (BATCH, "self.rid = rid", "pass", "Req lacks ['rid']"),
        (FORWARD_MODES, "PREBUILT = ", "", "ForwardMode lacks ['PREBUILT']"),
    ],
)
def test_a_change_is_noticed(path: str, old: str, new: str, complaint: str) -> None:
    sources = SOURCES | {path: SOURCES[path].replace(old, new)}
    assert any(complaint in said for said in complaints(sources.__getitem__))


def test_a_version_without_plugins_is_noticed() -> None:
    sources = {path: text for path, text in SOURCES.items() if path != REGISTRY}
    assert complaints(sources.__getitem__) == [f"no such file: '{REGISTRY}'"]
