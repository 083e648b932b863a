"""What tests of reports share: a short run and a short sweep, and their pages."""

from __future__ import annotations

from pathlib import Path

from tests.sweep_steps import SHORT
from voltana.cli.main import app
from voltana.evaluation.report.build import run_page, sweep_page
from voltana.evaluation.report.page import render
from voltana.evaluation.sweep import make_plan, run_sweep
from voltana.evaluation.sweep.table import write_parquet
from voltana.evaluation.sweep.work import attempt

RUN = ("--duration", "3", "--rate", "8", "--prefill", "1", "--decode", "1")


class Here:
    """Runs tasks in this process."""

    def run(self, tasks):
        yield from map(attempt, tasks)


def simulate(folder, *arguments):
    """`voltana simulate --out folder`, short."""
    app(["simulate", *RUN, *map(str, arguments), "--out", str(folder)], standalone_mode=False)
    return Path(folder)


def page_of_run(folder, *arguments):
    """The report of a short run, written into its folder."""
    policies = ("--policy", "static-max,voltana", "--price", "0.3", *arguments)
    page = simulate(folder, *policies) / "report.html"
    page.write_text(render(run_page(folder)), encoding="utf-8")
    return page


def sweep(folder, policies=("fixed:705", "fixed:1005", "fixed:1410"), **grid):
    """A short sweep, with its Parquet."""
    plan = make_plan(
        {**SHORT, "policies": list(policies)}, grid or {"rate": [3, 5], "seed": [1, 2]}
    )
    outcome = run_sweep(plan, Path(folder), Here())
    write_parquet(outcome.rows, Path(folder))
    return Path(folder)


def page_of_sweep(folder, **grid):
    """The report of a short sweep, written into its folder."""
    page = sweep(folder, **grid) / "report.html"
    page.write_text(render(sweep_page(folder, {"EUR": 0.3})), encoding="utf-8")
    return page
