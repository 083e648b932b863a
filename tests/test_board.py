"""The simulated board: when clocks change, what energy comes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.plants import FASTEST_MHZ, LinearPlant
from voltana.levels import A100_CLOCKS_MHZ
from voltana.plant.adapters import SimulatedSensor
from voltana.plant.board import SimulatedBoard
from voltana.plant.noise import LognormalNoise
from voltana.values import Load

CALL_S, SETTLE_S, TICK_S = 0.004, 0.03, 0.05
NO_NOISE = LognormalNoise(None, 0.0)


def make_board(clock_mhz: float = FASTEST_MHZ) -> SimulatedBoard:
    return SimulatedBoard(
        LinearPlant(),
        clock_mhz=clock_mhz,
        call_noise=NO_NOISE,
        call_s=CALL_S,
        settle_s=SETTLE_S,
        energy_tick_s=TICK_S,
    )


def test_a_clock_is_in_force_only_after_call_and_settling() -> None:
    board = make_board()
    board.request(0.0, 705.0)
    board.idle_until(CALL_S + SETTLE_S - 1e-6)
    assert board.clock_mhz == FASTEST_MHZ
    board.idle_until(CALL_S + SETTLE_S)
    assert board.clock_mhz == 705.0


def test_an_iteration_across_a_change_runs_partly_at_either_clock() -> None:
    board = make_board(705.0)
    board.request(0.0, FASTEST_MHZ)
    load = Load.decode(1, 100)  # 20 ms at 705 MHz, 10 ms at 1410 MHz
    board.idle_until(0.024)
    mean_mhz = board.run(load, 1.0)
    # 10 ms at 705 MHz do half of the work, the other half takes 5 ms.
    assert board.at_s == pytest.approx(0.039)
    assert mean_mhz == pytest.approx((10 * 705 + 5 * FASTEST_MHZ) / 15)


def test_a_command_whose_call_has_not_ended_is_replaced() -> None:
    board = make_board()
    board.request(0.0, 705.0)
    board.request(0.001, 1005.0)
    board.idle_until(1.0)
    assert board.clock_mhz == 1005.0
    board.idle_until(2.0)
    # 705 MHz was never in force, else less energy would have been used.
    change_s = 0.001 + CALL_S + SETTLE_S
    assert board.energy_j == pytest.approx(
        0.05 * (FASTEST_MHZ * change_s + 1005.0 * (2.0 - change_s))
    )


def test_a_command_whose_call_has_ended_still_takes_effect() -> None:
    board = make_board()
    board.request(0.0, 705.0)
    board.request(0.01, FASTEST_MHZ)
    board.idle_until(0.036)
    assert board.clock_mhz == 705.0
    board.idle_until(1.0)
    assert board.clock_mhz == FASTEST_MHZ


def test_the_same_clock_again_is_no_change() -> None:
    board = make_board()
    board.request(0.0, FASTEST_MHZ)
    assert board.changes == 0


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["idle", "run", "request"]),
            st.floats(0.0, 0.3),
            st.sampled_from(A100_CLOCKS_MHZ),
            st.integers(1, 4000),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_energy_is_the_integral_of_power_and_the_counter_lags_less_than_a_tick(steps) -> None:
    board = make_board()
    sensor = SimulatedSensor(board, NO_NOISE)
    for kind, seconds, clock_mhz, tokens in steps:
        energy_j, at_s = board.energy_j, board.at_s
        if kind == "request":
            board.request(board.at_s, clock_mhz)
        elif kind == "idle":
            board.idle_until(board.at_s + seconds)
        else:
            mean_mhz = board.run(Load(prefill_tokens=tokens), 1.0)
            # Power is linear in the clock, so the mean clock gives the energy exactly.
            expected_j = 0.2 * mean_mhz * (board.at_s - at_s)
            assert board.energy_j - energy_j == pytest.approx(expected_j)
        reading = sensor.read()
        assert 0 <= board.energy_j - reading.energy_j <= 0.2 * FASTEST_MHZ * TICK_S * (1 + 1e-9)
        assert reading.energy_j <= board.energy_j
        assert board.at_s >= at_s
    assert board.clock_seconds <= FASTEST_MHZ * board.at_s * (1 + 1e-9)


def test_noise_has_median_one_and_is_the_same_for_a_seed() -> None:
    import numpy as np

    first = LognormalNoise(np.random.default_rng(3), 0.1)
    second = LognormalNoise(np.random.default_rng(3), 0.1)
    drawn = [first.draw() for _ in range(10_000)]
    assert drawn == [second.draw() for _ in range(10_000)]
    assert np.median(drawn) == pytest.approx(1.0, abs=0.01)
    assert np.std(np.log(drawn)) == pytest.approx(0.1, rel=0.05)
