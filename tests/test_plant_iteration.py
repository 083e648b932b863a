"""The fast path of an iteration: equal to the slow composition, and within the power limit."""

from __future__ import annotations

import itertools
import random

import pytest
from scipy.optimize import brentq

from voltana.plant import PlantModel, load_hardware, load_model
from voltana.values import Load

SETTINGS = (
    ("a100-sxm4-80gb", "llama-3.1-8b", 1),
    ("h100-sxm", "qwen3-32b", 2),
    ("h200-sxm", "llama-3.1-70b", 4),
)
HEAVY = Load.prefill([(4096, 0)] * 2)


def loads(count: int) -> list[Load]:
    draw = random.Random(7)
    made = []
    for _ in range(count):
        requests, tokens = draw.randint(1, 700), draw.randint(1, 9000)
        kv_tokens = requests * draw.randint(1, 4000)
        cached = draw.choice([0, draw.randint(1, 3000)])
        pairs = Load.prefill([(tokens, cached)]).prefill_attended_pairs
        made += [
            Load.decode(requests, kv_tokens),
            Load.prefill([(tokens, cached)]),
            Load.prefill([(draw.randint(1, 400), 0) for _ in range(draw.randint(1, 12))]),
            Load(
                prefill_tokens=tokens,
                prefill_attended_pairs=pairs,
                decode_requests=requests,
                decode_kv_tokens=kv_tokens,
            ),
        ]
    return made


@pytest.fixture(scope="module", params=SETTINGS, ids=lambda setting: setting[0])
def plant(request) -> PlantModel:
    hardware, model, boards = request.param
    return PlantModel(load_hardware(hardware), load_model(model), boards)


def slow(plant: PlantModel, load: Load, clock_mhz: float) -> tuple[float, float]:
    """Latency and power of one board without tables and without a limit."""
    parts = plant.latency.breakdown(load, clock_mhz)
    return sum(part.seconds for part in parts), plant.power.power_w(parts, clock_mhz)


def test_fast_path_equals_the_slow_composition(plant):
    draw = random.Random(11)
    low, high = plant.hardware.clocks_mhz[0], plant.hardware.clocks_mhz[-1]
    unlimited = 0
    for load in loads(40):
        clock_mhz = draw.choice([draw.choice(plant.hardware.clocks_mhz), draw.uniform(low, high)])
        latency_s, board_w = slow(plant, load, clock_mhz)
        if board_w > plant.power.limit_w:
            continue
        unlimited += 1
        step = plant.iterate(load, clock_mhz)
        assert step.latency_s == pytest.approx(latency_s, rel=1e-9)
        assert step.power_w == pytest.approx(plant.tensor_parallel * board_w, rel=1e-9)
        assert step.clock_mhz == clock_mhz
    assert unlimited > 60


def test_the_limit_holds_at_the_fastest_clock_that_meets_it(plant):
    limit_w, top = plant.power.limit_w, plant.hardware.max_clock_mhz
    limited = 0
    for load in loads(60):
        if slow(plant, load, top)[1] <= limit_w:
            continue
        limited += 1
        step = plant.iterate(load, top)
        real_mhz = brentq(lambda mhz: slow(plant, load, mhz)[1] - limit_w, 100.0, top)  # noqa: B023
        assert step.clock_mhz == pytest.approx(real_mhz, rel=2e-3)
        assert step.clock_mhz < top
        assert step.power_w == pytest.approx(plant.tensor_parallel * limit_w)
        assert step.latency_s == pytest.approx(slow(plant, load, real_mhz)[0], rel=2e-3)
    assert limited > 5 or plant.hardware.name != "a100-sxm4-80gb"


def test_the_limit_does_not_depend_on_what_was_asked_before(plant):
    fresh = PlantModel(plant.hardware, plant.model, plant.tensor_parallel)
    top = plant.hardware.max_clock_mhz
    plant.iterate(Load.prefill([(8192, 0)]), top)
    plant.iterate(Load.prefill([(64, 0)]), top)
    assert plant.iterate(HEAVY, top) == pytest.approx(fresh.iterate(HEAVY, top), rel=1e-12)


def test_a_limited_board_gains_nothing_from_a_faster_clock():
    plant = PlantModel(load_hardware("a100-sxm4-80gb"), load_model("llama-3.1-8b"))
    real_mhz = plant.iterate(HEAVY, 1410.0).clock_mhz
    assert plant.iterate(HEAVY, 1395.0) == pytest.approx(plant.iterate(HEAVY, 1410.0), rel=1e-9)
    assert plant.iterate(HEAVY, real_mhz - 20).clock_mhz == real_mhz - 20


def test_a_limit_below_any_clock_leaves_the_lowest_one(plant):
    strict = plant.hardware.model_copy(update={"tdp_w": 75.0})
    step = PlantModel(strict, plant.model, plant.tensor_parallel).iterate(HEAVY, 1200.0)
    assert step.clock_mhz == plant.hardware.clocks_mhz[0]
    assert step.power_w > plant.tensor_parallel * 75.0


def test_latency_falls_and_power_rises_with_the_clock(plant):
    load = Load.decode(32, 32 * 500)
    steps = [plant.iterate(load, mhz) for mhz in plant.hardware.clocks_mhz[::8]]
    for slower, faster in itertools.pairwise(steps):
        assert faster.latency_s <= slower.latency_s
        assert faster.power_w >= slower.power_w


def test_an_empty_load_takes_no_time_and_draws_idle_power(plant):
    step = plant.iterate(Load(), 1005.0)
    assert step == (0.0, plant.idle_power_w(1005.0), 1005.0)
    assert plant.energy_j(Load(), 1005.0) == 0


def test_a_clock_above_the_fastest_is_the_fastest(plant):
    load, top = Load.decode(8, 4000), plant.hardware.max_clock_mhz
    assert plant.iterate(load, top + 500) == plant.iterate(load, top)


def test_single_answers_agree_with_the_iteration(plant):
    load = Load.decode(100, 50_000)
    latency_s, power_w, _ = plant.iterate(load, 990.0)
    assert plant.latency_s(load, 990.0) == latency_s
    assert plant.power_w(load, 990.0) == power_w
    assert plant.energy_j(load, 990.0) == latency_s * power_w


def test_tables_of_passing_clocks_do_not_pile_up(plant):
    for step in range(300):
        plant.iterate(Load.decode(4, 400), 1000.1 + step / 10)
    assert len(plant._passing) <= 64
