"""Boards that are made from a calibrated one: what they share with it, and what they do not."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest
from typer.testing import CliRunner

from tools.calibration.variants import VARIANTS, board
from voltana.cli.plant import app
from voltana.plant import PlantModel, load_hardware, load_model
from voltana.plant.hardware import HardwareProfile, hardware_names
from voltana.plant.power import PowerModel
from voltana.plant.profile_files import parse
from voltana.plant.profile_text import profile_toml
from voltana.values import Load

LLAMA = load_model("llama-3.1-8b")
FITTED_ON_ITSELF = {"attention_prefill", "attention_decode", "power"}


def unlimited(plant: PlantModel, load: Load, clock_mhz: float) -> tuple[float, float]:
    parts = plant.latency.breakdown(load, clock_mhz)
    return sum(part.seconds for part in parts), plant.power.power_w(parts, clock_mhz)


@pytest.mark.parametrize("name", hardware_names())
def test_the_text_of_a_profile_reads_back(name):
    shipped = load_hardware(name)
    again = parse(HardwareProfile, tomllib.loads(profile_toml(shipped)), "its text")
    numbers = [np.array(_numbers(each.model_dump())) for each in (shipped, again)]
    np.testing.assert_allclose(*numbers, rtol=1e-5)
    assert again.knowledge == shipped.knowledge
    assert again.gemm.provenance == shipped.gemm.provenance
    assert again.power.flop_pj.keys() == shipped.power.flop_pj.keys()


def _numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        return [number for each in value.values() for number in _numbers(each)]
    if isinstance(value, list | tuple):
        return [number for each in value for number in _numbers(each)]
    return [float(value)] if isinstance(value, int | float) else []


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_a_shipped_variant_is_the_one_that_is_made(name):
    made, shipped = board(name, fit=False).model_dump(), load_hardware(name).model_dump()
    own = FITTED_ON_ITSELF if name == "b200-sxm" else set()
    for section in made.keys() - own:
        np.testing.assert_allclose(
            _numbers(made[section]), _numbers(shipped[section]), rtol=1e-5, err_msg=section
        )


@pytest.mark.parametrize("name", ["gh200-96gb", "gh200-144gb", "h100-nvl"])
@pytest.mark.parametrize("clock_mhz", [1005.0, 1500.0])
def test_boards_of_one_chip_compute_alike_at_one_clock(name, clock_mhz):
    """Work that the SMs bound takes the same time and core power; only the memory differs."""
    load = Load.prefill([(4096, 0)] * 4)
    (time_s, _), (base_s, _) = (
        unlimited(PlantModel(load_hardware(each), LLAMA), load, clock_mhz)
        for each in (name, "h100-sxm")
    )
    assert time_s == pytest.approx(base_s, rel=0.03)
    nvl, base = (load_hardware(each).power for each in (name, "h100-sxm"))
    volts = [power.voltage_mv.at(clock_mhz) for power in (nvl, base)]
    assert volts[0] == pytest.approx(volts[1], rel=1e-3)


@pytest.mark.parametrize(("name", "beside"), [("gh200-96gb", 1.0), ("h100-nvl", 0.85)])
def test_the_same_kernels_draw_the_same_at_one_clock(name, beside):
    """HBM3 as on the SXM board: energies that are counted at another highest clock agree.

    What is drawn beside operations is that of the SXM board, or the stated share of it.
    """
    load = Load.prefill([(4096, 0)] * 4)
    (own_s, own_w), (base_s, base_w) = (
        unlimited(PlantModel(load_hardware(each), LLAMA), load, 1500.0)
        for each in (name, "h100-sxm")
    )
    running_w = PowerModel(load_hardware("h100-sxm")).at(1500.0).running_w
    less_j = (1.0 - beside) * running_w * base_s
    assert own_s * own_w == pytest.approx(base_s * base_w - less_j, rel=0.03)


def test_memory_decides_decode():
    load = Load.decode(8, 8 * 8000)
    seconds = {
        name: PlantModel(load_hardware(name), LLAMA).latency_s(load, 1500.0)
        for name in ("h100-sxm", "gh200-96gb", "gh200-144gb")
    }
    assert seconds["gh200-144gb"] < seconds["gh200-96gb"] < seconds["h100-sxm"]


def test_a_board_at_its_limit_lowers_the_clock():
    step = PlantModel(load_hardware("h100-nvl"), LLAMA).iterate(
        Load.prefill([(8192, 0)]), load_hardware("h100-nvl").max_clock_mhz
    )
    assert step.power_w == pytest.approx(400, rel=1e-6)
    assert step.clock_mhz < 1500


def test_settling_goes_by_class_and_is_said():
    settle = {name: load_hardware(name).clock_settle_s for name in hardware_names()}
    assert settle["b200-sxm"] < 1e-4
    assert settle["l40s"] == settle["gh200-96gb"] == settle["h100-nvl"] == settle["a100-sxm4-80gb"]
    text = CliRunner().invoke(app, ["list"]).output
    assert "0.03 ms after the call (blackwell; published: 10-100 us" in text
    assert "30 ms after the call (ada; not measured" in text


def test_what_is_inferred_of_the_new_boards_is_said_beside_figures():
    text = CliRunner().invoke(app, ["show", "--hardware", "l40s", "--batch", "1"]).output
    said = " ".join(text.split())
    assert "l40s, inferred: times: shares of the peaks" in said
    assert "no measurement to compare with is known" in said


def test_b200_idles_at_its_lowest_clock_whatever_is_locked():
    plant = PlantModel(load_hardware("b200-sxm"), LLAMA)
    assert plant.idle_power_w(1965) == plant.idle_power_w(120)
