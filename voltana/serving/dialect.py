"""What an engine's integration hands to the commands of `voltana.serving`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from voltana.errors import ConfigError, unknown_name
from voltana.serving.config import Config
from voltana.serving.router.settings import RouterTable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import typer

    from voltana.ports import TimeSource
    from voltana.serving.launch.child_process import ProcessSpec
    from voltana.serving.launch.config import LaunchTable
    from voltana.serving.launch.instances import Instance
    from voltana.serving.launch.ports import Port
    from voltana.serving.launch.servers import ServerPlan
    from voltana.serving.profile.run import ProfiledServer
    from voltana.serving.router.service import RouterService


def _no_router(_settings: RouterTable, _time: TimeSource) -> RouterService:
    raise ConfigError(
        "this command alone knows no engine: must be started by an integration. "
        "Run that of an integration, such as voltana-sglang router."
    )


def _no_profile(_url: str, _seed: int, _settings: RouterTable) -> ProfiledServer:
    raise ConfigError(
        "this command alone knows no engine: must be started by an integration. "
        "Run that of an integration, such as voltana-sglang profile."
    )


class _NoServers:
    """Of no engine."""

    program = "voltana"

    def check(self, _table: LaunchTable) -> None:
        raise self._refusal()

    def server(self, _instance: Instance, _table: LaunchTable, _config: Path) -> ProcessSpec:
        raise self._refusal()

    def ports(self, _instance: Instance) -> tuple[Port, ...]:
        raise self._refusal()

    def _refusal(self) -> ConfigError:
        return ConfigError(
            "this command alone knows no engine: must be started by an integration. "
            "Run that of an integration, such as voltana-sglang launch."
        )


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One engine, as far as commands must know it; everything heavy is imported when it is called.

    Attributes:
        engine: The engine's name, as ``launch.engine`` has it.
        config: The configuration file, with tables and keys of the engine's own.
        router: Its table ``[router]``, which is also made from the command line.
        prefill_port: Key of a backend that ``--prefill URL,PORT`` sets; None where there is none.
        make_router: Puts a router together.
        profiled: Connects to a live server, to calibrate it.
        servers: How its servers are started.
    """

    engine: str = ""
    config: type[Config] = Config
    router: type[RouterTable] = RouterTable
    prefill_port: str | None = None
    make_router: Callable[[RouterTable, TimeSource], RouterService] = _no_router
    profiled: Callable[[str, int, RouterTable], ProfiledServer] = _no_profile
    servers: ServerPlan = field(default_factory=_NoServers)


ENGINES = "voltana.engines"
"""Entry points by which integrations make their dialects known, under the engines' names."""


def dialect_named(engine: str, own: Dialect) -> Dialect:
    """The dialect of an engine.

    Args:
        engine: Its name; empty takes `own`.
        own: That of the command.

    Raises:
        ConfigError: If no integration of it is installed here.
    """
    if engine in {"", own.engine}:
        return own
    from importlib.metadata import entry_points  # noqa: PLC0415

    known = {point.name: point for point in entry_points(group=ENGINES)}
    if engine not in known:
        raise unknown_name("launch.engine", engine, sorted({*known, own.engine} - {""}))
    made: Dialect = known[engine].load()()
    return made


def dialect_of(context: typer.Context) -> Dialect:
    """What the command line around a command speaks: its ``obj`` makes a `Dialect`, or is None."""
    made: Dialect = Dialect() if context.obj is None else context.obj()
    return made
