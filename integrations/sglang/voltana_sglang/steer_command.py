"""``voltana-sglang steer``: steers the official router."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003  (typer reads the annotations at run time)
from typing import Annotated

import typer
from pydantic import ValidationError

from voltana.errors import invalid
from voltana.serving.router.command_line import add_feeds, run_loop, servers_of, table_of
from voltana.validation import explain


def steer(  # noqa: PLR0917  (options, not arguments)
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="TOML file; its table 'steer' is used.")
    ] = None,
    upstream: Annotated[str | None, typer.Option(help="Where the official router listens.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    decode: Annotated[
        list[str] | None, typer.Option(help="URL of a decode server; may be repeated.")
    ] = None,
    feed: Annotated[
        list[str] | None,
        typer.Option(help="NAME=ADDRESS of an agent's feed; servers are decode-0, decode-1, ..."),
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="Policy whose decode router is used, or MODULE:FACTORY.")
    ] = None,
    decode_router: Annotated[
        str | None, typer.Option(help="Another router: a name or MODULE:FACTORY.")
    ] = None,
) -> None:
    """Choose the decode server of each request for the official router (smg).

    Start that with --decode-policy consistent_hashing, and send clients here.

    A request is given a target only while its server is known to be healthy.
    """
    given = {
        "upstream": upstream,
        "host": host,
        "port": port,
        "policy": policy,
        "decode_router": decode_router,
    }
    table = table_of(config, "steer")
    if decode:
        table["backends"] = servers_of([], decode, [])
    add_feeds(table, feed or [])
    table |= {name: value for name, value in given.items() if value is not None}

    # Here, so that --help answers at once.
    from voltana.serving.router.logs import log_to_stderr  # noqa: PLC0415
    from voltana.serving.steer_settings import SteerTable  # noqa: PLC0415
    from voltana.timebase import MonotonicTime  # noqa: PLC0415
    from voltana_sglang.steer.service import run_steer  # noqa: PLC0415

    try:
        settings = SteerTable.model_validate(table)
    except ValidationError as error:
        raise explain(error, SteerTable) from None
    if {backend.role for backend in settings.backends} != {"decode"}:
        raise invalid(
            "backends", len(settings.backends), "decode servers, one or more", "Give --decode URL."
        )
    log_to_stderr()
    run_loop(run_steer(settings, MonotonicTime()))


def main() -> None:
    """Run this command alone: ``python -m voltana_sglang.steer_command``."""
    from voltana.errors import VoltanaError  # noqa: PLC0415

    try:
        typer.run(steer)
    except VoltanaError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
