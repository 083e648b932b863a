"""Configuration of the actuator daemon: a TOML file, validated before anything else happens.

Read by a short-lived child of the daemon; parent and worker get plain values (`to_plain`), so that
they need no validation library.
"""

from __future__ import annotations

import grp
import pwd
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from voltana_actuatord.daemon.trust import UntrustedError, read_trusted
from voltana_actuatord.drivers.opening import DEFAULT_DRIVER, find_driver
from voltana_actuatord.errors import ConfigError
from voltana_actuatord.gpu_names import uuid_problem
from voltana_actuatord.protocol import DEFAULT_CLAIMS_DIR, DEFAULT_SOCKET, DEFAULT_STATE_DIR
from voltana_actuatord.validation import StrictTable, explain

_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Seconds = Annotated[_Number, Field(gt=0, le=60)]


def _absolute(value: object) -> object:
    if isinstance(value, str) and not Path(value).is_absolute():
        raise ValueError("must be an absolute path")
    return value


def _named_by_uuid(value: object) -> object:
    for name in value if isinstance(value, list) else ():
        if problem := uuid_problem(name):
            raise ValueError(problem.rstrip("."))
    return value


_AbsolutePath = Annotated[Path, BeforeValidator(_absolute)]


class AllowTable(StrictTable):
    """What some users and groups may do (``[[allow]]``).

    Attributes:
        users: User names or numeric ids.
        groups: Group names or numeric ids.
        gpus: UUIDs of the GPUs, or ``all``.
        min_mhz: Lowest clock that may be set.
        max_mhz: Highest clock that may be set; left out: the fastest of the board.
        max_lease_s: Longest time between two completed control steps.
    """

    users: tuple[str | int, ...] = ()
    groups: tuple[str | int, ...] = ()
    gpus: Annotated[Literal["all"] | tuple[str, ...], BeforeValidator(_named_by_uuid)] = "all"
    min_mhz: Annotated[_Number, Field(ge=0, le=1e6)] = 0.0
    max_mhz: Annotated[_Number, Field(gt=0, le=1e6)] = 1e6
    max_lease_s: _Seconds = 2.0

    @model_validator(mode="after")
    def _makes_sense(self) -> AllowTable:
        if not self.users and not self.groups:
            raise ValueError("name at least one user or group")
        if self.min_mhz > self.max_mhz:
            raise ValueError("min_mhz is above max_mhz")
        return self


class BaselineTable(StrictTable):
    """A clock that GPUs have when nobody has a lease (``[[baseline]]``).

    Attributes:
        gpus: UUIDs of the GPUs.
        clock_mhz: The clock, which is put back after every lease.
    """

    gpus: Annotated[tuple[str, ...], BeforeValidator(_named_by_uuid), Field(min_length=1)]
    clock_mhz: Annotated[_Number, Field(gt=0, le=1e5)]


class DaemonSettings(StrictTable):
    """The whole file.

    Attributes:
        driver: What drives the GPUs: ``nvml``, or another vendor's as ``MODULE:FACTORY``.
        socket: Path of the Unix socket.
        socket_mode: Its permissions, as octal text.
        socket_group: Group that it belongs to; left out: the daemon's own.
        state_dir: Where the journal and the lock file lie; must survive a reboot.
        claims_dir: Where it is kept which daemon has which GPU; the same for all of a host.
        silence_s: How long the worker may be silent before it is killed.
        call_limit_s: How long one driver call may take before the worker is killed.
        max_connections: Connections at a time, of which one user may hold half.
        idle_s: How long a connection that controls nothing may be silent.
        foreign_clocks: Whether a GPU is lent where another tool has set a clock: ``refuse`` or
            ``allow``.
        baseline: Clocks that GPUs have when nobody has a lease.
        allow: Who may do what.
    """

    PAGE = "docs/actuation.md"

    driver: str = DEFAULT_DRIVER
    socket: _AbsolutePath = Path(DEFAULT_SOCKET)
    socket_mode: Annotated[str, Field(pattern=r"^0?[0-7]{3}$")] = "0660"
    socket_group: str | int | None = None
    state_dir: _AbsolutePath = Path(DEFAULT_STATE_DIR)
    claims_dir: _AbsolutePath = Path(DEFAULT_CLAIMS_DIR)
    silence_s: Annotated[_Seconds, Field(ge=0.2, le=1.5)] = 0.4
    call_limit_s: Annotated[_Seconds, Field(ge=0.1, le=1.5)] = 0.2
    max_connections: Annotated[int, Field(ge=2, le=256, strict=True)] = 32
    idle_s: Annotated[_Number, Field(ge=1, le=3600)] = 30.0
    foreign_clocks: Literal["refuse", "allow"] = "refuse"
    baseline: Annotated[tuple[BaselineTable, ...], Field(max_length=64)] = ()
    allow: Annotated[tuple[AllowTable, ...], Field(max_length=256)] = ()

    def to_plain(self) -> dict[str, Any]:
        """Everything as JSON values, with names resolved to ids.

        Raises:
            ConfigError: If a user or group does not exist.
        """
        group = self.socket_group
        return {
            "driver": self.driver,
            "socket": str(self.socket),
            "socket_mode": int(self.socket_mode, 8),
            "socket_gid": None if group is None else group_id(group),
            "claims_dir": str(self.claims_dir),
            "silence_s": self.silence_s,
            "state_dir": str(self.state_dir),
            "call_limit_s": self.call_limit_s,
            "max_connections": self.max_connections,
            "idle_s": self.idle_s,
            "foreign_allowed": self.foreign_clocks == "allow",
            "baselines": {uuid: one.clock_mhz for one in self.baseline for uuid in one.gpus},
            "rules": [
                {
                    "uids": [user_id(name) for name in rule.users],
                    "gids": [group_id(name) for name in rule.groups],
                    "gpus": None if rule.gpus == "all" else list(rule.gpus),
                    "min_mhz": rule.min_mhz,
                    "max_mhz": rule.max_mhz,
                    "max_lease_s": rule.max_lease_s,
                }
                for rule in self.allow
            ],
        }


def load_settings(path: Path) -> DaemonSettings:
    """Read the configuration file.

    Raises:
        ConfigError: If it cannot be read, others could have written it, or a value is not allowed;
            the text names the key.
    """
    try:
        data = tomllib.loads(read_trusted(path))
    except UntrustedError as problem:
        raise ConfigError(
            f"{path} is not trusted: {problem}. Give the file and its folders to root, and take "
            "the right to write from others (chmod go-w)."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}. Give the file with --config; docs/"
            "actuation.md shows one."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None
    try:
        settings = DaemonSettings.model_validate(data)
        settings.to_plain()
        find_driver(settings.driver)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, DaemonSettings)}") from None
    return settings


def user_id(name: str | int) -> int:
    """The id of a user.

    Raises:
        ConfigError: If there is none.
    """
    if isinstance(name, int):
        return name
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ConfigError(f"user {name!r} does not exist. Create it, or give its id.") from None


def group_id(name: str | int) -> int:
    """The id of a group.

    Raises:
        ConfigError: If there is none.
    """
    if isinstance(name, int):
        return name
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"group {name!r} does not exist. Create it, or give its id.") from None
