"""How GPUs are named: by UUID wherever two processes speak, by index only to oneself.

An index is a place in one process's own counting. A container that was given one GPU of eight
counts it as 0, and CUDA may count in another order than the driver; a UUID is the same for all.
So whoever was told an index translates it by its own driver before it says it to anybody.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

from voltana_actuatord.drivers.opening import open_driver
from voltana_actuatord.errors import invalid
from voltana_actuatord.faults import DriverError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from voltana_actuatord.drivers.port import GpuDriver

MAX_UUID = 64
LISTED = "`nvidia-smi -L` and `voltana actuator doctor` list UUIDs."
NO_INDEX = f"An index means another GPU to every process: name the GPU by its UUID. {LISTED}"
NO_PART = "The clock of a MIG slice is shared by all slices of its GPU: disable MIG, or leave it."

_UUID = re.compile(rf"(?=.*-)[A-Za-z0-9][A-Za-z0-9-]{{2,{MAX_UUID - 1}}}")


def uuid_problem(name: object) -> str:
    """What keeps a name from being the UUID of a GPU, with the remedy; empty if it is one."""
    if isinstance(name, int) or (isinstance(name, str) and name.isdecimal()):
        return f"{name!r} is an index. {NO_INDEX}"
    if not isinstance(name, str) or not _UUID.fullmatch(name):
        return f"{name!r:.80} is no UUID of a GPU. {LISTED}"
    if name.startswith("MIG-"):
        return f"{name} is a part of a GPU. {NO_PART}"
    return ""


def parse_gpus(text: str) -> tuple[str | int, ...]:
    """GPUs of a command line: UUIDs and own indices, separated by commas; empty text is none.

    Raises:
        ConfigError: If one is neither, or named twice.
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    names = tuple(int(part) if part.isdecimal() else part for part in parts)
    for name in names:
        problem = "" if isinstance(name, int) else uuid_problem(name)
        if problem:
            raise invalid("gpus", text, "UUIDs, or indices such as 0,1", problem)
    if len(set(names)) != len(names):
        raise invalid("gpus", text, "different GPUs", "Name each once.")
    return names


def gpu_uuids(
    names: Iterable[str | int], open_driver: Callable[[], GpuDriver] = open_driver
) -> tuple[str, ...]:
    """UUIDs of GPUs that this process names; its own indices are translated by its own driver.

    Args:
        names: UUIDs, which are taken as they are, and indices.
        open_driver: Opens the driver, if there is an index.

    Raises:
        ConfigError: If a name is no UUID, names a GPU twice, or an index leads to a GPU that
            ``CUDA_VISIBLE_DEVICES`` does not give to this process.
        DriverError: If the driver does not know an index.
    """
    wanted = tuple(names)
    for name in wanted:
        if isinstance(name, str) and (problem := uuid_problem(name)):
            raise invalid("gpus", name, "the UUID of a GPU", problem)
    uuids = wanted
    if any(isinstance(name, int) for name in wanted):
        uuids = _translated(wanted, open_driver)
    if len(set(uuids)) != len(uuids):
        raise invalid("gpus", list(wanted), "different GPUs", "Name each once.")
    return tuple(map(str, uuids))


def _translated(
    names: tuple[str | int, ...], open_driver: Callable[[], GpuDriver]
) -> tuple[str, ...]:
    try:
        with contextlib.closing(open_driver()) as driver:
            uuids = tuple(
                driver.gpu(name).uuid if isinstance(name, int) else name for name in names
            )
    except DriverError as error:
        text = f"GPU indices {list(names)} cannot be translated: {error} Or give UUIDs."
        raise type(error)(text, error.code) from error
    for name, uuid in zip(names, uuids, strict=True):
        if isinstance(name, int):
            _refuse_foreign(name, uuid)
    return uuids


def _refuse_foreign(index: int, uuid: str) -> None:
    """Check an index against an allocation by UUID, which CUDA counts and the driver does not."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    mine = [part.strip() for part in visible.split(",") if part.strip()]
    by_uuid = bool(mine) and all(part.startswith("GPU-") for part in mine)
    if by_uuid and not any(uuid.startswith(part) for part in mine):
        raise invalid(
            "gpus",
            index,
            f"one of CUDA_VISIBLE_DEVICES={visible}",
            f"The driver counts {uuid} as {index} here: name your GPU by its UUID.",
        )
