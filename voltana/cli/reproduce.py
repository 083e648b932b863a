"""`voltana reproduce`: the published findings, each by one command."""

from pathlib import Path
from typing import Annotated

import typer

from voltana.cli import scenario_flags as flags
from voltana.cli.sweep import JSON, RAY, WORKERS, end, finish, make_workers, run_plan
from voltana.cli.terminal import STDOUT, configure_logs, prepare_outputs, write_json, write_text
from voltana.errors import ConfigError
from voltana.evaluation.reproduce import MAIN_RESULT, NAMES, check_name
from voltana.extras import require
from voltana.users_file import read_whole

_NAME = typer.Argument(metavar="FINDING", help=", ".join(NAMES), show_default=False)
_QUICK = typer.Option("--quick", help="Fewer points and shorter runs.")
_SEEDS = typer.Option("--seeds", metavar="N,...", help="Seeds, whose figures are averaged.")
_NO_SEARCH = typer.Option(
    "--no-search", help="Of main-result: leave out best-fixed, whose search is most of its time."
)
_CLOCKS = typer.Option(
    "--clocks",
    metavar="FILE",
    help="Of main-result: clocks.csv of an earlier search, whose clocks are run anew in place of a "
    "search.",
)
_OUT = typer.Option("--out", metavar="DIR", help="Where it is written (out/FINDING).")
_PUBLISHED = typer.Option(
    "--published",
    metavar="DIR",
    help="Of main-result: the published figure's points as CSV, drawn beside ours.",
)


def reproduce(
    name: Annotated[str, _NAME],
    *,
    quick: Annotated[bool, _QUICK] = False,
    seeds: Annotated[str, _SEEDS] = "11",
    no_search: Annotated[bool, _NO_SEARCH] = False,
    clocks: Annotated[Path | None, _CLOCKS] = None,
    workers: Annotated[int | None, WORKERS] = None,
    ray: Annotated[str | None, RAY] = None,
    out: Annotated[Path | None, _OUT] = None,
    published: Annotated[Path | None, _PUBLISHED] = None,
    json: Annotated[str | None, JSON] = None,
    log_level: Annotated[str, flags.LOG] = "warning",
) -> None:
    """Reproduce a published finding on the simulated cluster: figure, table and JSON.

    Runs in parallel and goes on where it was killed; what it ran is a sweep that 'voltana report'
    reads. Whole, main-result takes an hour or more on two cores, most of it the search; --no-search
    ten minutes, and --quick a few.

    \b
    The main result:   voltana reproduce main-result
    Is it so?          voltana reproduce main-result --quick
    A third of it:     voltana reproduce main-result --no-search
    No search anew:    voltana reproduce main-result --clocks out/older/clocks.csv
    More levels:       voltana reproduce levels
    For a script:      voltana reproduce slo --json - | jq '.points[].energy_j'
    """  # noqa: D301  (\b keeps typer from reflowing the examples)
    configure_logs(log_level)
    check_name(name)
    if name != MAIN_RESULT:
        given = {"--no-search": no_search, "--clocks": clocks, "--published": published}
        _refuse_of_main_result([flag for flag, value in given.items() if value])
    if no_search and clocks is not None:
        raise ConfigError(
            "--no-search leaves best-fixed out, and --clocks says what it runs. Leave one out."
        )
    require("sweep", "voltana reproduce")
    require("plots", "voltana reproduce")
    from voltana.evaluation.reproduce import get_finding
    from voltana.evaluation.reproduce.finding import Asked
    from voltana.evaluation.reproduce.found_clocks import read_clocks, write_clocks
    from voltana.evaluation.reproduce.published import read_points
    from voltana.evaluation.style import png
    from voltana.evaluation.sweep.knowledge import board_knowledge, caveats
    from voltana.whole_file import write_whole

    found = get_finding(name)
    folder = out or Path("out") / (f"{name}-quick" if quick else name)
    points = [] if published is None else read_points(published)
    running = make_workers(workers, ray, log_level)
    earlier = None if clocks is None else read_clocks(clocks)
    asked = Asked(quick=quick, seeds=_numbers(seeds), search=not no_search, clocks=earlier)
    plan = found.plan(asked)
    prepare_outputs(folder, json)
    outcome = run_plan(plan, folder, running)
    finish(plan, outcome, folder)
    end(outcome)
    told = found.tell(outcome.rows, points)
    known = board_knowledge(outcome.rows)
    content = {
        "finding": name,
        "claim": found.claim,
        "quick": quick,
        "knowledge": known,
        **told.data,
    }
    table = "\n\n".join((told.markdown, *caveats(known)))
    write_whole(folder / "figure.png", png(told.figure))
    write_text(folder / "table.md", f"Published: {found.claim}\n\n{table}\n")
    write_json(content, str(folder / "finding.json"))
    write_clocks(outcome.rows, folder)
    if json is not None:
        write_json(content, json)
    if json != STDOUT:
        typer.echo(table)
    typer.echo(f"Wrote figure.png, table.md and finding.json to {folder}", err=True)


def _refuse_of_main_result(given: list[str]) -> None:
    """Refuse what only the main result takes, lest somebody believes that it had an effect."""
    for flag in given:
        raise ConfigError(
            f"{flag} is taken by {MAIN_RESULT} alone. Leave it out, or name {MAIN_RESULT}."
        )


def _numbers(text: str) -> list[int]:
    try:
        return [read_whole(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"seeds = {text!r} is not allowed: must be whole numbers with commas between, such as "
            "11,12,13. Give at least one."
        ) from None
