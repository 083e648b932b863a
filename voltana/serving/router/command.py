"""The command ``router`` of an integration: runs the router."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  (typer reads the annotations at run time)
from typing import Annotated

import typer
from pydantic import ValidationError

from voltana.errors import invalid
from voltana.serving.router.command_line import add_feeds, run_loop, servers_of, table_of
from voltana.validation import explain


def router(  # noqa: PLR0917  (options, not arguments)
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="TOML file; its table 'router' is used.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    prefill: Annotated[
        list[str] | None,
        typer.Option(help="A prefill server: URL or URL,PORT (of transfers); may be repeated."),
    ] = None,
    decode: Annotated[
        list[str] | None, typer.Option(help="URL of a decode server; may be repeated.")
    ] = None,
    unified: Annotated[
        list[str] | None, typer.Option(help="URL of a server for both; may be repeated.")
    ] = None,
    feed: Annotated[
        list[str] | None,
        typer.Option(help="NAME=ADDRESS of an agent's feed; servers are prefill-0, decode-0, ..."),
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="Policy whose routers are used, or MODULE:FACTORY.")
    ] = None,
    prefill_router: Annotated[
        str | None, typer.Option(help="Another router for prefill: a name or MODULE:FACTORY.")
    ] = None,
    decode_router: Annotated[
        str | None, typer.Option(help="Another router for decode: a name or MODULE:FACTORY.")
    ] = None,
    max_in_flight: Annotated[int | None, typer.Option(help="Requests that may be open.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that a request may take.")] = None,
) -> None:
    """Route requests between prefill and decode servers, by their load, clocks and energy."""
    from voltana.serving.dialect import dialect_of  # noqa: PLC0415  (--help answers at once)

    given = {
        "host": host,
        "port": port,
        "policy": policy,
        "prefill_router": prefill_router,
        "decode_router": decode_router,
        "max_in_flight": max_in_flight,
        "timeout_s": timeout,
    }
    table = table_of(config, "router")
    dialect = dialect_of(context)
    servers = servers_of(
        prefill or [], decode or [], unified or [], prefill_port=dialect.prefill_port
    )
    if servers:
        table["backends"] = servers
    add_feeds(table, feed or [])
    table |= {name: value for name, value in given.items() if value is not None}

    # Here, so that --help answers at once.
    from voltana.serving.router.logs import log_to_stderr  # noqa: PLC0415
    from voltana.serving.router.service import run_router  # noqa: PLC0415
    from voltana.timebase import MonotonicTime  # noqa: PLC0415

    try:
        settings = dialect.router.model_validate(table)
    except ValidationError as error:
        raise explain(error, dialect.router) from None
    if not settings.backends:
        raise invalid(
            "backends", "[]", "at least one server", "Give --prefill and --decode, or --unified."
        )
    log_to_stderr()
    run_loop(run_router(dialect.make_router(settings, MonotonicTime()), settings))
