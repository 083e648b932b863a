"""Whose files a privileged process may use: those that nobody but itself or root can exchange.

A path is walked from the root, through every link. Each step must belong to root or to this user,
and be closed to the writes of others; a folder may be open to them if it is sticky, as /tmp is,
since nobody can exchange another's files there.
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

MAX_STEPS = 80
MAX_FILE_BYTES = 262_144

_NAMED_USER, _NAMED_GROUP, _WRITE = 0x02, 0x08, 0x02
"""Of an entry of an access list; linux/posix_acl_xattr.h."""


class UntrustedError(Exception):
    """Others could have written a file; its text is a clause that says which and how."""


def read_trusted(path: Path) -> str:
    """The text of a small file that nobody else could have written.

    It is opened before it is looked at, and what was opened has to be what was looked at: nobody
    can exchange it, or put it there, in between.

    Raises:
        UntrustedError: If others could have written it.
        OSError: If it cannot be read.
        ValueError: If it is too long, no text, or no plain file.
    """
    if problem := untrusted(path.absolute()):
        raise UntrustedError(problem)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        opened = os.fstat(handle)
        if not stat.S_ISREG(opened.st_mode):
            raise ValueError("not a plain file")
        if problem := untrusted(path.absolute()):
            raise UntrustedError(problem)
        if not os.path.samestat(opened, path.stat()):
            raise UntrustedError(f"{path} was exchanged while it was read")
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"longer than {MAX_FILE_BYTES} bytes")
    return data.decode()


def untrusted(path: Path, *, link_at_end: bool = True) -> str:
    """Why a path cannot be trusted, as a clause; empty if it can be, or does not exist yet.

    Args:
        path: An absolute path.
        link_at_end: Whether its last part may be a symbolic link.
    """
    if not link_at_end and path.is_symlink():
        return f"{path} is a symbolic link"
    here, parts, steps = Path(path.anchor or "/"), list(path.parts[1:]), 0
    problem = _untrusted_step(here)
    while parts and not problem:
        steps += 1
        if steps > MAX_STEPS:
            return f"{path} leads through too many links"
        name = parts.pop(0)
        here = here.parent if name == ".." else here / name
        try:
            found = here.lstat()
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"{here} cannot be looked at ({error.strerror})"
        if stat.S_ISLNK(found.st_mode):
            problem = _foreign(here, found)
            target = here.readlink()
            parts = list(target.parts[target.is_absolute() :]) + parts
            here = Path("/") if target.is_absolute() else here.parent
        else:
            problem = _untrusted_step(here)
    return problem


def _untrusted_step(path: Path) -> str:
    found = path.lstat()
    if problem := _foreign(path, found):
        return problem
    mode = found.st_mode
    sticky = stat.S_ISDIR(mode) and mode & stat.S_ISVTX
    own_group = found.st_gid in {0, os.getegid()} and not _others_are_listed(path, mode)
    open_to_others = mode & stat.S_IWOTH or (mode & stat.S_IWGRP and not own_group)
    if not open_to_others or sticky or stat.S_ISSOCK(mode) or _read_only(path):
        return ""
    return f"others may write to {path} (mode {stat.S_IMODE(mode):o})"


def _others_are_listed(path: Path, mode: int) -> bool:
    """Whether an access list lets others write, which the mode shows as a right of the group."""
    if not mode & stat.S_IWGRP:
        return False
    try:
        entries = os.getxattr(path, "system.posix_acl_access", follow_symlinks=False)[4:]
    except OSError:  # there is none
        return False
    ours = {_NAMED_USER: {0, os.geteuid()}, _NAMED_GROUP: {0, os.getegid()}}
    return any(
        tag in ours and rights & _WRITE and who not in ours[tag]
        for tag, rights, who in struct.iter_unpack("<HHI", entries[: len(entries) // 8 * 8])
    )


def _foreign(path: Path, found: os.stat_result) -> str:
    if found.st_uid in {0, os.geteuid()}:
        return ""
    return f"{path} belongs to uid {found.st_uid}"


def _read_only(path: Path) -> bool:
    """Whether it lies on a file system that cannot be written, as a ConfigMap does."""
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
