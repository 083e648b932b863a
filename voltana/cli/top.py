"""`voltana top`: a live view of the agents of running instances."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from voltana.errors import invalid

DEFAULT_FILE = Path("voltana-logs/agents.json")
"""Where `voltana-sglang launch` lists its agents."""


def top(
    agents: Annotated[
        list[str] | None,
        typer.Argument(help="Control addresses of agents, such as http://127.0.0.1:31200."),
    ] = None,
    file: Annotated[
        Path, typer.Option("--from", help="JSON list of addresses, if none is given.")
    ] = DEFAULT_FILE,
    period: Annotated[float, typer.Option(help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one table and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list and end.")] = False,
) -> None:
    """Watch clock, batch, latency against SLO, energy and saving of running instances.

    Without a terminal it prints one table.
    """
    from voltana.cli.top_view import ask_all, render

    if not period > 0:
        raise invalid("period", period, "above 0 s", "1 is usual.")
    addresses = agents or _listed(file)
    if as_json:
        typer.echo(json.dumps([answer.to_json() for answer in ask_all(addresses)]))
        return
    from rich.console import Console

    console = Console()
    if once or not sys.stdout.isatty():
        console.print(render(ask_all(addresses), console.width))
        return
    from rich.live import Live

    first = render(ask_all(addresses), console.width)
    with Live(first, console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(period)
            live.update(render(ask_all(addresses), console.width), refresh=True)


def _listed(file: Path) -> list[str]:
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise invalid(
            "agents",
            [],
            "one address or more",
            f"Name them, or the file that 'voltana-sglang launch' writes ({file} is none).",
        ) from None
    return [str(address) for address in listed]
