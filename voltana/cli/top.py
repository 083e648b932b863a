"""`voltana top`: a live view of the agents of running instances."""

import json
import math
import os
import sys
import time
import urllib.parse
from pathlib import Path
from typing import Annotated

import typer

from voltana.errors import invalid
from voltana.users_file import load_json, read_text

SILENT = 1
"""Exit code where no agent answered."""

DEFAULT_FILE = Path("voltana-logs/agents.json")
"""Where `launch` of an integration lists its agents."""


def top(  # noqa: PLR0917  (options, not arguments)
    agents: Annotated[
        list[str] | None,
        typer.Argument(help="Control addresses of agents, such as http://127.0.0.1:31200."),
    ] = None,
    file: Annotated[
        Path, typer.Option("--from", help="JSON list of addresses, if none is given.")
    ] = DEFAULT_FILE,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the agents' token; default: this user's, or the variable."),
    ] = None,
    period: Annotated[float, typer.Option(help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one table and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list and end.")] = False,
) -> None:
    """Watch clock, batch, latency against SLO, energy and saving of running instances.

    Without a terminal it prints one table. Exit code 1 means that no agent answered.
    """
    from rich.console import Console

    from voltana.cli.top_view import ask_all, render

    if not 0 < period < math.inf:
        raise invalid("period", period, "above 0 s and finite", "1 is usual.")
    addresses = [_address(text) for text in agents or _listed(file)]
    header = _token(token_file)
    if as_json or once or not sys.stdout.isatty():
        answers = ask_all(addresses, header)
        if as_json:
            typer.echo(json.dumps([answer.to_json() for answer in answers]))
        else:
            console = Console()
            console.print(render(answers, console.width))
        if all(answer.error for answer in answers):
            raise typer.Exit(SILENT)
        return
    console = Console()
    from rich.live import Live

    first = render(ask_all(addresses, header), console.width)
    with Live(first, console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(period)
            live.update(render(ask_all(addresses, header), console.width), refresh=True)


def _token(file: Path | None) -> dict[str, str]:
    """The header that shows the agents' token; none where there is no token yet."""
    from voltana.serving.admin.token import known_token

    token = known_token(file, os.environ)
    return {} if token is None else token.header()


def _address(text: str) -> str:
    """An address that can be asked, as HOST:PORT or with http in front."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or " " in url:
        raise invalid(
            "agents", text, "an address such as http://127.0.0.1:31200", "See 'voltana-sglang'."
        )
    return text


def _listed(file: Path) -> list[str]:
    try:
        listed = load_json(read_text(file))
    except (OSError, ValueError):
        listed = None
    if not (isinstance(listed, list) and listed):
        raise invalid(
            "agents",
            [],
            "one address or more",
            f"Name them, or the file that 'voltana-sglang launch' writes ({file} is none).",
        )
    return [str(address) for address in listed]
