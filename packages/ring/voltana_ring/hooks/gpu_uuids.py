"""Names the GPUs of an engine by UUID: an index means another board to whoever counts otherwise.

Only the process that computes on them knows which they are, whatever CUDA's order, a container or
CUDA_VISIBLE_DEVICES made of their indices.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def gpu_uuids(gpus: Sequence[int]) -> tuple[str, ...]:
    """UUIDs of GPUs as NVML writes them, in the same order; a slice under MIG begins with ``MIG-``.

    Args:
        gpus: Indices as this process counts.

    Returns:
        All of them, or none: half a group must not be taken for the whole. Never raises.
    """
    try:
        properties = sys.modules["torch"].cuda.get_device_properties
        found = tuple(_uuid(properties(gpu)) for gpu in gpus)
    except Exception:  # noqa: BLE001  (no torch, no such device, no CUDA: the engine serves on)
        return ()
    return found if all(found) and len(set(found)) == len(found) else ()


def _uuid(properties: Any) -> str:
    """UUID of a device by torch's properties of it; empty where nobody tells."""
    sliced = " MIG " in f" {getattr(properties, 'name', '')} "
    uuid = str(getattr(properties, "uuid", "") or "")  # from torch 2.5
    if uuid:
        return uuid if uuid.startswith(("GPU-", "MIG-")) else f"{'MIG' if sliced else 'GPU'}-{uuid}"
    return "" if sliced else _uuid_by_bus(properties)  # all slices of a board share its bus id


def _uuid_by_bus(properties: Any) -> str:
    domain = getattr(properties, "pci_domain_id", 0)
    place = f"{domain:08x}:{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}.0"
    with contextlib.suppress(Exception):
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        try:
            uuid = nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByPciBusId(place.encode()))
            return uuid.decode() if isinstance(uuid, bytes) else str(uuid)
        finally:
            nvml.nvmlShutdown()
    return ""
