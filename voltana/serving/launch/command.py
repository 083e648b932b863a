"""The command ``launch``: a whole cluster on this host from one file, whatever the engine."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from pathlib import Path  # noqa: TC003  (typer reads the annotations at run time)
from typing import TYPE_CHECKING, Annotated

import typer

from voltana.errors import ConfigError, invalid
from voltana.serving.launch.allocation import VISIBLE, allocate, visible_uuids
from voltana.serving.launch.instances import in_url, instances
from voltana.serving.launch.plan import cluster
from voltana.serving.launch.ports import check_ports
from voltana.serving.launch.strays import sole_launch
from voltana.serving.launch.supervise import LaunchError, Supervisor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from voltana.serving.config import Config
    from voltana.serving.launch.child_process import ProcessSpec
    from voltana.serving.launch.instances import Instance
    from voltana.serving.launch.servers import ServerPlan

AGENTS_FILE = "agents.json"
"""In the folder of the logs; `voltana top` reads it."""

FAILED = 1

_KEY_OPTIONS = frozenset({"--api-key", "--admin-api-key"})


class _Signals:
    """SIGINT, SIGTERM and a lost terminal: the first ends the launch, the second hurries it."""

    def __init__(self) -> None:
        self.count = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, self._note)

    def stopped(self) -> bool:
        """Whether the launch shall end."""
        return self.count > 0

    def hurry(self) -> bool:
        """Whether it shall end at once."""
        return self.count > 1

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1


def launch(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="The configuration (TOML).")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Watch and decide, but leave the clocks alone.")
    ] = False,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print what would be started, and end.")
    ] = False,
) -> None:
    """Start servers, agents and the router; end them all with Ctrl-C.

    The router answers as soon as everything is ready. Every process has a log of its own.
    """
    from voltana.serving.dialect import dialect_named, dialect_of  # noqa: PLC0415  (see --help)

    dialect = dialect_named(_engine_of(config), dialect_of(context))
    settings = read_launch(config, dialect.config)
    fleet = _fleet(settings)
    stages = cluster(
        dialect.servers, fleet, settings, config, dry_run=dry_run,
        names_transfers=dialect.prefill_port is not None,
    )  # fmt: skip
    _say_gpus(fleet)
    if only_print:
        _print(stages)
    else:
        from voltana.serving.launch.validate import check_clocks  # noqa: PLC0415

        check_clocks(settings, fleet, visible_uuids(), dry_run=dry_run)
        _run(dialect.servers, fleet, settings, config, stages)


def _engine_of(path: Path) -> str:
    """The engine that a launch names; empty if it names none, or the file says nothing usable."""
    from voltana.serving.toml_file import read_toml  # noqa: PLC0415

    table = read_toml(path).get("launch", {})
    engine = table.get("engine", "") if isinstance(table, dict) else ""
    return engine if isinstance(engine, str) else ""


def _fleet(settings: Config) -> list[Instance]:
    from voltana.serving.launch.validate import check_components  # noqa: PLC0415  (loads NumPy)

    assert settings.launch is not None
    check_components(settings)
    return instances(settings.launch, allocate(settings.launch, os.environ, visible_uuids()))


def _run(
    engine: ServerPlan,
    fleet: Sequence[Instance],
    settings: Config,
    config: Path,
    stages: list[list[ProcessSpec]],
) -> None:
    """Start everything and watch it until the end.

    Raises:
        ConfigError: If the model, the engine or a port is not to be had.
    """
    table, router = settings.launch, settings.router
    assert table is not None
    engine.check(table)
    logs = config.resolve().parent / table.logs
    with sole_launch(logs, _say):  # which frees the ports of an earlier launch as well
        check_ports(engine, fleet, router, scraped=settings.agent.metrics_port is not None)
        signals = _Signals()
        supervisor = Supervisor(stages, logs, _say, table.start_timeout_s)
        try:
            if supervisor.start(signals.stopped):
                _write_agents(logs, stages)
                url = f"http://{in_url(router.host)}:{router.port}"
                _say("launch", f"ready: {url}; Ctrl-C ends everything")
                supervisor.run(signals.stopped, table.on_exit)
        except LaunchError as error:
            sys.stderr.write(f"{error}\n")  # several lines: the end of a log among them
            raise typer.Exit(FAILED) from None
        finally:
            supervisor.shut_down(signals.hurry)
            (logs / AGENTS_FILE).unlink(missing_ok=True)


def _print(stages: list[list[ProcessSpec]]) -> None:
    for spec in (spec for stage in stages for spec in stage):
        variables = " ".join(f"{key}={shlex.quote(value)}" for key, value in spec.environment)
        command = shlex.join(_without_keys(spec.command))
        typer.echo(f"{spec.name}: {variables} {command}".replace("  ", " "))


def _say_gpus(fleet: Sequence[Instance]) -> None:
    """Tell which server computes on which GPU."""
    if not any(instance.gpus for instance in fleet):
        return
    if VISIBLE in os.environ:
        _say("launch", f"{VISIBLE}={os.environ[VISIBLE]} was inherited: its GPUs are shared out")
    for instance in fleet:
        boards = ", ".join(
            f"GPU {gpu.cuda} ({gpu.uuid})" if gpu.uuid not in {"", gpu.cuda} else f"GPU {gpu.cuda}"
            for gpu in instance.gpus
        )
        _say(instance.name, f"computes on {boards}, counted by PCI bus")


def read_launch(path: Path, kind: type[Config] | None = None) -> Config:
    """The configuration of a launch.

    Args:
        path: Its file.
        kind: What the file may hold; None takes voltana's own tables alone.

    Raises:
        ConfigError: If the file cannot be read, has no table ``[launch]``, or holds a wrong value.
    """
    from voltana.serving.config import Config, read_config  # noqa: PLC0415  (--help answers at once)

    config = read_config(path, kind or Config)
    if config.launch is None:
        raise ConfigError(
            f"{path} has no table [launch]: must say at least model_path and the number of "
            "servers. Add it, or start servers by hand."
        )
    if config.router.port == 0:
        raise invalid("router.port", 0, "1 to 65535 in a launch", "30000 is usual.")
    return config


def _without_keys(command: Sequence[str]) -> list[str]:
    """A command line that may be shown."""
    shown = list(command)
    for place, word in enumerate(shown):
        name, equals, _ = word.partition("=")
        if name in _KEY_OPTIONS and equals:
            shown[place] = f"{name}=***"
        elif name in _KEY_OPTIONS and place + 1 < len(shown):
            shown[place + 1] = "***"
    return shown


def _write_agents(logs: Path, stages: list[list[ProcessSpec]]) -> None:
    addresses = [
        spec.ready_url.removesuffix("/health")
        for stage in stages
        for spec in stage
        if spec.kind == "agent" and spec.ready_url
    ]
    (logs / AGENTS_FILE).write_text(json.dumps(addresses) + "\n", encoding="utf-8")


def _say(name: str, text: str) -> None:
    typer.echo(f"{name:<12} {text}", err=True)
