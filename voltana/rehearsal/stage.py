"""What a rehearsal plays on: a folder with fake GPUs, and the files of its processes."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from voltana.errors import invalid
from voltana.plant.iteration import PlantModel
from voltana.rehearsal.engine import SETTINGS_VARIABLE, EngineSettings
from voltana.rehearsal.machine import STATE_VARIABLE, WORD, Machine, uuid_of
from voltana.rehearsal.profiled import write_tables
from voltana.rehearsal.toml_text import toml_text
from voltana_actuatord.timebase import FACTOR_VARIABLE, lengthened_s

if TYPE_CHECKING:
    from pathlib import Path

    from voltana.evaluation.scenario import Scenario
    from voltana.rehearsal.port import Rehearsed
    from voltana.serving.config import Config

TOKEN_VARIABLE = "VOLTANA_ADMIN_TOKEN"
TOKEN_FILE = "admin.token"

_DAEMON_LIMITS_S = 1.5
"""The longest that a daemon can be configured to wait for a driver's call, or for its worker."""

_MOST_LEASE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The files of one policy's rehearsal.

    Attributes:
        folder: Where they lie; short, for a socket is among them.
        machine: The fake GPUs.
        cluster: The configuration of launch, agents and router.
        daemon: That of the daemon.
        socket: The daemon's.
        environment: Variables of all processes.
        devices: Names of the instances, and the indices of their boards.
    """

    folder: Path
    machine: Machine
    cluster: Path
    daemon: Path
    socket: Path
    environment: dict[str, str]
    devices: dict[str, tuple[int, ...]]

    @property
    def records(self) -> Path:
        """Folder of what engines and meter write."""
        return self.folder / "records"

    @property
    def logs(self) -> Path:
        """Folder of the processes' logs."""
        return self.folder / "logs"

    @property
    def readings(self) -> Path:
        """What the meter writes."""
        return self.records / "meter.jsonl"

    @property
    def token_file(self) -> Path:
        """The token of agents and router, for whoever watches them."""
        return self.folder / TOKEN_FILE

    @property
    def agents(self) -> Path:
        """Where the launch lists the addresses of its agents."""
        return self.logs / "agents.json"


def set_stage(
    folder: Path,
    library: Path,
    config: Config,
    scenario: Scenario,
    dialect: Rehearsed,
    *,
    policy: str,
    factor: float,
    interval: int,
    keep_serving: bool = False,
) -> Stage:
    """Write all files, and make the GPUs.

    Args:
        folder: Empty, or not there yet.
        library: Folder of the fake driver.
        config: The user's configuration.
        scenario: What is served and simulated.
        dialect: The engine's.
        policy: What controls and routes.
        factor: Seconds of the rehearsal in one of the wall's.
        interval: Tokens after which a stream is told again.
        keep_serving: Whether serving goes on when a process ends.

    Raises:
        ConfigError: If the cluster needs more boards than there can be.
    """
    for name in ("records", "logs", "state"):
        (folder / name).mkdir(parents=True)
    (folder / "rings").mkdir(mode=0o700)
    devices = _devices(config)
    machine = _machine(folder, library, scenario, factor, devices)
    engines = folder / "engines.json"
    _engine_settings(folder, scenario, machine, devices).write(engines)
    socket, daemon, cluster = folder / "d.sock", folder / "actuatord.toml", folder / "cluster.toml"
    lease_s = min(lengthened_s(config.actuator.lease_s, factor), _MOST_LEASE_S)
    daemon.write_text(_daemon_file(folder, socket, lease_s), encoding="utf-8")
    daemon.chmod(0o600)
    tables = _tables(config, folder, socket, devices)
    launch = tables["launch"]
    # The user's own arguments come later, and win.
    launch["arguments"] = [*dialect.stream_interval(interval), *launch.get("arguments", [])]
    if keep_serving:
        launch["on_exit"] = "keep-serving"
    tables["policy"] = tables.get("policy", {}) | {"controller": policy}
    if write_tables(profiled := folder / "profiled.json", config, scenario, dialect, policy):
        tables["policy"]["profile"] = str(profiled)
    tables["router"] = tables.get("router", {}) | {"policy": policy}
    cluster.write_text(toml_text(tables), encoding="utf-8")
    environment = {
        FACTOR_VARIABLE: repr(factor),
        SETTINGS_VARIABLE: str(engines),
        STATE_VARIABLE: str(machine.path),
        "LD_LIBRARY_PATH": str(library),
        "NVIDIA_VISIBLE_DEVICES": "all",
        "CUDA_VISIBLE_DEVICES": ",".join(str(gpu) for gpus in devices.values() for gpu in gpus),
        TOKEN_VARIABLE: _token(folder / TOKEN_FILE),
        "PYTHONUNBUFFERED": "1",
    }
    return Stage(
        folder=folder,
        machine=machine,
        cluster=cluster,
        daemon=daemon,
        socket=socket,
        environment=environment,
        devices=devices,
    )


def _engine_settings(
    folder: Path, scenario: Scenario, machine: Machine, devices: dict[str, tuple[int, ...]]
) -> EngineSettings:
    """What every virtual server reads."""
    file = scenario.file
    return EngineSettings(
        hardware=file.cluster.hardware,
        model=file.cluster.model,
        tensor_parallel=scenario.cluster.tensor_parallel,
        ttft_ms=file.slo.ttft_ms,
        itl_ms=file.slo.itl_ms,
        seed=file.seed,
        options=file.engine.model_dump(exclude_none=True),
        state=str(machine.path),
        gpus=devices,
        records=str(folder / "records"),
    )


def _devices(config: Config) -> dict[str, tuple[int, ...]]:
    """The boards of every instance, in the order in which a launch hands them out."""
    table = config.launch
    assert table is not None
    size, names = table.tensor_parallel, [name for name, _ in table.instances()]
    if len(names) * size > WORD["MAX_DEVICES"]:
        raise invalid(
            "launch.prefill + launch.decode",
            len(names),
            f"at most {WORD['MAX_DEVICES']} boards together, {size} for each server",
            "Rehearse a smaller cluster of the same kind.",
        )
    return {name: tuple(range(i * size, (i + 1) * size)) for i, name in enumerate(names)}


def _machine(
    folder: Path,
    library: Path,
    scenario: Scenario,
    factor: float,
    devices: dict[str, tuple[int, ...]],
) -> Machine:
    cluster = scenario.cluster
    hardware, engine = cluster.hardware, cluster.engine
    clocks = hardware.clocks_mhz
    plant = PlantModel(hardware, cluster.model)
    settle_s = hardware.clock_settle_s if engine.settle_s is None else engine.settle_s
    cap_mw = int(hardware.tdp_w * 1e3)
    machine = Machine(
        folder,
        library,
        sum(map(len, devices.values())),
        D_FIRST_MHZ=int(clocks[0]),
        D_LAST_MHZ=int(clocks[-1]),
        D_APP_MHZ=int(clocks[-1]),
        D_APP_DEFAULT_MHZ=int(clocks[-1]),
        D_STEP_MHZ=int(clocks[1] - clocks[0]) if len(clocks) > 1 else 1,
        D_IDLE_MHZ=int(clocks[0]),
        D_IDLE_MW=int(plant.idle_power_w(clocks[-1]) * 1e3),
        D_FULL_MW=cap_mw,
        D_CAP_MW=cap_mw,
        D_CAP_DEFAULT_MW=cap_mw,
        D_CAP_MIN_MW=cap_mw // 4,
        D_CAP_MAX_MW=cap_mw,
        D_CALL_US=_us(hardware.clock_call_s / factor),
        D_SETTLE_US=_us(settle_s / factor),
        D_TICK_MS=max(1, round(engine.energy_tick_s / factor * 1e3)),
    )
    machine.header("H_TIME_PPM", round(factor * 1e6))
    return machine


def _token(path: Path) -> str:
    """A new token, which this user alone can read from its file."""
    token = secrets.token_hex(32)
    path.touch(mode=0o600)
    path.write_text(token + "\n", encoding="utf-8")
    return token


def _us(seconds: float) -> int:
    return max(1, round(seconds * 1e6))


def _daemon_file(folder: Path, socket: Path, lease_s: float) -> str:
    (folder / "daemon").mkdir(mode=0o700)
    return toml_text(
        {
            "socket": str(socket),
            "state_dir": str(folder / "daemon"),
            "claims_dir": str(folder / "daemon"),
            "silence_s": _DAEMON_LIMITS_S,
            "call_limit_s": _DAEMON_LIMITS_S,
            "allow": [{"users": [os.geteuid()], "max_lease_s": lease_s}],
        }
    )


def _tables(
    config: Config,
    folder: Path,
    socket: Path,
    devices: dict[str, tuple[int, ...]],
) -> dict[str, Any]:
    """The user's configuration with what a rehearsal lays down: devices and folders."""
    tables = config.model_dump(mode="json", exclude_none=True, exclude_unset=True)
    gpus = [uuid_of(gpu) for boards in devices.values() for gpu in boards]
    for table, own in (
        ("launch", {"gpus": gpus, "logs": str(folder / "logs")}),
        ("actuator", {"kind": "daemon", "socket": str(socket)}),
        ("agent", {"rings": str(folder / "rings"), "state": str(folder / "state")}),
    ):
        tables[table] = tables.get(table, {}) | own
    return tables
