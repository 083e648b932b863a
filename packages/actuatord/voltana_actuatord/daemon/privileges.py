"""What the daemon gives up at start, through prctl and capset.

Changing clocks needs root, in a container CAP_SYS_ADMIN. Everything else that root may do is
dropped: the bounding set, so that no child gets it back, and new privileges through exec.
Reference: capabilities(7), prctl(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
CAP_SYS_ADMIN = 21
_MOST_CAPABILITIES = 64
NICENESS = -10

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def go_first() -> None:
    """Have a change of clock not wait behind engines that keep every core busy.

    The systemd unit says the same; where neither is allowed, things take their turn.
    """
    with contextlib.suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, 0) > NICENESS:
            os.setpriority(os.PRIO_PROCESS, 0, NICENESS)


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send a signal to this process when its parent dies."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)


def drop_capabilities(keep: tuple[int, ...]) -> None:
    """Give up every capability but `keep`, for good; does nothing for an ordinary user.

    Args:
        keep: Numbers of capabilities, of which only those that the process has are kept.

    Raises:
        OSError: If the kernel refuses.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if os.geteuid() != 0:
        return
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    has_setpcap = bool(_permitted() >> 8 & 1)
    for capability in range(_MOST_CAPABILITIES):
        known = _libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) >= 0
        if known and capability not in keep and has_setpcap:
            _prctl(_PR_CAPBSET_DROP, capability)
    kept = sum(1 << capability for capability in keep) & _permitted()
    _capset(kept)


def capabilities(pid: int | str = "self") -> int:
    """Effective capabilities of a process as a bit set."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _permitted() -> int:
    """Permitted capabilities of this process, from the kernel itself: /proc may be hidden."""
    header, data = _Header(_CAPABILITY_VERSION_3, 0), (_Data * 2)()
    if _libc.capget(ctypes.byref(header), ctypes.byref(data)):
        raise OSError(ctypes.get_errno(), "capget was refused")
    return int(data[0].permitted | data[1].permitted << 32)


def _capset(kept: int) -> None:
    header = _Header(_CAPABILITY_VERSION_3, 0)
    words = (kept & 0xFFFFFFFF, kept >> 32)
    data = (_Data * 2)(*(_Data(word, word, 0) for word in words))
    if _libc.capset(ctypes.byref(header), ctypes.byref(data)):
        raise OSError(ctypes.get_errno(), "capset was refused")


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, argument, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}, {argument}) was refused")
