"""Checks of what a predictor forecasts."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from voltana.ports import Predictor
from voltana.testing import samples
from voltana.testing.predictor_subject import (
    PredictorSubject,
    expect_same,
    fresh_and_trained,
    taught,
    trained,
)
from voltana.testing.report import expect
from voltana.testing.timing import fastest_s
from voltana.values import Forecast

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voltana.values import FloatArray, Load


def has_the_methods_of_the_port(subject: PredictorSubject) -> None:
    """A predictor has forecast(), learn() and snapshot(); it needs no base class."""
    made = subject.make()
    expect(
        isinstance(made, Predictor),
        f"{type(made).__name__} lacks one of forecast, learn, snapshot",
        "Add the method; voltana.ports.Predictor has the signatures.",
    )


def forecasts_every_clock_asked_for(subject: PredictorSubject) -> None:
    """A forecast holds clocks_mhz, mean_s and upper_s of shape (n,), one value for each clock."""
    for predictor in fresh_and_trained(subject):
        for name, load in [*samples.LOADS.items(), ("idle", samples.IDLE)]:
            for count in (1, 2, 28, 81):
                _expect_shape(predictor.forecast(load, samples.clocks(count)), name, count)


def forecasts_no_nan(subject: PredictorSubject) -> None:
    """What is unknown is infinite, never nan."""
    for name, forecast in _forecasts(subject):
        seen = f"nan for {name}: mean_s {forecast.mean_s[:3]}, upper_s {forecast.upper_s[:3]}"
        holds = not (np.isnan(forecast.mean_s).any() or np.isnan(forecast.upper_s).any())
        expect(holds, seen, "Return inf where the model knows nothing.")


def forecasts_no_negative_latency(subject: PredictorSubject) -> None:
    """A latency is not negative, whatever the coefficients are."""
    for name, forecast in _forecasts(subject):
        lowest_s = min(float(forecast.mean_s.min()), float(forecast.upper_s.min()))
        expect(lowest_s >= 0, f"{lowest_s:g} s for {name}", "Clip at 0 s or constrain the signs.")


def upper_covers_the_mean(subject: PredictorSubject) -> None:
    """The upper bound is at least the mean at every clock."""
    for name, forecast in _forecasts(subject):
        gap_s = float(np.max(np.where(forecast.upper_s < forecast.mean_s, 1.0, 0.0)))
        expect(gap_s == 0, f"upper_s < mean_s for {name}", "Bound from above: margin >= 0.")


def work_takes_time(subject: PredictorSubject) -> None:
    """A load that computes something is never promised in 0 s, least of all before learning."""
    for name, forecast in _forecasts(subject, idle=False):
        expect(
            float(forecast.upper_s.min()) > 0,
            f"upper_s = 0 for {name}",
            "Return inf where nothing is known: unknown is infinite.",
        )


def forecast_keeps_its_inputs(subject: PredictorSubject) -> None:
    """forecast() neither writes to nor needs to write to the array of clocks."""
    for predictor in fresh_and_trained(subject):
        clocks = samples.clocks()
        before = clocks.copy()
        predictor.forecast(samples.LOADS["a decode batch"], clocks)
        expect(
            np.array_equal(clocks, before),
            f"clocks_mhz changed from {before[:3]} to {clocks[:3]}",
            "Work on a new array: x = a / clocks, not clocks /= a.",
        )
        clocks.flags.writeable = False
        predictor.forecast(samples.LOADS["a short prompt"], clocks)


def forecast_changes_nothing(subject: PredictorSubject) -> None:
    """Forecasting any number of times changes neither later forecasts nor later learning."""
    quiet, asked = (taught(subject.make(), samples.outcomes(60)) for _ in range(2))
    before = dict(asked.snapshot().to_dict())
    for load in samples.LOADS.values():
        for count in (81, 2):
            asked.forecast(load, samples.clocks(count))
    remedy = "Keep counters, caches of state and learning out of forecast()."
    after = dict(asked.snapshot().to_dict())
    expect(repr(before) == repr(after), "snapshot() differs after forecast()", remedy)
    for predictor in (quiet, asked):
        taught(predictor, samples.outcomes(20, seed=1), issue=False)
    expect_same(quiet, asked, "the one that was asked more often forecasts otherwise", remedy)


def forecasts_the_same_twice(subject: PredictorSubject) -> None:
    """The same load and clocks yield the same forecast until something is learned."""
    predictor = trained(subject)
    expect_same(predictor, predictor, "two calls in a row differ", "Draw no randomness here.")


def issued_forecasts_stay_as_issued(subject: PredictorSubject) -> None:
    """Arrays of a forecast that was handed out never change: it is scored as issued."""
    predictor = trained(subject)
    clocks = samples.clocks(28)
    issued = predictor.forecast(samples.LOADS["a decode batch"], clocks)
    kept = copy.deepcopy(issued)
    predictor.forecast(samples.LOADS["four prompts of 8k"], samples.clocks(28))
    taught(predictor, samples.outcomes(20, seed=2))
    seen = "the arrays of an earlier forecast changed after later calls"
    expect(samples.same_forecast(issued, kept), seen, "Return new arrays, not a buffer.")


def one_clock_agrees_with_many(subject: PredictorSubject) -> None:
    """The forecast at a clock does not depend on the other clocks that are asked for."""
    predictor = trained(subject)
    clocks = samples.clocks(9)
    for name, load in samples.LOADS.items():
        together = predictor.forecast(load, clocks)
        for i, clock in enumerate(clocks):
            alone = predictor.forecast(load, np.array([clock]))
            holds = np.allclose(
                [alone.mean_s[0], alone.upper_s[0]],
                [together.mean_s[i], together.upper_s[i]],
                rtol=1e-9,
            )
            seen = f"{name} at {clock:g} MHz: {alone.mean_s[0]:g} s alone, {together.mean_s[i]:g} s"
            expect(holds, seen, "Scale by constants, not by the clocks of the call.")


def answers_in_time(subject: PredictorSubject) -> None:
    """One forecast over 81 clocks keeps the time limit (5 ms unless told otherwise)."""
    predictor, clocks = trained(subject), samples.clocks()
    took_s = fastest_s(lambda: predictor.forecast(samples.LOADS["a decode batch"], clocks))
    seen = f"{1e3 * took_s:.2f} ms at best, limit {1e3 * subject.time_limit_s:g} ms"
    expect(took_s <= subject.time_limit_s, seen, "Vectorise over the clocks.")


def _forecasts(subject: PredictorSubject, *, idle: bool = True) -> Iterator[tuple[str, Forecast]]:
    loads: dict[str, Load] = dict(samples.LOADS)
    if idle:
        loads["idle"] = samples.IDLE
    for predictor, age in zip(fresh_and_trained(subject), ("fresh", "trained"), strict=True):
        for name, load in loads.items():
            yield f"{name} ({age})", predictor.forecast(load, samples.clocks())


def _expect_shape(forecast: Forecast, name: str, count: int) -> None:
    remedy = "Return voltana.values.Forecast with three arrays of shape (n,)."
    expect(isinstance(forecast, Forecast), f"a {type(forecast).__name__} for {name}", remedy)
    for field in ("clocks_mhz", "mean_s", "upper_s"):
        value: FloatArray = getattr(forecast, field)
        shape = getattr(value, "shape", None)
        seen = f"{field} of shape {shape} for {name} at {count} clocks"
        expect(shape == (count,), seen, remedy)
    seen = f"clocks_mhz {forecast.clocks_mhz[:3]} for {name}"
    expect(np.array_equal(forecast.clocks_mhz, samples.clocks(count)), seen, remedy)
