"""The clocks that a device reports, read from a driver that is played here."""

from __future__ import annotations

import pynvml
import pytest

from voltana.errors import ActuatorError
from voltana.levels import A100_CLOCKS_MHZ, parse_levels
from voltana_actuatord.drivers.nvml import nvml_clock_table

CLOCKS_MHZ = {1593: [1410, 1395, 1005, 210, 1410], 877: [900, 210]}


class Driver:
    """NVML as far as it is used: one device, with the return codes of the real one."""

    def __init__(self):
        self.open = 0
        self.failing = {}
        self.memory_mhz = [877, 1593]

    def fail(self, name):
        if name in self.failing:
            raise pynvml.NVMLError(self.failing[name])

    def init(self):
        self.fail("init")
        self.open += 1

    def shutdown(self):
        self.open -= 1
        self.fail("shutdown")

    def handle(self, index):
        assert self.open == 1
        if index != 0:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return "gpu0"

    def memory_clocks(self, handle):
        self.fail("memory")
        return self.memory_mhz

    def graphics_clocks(self, handle, memory_mhz):
        self.fail("graphics")
        return CLOCKS_MHZ[memory_mhz]


@pytest.fixture
def driver(monkeypatch):
    played = Driver()
    for name, method in {
        "nvmlInit": played.init,
        "nvmlShutdown": played.shutdown,
        "nvmlDeviceGetHandleByIndex": played.handle,
        "nvmlDeviceGetSupportedMemoryClocks": played.memory_clocks,
        "nvmlDeviceGetSupportedGraphicsClocks": played.graphics_clocks,
    }.items():
        monkeypatch.setattr(pynvml, name, method)
    return played


def test_clocks_are_those_at_the_fastest_memory_clock_ascending_without_repetition(driver):
    assert nvml_clock_table() == nvml_clock_table(0) == (210.0, 1005.0, 1395.0, 1410.0)
    assert driver.open == 0


@pytest.mark.parametrize(
    ("where", "code", "words"),
    [
        ("init", pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "Driver Not Loaded"),
        ("init", pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "Not Found"),
        ("memory", pynvml.NVML_ERROR_GPU_IS_LOST, "GPU is lost"),
        ("graphics", pynvml.NVML_ERROR_NOT_SUPPORTED, "Not Supported"),
    ],
)
def test_any_failure_of_the_driver_is_an_actuator_error_with_a_remedy(driver, where, code, words):
    driver.failing[where] = code
    with pytest.raises(ActuatorError) as caught:
        nvml_clock_table()
    for word in ("GPU 0", words, "nvidia-smi", "clocks in MHz"):
        assert word in str(caught.value)
    assert driver.open == 0


def test_a_gpu_that_is_not_there_is_named(driver):
    with pytest.raises(ActuatorError, match="GPU 7 failed"):
        nvml_clock_table(7)
    assert driver.open == 0


def test_a_device_that_lists_no_clocks_is_an_error(driver):
    driver.memory_mhz = []
    with pytest.raises(ActuatorError, match="Not Supported"):
        nvml_clock_table()


def test_a_failing_shutdown_does_not_hide_the_table(driver):
    driver.failing["shutdown"] = pynvml.NVML_ERROR_UNKNOWN
    assert nvml_clock_table()[-1] == 1410.0


def test_it_serves_as_the_source_of_a_level_set(driver):
    level_set = parse_levels("nvml:0", read_device_mhz=nvml_clock_table)
    assert level_set.levels(A100_CLOCKS_MHZ) == (210.0, 1005.0, 1395.0, 1410.0)
    with pytest.raises(ActuatorError, match="GPU 1"):
        parse_levels("nvml:1", read_device_mhz=nvml_clock_table).levels(A100_CLOCKS_MHZ)
