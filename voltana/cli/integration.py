"""The command line of an integration: most of its subcommands are those of `voltana.serving`."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from voltana.cli.running import run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from voltana.serving.dialect import Dialect

COMMANDS = {
    "agent": "voltana.serving.agent.command:agent",
    "launch": "voltana.serving.launch.command:launch",
    "profile": "voltana.serving.profile.command:profile",
    "router": "voltana.serving.router.command:router",
}
"""Subcommands of every integration, and where they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """An integration's command.

    Attributes:
        name: Of the command and of its distribution.
        engine: The engine as people write it.
        distributions: Of the engine, the first that is installed tells its version.
        commands: Its subcommands, and where they are.
        dialect: Makes what they speak.
    """

    name: str
    engine: str
    distributions: tuple[str, ...]
    commands: Mapping[str, str]
    dialect: Callable[[], Dialect]

    def make_app(
        self, only: str | None = None, dialect: Callable[[], Dialect] | None = None
    ) -> typer.Typer:
        """The command line.

        Args:
            only: The subcommand to load; None loads all of them, for ``--help``.
            dialect: Makes what its commands speak; None makes the engine's.
        """
        app = typer.Typer(
            name=self.name,
            help=f"Puts voltana in control of the clocks and the routing of an unmodified "
            f"{self.engine}.",
            no_args_is_help=True,
            add_completion=False,
            pretty_exceptions_enable=False,
            rich_markup_mode=None,  # looks like `voltana`: flags without a type, one-line errors
            context_settings={
                "help_option_names": ["-h", "--help"],
                "max_content_width": 100,
                "obj": dialect or self.dialect,  # found by voltana.serving.dialect.dialect_of
            },
        )
        app.callback()(self._root())
        for name, place in self.commands.items():
            if only in {None, name}:
                app.command(name)(_load(place))
        return app

    def main(self) -> None:
        """Run the command line; an error of the user's is one line and exit status 2."""
        first = sys.argv[1] if len(sys.argv) > 1 else None
        run(self.make_app(first if first in self.commands else None), self.name)

    def _root(self) -> Callable[..., None]:
        wanted = typer.Option(
            False,
            "--version",
            callback=lambda asked: self._tell_version() if asked else None,
            is_eager=True,
            help=f"Print the versions of {self.name} and of {self.engine} here, and end.",
        )

        def root(version: bool = wanted) -> None:
            pass

        return root

    def _tell_version(self) -> None:
        from importlib import metadata

        engine = f"{self.engine} is not installed here"
        for distribution in self.distributions:
            try:
                engine = f"{self.engine} {metadata.version(distribution)}"
                break
            except metadata.PackageNotFoundError:
                continue
        typer.echo(f"{self.name} {metadata.version(self.name)}, {engine}")
        raise typer.Exit


def _load(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function
