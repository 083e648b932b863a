"""The configuration file: one TOML file for plugin, agent, router and launch.

Every table has defaults, so that an empty file is a valid dry run. Unknown keys are errors that
name the nearest known one.
"""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from voltana.config import SloTable
from voltana.errors import ConfigError, invalid
from voltana.serving.launch.config import LaunchTable  # noqa: TC001  (pydantic reads it)
from voltana.serving.router.settings import RouterTable
from voltana.serving.steer_settings import SteerTable  # noqa: TC001  (likewise)
from voltana.validation import explain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.slo import Slo

Role = Literal["prefill", "decode", "unified"]

CONFIG_VARIABLE = "VOLTANA_SGLANG_CONFIG"
"""Names the configuration file to the plugin; without it the plugin does nothing."""

INSTANCE_VARIABLE = "VOLTANA_SGLANG_INSTANCE"
"""Names the instance to the plugin; without it the name is the role and the server's port."""

DEFAULT_SOCKET = "/run/voltana/actuator.sock"

_Port = Annotated[int, Field(ge=0, le=65535)]
_GpuIndex = Annotated[int, Field(ge=0)]


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number")  # noqa: TRY004  (pydantic turns ValueError into its own)
    return value


_Positive = Annotated[float, BeforeValidator(_no_bool), Field(gt=0, allow_inf_nan=False)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def default_rings() -> Path:
    """A folder in memory that is this user's own."""
    memory = Path("/dev/shm")  # made with mode 0700, and refused if another owns it
    root = memory if memory.is_dir() else Path(tempfile.gettempdir())
    return root / f"voltana-sglang-{os.getuid()}"


def _default_state() -> Path:
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "voltana-sglang"


class EngineTable(_Table):
    """What is served on what, for a physical prior; without it the agent learns from nothing.

    Attributes:
        hardware: Name of a hardware profile of voltana, or a file.
        model: Name of a model profile, or a file, a Hugging Face ``config.json`` among them.
        tensor_parallel: GPUs of one instance.
        table_mhz: Clocks of the device, where none can be asked (``actuator.kind = "simulated"``).
        max_power_w: Power limit of all GPUs of an instance.
    """

    hardware: str | None = Field(default=None, description="the name of a hardware profile")
    model: str | None = Field(default=None, description="the name of a model profile, or a file")
    tensor_parallel: Annotated[int, Field(ge=1)] = Field(
        default=1, description="the number of GPUs of one instance"
    )
    table_mhz: tuple[_Positive, ...] = Field(
        default=(), description="the clocks of the device in MHz, where none can be asked"
    )
    max_power_w: _Positive | None = Field(
        default=None, description="the power limit of all GPUs of an instance in watts"
    )

    @model_validator(mode="after")
    def _both_or_none(self) -> EngineTable:
        if (self.hardware is None) != (self.model is None):
            raise invalid(
                "engine.hardware, engine.model",
                (self.hardware, self.model),
                "both or neither",
                "A physical prior needs both; leave both out to learn from nothing.",
            )
        return self


class PolicyTable(_Table):
    """What decides.

    Attributes:
        controller: Name of a policy (``voltana policies``), or ``MODULE:FACTORY``.
        predictor: ``MODULE:FACTORY`` of a user's own latency model, on which EcoFreq then stands.
        levels: Clocks that may be chosen, as in ``voltana simulate --levels``; None leaves the
            choice to the policy.
        profile: Profile file for a warm start (``voltana-sglang profile``).
    """

    controller: str = Field(
        default="voltana", description="the name of a policy, or MODULE:FACTORY"
    )
    predictor: str | None = Field(
        default=None, description="MODULE:FACTORY of a latency model; EcoFreq stands on it"
    )
    levels: str | None = Field(
        default=None, description="the clocks that may be chosen, such as 'above:900'"
    )
    profile: Path | None = Field(default=None, description="the profile file for a warm start")


class AgentTable(_Table):
    """Where agents live.

    Attributes:
        start: Who starts them: a human (or ``voltana-sglang launch``), or the plugin.
        rings: Folder of the shared memory that plugin and agent share.
        state: Folder of what was learned.
        host: Address of control endpoint and metrics; loopback, for it changes clocks.
        control_port: Port of an agent that has no other; 0 takes a free one.
        feed_host: Address on which states are published to routers.
        feed_port: Port likewise.
        save_every_s: How often what was learned is saved.
        idle_tick_s: Period of control steps while nothing runs.
        log: Log level.
    """

    start: Literal["by-hand", "plugin"] = Field(
        default="by-hand", description="who starts the agent"
    )
    rings: Path = Field(default_factory=default_rings, description="a folder in memory")
    state: Path = Field(
        default_factory=_default_state, description="the folder of what was learned"
    )
    host: Literal["127.0.0.1", "::1", "localhost"] = Field(
        default="127.0.0.1", description="the loopback address of the control endpoint"
    )
    control_port: _Port = Field(default=0, description="the port of the control endpoint")
    feed_host: str = Field(default="127.0.0.1", description="the address of the feed")
    feed_port: _Port = Field(default=0, description="the port of the feed")
    save_every_s: _Positive = Field(default=30.0, description="the seconds between two saves")
    idle_tick_s: Annotated[float, Field(gt=0, le=0.5)] = Field(
        default=0.2, description="the seconds between two control steps of an idle instance"
    )
    log: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the log level"
    )


class ActuatorTable(_Table):
    """What sets clocks.

    Attributes:
        kind: The daemon; NVML in the agent's own process (which then has to be root); a device
            that is only simulated; or nothing at all, which is the default.
        socket: Where the daemon listens.
        lease_s: How long a clock holds without a completed control step.
    """

    kind: Literal["dry-run", "daemon", "nvml", "simulated"] = Field(
        default="dry-run", description="what sets clocks"
    )
    socket: Path = Field(
        default=Path(DEFAULT_SOCKET), description="the socket of voltana-actuatord"
    )
    lease_s: Annotated[float, Field(ge=0.5, le=60)] = Field(
        default=2.0, description="the seconds that a clock holds without a control step"
    )


class InstanceTable(_Table):
    """One server, where its agent is not told everything by flags.

    Attributes:
        name: Unique; the plugin is told it by the variable ``VOLTANA_SGLANG_INSTANCE``.
        role: What the server was started as; None asks the engine.
        gpus: Indices of its GPUs.
        control_port: Port of its agent's control endpoint; None takes that of ``[agent]``.
        feed_port: Port of its agent's feed, likewise.
    """

    name: str = Field(description="the name of an instance")
    role: Role | None = Field(default=None, description="what the server was started as")
    gpus: tuple[_GpuIndex, ...] = Field(default=(), description="the indices of its GPUs")
    control_port: _Port | None = Field(default=None, description="the port of its agent")
    feed_port: _Port | None = Field(default=None, description="the port of its agent's feed")

    @field_validator("name")
    @classmethod
    def _is_a_file_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
            raise invalid(
                "instance.name",
                name,
                "letters, digits, '-', '_' and '.', at most 64",
                "Files are named after it.",
            )
        return name


class Config(_Table):
    """The whole file.

    Attributes:
        slo: Latency thresholds.
        engine: What is served on what.
        policy: What decides.
        agent: Where agents live.
        actuator: What sets clocks.
        instance: Servers, one table each.
        launch: A cluster to start on this host; None where servers are started otherwise.
        router: The router.
        steer: The proxy that steers another router; None where there is none.
    """

    slo: SloTable = SloTable()
    engine: EngineTable = EngineTable()
    policy: PolicyTable = PolicyTable()
    agent: AgentTable = AgentTable()
    actuator: ActuatorTable = ActuatorTable()
    instance: tuple[InstanceTable, ...] = ()
    launch: LaunchTable | None = None
    router: RouterTable = RouterTable()
    steer: SteerTable | None = None

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


def slo_of(table: SloTable) -> Slo:
    """A table of thresholds in seconds."""
    from voltana.slo import Slo  # noqa: PLC0415  (the plugin reads this file without NumPy)

    return Slo(
        ttft_s=table.ttft_ms / 1e3,
        itl_s=table.itl_ms / 1e3,
        ttft_target=table.ttft_target,
        itl_target=table.itl_target,
    )


def read_config(path: Path | None) -> Config:
    """Read a configuration file; without one, the defaults.

    Raises:
        ConfigError: If the file cannot be read or holds something that is not allowed.
    """
    return parse_config({} if path is None else _read_toml(path), base=path)


def parse_config(tables: Mapping[str, Any], *, base: Path | None = None) -> Config:
    """Validate a configuration.

    Args:
        tables: As read from TOML.
        base: File that relative paths are relative to.

    Raises:
        ConfigError: At the first unknown key or value outside its range, naming the remedy.
    """
    try:
        config = Config.model_validate(tables)
    except ValidationError as error:
        raise explain(error, Config) from None
    if base is None:
        return config
    folder = base.resolve().parent
    policy, agent, router = config.policy, config.agent, config.router
    keys = {
        name: path and folder / path.expanduser()
        for name, path in (
            ("api_key_file", router.api_key_file),
            ("admin_api_key_file", router.admin_api_key_file),
        )
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
                }
            ),
        }
    )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"configuration {path} cannot be read: {error.strerror}. Check the path."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {path} is not TOML: {error}. Correct it.") from None
