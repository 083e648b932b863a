from __future__ import annotations

import functools
import logging
import re
import sys
from types import SimpleNamespace

import pytest
from fake_scheduler import MODES, Bench, decode_batch, request

from integrations.sglang.cpu.voltana_sglang_cpu.hook_cost import _timed_around
from voltana.serving.agent.building import engine_limits
from voltana.serving.config import read_config
from voltana.serving.config_tables import EngineTable
from voltana.serving.ring_reader import RingReader
from voltana_ring.hooks.guard import MAX_ERRORS, METER
from voltana_ring.hooks.settings import SettingsError, read_settings
from voltana_ring.layout import Kind
from voltana_sglang.hooks import attach as attaching
from voltana_sglang.hooks import contract
from voltana_sglang.hooks.around import (
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
    kinds = [r.kind for r in engine.bench.drain()]
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


def test_a_hook_that_is_timed_is_in_force():
    """The benchmark of hooks puts a timer around them before SGLang applies them."""
    timed = _timed_around(around_run_batch, SimpleNamespace(add=lambda _: None))
    wrapped = hooked(Engine.run_batch, timed)
    assert contract.hook_problems(type("Timed", (Engine,), {"run_batch": wrapped}),
                                  {"run_batch": around_run_batch}) == []  # fmt: skip
    assert contract.hook_problems(type("Timed", (Engine,), {"run_batch": wrapped}),
                                  {"run_batch": around_on_idle}) != []  # fmt: skip


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
        "requests_can_be_followed": lambda: True,
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


@pytest.mark.parametrize("hooked_idle", [True, False])
def test_an_engine_says_whether_it_says_when_it_idles(monkeypatch, tmp_path, caplog, hooked_idle):
    """Where it does, silence is a stall, and no idling."""
    engine = Hooked()
    if not hooked_idle:
        monkeypatch.setattr(Hooked, "on_idle", Engine.on_idle)
    with caplog.at_level(logging.INFO, "sglang.voltana"):
        attach_here(monkeypatch, tmp_path, engine)
    assert ("concluded from silence" in caplog.text) is not hooked_idle
    reader = RingReader(next((tmp_path / "rings").glob("*.ring")))
    assert reader.info["says_idle"] is hooked_idle
    reader.close()
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


NONSENSE = [
    ("start = 3", "agent.start = 3 is not allowed: must be one of"),
    ('start = "later"', "agent.start = 'later' is not allowed"),
    ("interpreter = 7", "agent.interpreter = 7 is not allowed: must be a Python"),
    ('interpreter = ["python", 3]', "agent.interpreter = ['python', 3] is not allowed"),
    ("state = [1]", "agent.state = [1] is not allowed: must be a path"),
    ("rings = 1", "cannot be read: Cannot overwrite a value"),
    ("[", "cannot be read:"),
]


@pytest.mark.parametrize(("config", "said"), NONSENSE)
def test_a_wrong_configuration_leaves_the_engine_alone(monkeypatch, tmp_path, caplog, config, said):
    engine = Hooked()
    attach_here(monkeypatch, tmp_path, engine, config=f"{config}\n")
    assert "PASSIVE, nothing is measured or controlled" in caplog.text
    assert said in caplog.text
    assert step(engine) == "processed"


@pytest.mark.parametrize(
    "content", [b"agent = 3", b"\xff\xfe", b"[[agent]]\nstart = 1", None, b"x" * 100_000]
)
def test_whatever_the_file_holds_the_reader_says_so_or_reads_it(tmp_path, content):
    path = tmp_path / "v.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=re.escape(str(path))):
        read_settings(path)


@pytest.mark.parametrize("key", ["rings", "state"])
def test_a_home_that_is_not_there_is_named(tmp_path, key):
    path = tmp_path / "v.toml"
    path.write_text(f'[agent]\n{key} = "~no-such-user/x"')
    with pytest.raises(SettingsError, match=rf"agent\.{key} = '~no-such-user/x' is not allowed"):
        read_settings(path)


def test_the_plugin_and_the_agent_read_the_same_things(tmp_path):
    """One schema, the agent's; what the plugin reads of it must come out alike."""
    path = tmp_path / "v.toml"
    texts = (
        "",
        '[agent]\nrings = "r"\nstate = "~/s"\nstart = "plugin"\ninterpreter = "/opt/x/python"',
        '[agent]\ninterpreter = ["docker", "exec", "agents", "python"]\n[slo]\nitl_ms = 50',
    )
    for text in texts:
        path.write_text(text)
        ours, theirs = read_settings(path), read_config(path).agent
        assert (ours.rings, ours.state) == (theirs.rings, theirs.state)
        assert ours.starts_agent == (theirs.start == "plugin")
        assert ours.interpreter == (theirs.interpreter or ())


def test_an_instance_that_no_file_can_be_named_after_leaves_the_engine_alone(
    monkeypatch, tmp_path, caplog
):
    monkeypatch.setattr(attaching, "INSTANCE_VARIABLE", "OTHER")
    monkeypatch.setenv("OTHER", "../etc")
    engine = Hooked()
    attach_here(monkeypatch, tmp_path, engine)
    assert "PASSIVE" in caplog.text
    assert "instance name '../etc' is not allowed: must be letters, digits" in caplog.text


def test_without_a_toml_reader_the_plugin_says_what_to_install(monkeypatch, tmp_path, caplog):
    """Python 3.10, which has no tomllib."""
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setitem(sys.modules, "tomli", None)
    engine = Hooked()
    attach_here(monkeypatch, tmp_path, engine)
    assert "Install tomli, or run the engine on Python 3.11 or later" in caplog.text
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


@pytest.mark.parametrize(
    ("mode", "arguments", "said"),
    [
        ("null", {"enable_mixed_chunk": False}, True),
        ("null", {"enable_mixed_chunk": True}, False),
        ("null", {}, False),  # not said: nothing is concluded from it
        ("prefill", {"enable_mixed_chunk": False}, False),
    ],
)
def test_the_engine_says_whether_prompts_go_before_decode(mode, arguments, said):
    engine = Hooked()
    engine.disaggregation_mode = SimpleNamespace(value=mode)
    engine.server_args = SimpleNamespace(**arguments)
    told = read_facts(engine, "0.5.23").to_dict()
    assert told["prompts_first"] is said
    assert engine_limits(EngineTable(), told).prompts_first is said
    assert not engine_limits(EngineTable(), {}).prompts_first  # older plugins do not say


@pytest.mark.parametrize(
    ("mode", "page_size", "queue", "arguments", "said"),
    [
        ("decode", 1, {"num_reserved_decode_tokens": 512}, {}, 512),
        ("decode", 16, {"num_reserved_decode_tokens": 64}, {"num_reserved_decode_tokens": 9}, 79),
        ("decode", 16, {}, {"num_reserved_decode_tokens": 512}, 527),
        ("decode", 16, {}, {}, None),
        ("prefill", 16, {}, {"num_reserved_decode_tokens": 512}, 15),
        ("null", 0, {}, {"num_reserved_decode_tokens": 512}, 0),
    ],
)
def test_the_engine_says_what_it_keeps_free_for_each_request(
    mode, page_size, queue, arguments, said
):
    engine = Hooked()
    engine.disaggregation_mode = SimpleNamespace(value=mode)
    engine.page_size = page_size
    engine.disagg_decode_prealloc_queue = SimpleNamespace(queue=[], **queue)
    engine.server_args = SimpleNamespace(**arguments)
    facts = read_facts(engine, "0.5.23")
    assert (facts.kv_reserved_tokens, facts.page_size) == (said, page_size)
