"""Power of a board: what it must do for any load and clock, and that its profile is checked."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from pydantic import ValidationError

from voltana.errors import ProfileError
from voltana.plant import PlantModel, load_hardware, load_model
from voltana.plant.hardware import hardware_names
from voltana.plant.operators import OperatorTime
from voltana.plant.power import LAUNCH, ClockCurve, PowerCoefficients, PowerModel
from voltana.values import Load

BOARDS = tuple(hardware_names())
LOADS = (
    Load.decode(1, 500),
    Load.decode(64, 64 * 300),
    Load.decode(256, 256 * 2000),
    Load.prefill([(128, 0)]),
    Load.prefill([(2048, 0)] * 4),
    Load(
        prefill_tokens=512,
        prefill_attended_pairs=512 * 257,
        decode_requests=40,
        decode_kv_tokens=40_000,
    ),
)


def unlimited_w(plant: PlantModel, load: Load, clock_mhz: float) -> float:
    return plant.power.power_w(plant.latency.breakdown(load, clock_mhz), clock_mhz)


@pytest.fixture(scope="module", params=BOARDS)
def plant(request) -> PlantModel:
    return PlantModel(load_hardware(request.param), load_model("llama-3.1-8b"))


@pytest.mark.parametrize("load", LOADS, ids=str)
def test_power_rises_with_the_clock(plant, load):
    clocks = plant.hardware.clocks_mhz[::5]
    watts = [unlimited_w(plant, load, mhz) for mhz in clocks]
    assert all(low < high for low, high in itertools.pairwise(watts))


@pytest.mark.parametrize("load", LOADS, ids=str)
def test_power_lies_between_idle_and_the_limit(plant, load):
    for mhz in plant.hardware.clocks_mhz[::4]:
        _, power_w, real_mhz = plant.iterate(load, mhz)
        assert plant.idle_power_w(mhz) <= power_w <= plant.hardware.tdp_w * (1 + 1e-9)
        assert real_mhz <= mhz


@pytest.mark.parametrize("load", LOADS, ids=str)
def test_work_draws_more_than_idling(plant, load):
    for mhz in plant.hardware.clocks_mhz[::10]:
        assert unlimited_w(plant, load, mhz) > plant.power.idle_w(mhz) + 5


def test_idle_power_is_a_small_share_and_never_falls_with_the_clock(plant):
    watts = np.array([plant.power.idle_w(mhz) for mhz in plant.hardware.clocks_mhz])
    assert (np.diff(watts) > -0.1).all()
    # 67 W were measured on the PCIe board, whose limit is 250 W.
    assert watts.max() < max(0.25 * plant.hardware.tdp_w, 68)


def test_an_empty_breakdown_draws_idle_power(plant):
    assert plant.power.power_w((), 1005.0) == plant.power.idle_w(1005.0)


def test_waiting_for_the_host_draws_little_more_than_idling(plant):
    wait = OperatorTime(
        kind=LAUNCH, seconds=0.01, flops=0.0, bytes=0.0, compute_s=0.0, memory_s=0.0
    )
    extra = plant.power.power_w((wait,), 1005.0) - plant.power.idle_w(1005.0)
    assert 0 < extra < 0.1 * plant.hardware.tdp_w


def test_a_larger_decode_batch_draws_more_until_tiles_fill():
    plant = PlantModel(load_hardware("a100-sxm4-80gb"), load_model("llama-3.1-8b"))
    watts = [unlimited_w(plant, Load.decode(n, n * 300), 1005.0) for n in (1, 16, 64, 128)]
    assert watts == sorted(watts)


@pytest.mark.parametrize("model", ["ministral-3b", "llama-3.1-8b", "qwen3-32b"])
@pytest.mark.parametrize("tokens", [1024, 8192])
def test_prefill_on_a100_costs_least_energy_near_the_end_of_the_flat_voltage(model, tokens):
    profile = load_model(model)
    plant = PlantModel(load_hardware("a100-sxm4-80gb"), profile, profile.default_tensor_parallel)
    load = Load.prefill([(tokens, 0)])
    clocks = plant.hardware.clocks_mhz
    best = clocks[int(np.argmin([plant.energy_j(load, mhz) for mhz in clocks]))]
    assert 900 <= best <= 1100


def test_energy_of_operations_is_independent_of_the_clock_at_one_voltage():
    power = PowerModel(load_hardware("a100-sxm4-80gb"))
    low, high = power.at(600.0), power.at(900.0)
    assert low.core_share == pytest.approx(high.core_share, rel=1e-3)
    assert high.core_share < 0.7
    assert low.running_w - low.idle_w == pytest.approx(
        (high.running_w - high.idle_w) * 600 / 900, rel=1e-3
    )


def test_energy_takes_arrays_and_splits_bytes():
    power = PowerModel(load_hardware("a100-sxm4-80gb"))
    core_j, fixed_j = power.operation_j("gemm", np.array([1e12, 0.0]), np.array([0.0, 1e9]))
    assert core_j[0] > 0
    assert fixed_j[0] == 0
    share = load_hardware("a100-sxm4-80gb").power.byte_fixed_share
    assert 0 < fixed_j[1] == pytest.approx(share * (fixed_j[1] + core_j[1]))
    assert core_j[1] > 0


def test_a_type_without_energy_is_refused():
    with pytest.raises(ProfileError, match=r"flop_pj has no gemm_int3\. Add its energy"):
        PowerModel(load_hardware("a100-sxm4-80gb"), "int3")


def test_curves_are_checked():
    with pytest.raises(ValidationError, match="same length"):
        ClockCurve(clocks_mhz=(1.0, 2.0), values=(1.0,))
    with pytest.raises(ValidationError, match="must ascend"):
        ClockCurve(clocks_mhz=(2.0, 1.0), values=(1.0, 1.0))
    with pytest.raises(ValidationError, match="greater than 0"):
        ClockCurve(clocks_mhz=(1.0,), values=(0.0,))


def test_coefficients_refuse_what_they_do_not_know():
    known = load_hardware("a100-sxm4-80gb").power.model_dump()
    with pytest.raises(ValidationError, match="unknown kind of operator convolution"):
        PowerCoefficients.model_validate(known | {"flop_pj": {"convolution": 1.0}})
    with pytest.raises(ValidationError, match="Extra inputs"):
        PowerCoefficients.model_validate(known | {"active": 1.0})
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        PowerCoefficients.model_validate(known | {"toggle_w": -1.0})


@pytest.mark.parametrize("name", BOARDS)
def test_coefficients_name_their_source_residual_and_range(name):
    power = load_hardware(name).power
    assert "EnergAIzer" in power.source
    assert "%" in power.residual
    assert power.valid
