from __future__ import annotations

import fcntl
import functools
import logging
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from fake_scheduler import MODES, Bench, decode_batch, request

from voltana_ring.layout import Kind
from voltana_sglang.hooks import attach as attaching
from voltana_sglang.hooks import contract
from voltana_sglang.hooks.around import (
    MAX_ERRORS,
    METER,
    around_on_idle,
    around_process_batch_result,
    around_run_batch,
)
from voltana_sglang.hooks.engine_facts import read_facts


class Engine:
    """The scheduler's methods, wrapped as SGLang wraps them."""

    def __init__(self):
        self.done = []
        self.waiting_queue = []
        self.chunked_req = None
        self.disaggregation_mode = SimpleNamespace(value="null")
        self.server_args = SimpleNamespace(model_path="m", port=1, tp_size=1)

    def run_batch(self, batch, pp_proxy_tensors=None):
        self.done.append(("run", pp_proxy_tensors))
        return SimpleNamespace(copy_done=None)

    def process_batch_result(self, batch, result):
        self.done.append(("process", result))
        return "processed"

    def on_idle(self):
        self.done.append(("idle", None))


def hooked(function, hook):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return hook(function, *args, **kwargs)

    wrapper.__wrapped__ = function
    return wrapper


class Hooked(Engine):
    run_batch = hooked(Engine.run_batch, around_run_batch)
    process_batch_result = hooked(Engine.process_batch_result, around_process_batch_result)
    on_idle = hooked(Engine.on_idle, around_on_idle)


@pytest.fixture
def engine(tmp_path):
    bench = Bench(tmp_path)
    engine = Hooked()
    setattr(engine, METER, bench.meter)
    engine.bench = bench
    return engine


def step(engine):
    fake = decode_batch([request()], [5])
    result = engine.run_batch(fake, pp_proxy_tensors="tensors")
    return engine.process_batch_result(fake, result)


def test_every_iteration_is_measured_and_sglang_does_not_notice(engine):
    assert step(engine) == "processed"
    engine.on_idle()
    assert [what for what, _ in engine.done] == ["run", "process", "idle"]
    assert engine.done[0][1] == "tensors"
    kinds = [r.kind for r in engine.bench.reader.drain()]
    assert kinds == [Kind.LAUNCHED, Kind.FINISHED, Kind.IDLE]


def test_a_scheduler_without_a_meter_is_left_alone():
    engine = Hooked()
    assert step(engine) == "processed"
    engine.on_idle()
    assert [what for what, _ in engine.done] == ["run", "process", "idle"]


@pytest.mark.parametrize("broken", ["launch", "returned", "finish", "idle"])
def test_a_raising_meter_never_reaches_the_engine_and_is_switched_off(engine, broken, caplog):
    def fail(*_args):
        raise ZeroDivisionError("injected")

    meter = engine.bench.meter
    functions = {name: getattr(meter, name) for name in ("launch", "returned", "finish", "idle")}
    functions[broken] = fail
    setattr(engine, METER, SimpleNamespace(errors=0, close=meter.close, **functions))
    with caplog.at_level(logging.INFO, "sglang.voltana"):
        for _ in range(3 * MAX_ERRORS):
            assert step(engine) == "processed"
            engine.on_idle()
    assert getattr(engine, METER) is None
    assert len(engine.done) == 9 * MAX_ERRORS
    assert caplog.text.count("ZeroDivisionError: injected") >= MAX_ERRORS
    assert caplog.text.count("switched off") == 1
    assert not engine.bench.writer.path.exists()


def test_an_error_of_sglang_itself_passes_through(engine):
    def fail(self, batch):
        raise KeyError("sglang")

    with pytest.raises(KeyError, match="sglang"):
        around_run_batch(fail, engine, decode_batch([request()], [5]))
    with pytest.raises(KeyError, match="sglang"):
        around_process_batch_result(
            lambda *_: fail(*_[:2]), engine, decode_batch([request()], [5]), SimpleNamespace()
        )


def test_a_result_that_takes_no_attribute_is_counted_as_an_error(engine):
    class Slotted:
        __slots__ = ()

    result = around_run_batch(lambda *_a, **_k: Slotted(), engine, decode_batch([request()], [5]))
    assert isinstance(result, Slotted)
    assert getattr(engine, METER).errors == 1


def test_hooks_that_are_not_in_force_are_noticed():
    hooks = attaching.HOOKS
    assert contract.hook_problems(Hooked, hooks) == []
    assert contract.hook_problems(Engine, hooks) == [
        "the hook on run_batch is not in force",
        "the hook on process_batch_result is not in force",
    ]


def test_a_hook_is_found_below_those_of_others():
    class Other(Hooked):
        run_batch = hooked(Hooked.run_batch, lambda original, *a, **k: original(*a, **k))

    assert contract.hook_problems(Other, attaching.HOOKS) == []


@pytest.mark.parametrize(
    ("version", "problem"),
    [
        ("0.5.11", ""),
        ("0.5.23", ""),
        ("0.5.12.post1", ""),
        ("0.5.10", "0.5.11 and later"),
        ("0.6.0", "SGLang 0.6.0 is unknown"),
        ("1.0.0rc1", "SGLang 1.0.0rc1 is unknown"),
        ("main", "unknown version 'main'"),
        ("", "unknown version ''"),
    ],
)
def test_unknown_versions_are_named(version, problem):
    found = contract.version_problem(version)
    assert (problem in found) if problem else found == ""


def attach_here(monkeypatch, tmp_path, engine, config="", **patches):
    path = tmp_path / "voltana.toml"
    path.write_text(f'[agent]\nrings = "{tmp_path / "rings"}"\n{config}')
    answers = {
        "installed_version": lambda: "0.5.23",
        "static_problems": list,
        "forward_modes": lambda: MODES,
    }
    for name, answer in (answers | patches).items():
        monkeypatch.setattr(contract, name, answer)
    monkeypatch.setitem(sys.modules, "sglang.srt.runtime_context", None)
    monkeypatch.setenv("VOLTANA_SGLANG_CONFIG", str(path))
    monkeypatch.setenv("VOLTANA_SGLANG_INSTANCE", "decode-7")
    return attaching.after_init("result of __init__", engine)


def test_a_scheduler_is_attached_and_says_so(monkeypatch, tmp_path, caplog):
    engine = Hooked()
    with caplog.at_level(logging.INFO, "sglang.voltana"):
        assert attach_here(monkeypatch, tmp_path, engine) == "result of __init__"
    assert "hooks are live on SGLang 0.5.23: measuring decode-7 (unified" in caplog.text
    assert [p.name for p in (tmp_path / "rings").glob("*.ring")] == ["decode-7@dp0.pp0.tp0.ring"]
    assert step(engine) == "processed"
    assert getattr(engine, METER).finished == 1
    getattr(engine, METER).close()


@pytest.mark.parametrize(
    ("patches", "said"),
    [
        ({"installed_version": lambda: "0.7.0"}, "SGLang 0.7.0 is unknown"),
        ({"static_problems": lambda: ["ScheduleBatch has no reqs"]}, "ScheduleBatch has no reqs"),
        ({"hook_problems": lambda *_: ["the hook on x is not in force"]}, "hook on x"),
        ({"forward_modes": lambda: 1 / 0}, "ZeroDivisionError"),
    ],
)
def test_whatever_is_missing_leaves_the_engine_alone(monkeypatch, tmp_path, caplog, patches, said):
    engine = Hooked()
    attach_here(monkeypatch, tmp_path, engine, **patches)
    assert "PASSIVE, nothing is measured" in caplog.text
    assert said in caplog.text
    assert getattr(engine, METER, None) is None
    assert step(engine) == "processed"


def test_a_wrong_configuration_leaves_the_engine_alone(monkeypatch, tmp_path, caplog):
    engine = Hooked()
    attach_here(monkeypatch, tmp_path, engine, config="port = 1\n")
    assert "unknown key in [agent] 'port'" in caplog.text
    assert step(engine) == "processed"


def test_only_one_rank_of_a_group_publishes(monkeypatch, tmp_path):
    engine = Hooked()
    engine.ps = SimpleNamespace(attn_tp_rank=1, tp_rank=1, dp_rank=None, pp_rank=0, gpu_id=1)
    attach_here(monkeypatch, tmp_path, engine)
    assert getattr(engine, METER, None) is None
    assert not (tmp_path / "rings").exists()


def test_facts_are_found_wherever_a_version_has_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "sglang.srt.runtime_context", None)
    early = Hooked()
    early.tp_rank, early.attn_tp_rank, early.dp_rank, early.pp_rank = 3, 1, 1, 0
    early.gpu_id = 3
    assert read_facts(early, "0.5.11").ring_suffix == "@dp1.pp0.tp3"
    later = Hooked()
    later.ps = SimpleNamespace(tp_rank=2, attn_tp_rank=0, attn_dp_rank=2, dp_rank=None, pp_rank=1)
    facts = read_facts(later, "0.5.15")
    assert (facts.ring_suffix, facts.leads, facts.role) == ("@dp2.pp1.tp2", True, "unified")

    class Unset:
        def __getattr__(self, name):
            if name == "tp_rank":
                return 5
            raise RuntimeError("not initialised")

    context = SimpleNamespace(get_parallel=Unset, get_device=lambda: SimpleNamespace(gpu_id=6))
    monkeypatch.setitem(sys.modules, "sglang.srt.runtime_context", context)
    newest = read_facts(Hooked(), "0.5.23")
    assert (newest.tp_rank, newest.gpu, newest.dp_rank) == (5, 6, 0)


def test_without_configuration_the_plugin_imports_nothing():
    code = (
        "import sys; from voltana_sglang.plugin import register; register();"
        "print([m for m in sys.modules if m.startswith(('sglang', 'voltana'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['voltana_sglang', 'voltana_sglang.plugin']"


def test_what_runs_in_the_engine_loads_no_heavy_package():
    heavy = ("river", "control", "matplotlib", "scipy", "numpy", "structlog", "typer", "aiohttp")
    code = (
        "import sys; import voltana_sglang.hooks.attach;"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_plugin_starts_an_agent_that_ends_with_the_engine(tmp_path):
    """The engine is a process of its own here, which starts the agent and is then killed."""
    (tmp_path / "v.toml").write_text(
        f'[agent]\nrings = "{tmp_path / "rings"}"\nstate = "{tmp_path / "state"}"\n'
        "[engine]\ntable_mhz = [600, 1410]\n"
    )
    code = (
        "import time; from pathlib import Path;"
        "from voltana_sglang.hooks.start_agent import start_agent;"
        f"start_agent(Path({str(tmp_path / 'v.toml')!r}), 'decode-0', "
        f"Path({str(tmp_path / 'state')!r}));"
        "time.sleep(600)"
    )
    engine = subprocess.Popen([sys.executable, "-c", code])
    log = tmp_path / "state" / "decode-0.agent.log"
    try:
        wait_for(lambda: log.exists() and "agent serves" in log.read_text(), log)
    finally:
        engine.kill()
        engine.wait()
    wait_for(lambda: "the engine has ended" in log.read_text(), log)
    lock = tmp_path / "rings" / "decode-0.agent.lock"
    wait_for(lambda: lock_is_free(lock), log)


def wait_for(condition, log, timeout_s=60.0):
    ends_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_s, log.read_text() if log.exists() else "no log"
        time.sleep(0.05)


def lock_is_free(path):
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
