"""The `voltana` command: mounts one file a command, and turns errors into one line."""

from typing import Annotated

import typer

from voltana import __version__
from voltana.cli import (
    actuator,
    analyze,
    bound,
    check,
    plan,
    plant,
    policies,
    rehearse,
    report,
    reproduce,
    simulate,
    sweep,
    top,
)
from voltana.cli.running import end_when_terminated, run

app = typer.Typer(
    name="voltana",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    rich_markup_mode=None,
)
app.command("simulate")(simulate.simulate)
app.command("sweep")(sweep.sweep)
app.command("report")(report.report)
app.command("rehearse")(rehearse.rehearse)
app.command("reproduce")(reproduce.reproduce)
app.command("plan")(plan.plan)
app.command("bound")(bound.bound)
app.command("analyze")(analyze.analyze)
app.command("policies")(policies.policies)
app.command("check")(check.check)
app.command("top")(top.top)
app.add_typer(plant.app, name="plant")
app.add_typer(actuator.app, name="actuator")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"voltana {__version__}")
        raise typer.Exit


_COMPUTING = frozenset({"simulate", "sweep", "plan", "reproduce", "report", "bound", "analyze"})
"""Commands that only compute and write; the others have signals of their own to look after."""


@app.callback()
def voltana(
    context: typer.Context,
    *,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Run the clocks and the routing of an LLM-serving cluster as a feedback control system.

    Start with 'voltana simulate': the default cluster under five policies.
    """
    if context.invoked_subcommand in _COMPUTING:
        end_when_terminated()


def main() -> None:
    """Run the command line; errors that a user can cause end in one line and exit code 2."""
    run(app, "voltana")
