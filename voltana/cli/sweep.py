"""`voltana sweep`: a grid or a list of scenario fields, run in parallel, kept as Parquet."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voltana.cli import scenario_flags as flags
from voltana.cli.terminal import configure_logs, prepare_outputs, write_json
from voltana.errors import ConfigError
from voltana.extras import require

if TYPE_CHECKING:
    from voltana.evaluation.sweep import Plan, SweepOutcome, Workers

_GRID = typer.Option(
    "--grid",
    metavar="FIELD=VALUES",
    help="Vary a field: values with commas between, FIRST..LAST..STEP, or a JSON list. Repeat it "
    "for every combination.",
)
_LIST = typer.Option(
    "--list", metavar="FILE", help="One scenario a row: .json, .jsonl, .csv, or .toml with [[run]]."
)
_POLICY = typer.Option(
    "--policy",
    metavar="P",
    help="Policies that each scenario compares; repeat it or use commas (the scenario's own).",
)
WORKERS = typer.Option("--workers", metavar="N", help="Scenarios at once (one a core).")
RAY = typer.Option(
    "--ray",
    metavar="ADDRESS",
    help="Run on a Ray cluster: auto, HOST:PORT of its head, or ray://HOST:PORT (this machine).",
)
_OUT = typer.Option("--out", metavar="DIR", help="Where runs and results are kept.")
JSON = flags.as_json("what came out")

SAID_FROM = 2000
"""Scenarios from which on it is said how many are checked before the first is run."""

FAILED = 1
"""Exit code where scenarios failed and the others are kept."""


def sweep(
    scenario: Annotated[Path | None, flags.SCENARIO] = None,
    *,
    grid: Annotated[list[str] | None, _GRID] = None,
    rows: Annotated[Path | None, _LIST] = None,
    policy: Annotated[list[str] | None, _POLICY] = None,
    workers: Annotated[int | None, WORKERS] = None,
    ray: Annotated[str | None, RAY] = None,
    out: Annotated[Path, _OUT] = Path("out/sweep"),
    json: Annotated[str | None, JSON] = None,
    log_level: Annotated[str, flags.LOG] = "warning",
) -> None:
    """Run many scenarios, each once, and keep their figures as Parquet.

    A field is any key of a scenario file (cluster.prefill, slo.itl_ms, seed, ...) or its last part
    where that says which. What has ended is kept at once: after a kill or a full disk, give the
    same command again. A grid may be made larger later; what it had is not run again.

    \b
    Rates and seeds:   voltana sweep --grid rate=40..100..10 --grid seed=11..13
    Ratios:            voltana sweep --grid pd=1:3,2:2,3:1 --policy static-max,voltana
    Levels:            voltana sweep --grid 'levels=["published", "even:5", "1005,1410"]'
    A list:            voltana sweep base.toml --list runs.csv --workers 8
    On a Ray cluster:  voltana sweep --grid rate=40..100..10 --ray auto
    For a script:      voltana sweep --grid seed=11..13 --json - | jq '.rows[].energy_j'
    """  # noqa: D301  (\b keeps typer from reflowing the examples)
    configure_logs(log_level)
    require("sweep", "voltana sweep")
    from voltana.evaluation.sweep.knowledge import board_knowledge

    running = make_workers(workers, ray, log_level)
    plan = _plan(scenario, grid, rows, policy)
    prepare_outputs(out, json)
    outcome = run_plan(plan, out, running)
    finish(plan, outcome, out)
    if json is not None:
        write_json(
            {
                "scenarios": len(plan.points),
                "ran": outcome.ran,
                "failures": dict(outcome.failures),
                "knowledge": board_knowledge(outcome.rows),
                "rows": list(outcome.rows),
            },
            json,
        )
    end(outcome)


def make_workers(count: int | None, ray: str | None, log_level: str) -> "Workers":
    """Where scenarios run: this machine's cores, or a Ray cluster's, which keeps their logs."""
    from voltana.evaluation.sweep import LocalWorkers

    if ray is None:
        return LocalWorkers(count, prepare=partial(configure_logs, log_level))
    from voltana.evaluation.sweep.ray_workers import RayWorkers

    return RayWorkers(ray, count)


def run_plan(plan: "Plan", out: Path, workers: "Workers") -> "SweepOutcome":
    """Run a plan under a progress bar, and write what the folder holds then as Parquet.

    Where every scenario failed, a table of earlier ones stays as it is.
    """
    from voltana.evaluation.sweep import run_sweep
    from voltana.evaluation.sweep.table import write_parquet

    with telling_what_is_kept(out), sweep_bar() as progress:
        return run_sweep(
            plan,
            out,
            workers,
            progress,
            ended=lambda made: made.rows and write_parquet(made.rows, out),
        )


@contextmanager
def telling_what_is_kept(out: Path) -> Iterator[None]:
    """Say of a sweep that is interrupted where it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        said = f"what has ended is kept in {out}; the same command goes on from there"
        typer.echo(f"voltana: {said}", err=True)
        raise


def finish(plan: "Plan", outcome: "SweepOutcome", out: Path) -> None:
    """Say how much was written as Parquet, and how far to trust it."""
    from voltana.evaluation.sweep.knowledge import board_knowledge, caveats
    from voltana.evaluation.sweep.store import RESULTS

    total = len(plan.points)
    wrote = f"{len(outcome.rows)} rows to {out / RESULTS}" if outcome.rows else "no table"
    typer.echo(
        f"{total - len(outcome.failures)} of {total} scenarios, {outcome.ran} run now; "
        f"wrote {wrote}",
        err=True,
    )
    for line in caveats(board_knowledge(outcome.rows)):
        typer.echo(line, err=True)


def end(outcome: "SweepOutcome") -> None:
    """Say what failed, and end with the code of that.

    Raises:
        Exit: If something did.
    """
    for key, reason in list(outcome.failures.items())[:5]:
        typer.echo(f"voltana: scenario {key} failed: {reason}", err=True)
    if outcome.failures:
        more = len(outcome.failures)
        typer.echo(f"voltana: {more} failed; the same command runs these again", err=True)
        raise typer.Exit(FAILED)


def _plan(
    scenario: Path | None, grid: list[str] | None, rows: Path | None, policy: list[str] | None
) -> "Plan":
    from voltana.evaluation.scenario import overlay, read_tables
    from voltana.evaluation.sweep import make_plan
    from voltana.evaluation.sweep.fields import POLICIES, parse_axis
    from voltana.evaluation.sweep.plan import MOST_POINTS, scenario_count
    from voltana.evaluation.sweep.rows_file import read_rows

    axes: dict[str, tuple[object, ...]] = {}
    for text in grid or ():
        name, values = parse_axis(text)
        if name in axes:
            raise ConfigError(f"field {name!r} is varied twice. Give all its values at once.")
        axes[name] = values
    if policy and POLICIES in axes:
        raise ConfigError(
            "--policy and --grid policy both say which policies are compared, so that one of them "
            "would be ignored. Leave one out."
        )
    base = {} if scenario is None else read_tables(scenario)
    listed = None if rows is None else read_rows(rows)
    count = scenario_count(axes, listed)
    if SAID_FROM <= count <= MOST_POINTS:
        typer.echo(f"checking {count} scenarios", err=True)
    return make_plan(overlay(base, {"policies": flags.policy_names(policy)}), axes, listed)


@contextmanager
def sweep_bar() -> Iterator[Callable[[int, int, int], None]]:
    """A progress bar on standard error; without a terminal a line for every tenth of the work."""
    if not sys.stderr.isatty():
        yield _Tenths()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("scenarios", total=None)

        def update(ended: int, total: int, failed: int) -> None:
            said = f"scenarios ({failed} failed)" if failed else "scenarios"
            bar.update(task, completed=ended, total=total, description=said)

        yield update


class _Tenths:
    """Says how far a sweep is at every tenth of it."""

    def __init__(self) -> None:
        self._said = -1

    def __call__(self, ended: int, total: int, failed: int) -> None:
        tenth = 10 * ended // total
        if tenth > self._said:
            self._said = tenth
            said = f", {failed} failed" if failed else ""
            typer.echo(f"{ended} of {total} scenarios{said}", err=True)
