"""The plugin in vLLM's processes: inert, passive, live, and never in the way."""

from __future__ import annotations

import logging
import subprocess
import sys
import types

import pytest
from fake_vllm import CachedRequestData, Request, RequestStatus, Scheduler, SchedulerOutput
from hooked import Bench

import voltana_vllm
from tests.engine_imports import files_in_the_engine, imports_what_an_engine_has
from voltana.serving.ring_reader import RingReader
from voltana_ring.hooks.guard import MAX_ERRORS, METER
from voltana_ring.layout import Kind
from voltana_vllm.hooks import contract
from voltana_vllm.hooks.around import HOOKS, MORE_HOOKS
from voltana_vllm.plugin import register


def request_module():
    module = types.ModuleType("vllm.v1.request")
    module.RequestStatus = RequestStatus
    module.Request = Request
    return module


@pytest.fixture
def vllm(monkeypatch, tmp_path):
    """Modules of a vLLM in which nothing but the scheduler is there, and a configuration."""
    own = types.ModuleType("vllm")
    own.__version__ = "0.32.0"
    scheduler = types.ModuleType(contract.SCHEDULER_MODULE)

    class Fresh(Scheduler):
        def __init__(self, **options):
            super().__init__(**options)

        def schedule(self, throttle_prefills=False):
            return super().schedule(throttle_prefills)

        def update_from_output(self, scheduler_output, model_runner_output):
            return super().update_from_output(scheduler_output, model_runner_output)

        def get_grammar_bitmask(self, scheduler_output):
            return super().get_grammar_bitmask(scheduler_output)

    scheduler.Scheduler = Fresh
    output = types.ModuleType("vllm.v1.core.sched.output")
    output.SchedulerOutput = SchedulerOutput
    output.CachedRequestData = CachedRequestData
    modules = {
        "vllm": own, contract.SCHEDULER_MODULE: scheduler, "vllm.v1.core.sched.output": output,
        "vllm.v1.request": request_module(),
    }  # fmt: skip
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    config = tmp_path / "voltana.toml"
    config.write_text(f'[agent]\nrings = "{tmp_path / "rings"}"\n')
    monkeypatch.setenv("VOLTANA_VLLM_CONFIG", str(config))
    monkeypatch.setenv("VOLTANA_VLLM_INSTANCE", "decode-7")
    return types.SimpleNamespace(
        own=own, scheduler=scheduler, modules=modules, rings=tmp_path / "rings", config=config
    )


def served(scheduler):
    """Have a request answered; whether it was."""
    request = Request("r0", 10, 3, 0.0)
    scheduler.add_request(request)
    for _ in range(20):
        output = scheduler.schedule()
        output.complete = {
            rid for rid in output.num_scheduled_tokens
            if not scheduler.requests[rid].is_prefill_chunk
        }  # fmt: skip
        scheduler.update_from_output(output, None)
    return request.num_output_tokens == 3


def test_a_scheduler_is_attached_and_says_so(vllm, caplog):
    with caplog.at_level(logging.INFO, "vllm.voltana"):
        register()
        register()  # vLLM may load plugins more than once
        scheduler = vllm.scheduler.Scheduler(role="kv_consumer")
        (path,) = vllm.rings.glob("*.ring")
        reader = RingReader(path)
        assert served(scheduler)
    assert caplog.text.count("hooks are in force on vLLM 0.32.0: measuring decode-7 (decode") == 1
    assert caplog.text.count("live: the first iteration took") == 1
    assert path.name == "decode-7@dp0.pp0.tp0.ring"
    kinds = [record.kind for record in reader.drain()]
    assert kinds.count(Kind.LAUNCHED) == kinds.count(Kind.FINISHED) == 3
    assert reader.info["engine"] == "vllm"
    assert (reader.info["role"], reader.info["model"]) == ("decode", "tiny")
    assert reader.info["kv_capacity_tokens"] == 10_000
    reader.close()
    getattr(scheduler, METER).close()


def test_a_name_that_another_living_engine_has_is_said_and_a_long_one_leaves_the_engine_alone(
    vllm, monkeypatch, caplog
):
    register()
    made = [vllm.scheduler.Scheduler()]
    assert "still runs" not in caplog.text
    made.append(vllm.scheduler.Scheduler())
    assert "an engine that still runs has written to" in caplog.text
    assert all(served(scheduler) for scheduler in made)
    for scheduler in made:
        getattr(scheduler, METER).close()
    original = Scheduler.__init__

    def named(self, **options):
        original(self, **options)
        self.vllm_config.model_config.served_model_name = ["m" * 4000]

    monkeypatch.setattr(Scheduler, "__init__", named)
    scheduler = vllm.scheduler.Scheduler()
    assert "PASSIVE, nothing is measured or controlled: ValueError: what the engine" in caplog.text
    assert getattr(scheduler, METER, None) is None
    assert served(scheduler)


def executed_by(monkeypatch, executor):
    """Schedulers are made for an engine that hands batches to an executor."""
    original = Scheduler.__init__

    def init(self, **options):
        original(self, **options)
        self.vllm_config.parallel_config.distributed_executor_backend = executor

    monkeypatch.setattr(Scheduler, "__init__", init)


@pytest.mark.parametrize(
    ("executor", "parameters", "waited_for"),
    [("mp", "self, scheduler_output", True), ("uni", "self, scheduler_output", False),
     (None, "self, scheduler_output", False), ("mp", "self, step", False)],
)  # fmt: skip
def test_only_an_engine_that_hands_batches_over_and_says_so_is_waited_for(
    vllm, monkeypatch, executor, parameters, waited_for
):
    """One that computes a batch itself asks for grammars when most of it is done."""
    executed_by(monkeypatch, executor)
    made = {}
    exec(f"def get_grammar_bitmask({parameters}): return 17", made)
    vllm.scheduler.Scheduler.get_grammar_bitmask = made["get_grammar_bitmask"]
    register()
    scheduler = vllm.scheduler.Scheduler()
    (path,) = vllm.rings.glob("*.ring")
    reader = RingReader(path)
    scheduler.add_request(Request("r0", 10, 3, 0.0))
    output = scheduler.schedule()
    assert bool(reader.drain()) is not waited_for
    assert scheduler.get_grammar_bitmask(output) == 17
    assert bool(reader.drain()) is waited_for
    getattr(scheduler, METER).close()
    reader.close()


def test_each_engine_of_a_data_parallel_server_has_a_ring_of_its_own(vllm):
    register()
    made = []
    for rank in range(2):
        original = Scheduler.__init__

        def with_rank(self, *args, _rank=rank, _original=original, **kwargs):
            _original(self, *args, **kwargs)
            self.vllm_config.parallel_config.data_parallel_index = _rank

        Scheduler.__init__ = with_rank
        try:
            made.append(vllm.scheduler.Scheduler())
        finally:
            Scheduler.__init__ = original
    assert sorted(p.name for p in vllm.rings.glob("*.ring")) == [
        "decode-7@dp0.pp0.tp0.ring", "decode-7@dp1.pp0.tp0.ring",
    ]  # fmt: skip
    for scheduler in made:
        getattr(scheduler, METER).close()


def no_status(vllm):
    vllm.modules["vllm.v1.request"].RequestStatus = types.SimpleNamespace(__members__={})


def other_signature(vllm):
    vllm.scheduler.Scheduler.update_from_output = lambda self, work: None


def no_field(vllm):
    vllm.modules["vllm.v1.core.sched.output"].SchedulerOutput = type("Other", (), {})


def no_cached_field(vllm):
    vllm.modules["vllm.v1.core.sched.output"].CachedRequestData = type("Other", (), {})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: setattr(v.own, "__version__", "0.34.0"), "vLLM 0.34.0 is unknown: 0.25.1 and"),
        (lambda v: setattr(v.own, "__version__", "0.9.2"), "vLLM 0.9.2 is unknown"),
        (lambda v: setattr(v.own, "__version__", "dev"), "vLLM of unknown version 'dev'"),
        (no_status, "RequestStatus has no FINISHED_ABORTED"),
        (other_signature, "Scheduler.update_from_output('self', 'work') instead of"),
        (no_field, "SchedulerOutput has no finished_req_ids"),
        (no_cached_field, "CachedRequestData has no num_computed_tokens"),
        (lambda v: v.config.write_text("["), "cannot be read:"),
        (lambda v: v.config.unlink(), "cannot be read:"),
        (lambda v: v.config.write_text("agent = 3"), "agent = 3 is not allowed: must be a table"),
    ],
)
def test_whatever_is_missing_leaves_the_engine_alone(vllm, caplog, change, said):
    change(vllm)
    methods = vllm.scheduler.Scheduler.schedule
    register()
    scheduler = vllm.scheduler.Scheduler()
    assert "PASSIVE, nothing is measured" in caplog.text
    assert said in caplog.text
    assert getattr(scheduler, METER, None) is None
    if "cannot be read" not in said and "must be a table" not in said:
        assert vllm.scheduler.Scheduler.schedule is methods


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("VOLTANA_VLLM_INSTANCE", "", "set VOLTANA_VLLM_INSTANCE to a name"),
        ("VOLTANA_VLLM_INSTANCE", "../etc", "instance name '../etc' is not allowed"),
        ("VOLTANA_VLLM_ROLE", "both", "VOLTANA_VLLM_ROLE = 'both' is not allowed: must be one of"),
    ],
)
def test_a_wrong_environment_leaves_the_engine_alone(  # noqa: PLR0917
    vllm, caplog, monkeypatch, variable, value, said
):
    monkeypatch.setenv(variable, value)
    register()
    scheduler = vllm.scheduler.Scheduler()
    assert said in caplog.text
    assert served(scheduler)


def test_a_role_that_is_told_stands_above_that_of_the_connector(vllm, monkeypatch, caplog):
    monkeypatch.setenv("VOLTANA_VLLM_ROLE", "prefill")
    with caplog.at_level(logging.INFO, "vllm.voltana"):
        register()
        scheduler = vllm.scheduler.Scheduler(role="kv_both")
    assert "measuring decode-7 (prefill" in caplog.text
    getattr(scheduler, METER).close()


def test_a_scheduler_of_the_users_own_that_calls_ours_not_is_noticed(vllm, caplog):
    register()
    mro = vllm.scheduler.Scheduler

    class Other:
        pass

    assert contract.hook_problems(Other, HOOKS) == [
        "the hook on schedule is not in force",
        "the hook on update_from_output is not in force",
    ]
    assert contract.hook_problems(type("Async", (mro,), {}), HOOKS) == []


@pytest.mark.parametrize("broken", ["scheduled", "asked", "updated"])
def test_a_raising_meter_never_reaches_the_engine_and_is_switched_off(tmp_path, caplog, broken):
    bench = Bench(tmp_path)

    def fail(*_args):
        raise ZeroDivisionError("injected")

    setattr(bench.meter, broken, fail)
    request = Request("r0", 10, 3 * MAX_ERRORS, bench.wall_s)
    bench.scheduler.add_request(request)
    with caplog.at_level(logging.INFO, "vllm.voltana"):
        while bench.core.step():
            pass
    assert request.num_output_tokens == 3 * MAX_ERRORS
    assert getattr(bench.scheduler, METER) is None
    assert caplog.text.count("ZeroDivisionError: injected") >= MAX_ERRORS
    assert caplog.text.count("switched off") == 1
    assert not list(tmp_path.glob("*.ring"))
    bench.reader.close()


def test_an_error_of_vllm_itself_passes_through(tmp_path):
    bench = Bench(tmp_path)

    def fail(*_args):
        raise KeyError("vllm")

    for hook in (HOOKS | MORE_HOOKS).values():
        with pytest.raises(KeyError, match="vllm"):
            hook(fail)(bench.scheduler, Request("r0", 10, 3, 0.0))
    assert bench.meter.errors == 0
    bench.close()


def test_without_configuration_the_plugin_imports_nothing():
    code = (
        "import sys; from voltana_vllm.plugin import register; register();"
        "print([m for m in sys.modules if m.startswith(('vllm', 'voltana'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={}
    )
    assert done.stdout.strip() == "['voltana_vllm', 'voltana_vllm.plugin']"


@pytest.mark.parametrize(
    "path",
    files_in_the_engine(voltana_vllm),
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_what_runs_in_the_engine_imports_the_standard_library_and_the_ring_alone(path):
    imports_what_an_engine_has(path, voltana_vllm)
