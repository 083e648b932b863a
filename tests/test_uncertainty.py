"""Uncertain boards: what is moved, what is not, and the ranges that come of it."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from voltana.cli.main import app
from voltana.plant import PlantModel, load_hardware, load_model
from voltana.plant.hardware import hardware_names
from voltana.plant.hardware_class import CLASSES
from voltana.plant.perturbed import (
    NOMINAL,
    alternatives,
    with_low_clock_power,
    with_memory_exponent,
)
from voltana.plant.power import PowerModel
from voltana.values import Load

LLAMA = load_model("llama-3.1-8b")
LOADS = (Load.decode(64, 64_000), Load.decode(8, 4_000), Load.prefill([(2048, 0)]))


def unlimited(hardware, load, clock_mhz):
    plant = PlantModel(hardware, LLAMA)
    parts = plant.latency.breakdown(load, clock_mhz)
    return sum(part.seconds for part in parts), plant.power.power_w(parts, clock_mhz)


@pytest.mark.parametrize("name", hardware_names())
def test_every_profile_says_what_it_knows_and_how_well(name):
    hardware = load_hardware(name)
    assert all(getattr(hardware.knowledge, what) for what in ("measured", "inferred", "unknown"))
    assert hardware.uncertainty.low_clock_power > 0
    assert hardware.uncertainty.host_factor > 1
    assert hardware.clock_settle_s == CLASSES[hardware.architecture].settle_s


@pytest.mark.parametrize("name", hardware_names())
def test_alternatives_change_nothing_at_the_fastest_clock_but_the_host(name):
    boards = alternatives(load_hardware(name))
    assert len(boards) == 7
    top = boards[NOMINAL].max_clock_mhz
    for what, board in boards.items():
        if what.startswith("host"):
            continue
        for load in LOADS:
            # A board at its power limit runs below its fastest clock, so the limit is left out.
            nominal, moved = (unlimited(each, load, top) for each in (boards[NOMINAL], board))
            assert moved == pytest.approx(nominal)


@pytest.mark.parametrize("name", hardware_names())
def test_alternatives_stay_boards(name):
    """Power rises and time falls with the clock; power lies between idle and the limit."""
    for board in alternatives(load_hardware(name)).values():
        plant = PlantModel(board, LLAMA)
        for load in LOADS:
            steps = [plant.iterate(load, mhz) for mhz in board.clocks_mhz[::12]]
            for slower, faster in itertools.pairwise(steps):
                assert faster.latency_s <= slower.latency_s * (1 + 1e-9)
                assert faster.power_w >= slower.power_w * (1 - 1e-9)
            for mhz, step in zip(board.clocks_mhz[::12], steps, strict=True):
                assert plant.idle_power_w(mhz) <= step.power_w <= board.tdp_w * (1 + 1e-9)


def test_power_at_low_clocks_moves_by_what_is_asked():
    board = load_hardware("a100-sxm4-80gb")
    nominal, moved = (
        PowerModel(board).at(1005),
        PowerModel(with_low_clock_power(board, 1.1)).at(1005),
    )
    assert moved.core_share == pytest.approx(1.1 * nominal.core_share, rel=1e-6)
    assert moved.idle_w == nominal.idle_w


def test_the_exponent_of_decode_moves_by_what_memory_bounds():
    board = load_hardware("a100-sxm4-80gb")
    load = Load.decode(8, 8_000)

    def exponent(hardware):
        plant = PlantModel(hardware, LLAMA)
        times = [plant.latency_s(load, mhz) for mhz in (1005, 1410)]
        return float(np.log(times[0] / times[1]) / np.log(1410 / 1005))

    higher = exponent(with_memory_exponent(board, 0.1)) - exponent(board)
    assert 0.05 < higher <= 0.1


def test_a_blackwell_board_settles_in_microseconds_and_idles_at_its_lowest_clock():
    hopper = load_hardware("h100-sxm")
    board = hopper.model_copy(update={"architecture": "blackwell"})
    assert board.clock_settle_s < 1e-4 < hopper.clock_settle_s
    assert PowerModel(board).idle_w(1980) == PowerModel(hopper).idle_w(hopper.clocks.min_mhz)
    busy = PowerModel(board).at(1980)
    assert busy.running_w == PowerModel(hopper).at(1980).running_w


def test_simulate_gives_ranges_and_says_what_is_inferred():
    arguments = ["simulate", "--rate", "20", "--duration", "5", "--policy", "static-max,static-low"]
    result = CliRunner().invoke(app, [*arguments, "--uncertainty", "--json", "-"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert len(found["uncertainty"]["plants"]) == 7
    saved = found["uncertainty"]["ranges"]["static-low"]["energy_saved_vs_static_max"]
    reported = {run["policy"]: run for run in found["results"]}["static-low"]
    assert saved["nominal"] == reported["energy_saved_vs_static_max"]
    assert saved["low"] < saved["nominal"] < saved["high"]
    assert saved["high"] - saved["low"] < 0.15
    assert any("power of decode" in fact for fact in found["knowledge"]["inferred"])
    table = CliRunner().invoke(app, [*arguments, "--uncertainty"]).output
    assert "Lowest to highest over 7 boards" in table
    assert "inferred: power of decode below the fastest clock" in " ".join(table.split())
