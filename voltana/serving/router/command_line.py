"""What commands that route requests have in common."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from voltana.errors import invalid
from voltana.serving.event_loop import run_paced
from voltana.serving.router.settings import SECRET_FILES
from voltana.serving.toml_file import read_toml


def run_loop(job: Any) -> None:
    """Run to the end, on uvloop where it is installed."""
    usual = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        from uvloop import new_event_loop as usual  # noqa: PLC0415
    run_paced(job, usual)


def table_of(config: Path | None, section: str) -> dict[str, Any]:
    """One table of a configuration file; empty without a file.

    Modules that the file's table ``[policy]`` names may send snapshots, too.

    Raises:
        ConfigError: If the file cannot be read.
    """
    if config is None:
        return {}
    whole = read_toml(config)
    table, policy = whole.get(section, {}), whole.get("policy", {})
    if not isinstance(table, dict):
        raise invalid(section, table, "a table", f"Write [{section}].")
    users = ("controller", "predictor")
    named = [policy.get(key) for key in users] if isinstance(policy, dict) else []
    modules = [n.partition(":")[0] for n in named if isinstance(n, str) and ":" in n]
    table = dict(table)
    for key in SECRET_FILES:
        if isinstance(table.get(key), str):
            table[key] = config.resolve().parent / Path(table[key]).expanduser()
    if modules and isinstance(table.get("snapshot_modules", []), list):
        table["snapshot_modules"] = [*table.get("snapshot_modules", []), *modules]
    return table


def servers_of(
    prefill: list[str],
    decode: list[str],
    unified: list[str],
    *,
    prefill_port: str | None = None,
) -> list[dict[str, Any]]:
    """Servers of the command line, named by role and number.

    Args:
        prefill: ``URL``, or ``URL,PORT``.
        decode: URLs.
        unified: URLs.
        prefill_port: Key of a backend that the port of a prefill server sets; None allows none.

    Raises:
        ConfigError: If one has another form.
    """
    servers: list[dict[str, Any]] = []
    for role, given in (("prefill", prefill), ("decode", decode), ("unified", unified)):
        for index, text in enumerate(given):
            url, _, port = text.partition(",")
            server: dict[str, Any] = {"name": f"{role}-{index}", "role": role, "url": url}
            if port:
                if role != "prefill" or prefill_port is None or not port.isdigit():
                    raise invalid(
                        f"--{role}", text, "URL, or URL,PORT of a prefill server", "Correct it."
                    )
                server[prefill_port] = int(port)
            servers.append(server)
    return servers


def add_feeds(table: dict[str, Any], feeds: list[str]) -> None:
    """Give the servers of a table the feeds of the command line (``NAME=ADDRESS``).

    Raises:
        ConfigError: If one has another form, or belongs to no server.
    """
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
