"""The driver layer through the real nvidia-ml-py, against the fake library, in real processes."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from voltana_actuatord.drivers.nvml_faults import NVML_CODES, nvml_error

OPEN = "from voltana_actuatord.drivers.nvml import NvmlDriver\nd = NvmlDriver()\ng = d.gpu(0)\n"
CATCH = """
from voltana.errors import ActuatorError
from voltana_actuatord.drivers.nvml import NvmlDriver
try:
    g = NvmlDriver().gpu(0)
    {call}
    answer = None
except ActuatorError as error:
    answer = [type(error).__name__, str(error)]
"""


def test_reads_what_the_board_says(machine, in_process):
    answer = in_process(
        OPEN
        + """
clocks = g.clocks_mhz()
answer = [len(clocks), clocks[0], clocks[-1], g.clock_mhz(), sorted(g.event_reasons()),
          g.power_w(), g.power_limit_w(), g.keeps_settings(), g.uuid, g.name(), d.count()]
"""
    )
    assert answer[:4] == [81, 210.0, 1410.0, 1410.0]
    assert answer[4:8] == [[], 380.0, 400.0, True]
    assert answer[8].startswith("GPU-")
    assert answer[10] == 2


def test_table_is_the_published_one(machine, in_process):
    from voltana.levels import A100_CLOCKS_MHZ

    code = "from voltana.actuators import gpu_clock_table\nanswer = gpu_clock_table(1)"
    assert tuple(in_process(code)) == A100_CLOCKS_MHZ


def test_a_lock_outlives_the_process_that_made_it(machine, in_process):
    in_process(OPEN + "g.lock(1005, 1005)\nanswer = 0")
    assert machine.locked_mhz(0) == 1005
    assert in_process(OPEN + "answer = [g.clock_mhz(), sorted(g.event_reasons())]") == [
        1005.0,
        ["clock setting"],
    ]
    in_process(OPEN + "g.reset()\nanswer = 0")
    assert not machine.any_locked()


def test_without_persistence_mode_a_lock_vanishes_with_the_last_process(make_machine, in_process):
    machine = make_machine(D_PERSISTENCE=0)
    in_process(OPEN + "g.lock(1005, 1005)\nd.close()\nanswer = 0")
    assert not machine.any_locked()


@pytest.mark.parametrize("code", NVML_CODES)
def test_every_code_is_a_typed_error_with_a_remedy(code, machine, in_process):
    if code in (1, 5, 999, 4, 15, 12):
        machine.fault(0, "F_SET", "K_CODE", code)
        name, text = in_process(CATCH.format(call="g.lock(1005, 1005)"))
        assert name == type(nvml_error(code, "", "")).__name__
        assert f"(NVML {code})" in text
    error = nvml_error(code, "locking GPU 0", "meaning")
    assert str(error).startswith("locking GPU 0 failed: meaning")
    assert len(str(error).split(f"(NVML {code}). ")[1]) > 20


@pytest.mark.parametrize(
    "case",
    [
        (("D_LOST", 1), "", "GpuLostError", "Xid"),
        (("D_MIG", 1), "g.refuse_partitioned()", "PartitionedGpuError", "Disable MIG"),
        (None, "g.lock(1006, 1006)", "DriverArgumentError", "table()"),
        (None, "g.lock(1410, 210)", "DriverArgumentError", "table()"),
        (None, "NvmlDriver().gpu(7)", "NoSuchGpuError", "nvidia-smi -L"),
        (None, "g.set_power_limit(1e4)", "DriverArgumentError", "range"),
    ],
)
def test_what_the_driver_refuses(case, machine, in_process):
    prepare, call, kind, says = case
    code = CATCH.format(call=call)
    if prepare:
        machine.set(0, *prepare)
    name, text = in_process(code)
    assert (name, says in text) == (kind, True), text


def test_no_driver_and_no_library_say_what_to_install(machine, in_process, tmp_path):
    machine.header("H_DRIVER_LOADED", 0)
    assert in_process(CATCH.format(call=""))[0] == "DriverNotLoadedError"
    name, text = in_process(CATCH.format(call=""), LD_LIBRARY_PATH=str(tmp_path))
    if name == "DriverNotLoadedError":  # a machine with a real driver finds that one
        assert "libnvidia-ml.so.1" in text or "modprobe" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_only_root_changes_clocks(machine, in_process):
    become = "import os\n    os.setresuid(65534, 65534, 65534)\n    "
    lock = CATCH.format(call=become + "g.lock(1005, 1005)")
    name, text = in_process(lock)
    assert name == "PermissionDeniedError"
    assert "voltana-actuatord" in text
    assert not machine.any_locked()
    assert machine.get(0, "D_DENIED_CALLS") == 1
    read = "import os\nos.setresuid(65534, 65534, 65534)\nanswer = g.clock_mhz()"
    assert in_process(OPEN + read) == 1410.0


def test_the_power_limit_slows_the_clock_and_says_so(make_machine, in_process):
    make_machine(D_CAP_MW=200_000)
    clock, reasons, power = in_process(
        OPEN + "answer = [g.clock_mhz(), sorted(g.event_reasons()), g.power_w()]"
    )
    assert clock < 1410
    assert "power cap" in reasons
    assert power <= 200.0


def test_energy_counter_ticks(make_machine, in_process):
    make_machine(D_TICK_MS=20)
    readings = in_process(
        OPEN
        + """
import time
seen, ends = [], time.monotonic() + 0.5
while time.monotonic() < ends:
    seen.append(g.energy_j())
    time.sleep(0.001)
answer = seen
"""
    )
    distinct = sorted(set(readings))
    assert readings == sorted(readings)
    assert 3 <= len(distinct) <= 30
    assert (distinct[-1] - distinct[0]) == pytest.approx(380 * 0.5, rel=0.25)


def test_only_one_file_imports_pynvml():
    root = Path(__file__).parents[2]
    ours = ("voltana", "packages", "integrations")
    guilty = [
        str(path.relative_to(root))
        for folder in ours
        for path in (root / folder).rglob("*.py")
        if any(
            line.strip().startswith(("import pynvml", "from pynvml"))
            for line in path.read_text().splitlines()
        )
    ]
    assert guilty == ["packages/actuatord/voltana_actuatord/drivers/nvml.py"]


def test_daemon_modules_import_nothing_heavy():
    code = (
        "import sys\n"
        "from voltana_actuatord.daemon import command, parent, worker\n"
        "heavy = {'numpy', 'scipy', 'river', 'control', 'pydantic', 'matplotlib', 'structlog'}\n"
        "sys.exit(' '.join(heavy & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


APPLICATION = {"D_APP_MHZ": 1155, "D_APP_DEFAULT_MHZ": 1155}
"""An A100 as some are delivered: the event reason for a setting is given for ever."""

READ = OPEN + "answer = [g.clock_mhz(), sorted(g.event_reasons()), g.unlocked_mhz()]"


@pytest.mark.parametrize(("boosts", "runs_mhz"), [(0, 1155), (1, 1410)])
def test_the_clock_that_a_board_is_delivered_with_is_nobodys_setting(
    boosts, runs_mhz, make_machine, in_process
):
    machine = make_machine(**APPLICATION, D_APP_BOOSTS=boosts)
    assert in_process(READ) == [runs_mhz, [], 1155.0]
    machine.set(0, "D_BUSY", 0)
    assert in_process(READ) == [210.0, ["idle"], 1155.0]


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"D_APP_MHZ": 900}, [900.0, ["clock setting"], 900.0]),  # lowered by somebody
        ({"D_LOCK": 900 << 32 | 900 << 16 | 900}, [900.0, ["clock setting"], 1155.0]),
        ({"D_APP_MHZ": 1410, "D_APP_DEFAULT_MHZ": 1410}, [1410.0, [], math.inf]),
    ],
)
def test_a_setting_of_somebodys_is_one_on_such_a_board_too(changes, seen, make_machine, in_process):
    make_machine(**APPLICATION | changes)
    assert in_process(READ) == seen


@pytest.mark.parametrize("code", [3, 13, 26, 2, 999])
def test_without_application_clocks_the_event_reason_stands(code, make_machine, in_process):
    machine = make_machine(**APPLICATION)
    machine.fault(0, "F_APPLICATION", "K_CODE", code)
    clock_mhz, reasons, unlocked_mhz = in_process(
        READ.replace("g.unlocked_mhz()", "str(g.unlocked_mhz())")
    )
    assert (clock_mhz, reasons, unlocked_mhz) == (1155.0, ["clock setting"], "inf")


def test_application_clocks_are_those_of_graphics_and_memory(machine, in_process):
    """The fake is as strict as NVML about which clock is asked for."""
    code = (
        OPEN
        + """
import pynvml
answer = []
for kind in (pynvml.NVML_CLOCK_GRAPHICS, pynvml.NVML_CLOCK_MEM, pynvml.NVML_CLOCK_VIDEO, 9):
    for of in ("", "Default"):
        try:
            answer.append(getattr(pynvml, f"nvmlDeviceGet{of}ApplicationsClock")(g._handle, kind))
        except pynvml.NVMLError as error:
            answer.append(-error.value)
"""
    )
    assert in_process(code) == [1410, 1410, 1593, 1593, -2, -2, -2, -2]
    machine.set(0, "D_APP_MHZ", 0)
    assert in_process(code)[0] == -3
