"""The contract of `voltana.ports.PowerPredictor`, as named checks."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.ports import PowerPredictor
from voltana.testing import samples
from voltana.testing.report import Report, expect, run_checks, title_of
from voltana.testing.timing import fastest_s
from voltana.values import Exposure

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from voltana.values import FloatArray, Load


@dataclass(frozen=True, slots=True)
class _Subject:
    make: Callable[[], PowerPredictor]
    time_limit_s: float


def check_power_predictor(
    factory: Callable[[], PowerPredictor],
    *,
    strict: bool = False,
    time_limit_s: float = 0.005,
    skip: Collection[str] = (),
) -> Report:
    """Hold a power predictor to its contract.

    Args:
        factory: Makes a fresh predictor for every check; two of them must be alike.
        strict: Also require that it learns a simple board.
        time_limit_s: What one forecast over 81 clocks may take.
        skip: Names of checks to leave out; those of `POWER_CHECKS`.
    """
    checks = POWER_CHECKS + (STRICT_POWER_CHECKS if strict else ())
    return run_checks(title_of(factory), _Subject(factory, time_limit_s), checks, skip)


def has_the_methods_of_the_port(subject: _Subject) -> None:
    """A power predictor has forecast_w() and learn_window(); it needs no base class."""
    made = subject.make()
    expect(
        isinstance(made, PowerPredictor),
        f"{type(made).__name__} lacks forecast_w or learn_window",
        "Add the method; voltana.ports.PowerPredictor has the signatures.",
    )


def forecasts_every_clock_asked_for(subject: _Subject) -> None:
    """forecast_w() yields an array of watts of shape (n,), one value for each clock."""
    predictor = _trained(subject)
    for name, load in _loads():
        for count in (1, 2, 81):
            watts = predictor.forecast_w(load, samples.clocks(count))
            seen = f"a {type(watts).__name__} for {name} at {count} clocks"
            expect(isinstance(watts, np.ndarray), seen, "Return a numpy array.")
            seen = f"shape {watts.shape} for {name} at {count} clocks"
            expect(watts.shape == (count,), seen, "Broadcast to the shape of clocks_mhz.")


def forecasts_sane_watts(subject: _Subject) -> None:
    """Watts are neither nan nor negative; inf stands for unknown."""
    for predictor in (subject.make(), _trained(subject)):
        _expect_sane(predictor, "", "Clip at the idle power; return inf where nothing is known.")


def forecast_keeps_its_inputs(subject: _Subject) -> None:
    """forecast_w() does not write to the array of clocks."""
    predictor, clocks = _trained(subject), samples.clocks()
    before = clocks.copy()
    predictor.forecast_w(samples.LOADS["a decode batch"], clocks)
    seen = f"clocks_mhz changed from {before[:3]} to {clocks[:3]}"
    expect(np.array_equal(clocks, before), seen, "Work on a new array.")


def issued_forecasts_stay_as_issued(subject: _Subject) -> None:
    """Arrays that were handed out never change."""
    predictor = _trained(subject)
    issued = predictor.forecast_w(samples.LOADS["a decode batch"], samples.clocks())
    before = np.array(issued)
    predictor.forecast_w(samples.LOADS["four prompts of 8k"], samples.clocks())
    _taught(predictor, _windows(5, seed=3))
    seen = "the array of an earlier forecast changed after later calls"
    expect(_same(issued, before), seen, "Return new arrays, not a buffer.")


def forecasts_the_same_twice(subject: _Subject) -> None:
    """forecast_w() changes nothing: the same question has the same answer until it learns."""
    predictor = _trained(subject)
    expect(
        _same(_answers(predictor), _answers(predictor)),
        "two rounds of the same forecasts differ",
        "Keep randomness and state out of forecast_w().",
    )


def learn_survives_broken_windows(subject: _Subject) -> None:
    """Empty windows, zero durations, and counters that failed or were reset are dropped."""
    predictor = _trained(subject)
    busy = Exposure(load=samples.LOADS["a decode batch"], clock_mhz=1410.0, duration_s=0.1)
    still = Exposure(load=samples.IDLE, clock_mhz=1410.0, duration_s=0.0)
    for energy_j in (0.0, -5.0, math.nan, math.inf, 1e9):
        for exposures in ((), (still,), (busy,), (busy, still)):
            predictor.learn_window(energy_j, exposures)
    remedy = "Return unless the energy is finite and not negative and the duration is above 0 s."
    _expect_sane(predictor, " after broken windows", remedy)


def learn_keeps_the_window(subject: _Subject) -> None:
    """learn_window() does not change the sequence of exposures."""
    energy_j, exposures = next(_windows(1))
    before = list(exposures)
    subject.make().learn_window(energy_j, exposures)
    expect(exposures == before, "the list differs after learn_window()", "Copy it first.")


def memory_is_bounded(subject: _Subject) -> None:
    """What it holds does not grow with the windows learned."""
    predictor = _taught(subject.make(), _windows(1000))
    early = len(pickle.dumps(predictor))
    late = len(pickle.dumps(_taught(predictor, _windows(1000, seed=4))))
    seen = f"pickled size {early} bytes after 1000 windows, {late} after 2000"
    expect(late <= 1.1 * early + 1024, seen, "Keep statistics or a bounded window.")


def copies_go_on_alike(subject: _Subject) -> None:
    """A pickled or deep copy learns on alike and independently."""
    original = _trained(subject)
    pickled = pickle.loads(pickle.dumps(original))
    deep = copy.deepcopy(original)
    answers = [_answers(_taught(p, _windows(10, seed=5))) for p in (original, pickled, deep)]
    holds = all(_same(answers[0], other) for other in answers[1:])
    expect(holds, "a copy learns otherwise", "Hold plain attributes, share no state.")


def is_deterministic(subject: _Subject) -> None:
    """Two fresh predictors that learned the same forecast the same."""
    one, other = (_answers(_trained(subject)) for _ in range(2))
    seen = "two instances with one history differ"
    expect(_same(one, other), seen, "Take a seed in the constructor.")


def answers_in_time(subject: _Subject) -> None:
    """One forecast over 81 clocks keeps the time limit (5 ms unless told otherwise)."""
    predictor, clocks = _trained(subject), samples.clocks()
    took_s = fastest_s(lambda: predictor.forecast_w(samples.LOADS["a decode batch"], clocks))
    seen = f"{1e3 * took_s:.2f} ms at best, limit {1e3 * subject.time_limit_s:g} ms"
    expect(took_s <= subject.time_limit_s, seen, "Vectorise over the clocks.")


def learns_a_simple_board(subject: _Subject) -> None:
    """After 400 windows the mean error falls to half, or to 10 % of the power."""
    predictor = subject.make()
    before = _relative_error(predictor)
    after = _relative_error(_taught(predictor, _windows(400, seed=6)))
    seen = f"mean relative error {before:.3g} before, {after:.3g} after"
    expect(after <= max(0.1, 0.5 * before), seen, "Check the features and the forgetting.")


POWER_CHECKS: tuple[Callable[[_Subject], None], ...] = (
    has_the_methods_of_the_port,
    forecasts_every_clock_asked_for,
    forecasts_sane_watts,
    forecast_keeps_its_inputs,
    issued_forecasts_stay_as_issued,
    forecasts_the_same_twice,
    learn_survives_broken_windows,
    learn_keeps_the_window,
    memory_is_bounded,
    copies_go_on_alike,
    is_deterministic,
    answers_in_time,
)
"""The suite that `check_power_predictor` runs."""

STRICT_POWER_CHECKS: tuple[Callable[[_Subject], None], ...] = (learns_a_simple_board,)
"""What it runs in addition if asked to be strict."""


def _loads() -> list[tuple[str, Load]]:
    return [*samples.LOADS.items(), ("idle", samples.IDLE)]


def _board_w(load: Load, clock_mhz: float) -> float:
    share = clock_mhz / samples.CLOCKS_MHZ[-1]
    busy = 0.0 if load == samples.IDLE else 0.9 if load.prefill_tokens else 0.6
    return 60.0 + 320.0 * busy * math.pow(share, 2.5)


def _windows(count: int, seed: int = 0) -> Iterator[tuple[float, list[Exposure]]]:
    rng = np.random.default_rng(seed)
    outcomes = samples.outcomes(3 * count, seed)
    for _ in range(count):
        exposures = [Exposure(load=samples.IDLE, clock_mhz=1410.0, duration_s=float(rng.random()))]
        for _ in range(3):
            done = next(outcomes)
            exposures.append(
                Exposure(load=done.load, clock_mhz=done.clock_mhz, duration_s=done.latency_s)
            )
        energy_j = sum(_board_w(e.load, e.clock_mhz) * e.duration_s for e in exposures)
        yield energy_j * float(np.exp(rng.normal(0, 0.01))), exposures


def _taught(
    predictor: PowerPredictor, windows: Iterator[tuple[float, list[Exposure]]]
) -> PowerPredictor:
    for energy_j, exposures in windows:
        predictor.learn_window(energy_j, exposures)
    return predictor


def _trained(subject: _Subject) -> PowerPredictor:
    return _taught(subject.make(), _windows(60))


def _answers(predictor: PowerPredictor) -> FloatArray:
    watts = [predictor.forecast_w(load, samples.clocks(9)) for _, load in _loads()]
    return np.concatenate([np.atleast_1d(np.asarray(each, float)) for each in watts])


def _same(one: FloatArray, other: FloatArray) -> bool:
    """Equal numbers; a nan is for `forecasts_sane_watts` to tell of, and equals itself here."""
    return np.array_equal(one, other, equal_nan=True)


def _expect_sane(predictor: PowerPredictor, when: str, remedy: str) -> None:
    for name, load in _loads():
        watts = np.atleast_1d(np.asarray(predictor.forecast_w(load, samples.clocks()), float))
        holds = not np.isnan(watts).any() and bool((watts >= 0).all())
        expect(holds, f"{watts[:3]} W for {name}{when}", remedy)


def _relative_error(predictor: PowerPredictor) -> float:
    errors = []
    for outcome in samples.outcomes(100, seed=7):
        clocks = np.array([outcome.clock_mhz])
        watts = float(predictor.forecast_w(outcome.load, clocks)[0])
        errors.append(min(abs(watts / _board_w(outcome.load, outcome.clock_mhz) - 1), 1.0))
    return float(np.mean(errors))
