"""Which GPUs each server of a launch gets, out of those that the launch itself was given.

A launch may use what it inherited and nothing else: a scheduler (Slurm, Kubernetes) says that in
CUDA_VISIBLE_DEVICES. Servers are told indices in the order of PCI buses, which is also how NVML
counts, and agents UUIDs: CUDA's own order puts the fastest board first, so that an index alone
would mean one board to the engine and another to whoever sets its clock.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.errors import VoltanaError, invalid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voltana.serving.launch.config import LaunchTable

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
BY_BUS = "PCI_BUS_ID"

_NONE = frozenset({"", "-1", "NoDevFiles", "none", "void"})
"""What an allocation without any GPU looks like; NoDevFiles is Slurm's."""

_SLICE = re.compile(r"MIG-.*|\d+:\d+")
_NAME = re.compile(r"[0-9]+|GPU-[0-9A-Za-z-]+")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU of a server.

    Attributes:
        cuda: What CUDA_VISIBLE_DEVICES calls it.
        uuid: Its UUID; empty where no driver can be asked.
    """

    cuda: str
    uuid: str = ""

    @property
    def name(self) -> str:
        """What others than CUDA call it."""
        return self.uuid or self.cuda


def allocate(
    table: LaunchTable, environment: Mapping[str, str], uuids: Sequence[str]
) -> tuple[tuple[Gpu, ...], ...]:
    """GPUs of every server, in the order of `table.instances()`.

    Args:
        table: The launch; ``launch.gpus`` counts within what was inherited, or names UUIDs of it.
        environment: Of the launch.
        uuids: Those of the GPUs that are visible here, in the order of their indices; empty where
            no driver can be asked.

    Raises:
        ConfigError: If there are too few GPUs, one that was not inherited or is not there is asked
            for, or one is a slice under MIG.
    """
    servers = len(table.instances())
    if table.gpus == ():
        return ((),) * servers
    size = table.tensor_parallel
    pool = _inherited(environment, uuids)
    wanted = _wanted(table, pool, servers * size, uuids)
    gpus = [_gpu(name, uuids) for name in wanted]
    names = [gpu.name for gpu in gpus]
    if len(set(names)) < len(names):
        raise invalid("launch.gpus", names, "different GPUs", "Name each once.")
    return tuple(tuple(gpus[first : first + size]) for first in range(0, servers * size, size))


def visible_uuids() -> tuple[str, ...]:
    """UUIDs of the GPUs that are visible here, in the order of their indices; none without any."""
    from voltana_actuatord.drivers.opening import open_driver  # noqa: PLC0415  (--help answers at once)

    try:
        with contextlib.closing(open_driver()) as driver:
            return tuple(driver.gpu(index).uuid for index in range(driver.count()))
    except VoltanaError:  # no driver, no GPU: --print on a desk
        return ()


def _inherited(environment: Mapping[str, str], uuids: Sequence[str]) -> tuple[str, ...] | None:
    """What this process may use, in its order; None where nothing limits it."""
    value = environment.get(VISIBLE)
    if value is None:
        return tuple(map(str, range(len(uuids)))) or None
    pool = [part.strip() for part in value.split(",")]
    if set(pool) & _NONE:  # CUDA stops at the first that is none
        pool = pool[: next(i for i, part in enumerate(pool) if part in _NONE)]
    for name in pool:
        _refuse_slice(VISIBLE, name)
        if not _NAME.fullmatch(name):
            raise invalid(
                VISIBLE,
                name,
                "indices or UUIDs (GPU-...), separated by commas",
                "Unset it to share out every GPU that is visible here.",
            )
    found = [_gpu(name, uuids, field=VISIBLE).name for name in pool]
    if len(set(found)) < len(found):
        raise invalid(VISIBLE, value, "different GPUs", "CUDA sees none where one is named twice.")
    return tuple(pool)


def _wanted(
    table: LaunchTable, pool: tuple[str, ...] | None, needed: int, uuids: Sequence[str]
) -> list[str]:
    """Names of the first `needed` GPUs."""
    if table.gpus is None:
        if pool is None:
            return [str(index) for index in range(needed)]
        if len(pool) < needed:
            raise invalid(
                VISIBLE,
                ",".join(pool),
                f"{needed} GPUs, {table.tensor_parallel} for each server",
                "Ask for more GPUs, start fewer servers, or set launch.gpus = [] to serve without.",
            )
        return list(pool[:needed])
    return [_named(name, pool, uuids) for name in table.gpus[:needed]]


def _named(name: int | str, pool: tuple[str, ...] | None, uuids: Sequence[str]) -> str:
    """A GPU of ``launch.gpus`` as the pool calls it."""
    if isinstance(name, int):
        if pool is None:
            return str(name)
        if name >= len(pool):
            raise invalid(
                "launch.gpus",
                name,
                f"below {len(pool)}, the number of GPUs that this launch was given",
                f"Indices count within {VISIBLE}={','.join(pool)}.",
            )
        return pool[name]
    _refuse_slice("launch.gpus", name)
    mine = None if pool is None else {_gpu(own, uuids).name for own in pool}
    if mine is not None and not any(own.startswith(name) for own in mine if own):
        raise invalid(
            "launch.gpus", name, f"one of {', '.join(sorted(mine))}", "The others are not yours."
        )
    return name


def _gpu(name: str, uuids: Sequence[str], *, field: str = "launch.gpus") -> Gpu:
    """A GPU by its index or its UUID, which may be abbreviated as far as it is the only one."""
    if not uuids:
        return Gpu(cuda=name, uuid=name if len(name) == len("GPU-") + 36 else "")
    if name.isdecimal():
        if int(name) >= len(uuids):
            raise invalid(
                field,
                name,
                f"below {len(uuids)}, the number of GPUs here",
                "See nvidia-smi -L.",
            )
        return Gpu(cuda=name, uuid=uuids[int(name)])
    found = [index for index, uuid in enumerate(uuids) if uuid.startswith(name)]
    if len(found) != 1 or not name.startswith("GPU-"):
        raise invalid(
            field, name, f"the UUID of one GPU of {', '.join(uuids)}", "See nvidia-smi -L."
        )
    # An index all the same: SGLang's all-reduce reads its devices as numbers.
    return Gpu(cuda=str(found[0]), uuid=uuids[found[0]])


def _refuse_slice(field: str, name: str) -> None:
    if _SLICE.fullmatch(name):
        raise invalid(
            field,
            name,
            "whole GPUs",
            "A slice under MIG has no clock of its own: have whole GPUs allocated, or turn MIG off "
            "with nvidia-smi -mig 0.",
        )
