"""The plugin names its GPUs by UUID, whatever tells them; never raising."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from fake_scheduler import scheduler

from voltana_ring.hooks.gpu_uuids import gpu_uuids
from voltana_sglang.hooks.engine_facts import read_facts

UUIDS = [f"0000000{index}-1111-2222-3333-444444444444" for index in range(8)]


def device(index, **changes):
    """As torch describes it."""
    return SimpleNamespace(
        **{
            "name": "NVIDIA H100 80GB HBM3",
            "uuid": UUIDS[index],
            "pci_domain_id": 0,
            "pci_bus_id": 0x10 + index,
            "pci_device_id": 0,
        }
        | changes
    )


@pytest.fixture
def cuda(monkeypatch):
    """Puts devices in torch's place; further modules by name."""

    def install(*devices, **modules):
        def properties(index):
            if not 0 <= index < len(devices):
                raise AssertionError("Invalid device id")
            return devices[index]

        torch = SimpleNamespace(cuda=SimpleNamespace(get_device_properties=properties))
        for name, module in ({"torch": torch} | modules).items():
            monkeypatch.setitem(sys.modules, name, module)

    monkeypatch.setitem(sys.modules, "sglang.srt.runtime_context", None)
    return install


def facts(gpu_id=0, tp_rank=0, device_kind="cuda", **arguments):
    made = scheduler()
    made.device = device_kind
    made.server_args = SimpleNamespace(**arguments)
    made.ps = SimpleNamespace(tp_rank=tp_rank, gpu_id=gpu_id)
    return read_facts(made, "0.5.23")


class Nvml:
    """As much of pynvml as is asked for; an old one answers in bytes."""

    def __init__(self, *, old=False):
        self.old = old
        self.open = 0

    def nvmlInit(self):  # noqa: N802
        self.open += 1

    def nvmlShutdown(self):  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByPciBusId(self, place):  # noqa: N802
        return int(place.decode().split(":")[1], 16) - 0x10

    def nvmlDeviceGetUUID(self, handle):  # noqa: N802
        uuid = f"GPU-{UUIDS[handle]}"
        return uuid.encode() if self.old else uuid


def test_a_group_is_named_in_the_order_of_its_ranks(cuda):
    cuda(*map(device, range(8)))
    for rank in range(2):
        named = facts(gpu_id=4 + rank, tp_rank=rank, tp_size=2)
        assert named.gpu_uuids == (f"GPU-{UUIDS[4]}", f"GPU-{UUIDS[5]}")
        assert named.to_dict()["gpu_uuids"] == [f"GPU-{UUIDS[4]}", f"GPU-{UUIDS[5]}"]


def test_steps_and_hosts_are_heeded(cuda):
    cuda(*map(device, range(8)))
    assert facts(gpu_id=3, tp_rank=1, tp_size=2, gpu_id_step=2).gpu_uuids == (
        f"GPU-{UUIDS[1]}",
        f"GPU-{UUIDS[3]}",
    )
    # Ranks 2 and 3 of four, on the second of two hosts.
    second = facts(gpu_id=1, tp_rank=3, tp_size=4, nnodes=2)
    assert second.gpu_uuids == (f"GPU-{UUIDS[0]}", f"GPU-{UUIDS[1]}")


def test_a_slice_under_mig_is_named_as_one(cuda):
    cuda(device(0, name="NVIDIA H100 80GB HBM3 MIG 1g.10gb"))
    assert facts().gpu_uuids == (f"MIG-{UUIDS[0]}",)


@pytest.mark.parametrize("old", [False, True])
def test_nvml_is_asked_by_bus_where_torch_does_not_tell(cuda, old):
    nvml = Nvml(old=old)
    cuda(device(0, uuid=None), device(1, uuid=None), pynvml=nvml)
    assert gpu_uuids((1, 0)) == (f"GPU-{UUIDS[1]}", f"GPU-{UUIDS[0]}")
    assert nvml.open == 0


def test_nothing_is_said_where_nothing_or_half_is_known(cuda, monkeypatch):
    cuda(device(0), device(1, uuid=None), pynvml=None)
    assert "gpu_uuids" not in facts(tp_size=2).to_dict()  # half a group
    assert facts(tp_size=4).gpu_uuids == ()  # devices that are not visible
    cuda(device(0, uuid=None, name="MIG 1g.10gb"), pynvml=Nvml())
    assert gpu_uuids((0,)) == ()  # a bus id names the board, not the slice
    cuda(device(0), device(0))
    assert gpu_uuids((0, 1)) == ()
    monkeypatch.setitem(sys.modules, "torch", None)
    assert gpu_uuids((0,)) == ()
    cuda(device(0))
    assert facts(device_kind="cpu").gpu_uuids == ()
