"""Whatever an extra brings may be absent: its absence is one line that names the extra."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from voltana import __version__
from voltana.errors import MissingExtraError
from voltana.extras import EXTRAS, missing, require

ROOT = Path(__file__).parent.parent
PROJECTS = ("pyproject.toml", *sorted(map(str, ROOT.glob("*/*/pyproject.toml"))))
MODULES = {"pyzmq": "zmq"}
QUICK = ("simulate", "--duration", "2", "--rate", "5", "--prefill", "1", "--decode", "1")


def run(code, *arguments, without=()):
    """Run code in an interpreter to which some packages are not installed."""
    hidden = f"import sys; sys.modules.update(dict.fromkeys({list(without)!r}))\n"
    return subprocess.run(
        [sys.executable, "-c", hidden + code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def voltana(*arguments, without=()):
    return run("from voltana.cli.main import main; main()", *arguments, without=without)


def hook(path):
    return tomllib.loads((ROOT / path).read_text())["tool"]["hatch"]["metadata"]["hooks"]["custom"]


def test_the_modules_of_an_extra_are_those_that_it_brings():
    brought = hook("pyproject.toml")["optional-dependencies"]
    for extra, modules in EXTRAS.items():
        names = [re.match(r"[\w-]+", text)[0] for text in brought[extra]]
        assert sorted(modules) == sorted(MODULES.get(n, n.replace("-", "_")) for n in names)


@pytest.mark.parametrize(
    "lock", sorted(ROOT.glob("integrations/sglang/requirements/sglang-*.txt")), ids=lambda p: p.stem
)
def test_the_engine_s_test_environment_holds_what_agent_and_router_need(lock):
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in lock.read_text().splitlines()
        if "==" in line and not line.startswith("#")
    }
    core = hook("pyproject.toml")
    needed = [*core["dependencies"], *core["optional-dependencies"]["serving"]]
    needed += tomllib.loads((ROOT / "packages/actuatord/pyproject.toml").read_text())["project"][
        "dependencies"
    ]
    names = {re.match(r"[\w-]+", text)[0] for text in needed}
    assert {name for name in names if not name.startswith("voltana")} <= pinned


def test_nothing_is_missing_here_and_what_is_missing_is_named(monkeypatch):
    assert not any(missing(extra) for extra in EXTRAS if extra != "ray")  # has a lock of its own
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.setitem(sys.modules, "zmq", None)
    with pytest.raises(MissingExtraError) as error:
        require("serving", "the router")
    assert str(error.value) == (
        "the router needs aiohttp, zmq, not installed here. Run: pip install 'voltana[serving]'"
    )


@pytest.mark.parametrize(
    ("module", "absent", "extra"),
    [
        ("voltana.analysis.margins", "control", "analysis"),
        ("voltana.analysis", "control", "analysis"),
        ("voltana.evaluation.plots", "matplotlib", "plots"),
        ("voltana.evaluation.timeline", "matplotlib", "plots"),
        ("voltana.serving.config", "aiohttp", "serving"),
        ("voltana.serving.router.app", "voltana_ring", "serving"),
        ("voltana.plant.gym_env", "gymnasium", "gym"),
        ("voltana.testing.strategies", "hypothesis", "testing"),
    ],
)
def test_a_module_without_its_extra_names_it(module, absent, extra):
    code = (
        "from voltana.errors import MissingExtraError\n"
        f"try:\n    import {module}\n"
        "except MissingExtraError as error:\n    print(error)\n"
    )
    done = run(code, without=[absent])
    assert done.returncode == 0, done.stderr
    assert f"pip install 'voltana[{extra}]'" in done.stdout


def test_a_command_without_its_extra_is_one_line_and_status_2():
    done = voltana("analyze", "--policy", "pid", without=["control"])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "voltana: voltana analyze needs control, not installed here. "
        "Run: pip install 'voltana[analysis]'\n"
    )


def test_a_sweep_on_ray_without_ray_names_the_extra():
    done = voltana("sweep", "--grid", "seed=1", "--ray", "auto", without=["ray"])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "voltana: a sweep on Ray needs ray, not installed here. Run: pip install 'voltana[ray]'\n"
    )


def test_simulate_needs_no_extra_and_says_which_one_draws(tmp_path):
    absent = ["matplotlib", "control", "aiohttp", "gymnasium", "hypothesis", "zmq", "voltana_ring"]
    policy = ("--policy", "static-max")
    assert voltana(*QUICK, *policy, without=absent).returncode == 0
    done = voltana(*QUICK, *policy, "--out", str(tmp_path), without=absent)
    assert done.returncode == 0, done.stderr
    assert "voltana: no plots: plots need matplotlib, not installed here." in done.stderr
    assert "pip install 'voltana[plots]'" in done.stderr
    assert "Wrote 0 plots, report.md, results.json and scenario.toml" in done.stderr
    assert json.loads((tmp_path / "results.json").read_text())["results"]
    assert (tmp_path / "report.md").read_text().startswith("# Policies compared")


@pytest.mark.parametrize("absent", ["voltana", "typer", "aiohttp", "voltana_actuatord"])
@pytest.mark.parametrize("command", ["agent", "launch", "router", "--help"])
def test_the_integration_s_commands_without_their_extra_name_it(absent, command):
    code = "from voltana_sglang.entry import main; main()"
    done = run(code, command, without=[absent])
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"voltana-sglang: the command needs {absent}")
    assert line.endswith("Run: pip install 'voltana-sglang[serving]'")


def test_a_mistake_in_our_own_modules_is_no_missing_extra():
    code = (
        "import sys, voltana_sglang.cli as cli\n"
        "cli.COMMANDS['agent'] = 'voltana.serving.agent.no_such_module:agent'\n"
        "from voltana_sglang.entry import main; main()"
    )
    done = run(code, "agent")
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'voltana.serving.agent.no_such_mod" in done.stderr


def test_the_version_stands_in_one_place():
    tracked = [ROOT / path for path in PROJECTS]
    assert len(tracked) >= 4
    for path in tracked:
        project = tomllib.loads(path.read_text())["project"]
        if project["name"] in {"voltana", "voltana-ring", "voltana-actuatord", "voltana-sglang"}:
            assert "version" in project["dynamic"]
            assert "version" not in project
    sources = [
        p for p in ROOT.glob("*/**/*.py") if not p.relative_to(ROOT).parts[0].startswith(".")
    ]
    named = [p for p in sources if f'"{__version__}"' in p.read_text(errors="ignore")]
    assert named == [ROOT / "voltana" / "__init__.py"]
