"""The values: frozen, keyword-only, and the little arithmetic that they do."""

from __future__ import annotations

import dataclasses
import inspect
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana import values
from voltana.testing import samples
from voltana.testing import strategies as vst
from voltana.values import Forecast, Load, Phase, attended_pairs

VALUES = [
    member
    for _, member in inspect.getmembers(values, inspect.isclass)
    if dataclasses.is_dataclass(member) and member.__module__ == values.__name__
]


@pytest.mark.parametrize("value", VALUES)
def test_values_are_frozen_slotted_and_keyword_only(value):
    assert value.__dataclass_params__.frozen
    assert "__slots__" in vars(value)
    assert all(field.kw_only for field in dataclasses.fields(value))


@pytest.mark.parametrize("value", VALUES)
def test_every_field_is_documented(value):
    names = {field.name for field in dataclasses.fields(value)}
    undocumented = {name for name in names if f"{name}:" not in (value.__doc__ or "")}
    explained = "Attributes:" in (value.__doc__ or "")
    assert not (explained and undocumented), undocumented


def test_a_load_cannot_be_changed_or_given_positionally():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Load().prefill_tokens = 3
    with pytest.raises(TypeError):
        Load(3)


@pytest.mark.parametrize(
    ("load", "phase"),
    [
        (Load(), Phase.IDLE),
        (Load.prefill([]), Phase.IDLE),
        (Load.prefill([(1, 0)]), Phase.PREFILL),
        (Load.decode(1, 1), Phase.DECODE),
        (Load(prefill_tokens=1, decode_requests=1), Phase.MIXED),
    ],
)
def test_phases(load, phase):
    assert load.phase is phase


@given(st.integers(1, 60), st.integers(0, 60))
def test_attended_pairs_are_those_of_causal_attention(new, cached):
    brute = sum(1 for query in range(cached, cached + new) for _ in range(query + 1))
    assert attended_pairs(new, cached) == brute


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_chunks_of_a_prompt_attend_as_much_as_the_whole(first, second):
    whole = attended_pairs(first + second)
    assert attended_pairs(first) + attended_pairs(second, first) == whole


def test_attended_pairs_tell_few_long_prompts_from_many_short_ones():
    long, short = Load.prefill([(8192, 0)] * 4), Load.prefill([(1024, 0)] * 32)
    assert long.prefill_tokens == short.prefill_tokens
    assert long.prefill_attended_pairs > 7 * short.prefill_attended_pairs


@given(vst.forecasts(), st.floats(0, 3000))
def test_a_forecast_is_looked_up_at_the_next_slower_clock(forecast, clock_mhz):
    below = forecast.clocks_mhz <= clock_mhz + 1e-9
    expected = float(forecast.upper_s[below][-1]) if below.any() else math.inf
    assert forecast.upper_at(clock_mhz) == expected
    mean_s = float(forecast.mean_s[below][-1]) if below.any() else math.inf
    assert forecast.mean_at(clock_mhz) == mean_s


@given(vst.forecasts(unknown=False), st.floats(210, 1410), st.floats(210, 1410))
def test_a_slower_clock_has_no_smaller_bound(forecast, one_mhz, other_mhz):
    slow, fast = sorted((one_mhz, other_mhz))
    assert forecast.upper_at(slow) >= forecast.upper_at(fast)


def test_a_forecast_knows_nothing_of_unknown_clocks():
    forecast = Forecast(
        clocks_mhz=samples.clocks(3), mean_s=np.full(3, 0.02), upper_s=np.full(3, 0.03)
    )
    assert forecast.upper_at(math.nan) == forecast.mean_at(math.nan) == math.inf
    assert forecast.upper_at(100.0) == math.inf
    assert forecast.upper_at(1e9) == 0.03
