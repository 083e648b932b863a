"""`voltana-sglang launch`: a whole cluster on this host from one file."""

from __future__ import annotations

import importlib.util
import json
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voltana.errors import ConfigError, invalid
from voltana.serving.launch.plan import cluster, in_url, instances
from voltana.serving.launch.ports import check_ports
from voltana.serving.launch.supervise import LaunchError, Supervisor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from voltana.serving.config import Config
    from voltana.serving.launch.child_process import ProcessSpec
    from voltana.serving.launch.config import LaunchTable

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
    table, settings = read_launch(config)
    stages = cluster(table, config, settings.router, settings.agent, dry_run=dry_run)
    if only_print:
        for spec in (spec for stage in stages for spec in stage):
            variables = " ".join(f"{key}={shlex.quote(value)}" for key, value in spec.environment)
            command = shlex.join(_without_keys(spec.command))
            typer.echo(f"{spec.name}: {variables} {command}".replace("  ", " "))
        return
    check_engine(table.model_path)
    check_ports(instances(table), settings.router.port)
    logs = config.resolve().parent / table.logs
    signals = _Signals()
    supervisor = Supervisor(stages, logs, _say, table.start_timeout_s)
    try:
        if supervisor.start(signals.stopped):
            _write_agents(logs, stages)
            url = f"http://{in_url(settings.router.host)}:{settings.router.port}"
            _say("launch", f"ready: {url}; Ctrl-C ends everything")
            supervisor.run(signals.stopped, table.on_exit)
    except LaunchError as error:
        sys.stderr.write(f"{error}\n")  # several lines: the end of a log among them
        raise typer.Exit(FAILED) from None
    finally:
        supervisor.shut_down(signals.hurry)
        (logs / AGENTS_FILE).unlink(missing_ok=True)


def read_launch(path: Path) -> tuple[LaunchTable, Config]:
    """The launch of a configuration file, and the whole of it.

    Raises:
        ConfigError: If the file cannot be read, has no table ``[launch]``, or holds a wrong value.
    """
    from voltana.serving.config import read_config  # noqa: PLC0415  (--help answers at once)

    config = read_config(path)
    if config.launch is None:
        raise ConfigError(
            f"{path} has no table [launch]: must say at least model_path and the number of "
            "servers. Add it, or start servers by hand."
        )
    if config.router.port == 0:
        raise invalid("router.port", 0, "1 to 65535 in a launch", "30000 is usual.")
    return config.launch, config


def check_engine(model_path: str) -> None:
    """Check what a server would only say at the end of a long log.

    Raises:
        ConfigError: If SGLang is not installed beside this program, or the model's folder is not
            there.
    """
    if importlib.util.find_spec("sglang") is None:
        raise ConfigError(
            f"SGLang is not installed in the environment of {sys.executable}: must be, for launch "
            "starts servers with it. Install voltana-sglang into the environment of your SGLang."
        )
    if model_path.startswith(("/", "./", "../", "~")) and not Path(model_path).exists():
        raise invalid(
            "launch.model_path",
            model_path,
            "a folder that is there, or a name on the Hugging Face Hub",
            "Check the path; '~' is not expanded.",
        )


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
