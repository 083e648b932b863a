"""The front of what is possible where measurements contradict each other."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from benchmarks.documents import markdown_table, put_between
from benchmarks.fidelity.published import DATASETS, PANELS, STATIC, Point
from tools.calibration.front import Plant, attainment_error, moved
from tools.calibration.front_page import apart, on_the_front, table, variant_table
from voltana.plant import PlantModel, load_hardware, load_model
from voltana.values import Load

BOARD = load_hardware("a100-sxm4-80gb")


def plant(saving: float, exponent: float, attainment: float) -> Plant:
    errors = dict.fromkeys(PANELS, saving)
    return Plant(
        what="one",
        fixed_share=BOARD.power.byte_fixed_share,
        sm_share=BOARD.attention_decode.backend_sm_share,
        saving=errors,
        exponents={"8": exponent},
        decode_alone=0.4,
        attainment=attainment,
    )


def test_a_plant_that_another_beats_in_all_is_not_on_the_front():
    good, other, beaten = plant(1, 0.05, 9), plant(-3, -0.01, 9), plant(-3, 0.06, 9)
    assert on_the_front([good, other, beaten]) == [True, True, False]
    assert on_the_front([good, good]) == [True, True]
    assert on_the_front([replace(good, saving=dict.fromkeys(PANELS, -1)), good]) == [True, True]


def test_tables_have_a_row_each_and_the_one_in_use_is_bold():
    used, other = plant(1, 0.05, 9), replace(plant(-3, 0.01, 9), fixed_share=0.1)
    lines = table([used, other]).splitlines()
    assert [line.startswith("| **") for line in lines[2:]] == [True, False]
    assert "+0.050" in lines[2]
    assert variant_table([used]).splitlines()[2].startswith("| one | +1.0")


def test_the_distance_of_panels_is_that_of_their_errors():
    first, *rest = PANELS
    far = replace(plant(0, 0, 0), saving={first: 3.0} | dict.fromkeys(rest, -1.5))
    assert apart([far, plant(1, 0, 0)]).startswith("The savings of the three panels lie 0.0 to 4.5")


def test_attainments_are_compared_where_the_figure_shows_them():
    nan = math.nan
    keys = [(name, policy) for name in DATASETS for policy in STATIC]
    shown = {key: [Point(1.0, 1.0, 0.9, nan), Point(2.0, 1.0, nan, nan)] for key in keys}
    ours = {key: [Point(1.0, 1.0, 0.8, 0.1), Point(2.0, 1.0, 0.0, 0.0)] for key in keys}
    assert attainment_error(shown, ours) == pytest.approx(10)


def test_moving_the_contested_shares_moves_power_and_reaction_alone():
    other = moved(BOARD, 0.9, 1.0)
    load, model = Load.decode(64, 64_000), load_model("llama-3.1-8b")
    as_is, changed = PlantModel(BOARD, model), PlantModel(other, model)
    fastest = BOARD.max_clock_mhz
    assert changed.latency_s(load, fastest) >= as_is.latency_s(load, fastest)

    def reaction(plant: PlantModel) -> float:
        return plant.latency_s(load, 1005) / plant.latency_s(load, fastest)

    assert reaction(changed) > reaction(as_is)
    assert (
        other.model_copy(update={"power": BOARD.power, "attention_decode": BOARD.attention_decode})
        == BOARD
    )


def test_text_is_put_between_its_lines_and_nowhere_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<b>\nold\n<e>\nz\n")
    put_between(page, "<b>", "<e>", markdown_table(["h"], [["1"]]))
    assert page.read_text() == "a\n<b>\n| h |\n|---|\n| 1 |\n<e>\nz\n"
    with pytest.raises(ValueError, match="lacks '<x>'"):
        put_between(page, "<x>", "<e>", "")
