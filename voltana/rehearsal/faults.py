"""Faults on command: what is killed or lost in the middle of a rehearsal, and how."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from voltana.errors import invalid
from voltana_actuatord.timebase import lengthened_s

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voltana.rehearsal.company import Company
    from voltana.rehearsal.stage import Stage
    from voltana.serving.launch.config import LaunchTable

KINDS = ("agent", "daemon", "router", "engine", "gpu")
INIT_S = 1.0
"""How long an init waits before it starts a daemon again, on the wall; systemd's is 0.1 s."""

LOST_S = 5.0
"""How long a GPU is lost, on the wall."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong.

    Attributes:
        kind: One of `KINDS`: agent, router and engine are killed, as is the daemon with all its
            processes, which is started again as an init does; a GPU is lost for a while.
        at_s: When, in seconds from the trace's start.
    """

    kind: str
    at_s: float

    @classmethod
    def parse(cls, text: str, table: LaunchTable, duration_s: float) -> Fault:
        """Read ``KIND@SECONDS``.

        Args:
            text: What was given.
            table: The servers.
            duration_s: Length of the trace.

        Raises:
            ConfigError: If it is none, or nothing would be left to serve with.
        """
        kind, _, when = text.partition("@")
        try:
            at_s = float(when)
        except ValueError:
            at_s = -1.0
        if kind not in KINDS or not 0.0 <= at_s <= duration_s:
            raise invalid(
                "--fault",
                text,
                f"one of {', '.join(KINDS)}, '@', and 0 to {duration_s:.4g} seconds of the trace",
                "agent@10 kills an agent after 10 s.",
            )
        if kind == "engine" and table.decode < 2:
            raise invalid(
                "--fault",
                text,
                "another one where launch.decode is 1",
                "The last decode server is killed: have two, so that one is left to serve.",
            )
        return cls(kind=kind, at_s=at_s)

    def __str__(self) -> str:
        return f"{self.kind}@{self.at_s:g}"

    def happen(self, stage: Stage, company: Company) -> None:
        """Let it happen; returns once everything that it leads to here was done."""
        last = [name for name in stage.devices if name.startswith("decode")][-1]
        if self.kind == "gpu":
            for device in stage.devices[last]:
                stage.machine.set(device, "D_LOST", 1)
            time.sleep(lengthened_s(LOST_S))
            for device in stage.devices[last]:
                stage.machine.set(device, "D_LOST", 0)
            return
        names = {"agent": f"agent-{last}", "engine": last, "router": "router", "daemon": "daemon"}
        log = stage.logs / f"{names[self.kind]}.log"
        if self.kind == "daemon":
            company.replace_daemon(lambda: kill(log), INIT_S)
        else:
            kill(log)


def kill(log: Path) -> None:
    """SIGKILL to every process that writes this log, but not to the warden before it."""
    for pid in _writers(log):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _writers(log: Path) -> Iterator[int]:
    for pid, written in writers():
        with contextlib.suppress(OSError):
            if written == log and b"warden.py" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                yield pid


def writers() -> Iterator[tuple[int, Path]]:
    """Every process that may be looked at, and what its standard error goes to."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(process.name), (process / "fd" / "2").readlink()
