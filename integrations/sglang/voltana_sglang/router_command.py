"""``voltana-sglang router``: runs the router."""

from __future__ import annotations

import asyncio
import sys
import tomllib
from pathlib import Path  # noqa: TC003  (typer reads the annotations at run time)
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from voltana.errors import ConfigError, invalid
from voltana.validation import explain


def router(  # noqa: PLR0917  (options, not arguments)
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="TOML file with a table [router].")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    prefill: Annotated[
        list[str] | None,
        typer.Option(help="A prefill server: URL or URL,BOOTSTRAP_PORT; may be repeated."),
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
    given = {
        "host": host,
        "port": port,
        "policy": policy,
        "prefill_router": prefill_router,
        "decode_router": decode_router,
        "max_in_flight": max_in_flight,
        "timeout_s": timeout,
    }
    table = _table_of(config)
    servers = _servers(prefill or [], decode or [], unified or [])
    if servers:
        table["backends"] = servers
    _add_feeds(table, feed or [])
    table |= {name: value for name, value in given.items() if value is not None}

    # Here, so that --help answers at once.
    from voltana.timebase import MonotonicTime  # noqa: PLC0415
    from voltana_sglang.router.logs import log_to_stderr  # noqa: PLC0415
    from voltana_sglang.router.service import run_router  # noqa: PLC0415
    from voltana_sglang.router.settings import RouterTable  # noqa: PLC0415

    try:
        settings = RouterTable.model_validate(table)
    except ValidationError as error:
        raise explain(error, RouterTable) from None
    if not settings.backends:
        raise invalid(
            "backends", "[]", "at least one server", "Give --prefill and --decode, or --unified."
        )
    log_to_stderr()
    _run(run_router(settings, MonotonicTime()))


def _run(job: Any) -> None:
    """Run to the end, on uvloop where it is installed."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        asyncio.run(job)
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(job)


def _table_of(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        table = tomllib.loads(config.read_text(encoding="utf-8")).get("router", {})
    except OSError as error:
        raise ConfigError(f"{config} cannot be read: {error.strerror}. Check the path.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{config} is not valid TOML: {error}. Correct it.") from None
    if not isinstance(table, dict):
        raise invalid("router", table, "a table", "Write [router].")
    return dict(table)


def _servers(prefill: list[str], decode: list[str], unified: list[str]) -> list[dict[str, Any]]:
    servers: list[dict[str, Any]] = []
    for role, given in (("prefill", prefill), ("decode", decode), ("unified", unified)):
        for index, text in enumerate(given):
            url, _, bootstrap_port = text.partition(",")
            server: dict[str, Any] = {"name": f"{role}-{index}", "role": role, "url": url}
            if bootstrap_port:
                if role != "prefill" or not bootstrap_port.isdigit():
                    raise invalid(
                        f"--{role}", text, "URL, or URL,PORT of a prefill server", "Correct it."
                    )
                server["bootstrap_port"] = int(bootstrap_port)
            servers.append(server)
    return servers


def _add_feeds(table: dict[str, Any], feeds: list[str]) -> None:
    servers = [dict(server) for server in table.get("backends", ())]
    names = {server.get("name"): server for server in servers}
    for text in feeds:
        name, _, address = text.partition("=")
        if name not in names or not address:
            known = ", ".join(str(n) for n in names) or "no server"
            raise invalid("--feed", text, f"NAME=ADDRESS with a NAME of {known}", "Correct it.")
        names[name]["feed"] = address
    if servers:
        table["backends"] = servers


def main() -> None:
    """Run this command alone: ``python -m voltana_sglang.router_command``."""
    from voltana.errors import VoltanaError  # noqa: PLC0415

    try:
        typer.run(router)
    except VoltanaError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
