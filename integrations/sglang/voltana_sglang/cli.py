"""The command ``voltana-sglang``: one thin file a subcommand."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voltana.cli.running import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.serving.dialect import Dialect

COMMANDS = {
    "agent": "voltana.serving.agent.command:agent",
    "launch": "voltana.serving.launch.command:launch",
    "profile": "voltana.serving.profile.command:profile",
    "router": "voltana.serving.router.command:router",
    "steer": "voltana_sglang.steer_command:steer",
}
"""Subcommands and where they are."""


def make_app(only: str | None = None, dialect: Callable[[], Dialect] | None = None) -> typer.Typer:
    """The command line.

    Args:
        only: The subcommand to load; None loads all of them, for ``--help``.
        dialect: Makes what its commands speak; None makes SGLang's.
    """
    app = typer.Typer(
        name="voltana-sglang",
        help="Puts voltana in control of the clocks and the routing of an unmodified SGLang.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # looks like `voltana`: flags without a type, errors in one line
        context_settings={
            "help_option_names": ["-h", "--help"],
            "max_content_width": 100,
            "obj": dialect or _dialect,  # found by voltana.serving.dialect.dialect_of
        },
    )
    app.callback()(_root)
    for name, place in COMMANDS.items():
        if only in {None, name}:
            app.command(name)(_load(place))
    return app


def main() -> None:
    """Run the command line; an error of the user's is one line and exit status 2."""
    first = sys.argv[1] if len(sys.argv) > 1 else None
    # What is not installed, `entry` tells.
    run(make_app(first if first in COMMANDS else None), "voltana-sglang")


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=lambda wanted: _tell_version() if wanted else None,
            is_eager=True,
            help="Print the versions of voltana-sglang and of SGLang here, and end.",
        ),
    ] = False,
) -> None:
    pass


def _dialect() -> Dialect:
    from voltana_sglang.dialect.commands import sglang_dialect  # noqa: PLC0415  (--help is quick)

    return sglang_dialect()


def _tell_version() -> None:
    from importlib import metadata  # noqa: PLC0415

    try:
        engine = f"SGLang {metadata.version('sglang')}"
    except metadata.PackageNotFoundError:
        engine = "SGLang is not installed here"
    typer.echo(f"voltana-sglang {metadata.version('voltana-sglang')}, {engine}")
    raise typer.Exit


def _load(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function
