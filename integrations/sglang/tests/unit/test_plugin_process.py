"""What the plugin loads in the engine's process, and the agent that it starts there."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time

import pytest

import voltana_sglang
from tests.engine_imports import files_in_the_engine, imports_what_an_engine_has


def test_without_configuration_the_plugin_imports_nothing():
    code = (
        "import sys; from voltana_sglang.plugin import register; register();"
        "print([m for m in sys.modules if m.startswith(('sglang', 'voltana'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['voltana_sglang', 'voltana_sglang.plugin']"


@pytest.mark.parametrize("lacks", ["voltana_ring", "sglang", "sglang.srt.plugins.hook_registry"])
def test_a_plugin_that_cannot_be_put_in_place_is_passive_and_says_so(lacks):
    """Installed in part, or beside an engine of another shape: the engine starts all the same."""
    code = (
        "import os, sys, types\n"
        "for name in ('sglang', 'sglang.srt', 'sglang.srt.plugins',"
        " 'sglang.srt.plugins.hook_registry'):\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        f"sys.modules[{lacks!r}] = None\n"
        "os.environ['VOLTANA_SGLANG_CONFIG'] = 'v.toml'\n"
        "from voltana_sglang.plugin import register\n"
        "register()\n"
        "print('the engine serves')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "the engine serves\n", done.stderr
    assert "voltana: PASSIVE, it cannot be put in place" in done.stderr


@pytest.mark.parametrize(
    "path",
    files_in_the_engine(voltana_sglang),
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_what_runs_in_the_engine_imports_the_standard_library_and_the_ring_alone(path):
    imports_what_an_engine_has(path, voltana_sglang)


def test_what_runs_in_the_engine_loads_no_package_but_our_own():
    code = (
        "import sys; before = set(sys.modules);"
        "import voltana_sglang.hooks.attach, voltana_ring.hooks.start_agent;"
        "tops = {m.partition('.')[0] for m in set(sys.modules) - before};"
        "print(*sorted(tops - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["voltana_ring", "voltana_sglang"]


ENGINE = """
import logging, sys, time
from pathlib import Path
from voltana_ring.paths import bell_path, ring_path
from voltana_ring.writer import RingWriter
from voltana_ring.hooks.settings import read_settings
from voltana_ring.hooks.start_agent import start_agent

logging.basicConfig(level="INFO", format="%(message)s")
config = Path(sys.argv[1])
settings = read_settings(config)
settings.rings.mkdir(mode=0o700)
ring = RingWriter(
    ring_path(settings.rings, "decode-0", "@dp0.pp0.tp0"), bell_path(settings.rings, "decode-0"),
    {"role": "decode"},
)
start_agent(config, "decode-0", settings, "voltana_sglang", logging.getLogger("sglang.voltana"))
print("the engine serves", flush=True)
time.sleep(600)
"""


def engine_process(tmp_path, interpreter=""):
    """A process that starts an agent as the engine does, and its log."""
    config, log = tmp_path / "v.toml", tmp_path / "engine.log"
    config.write_text(
        f'[agent]\nrings = "{tmp_path / "rings"}"\nstate = "{tmp_path / "state"}"\n{interpreter}\n'
        "[engine]\ntable_mhz = [600, 1410]\n"
    )
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", ENGINE, str(config)], stdout=out, stderr=subprocess.STDOUT
        )
    return process, log


def test_the_plugin_starts_an_agent_that_ends_with_the_engine(tmp_path):
    """The engine is a process of its own here, which starts the agent and is then killed."""
    engine, _ = engine_process(tmp_path, f'interpreter = "{sys.executable}"')
    log = tmp_path / "state" / "decode-0.agent.log"
    try:
        wait_for(lambda: log.exists() and "agent serves" in log.read_text(), log)
    finally:
        engine.kill()
        engine.wait()
    wait_for(lambda: "the engine has ended" in log.read_text(), log)
    lock = tmp_path / "rings" / "decode-0.agent.lock"
    wait_for(lambda: lock_is_free(lock), log)


@pytest.mark.parametrize(
    ("interpreter", "said"),
    [
        ('interpreter = "/none/python"', "/none/python cannot be started ([Errno 2]"),
        # An environment that lacks the extra, in effect: -S hides all that is installed.
        (
            f'interpreter = ["{sys.executable}", "-I", "-S"]',
            "ended with status 1; the engine serves on at the default clocks",
        ),
        ('interpreter = ["sh", "-c", "kill -9 $$"]', "ended with status -9; the engine serves on"),
    ],
)
def test_an_interpreter_that_is_absent_or_broken_is_logged_and_the_engine_serves_on(
    tmp_path, interpreter, said
):
    engine, log = engine_process(tmp_path, interpreter)
    try:
        wait_for(lambda: said in log.read_text() and "the engine serves\n" in log.read_text(), log)
        assert engine.poll() is None
        assert "Traceback" not in log.read_text()
    finally:
        engine.kill()
        engine.wait()


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
