"""The agent's life: finds rings, runs their loops, publishes, saves, and gives clocks back."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import math
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from voltana.errors import ConfigError, VoltanaError
from voltana.serving.admin.figures import FiguresListener
from voltana.serving.admin.token import find_token
from voltana.serving.agent.control import ControlServer
from voltana.serving.agent.footing import Footing
from voltana.serving.agent.metrics import render
from voltana.serving.event_loop import run_paced
from voltana.serving.feed import FeedPublisher
from voltana.serving.feed_key import check_leaves, find_feed_key
from voltana.timebase import MonotonicTime
from voltana_ring.bell import open_bell
from voltana_ring.paths import bell_path, make_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from voltana.ports import TimeSource
    from voltana.serving.agent.energy import EnergyAccount
    from voltana.serving.agent.group import Group
    from voltana.serving.agent.instance_clock import InstanceClock
    from voltana.serving.config import Config
    from voltana.serving.config_tables import Role
    from voltana.values import InstanceState

NO_ENGINE = "no engine yet"
"""Health of an agent that waits for its engine."""

HEARTBEAT_S = 0.04
"""Between two publications of an idle instance: routers take older states for stale."""

_MOST_SAID = 64
"""Different errors that are remembered as said."""

SCAN_S = 1.0
"""How often new rings are looked for."""


@dataclass(frozen=True, kw_only=True)
class AgentOptions:
    """What an agent is told beside the configuration file.

    Attributes:
        instance: Name of the instance.
        role: What its server was started as; None asks the engine.
        gpus: Its GPUs where the engine does not report them: UUIDs, or own indices.
        control_port: Port of the control endpoint; 0 takes a free one.
        feed_port: Port of the feed, likewise.
        dry_run: Whether to leave the devices alone.
        metrics_port: The scrape port; 0 takes a free one, None has none.
        until_engine_ends: Whether to end when no engine of the instance lives, instead of waiting
            for the next one.
    """

    instance: str
    role: Role | None
    gpus: tuple[str | int, ...]
    control_port: int
    feed_port: int
    dry_run: bool
    metrics_port: int | None = None
    until_engine_ends: bool = False


class AlreadyRunningError(VoltanaError):
    """Another agent serves this instance."""


class Agent:
    """The agent of one instance.

    Args:
        config: The configuration.
        options: What it is told beside it.
        time: Source of time.

    Raises:
        AlreadyRunningError: If another agent serves this instance.
        VoltanaError: If the configuration does not fit, or a device cannot be opened.
        OSError: If the folder of the rings cannot be used.
    """

    def __init__(
        self, config: Config, options: AgentOptions, time: TimeSource | None = None
    ) -> None:
        self.config = config
        self.options = options
        self._time = time or MonotonicTime()
        self._log = structlog.get_logger("voltana.serving.agent").bind(instance=options.instance)
        self._ending = asyncio.Event()
        self._said: set[str] = set()
        self._looks: asyncio.TimerHandle | None = None
        with contextlib.ExitStack() as opened:
            make_folder(config.agent.rings)
            self._lock = _take_lock(config.agent.rings, options.instance)
            opened.callback(os.close, self._lock)
            address = f"tcp://{_in_url(config.agent.feed_host)}:{options.feed_port}"
            key = find_feed_key(config.agent.feed_key_file, os.environ)
            check_leaves("agent.feed_host", address, key, open_to_all=config.agent.feed_open)
            self.feed = FeedPublisher(address, options.instance, self._time, key)
            opened.callback(self.feed.close)
            self._footing = Footing(config, options, self.feed, self._time)
            opened.callback(self._footing.close)
            self._bell = open_bell(bell_path(config.agent.rings, options.instance))
            opened.callback(os.close, self._bell)
            self._opened = opened.pop_all()

    @property
    def actuator(self) -> InstanceClock:
        """The clock of the devices."""
        return self._footing.devices.clock

    @property
    def group(self) -> Group:
        """The loops."""
        return self._footing.group

    @property
    def energy(self) -> EnergyAccount:
        """Their energy."""
        return self._footing.energy

    async def run(self) -> None:
        """Serve until a signal, or until the engine that started the agent has ended."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._ending.set)
        token = find_token(self.config.agent.token_file, os.environ, field="agent.token_file")
        control = ControlServer(self, token)
        figures = FiguresListener(
            lambda: render(self.status()),
            lambda: self.group.attached,
            self.config.agent.metrics_names,
        )
        try:
            if self.options.metrics_port is not None:
                await figures.start(self.config.agent.metrics_host, self.options.metrics_port)
            port = await control.start(self.config.agent.host, self.options.control_port)
            self._log.info(
                "agent serves",
                control=f"http://{_in_url(self.config.agent.host)}:{port}",
                feed=self.feed.address,
                metrics=figures.port or "at control",
                actuator="dry-run" if self.actuator.dry_run else self.config.actuator.kind,
            )
            loop.add_reader(self._bell, self._on_bell)
            await self._tick_until_end()
        finally:
            loop.remove_reader(self._bell)
            if self._looks is not None:
                self._looks.cancel()
            await control.stop()
            await figures.stop()
            self.close()

    def close(self) -> None:
        """Save what was learned and give the clocks back; may be called twice."""
        with contextlib.suppress(OSError):
            self.group.save()
        self.group.close()
        self._opened.close()

    def now_s(self) -> float:
        """Time on the axis of limits."""
        return self._time.now_s()

    def end(self) -> None:
        """Ask `run` to end."""
        self._ending.set()

    async def _tick_until_end(self) -> None:
        agent = self.config.agent
        scan_at_s = save_at_s = -math.inf
        while not self._ending.is_set():
            now_s = self._time.now_s()
            if now_s >= scan_at_s:
                scan_at_s = now_s + SCAN_S
                self._scan()
            if now_s >= save_at_s:
                if save_at_s > 0:
                    await self._save()
                save_at_s = now_s + agent.save_every_s
            self._attempt(lambda: self.group.tick(agent.idle_tick_s))
            self._look_again()
            self._attempt(self.energy.tick)
            self._attempt(lambda: self._footing.publishing.publish(heartbeat=True))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), HEARTBEAT_S)

    def _attempt(self, step: Callable[[], object]) -> None:
        """A step of the agent's round; a user's component that fails must not end all of them.

        Nothing is hidden by that: a clock holds only as long as control steps are completed.
        """
        try:
            step()
        except Exception as error:  # noqa: BLE001  (see above)
            if repr(error) not in self._said:
                self._said.add(repr(error))
                self._log.error("a step failed", error=repr(error), exc_info=error)
            if len(self._said) > _MOST_SAID:
                self._said.clear()

    async def _save(self) -> None:
        try:
            self.group.save()
        except OSError as error:
            self._log.warning("what was learned cannot be saved", error=str(error))

    def _on_bell(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._bell, 65536)
        self._read_on()

    def _read_on(self) -> None:
        """Work through what has come; no bell rings for batches that repeat the one before."""
        self._attempt(self._read)
        self._look_again()

    def _read(self) -> None:
        if self.group.drain():
            self._footing.publishing.publish(heartbeat=False)

    def _look_again(self) -> None:
        """Read on when the next of them is likely there."""
        if self._looks is not None:
            self._looks.cancel()
            self._looks = None
        wait_s = self.group.wait_s()
        if wait_s < math.inf and not self._ending.is_set():
            self._looks = asyncio.get_running_loop().call_later(wait_s, self._read_on)

    def _scan(self) -> None:
        self._footing.follow_engine()
        self.group.scan()
        if self.options.until_engine_ends and not self.group.engine_lives:
            self._log.info("the engine has ended")
            self.end()

    def health(self) -> str:
        """In a word or a line what is wrong; ``ok`` if nothing is."""
        if self.group.error or not self.group.attached:
            return self.group.error or NO_ENGINE
        return self.actuator.status().health.value

    def status(self) -> dict[str, Any]:
        """One flat object for `voltana top`, and details; unknown figures are None."""
        status, reading = self.actuator.status(), self._footing.devices.sensor.read()
        state = self.group.state()
        figures: dict[str, Any] = {
            "instance": self.options.instance,
            "role": self.group.role,
            "health": self.health(),
            "error": self.group.error or status.error or self.group.doubt,
            "dry_run": self.actuator.dry_run,
            "actuator": self.config.actuator.kind,
            "gpus": list(self._footing.devices.domain.devices),
            "clock_mhz": reading.clock_mhz,
            "target_mhz": self.group.target_mhz(),
            "power_w": reading.power_w,
            "energy_j": self.energy.total_j,
            "energy_gap_s": self.energy.gap_s,
            "energy_source": self.energy.source,
            "energy_by_source_j": self.energy.by_source(),
            "saving": self.energy.saving(),
            "policy": self.group.settings.policy,
            "levels": self.group.settings.levels,
            "feed": self.feed.address,
        }
        figures["steering"] = self._footing.steered.figures()
        return _finite(figures | _load_of(state) | self.group.figures())


def _load_of(state: InstanceState) -> dict[str, Any]:
    return {
        "running_requests": state.running_requests,
        "kv_tokens": state.kv_tokens,
        "queued_requests": state.queued_requests,
        "queued_tokens": state.queued_tokens,
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no nan and no infinity."""
    return {
        key: _finite(value)
        if isinstance(value, dict)
        else None
        if isinstance(value, float) and not math.isfinite(value)
        else value
        for key, value in values.items()
    }


def _take_lock(folder: Path, instance: str) -> int:
    path = folder / f"{instance}.agent.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise AlreadyRunningError(
            f"an agent serves {instance!r} already: must be the only one. End it, or give this "
            "instance another name."
        ) from None
    return handle


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def run_agent(config: Config, options: AgentOptions) -> None:
    """Run an agent until it ends.

    Raises:
        ConfigError: If a folder or a port cannot be used.
        VoltanaError: See `Agent`.
    """

    async def serve() -> None:
        await Agent(config, options).run()

    try:
        run_paced(serve(), asyncio.new_event_loop)
    except OSError as error:
        raise ConfigError(
            f"the agent cannot start: {error}. Choose another port or folder."
        ) from error
