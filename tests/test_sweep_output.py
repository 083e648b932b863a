"""What a sweep's workers say: never where its results go, and where nothing listens too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sweep_steps import ROOT, SHORT
from voltana.cli.main import app
from voltana.evaluation.sweep import LocalWorkers, make_plan, run_sweep
from voltana.evaluation.sweep.store import RESULTS

TRACE = "arrival_s,prompt_tokens,output_tokens\n0.5,100,20\n0.1,200,10\n0.7,100,0\n0.9,300,5\n"
"""Is warned of: one request has no output, and one is not in the order of time."""

LOUD = """
import os
from multiprocessing import parent_process
from voltana.policies import get_policy

def make(name):
    if parent_process() is not None:
        print("printed", flush=True)
        os.write(1, b"written\\n")
    return get_policy(name)
"""


def swept(out, *arguments, redirected="", level="warning"):
    """`voltana sweep` of the trace, with streams as a shell redirects them."""
    Path(out).mkdir(exist_ok=True)
    (Path(out) / "trace.csv").write_text(TRACE)
    scenario = Path(out) / "scenario.toml"
    scenario.write_text('[trace]\nfile = "trace.csv"\n[cluster]\nprefill = 1\ndecode = 1\n')
    command = [sys.executable, "-m", "voltana", "sweep", str(scenario), "--policy", "static-max"]
    command += ["--grid", "seed=1,2", "--out", str(out), "--log-level", level, *arguments]
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirected}', "sh", *command],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_warnings_of_workers_are_no_part_of_the_results(tmp_path):
    ended = swept(tmp_path, "--json", "-")
    assert json.loads(ended.stdout)["ran"] == 2
    assert ended.stderr.count("dropped requests") == 2


def test_workers_log_what_the_sweep_was_asked_to_log(tmp_path):
    assert "dropped requests" not in swept(tmp_path, level="error").stderr


@pytest.mark.parametrize("redirected", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_cost_no_scenario(tmp_path, redirected):
    ended = swept(tmp_path, redirected=redirected)
    assert ended.returncode == 0
    assert (tmp_path / RESULTS).is_file()


def test_what_a_policy_prints_goes_beside(tmp_path):
    (tmp_path / "loud.py").write_text(LOUD)
    code = (
        "from pathlib import Path\n"
        "from voltana.evaluation.sweep import LocalWorkers, make_plan, run_sweep\n"
        "if __name__ == '__main__':\n"
        f"    plan = make_plan({SHORT!r}, {{'seed': [1]}}, policy_source='loud:make')\n"
        f"    print(run_sweep(plan, Path({str(tmp_path)!r}), LocalWorkers(1)).ran)\n"
    )
    (tmp_path / "study.py").write_text(code)
    ended = subprocess.run(
        [sys.executable, str(tmp_path / "study.py")],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
    )  # fmt: skip
    assert ended.stdout == "1\n", ended.stderr
    assert {"printed", "written"} <= set(ended.stderr.splitlines())


def test_a_program_with_streams_of_its_own_runs_a_sweep(tmp_path):
    """Its module is loaded in workers as well, and so are they."""
    code = (
        "import io, sys\n"
        "from pathlib import Path\n"
        "from voltana.evaluation.sweep import LocalWorkers, make_plan, run_sweep\n"
        "sys.stdout, sys.stderr = io.StringIO(), io.StringIO()\n"
        "if __name__ == '__main__':\n"
        f"    plan = make_plan({SHORT!r}, {{'seed': [1]}})\n"
        f"    outcome = run_sweep(plan, Path({str(tmp_path)!r}), LocalWorkers(1))\n"
        "    sys.exit(len(outcome.failures))\n"
    )
    (tmp_path / "study.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "study.py")]
    assert subprocess.run(command, check=False, env=environment).returncode == 0


def test_a_folder_whose_name_is_no_text_has_its_report(tmp_path):
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/sw\xc3\xff"))
    ended = swept(out)
    assert ended.returncode == 0
    app(["report", str(out)], standalone_mode=False)
    assert (out / "report.html").is_file()


def test_a_sweep_in_a_program_without_streams(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    plan = make_plan(SHORT, {"seed": [1]})
    assert run_sweep(plan, tmp_path, LocalWorkers(1)).failures == {}
