"""Signals: which ones stop the daemon, and that no other ends any of its processes.

A terminal that closes, or an operator's Ctrl-C, reaches every process of the group at once: those
of the GPUs have to outlive it, since they give the clocks back. SIGKILL is left to init.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""What the parent takes as the wish that the daemon end in order."""

_NOT_UNDER_NOHUP = (signal.SIGHUP, signal.SIGQUIT)

_LEFT_ALONE = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT, signal.SIGCHLD}


def ignore_all_but(heeded: Iterable[int] = ()) -> None:
    """Ignore every signal that can be ignored but those; children inherit it."""
    for number in signal.valid_signals() - _LEFT_ALONE - set(heeded):
        signal.signal(number, signal.SIG_IGN)


def heed(stop: Callable[..., object]) -> None:
    """Call `stop` on every signal that stops the daemon, but for what nohup has it ignore."""
    for number in STOPPING:
        ignored = signal.getsignal(number) is signal.SIG_IGN
        if not (ignored and number in _NOT_UNDER_NOHUP):
            signal.signal(number, stop)
