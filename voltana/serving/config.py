"""The configuration file: one TOML file for plugin, agent, router and launch.

Unknown keys are errors that name the nearest known one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError, model_validator

from voltana.config import SloTable
from voltana.errors import invalid
from voltana.serving.config_tables import (
    ActuatorTable,
    AgentTable,
    EngineTable,
    InstanceTable,
    PolicyTable,
)
from voltana.serving.launch.config import LaunchTable  # noqa: TC001  (pydantic reads it)
from voltana.serving.router.settings import SECRET_FILES, RouterTable
from voltana.serving.toml_file import read_toml
from voltana.validation import StrictTable, explain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from voltana.slo import Slo


class Config(StrictTable):
    """The whole file; an integration adds tables and keys of its own in a subclass.

    Attributes:
        slo: Latency thresholds.
        engine: What is served on what.
        policy: What decides.
        agent: Where agents live.
        actuator: What sets clocks.
        instance: Servers, one table each.
        launch: A cluster to start on this host; None where servers are started otherwise.
        router: The router.
    """

    PAGE = "docs/sglang.md"

    slo: SloTable = SloTable()
    engine: EngineTable = EngineTable()
    policy: PolicyTable = PolicyTable()
    agent: AgentTable = AgentTable()
    actuator: ActuatorTable = ActuatorTable()
    instance: tuple[InstanceTable, ...] = ()
    launch: LaunchTable | None = None
    router: RouterTable = RouterTable()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Config:
        names = [table.name for table in self.instance]
        for name in names:
            if names.count(name) > 1:
                raise invalid("instance.name", name, "unique", "Give each instance its own name.")
        return self

    def instance_named(self, name: str) -> InstanceTable:
        """The table of an instance; one with defaults where there is none.

        Raises:
            ConfigError: If the name is not allowed.
        """
        for table in self.instance:
            if table.name == name:
                return table
        try:
            return InstanceTable(name=name)
        except ValidationError as error:
            raise explain(error, InstanceTable) from None

    def thresholds(self) -> Slo:
        """The SLO in seconds."""
        return slo_of(self.slo)


ConfigT = TypeVar("ConfigT", bound=Config)


def slo_of(table: SloTable) -> Slo:
    """A table of thresholds in seconds."""
    from voltana.slo import Slo  # noqa: PLC0415  (the plugin reads this file without NumPy)

    return Slo(
        ttft_s=table.ttft_ms / 1e3,
        itl_s=table.itl_ms / 1e3,
        ttft_target=table.ttft_target,
        itl_target=table.itl_target,
        spending=table.spending,
    )


def read_config(path: Path | None, kind: type[ConfigT] = Config) -> ConfigT:  # type: ignore[assignment]
    """Read a configuration file; without one, the defaults.

    Args:
        path: The file.
        kind: What it may hold: `Config`, or an integration's own.

    Raises:
        ConfigError: If the file cannot be read or holds something that is not allowed.
    """
    return parse_config({} if path is None else read_toml(path), kind, base=path)


def parse_config(
    tables: Mapping[str, Any],
    kind: type[ConfigT] = Config,  # type: ignore[assignment]
    *,
    base: Path | None = None,
) -> ConfigT:
    """Validate a configuration.

    Args:
        tables: As read from TOML.
        kind: As for `read_config`.
        base: File that relative paths are relative to.

    Raises:
        ConfigError: At the first unknown key or value outside its range, naming the remedy.
    """
    try:
        config = kind.model_validate(tables)
    except ValidationError as error:
        raise explain(error, kind) from None
    if base is None:
        return config
    folder = base.resolve().parent
    policy, agent, router = config.policy, config.agent, config.router
    keys = {
        name: path and folder / path.expanduser()
        for name, path in ((name, getattr(router, name)) for name in SECRET_FILES)
    }
    return config.model_copy(
        update={
            "router": router.model_copy(update=keys),
            "policy": policy.model_copy(
                update={"profile": policy.profile and folder / policy.profile.expanduser()}
            ),
            "agent": agent.model_copy(
                update={
                    "rings": folder / agent.rings.expanduser(),
                    "state": folder / agent.state.expanduser(),
                    "token_file": agent.token_file and folder / agent.token_file.expanduser(),
                    "feed_key_file": agent.feed_key_file
                    and folder / agent.feed_key_file.expanduser(),
                }
            ),
        }
    )
