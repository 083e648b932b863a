"""Our distributions as users install them: from wheels, each into a fresh environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks.environments import (
    DISTRIBUTIONS,
    ROOT,
    build_wheels,
    make_environment,
    packages,
    size_mb,
    uv,
)
from voltana import __version__
from voltana.serving.ring_reader import RingReader

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

DAEMON_MB = 60.0
UNIT = ROOT / "integrations" / "sglang" / "tests" / "unit"

ENGINE = f"""
import logging, sys, types
sys.path.insert(0, {str(UNIT)!r})
from fake_objects import MODES, decode_batch, request, scheduler

logging.basicConfig(level="INFO", format="%(message)s")
registered = {{}}
registry = types.ModuleType("sglang.srt.plugins.hook_registry")
registry.HookType = types.SimpleNamespace(AFTER="after", AROUND="around")
registry.HookRegistry = types.SimpleNamespace(
    register=lambda name, hook, kind: registered.update({{name.rpartition(".")[2]: hook}})
)
sys.modules[registry.__name__] = registry

from voltana_sglang import plugin
plugin._has_on_idle = lambda: True
plugin.register()
assert sorted(registered) == ["__init__", "on_idle", "process_batch_result", "run_batch"]

from voltana_sglang.hooks import contract
contract.installed_version = lambda: "0.5.23"
contract.static_problems = list
contract.hook_problems = lambda *_: []
contract.forward_modes = lambda: MODES
contract.requests_can_be_followed = lambda: True
engine = scheduler("null")
assert registered["__init__"]("made", engine) == "made"

def run_batch(scheduler, batch):
    return types.SimpleNamespace(copy_done=None)

batch = decode_batch([request(prompt=4, output=1)], [5])
result = registered["run_batch"](run_batch, engine, batch)
processed = registered["process_batch_result"](lambda *_: "processed", engine, batch, result)
assert processed == "processed"
assert registered["on_idle"](lambda *_: "idle", engine) == "idle"
foreign = {{m.partition(".")[0] for m in sys.modules}} - set(sys.stdlib_module_names)
foreign -= {{"sglang", "fake_objects", "__main__"}}
print(*sorted(name for name in foreign if not name.startswith("_")))
input()  # the ring lives while this process does
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    return build_wheels(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="module")
def plugin(tmp_path_factory, wheels):
    """What the plugin brings into an engine's environment; no index is asked for it."""
    folder = tmp_path_factory.mktemp("plugin") / "venv"
    return make_environment(folder, "--no-index", "--find-links", wheels, "voltana-sglang")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, wheels):
    folder = tmp_path_factory.mktemp("daemon") / "venv"
    return make_environment(folder, "--find-links", wheels, "voltana-actuatord")


def run(*command, **environment):
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [str(word) for word in command],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_all_wheels_are_of_one_version(wheels):
    made = sorted(path.name for path in wheels.glob("*.whl"))
    names = ("voltana", "voltana_actuatord", "voltana_ring", "voltana_sglang")
    assert made == sorted(f"{name}-{__version__}-py3-none-any.whl" for name in names)


def test_the_plugin_measures_with_nothing_but_the_ring_beside_it(plugin, tmp_path):
    assert packages(plugin) == ["voltana-ring", "voltana-sglang"]
    config = tmp_path / "v.toml"
    config.write_text(f'[agent]\nrings = "{tmp_path / "rings"}"\n')
    named = {"VOLTANA_SGLANG_CONFIG": str(config), "VOLTANA_SGLANG_INSTANCE": "decode-0"}
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    engine = subprocess.Popen(
        [str(plugin), "-c", ENGINE],
        env=clean | named,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = engine.stdout.readline()
        reader = RingReader(tmp_path / "rings" / "decode-0@dp0.pp0.tp0.ring", from_start=True)
        kinds = [record.kind.name for record in reader.drain()]
        assert not reader.replaced()
    finally:
        _, log = engine.communicate("\n", timeout=60)
    assert engine.returncode == 0, log
    assert said.split() == ["voltana_ring", "voltana_sglang"]
    assert "hooks are live on SGLang 0.5.23: measuring decode-0" in log
    assert kinds == ["CHANGES", "LAUNCHED", "FINISHED", "CHANGES", "IDLE"]
    assert reader.replaced()
    reader.close()


def test_the_plugin_s_command_names_the_extra_that_it_needs(plugin):
    for arguments in (["launch", "cluster.toml"], ["agent", "--instance", "x"], ["--help"], []):
        done = run(plugin.parent / "voltana-sglang", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert "pip install 'voltana-sglang[serving]'" in line


def test_the_daemon_s_environment_is_small_and_has_its_doctor(daemon, tmp_path):
    held = packages(daemon)
    assert {"voltana-actuatord", "nvidia-ml-py", "pydantic"} <= set(held)
    assert not {"numpy", "voltana", "river", "scipy", "matplotlib"} & set(held)
    assert size_mb(daemon.parent.parent) < DAEMON_MB
    command = daemon.parent / "voltana-actuatord"
    nowhere = str(tmp_path / "none.sock")
    done = run(command, "doctor", "--socket", nowhere, LD_LIBRARY_PATH="")
    assert (done.returncode, done.stderr) == (1, "")
    assert "Start voltana-actuatord" in done.stdout
    told = json.loads(run(command, "doctor", "--socket", nowhere, "--json").stdout)["findings"]
    assert [finding["subject"] for finding in told] == [
        line[8:].partition(":")[0] for line in done.stdout.splitlines()
    ]
    assert "usage: voltana-actuatord" in run(command, "--help").stdout
    config = tmp_path / "actuatord.toml"
    config.write_text('state_dir = "relative"')
    assert run(command, "--check", "--config", config).returncode == 2


def test_in_a_checkout_the_old_line_still_finds_all_of_ours(tmp_path):
    """`pip install . integrations/sglang`, without an index that has any of them."""
    uv("venv", "-q", "--python", sys.executable, tmp_path / "venv")
    report = tmp_path / "report.txt"
    uv(
        "pip", "compile", "-q", "--no-header", "--no-annotate", "-o", report,
        "--python", tmp_path / "venv" / "bin" / "python", _requirements(tmp_path),
    )  # fmt: skip
    ours = [line for line in report.read_text().splitlines() if line.startswith("voltana")]
    assert len(ours) == len(DISTRIBUTIONS)
    assert all(" @ file://" in line or line.startswith("file://") for line in ours)


def _requirements(folder: Path) -> Path:
    path = folder / "requirements.in"
    path.write_text(
        f"voltana @ {ROOT.as_uri()}\nvoltana-sglang @ {(ROOT / 'integrations/sglang').as_uri()}\n"
    )
    return path
