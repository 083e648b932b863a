"""Which code the figures of a sweep are of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import voltana
from tests.sweep_steps import ROOT
from voltana.evaluation.sweep.code import figure_files

LOADED = """
import sys
from voltana.evaluation.sweep.work import Task, attempt

short = {"policies": ["static-max", "voltana", "best-fixed"], "power_budget_w": 1500.0,
         "cluster": {"prefill": 1, "decode": 1}, "workload": {"rate_rps": 4.0, "duration_s": 2.0}}
outcomes = [attempt(Task(key="a", scenario=short))]
routed = short | {"policies": ["static-max"]}
outcomes.append(attempt(Task(key="b", scenario=routed,
                             policy_source="voltana.evaluation.reproduce.routed:routed")))
assert not any(outcome.error for outcome in outcomes), outcomes
print(*(m.__file__ for m in sys.modules.values() if m.__name__.startswith("voltana.")), sep="\\n")
"""

CARRIES = {"evaluation/sweep"}
"""Between folders and processes; the form of records counts up what changes there."""


def test_all_that_a_worker_loads_is_in_the_digest():
    """A module that figures come from and that is left out would let old and new runs mix."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    home = Path(voltana.__file__).parent
    digested = {path.relative_to(home) for path in figure_files()}
    left_out = {
        path
        for path in (Path(line).relative_to(home) for line in done.stdout.split())
        if path not in digested and path.parent.as_posix() not in CARRIES
    }
    assert left_out == {Path("evaluation/__init__.py"), Path("evaluation/reproduce/__init__.py")}
    assert Path("evaluation/reproduce/routed.py") in digested
