"""What a scheduler of vLLM says of itself: its GPUs, and who leads on its host."""

from __future__ import annotations

import multiprocessing
import sys
import types

import pytest
from fake_vllm import Scheduler

from voltana_vllm.hooks.engine_facts import leads_here, read_facts

UUIDS = ("GPU-a", "GPU-b", "GPU-c", "GPU-d")


@pytest.fixture
def scheduler(monkeypatch):
    """One on two of four GPUs, configured as vLLM does without data parallelism."""
    platform = types.SimpleNamespace(is_cuda=lambda: True, get_device_uuid=UUIDS.__getitem__)
    module = types.ModuleType("vllm.platforms")
    module.current_platform = platform
    monkeypatch.setitem(sys.modules, "vllm", types.ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.platforms", module)
    made = Scheduler()
    own = vars(made.vllm_config.parallel_config)
    own |= {
        "tensor_parallel_size": 2, "data_parallel_rank_local": 0,
        "_data_parallel_master_port_list": [],
    }  # fmt: skip
    return made


def test_an_engine_that_is_alone_names_its_gpus(scheduler):
    assert read_facts(scheduler, "0.32.0").gpu_uuids == UUIDS[:2]
    assert leads_here(scheduler)


@pytest.mark.parametrize(
    "shows",
    [
        {"data_parallel_size": 2},
        {"data_parallel_index": 1, "data_parallel_rank_local": 1},
        {"_data_parallel_master_port_list": [5001, 5002]},
        {"process": "EngineCore_DP0"},
    ],
)
def test_an_engine_of_several_names_none_for_those_of_all_are_seen(scheduler, monkeypatch, shows):
    """Else its own stood above what the configuration names for all: the others ran unseen."""
    named = shows.pop("process", "EngineCore")
    monkeypatch.setattr(multiprocessing.current_process(), "name", named)
    vars(scheduler.vllm_config.parallel_config).update(shows)
    assert read_facts(scheduler, "0.32.0").gpu_uuids == ()


@pytest.mark.parametrize(
    ("index", "local", "leads"), [(0, 0, True), (4, 0, True), (5, 1, False), (1, None, False)]
)
def test_the_first_engine_of_each_host_leads_there(scheduler, index, local, leads):
    vars(scheduler.vllm_config.parallel_config).update(
        data_parallel_index=index, data_parallel_rank_local=local
    )
    assert leads_here(scheduler) is leads
