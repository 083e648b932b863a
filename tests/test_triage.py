"""Triage: an excess is shared where fewer tokens are late then; elsewhere one instance has it."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest

from tests.test_viable_batch import ask, decode
from voltana.routers.triage import DEVIATIONS, Boundary, better_shared, expected_in_time
from voltana.values import Forecast

BUDGET_S = 0.05


class Noisy:
    """An iteration takes a base and something for each request, times what noise makes of it."""

    def __init__(self, deviation, each_s=0.0002, tile=math.inf):
        self.deviation, self.each_s, self.tile = deviation, each_s, tile

    def forecast(self, load, clocks_mhz):
        seconds = 0.01 + self.each_s * load.decode_requests
        seconds *= 1.4 if load.decode_requests > self.tile else 1.0
        mean_s = seconds * 1410.0 / clocks_mhz
        upper_s = (1.0 + DEVIATIONS * self.deviation) * mean_s
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=upper_s)

    def to_dict(self):
        return {}

    @property
    def boundary(self):
        fits = (BUDGET_S / (1.0 + DEVIATIONS * self.deviation) - 0.01) / self.each_s
        return int(min(fits, self.tile))


def pool(model, *beyond):
    """Instances that have so many requests more than their boundary."""
    return [
        Boundary(model, 1410.0, BUDGET_S, 100.0, model.boundary, model.boundary + more)
        for more in beyond
    ]


def test_a_little_excess_is_shared_where_latencies_vary():
    assert better_shared(pool(Noisy(0.3), 5, 0))
    assert better_shared(pool(Noisy(0.3), 2, 2, 2))


def test_nothing_is_shared_where_they_leap_from_in_time_to_late():
    model = Noisy(1e-6, each_s=0.000201)
    for beyond in (0, 1, 5, 20, 100):
        assert not better_shared(pool(model, beyond, 0))


def test_nothing_is_shared_that_leads_into_a_tile_from_which_nothing_leads_back():
    padded = Noisy(0.3, tile=Noisy(0.3).boundary)
    assert not better_shared(pool(padded, 3, 0))


@pytest.mark.parametrize("deviation", [0.05, 0.1, 0.2, 0.3])
def test_beyond_what_is_expected_in_time_one_instance_has_all_of_it(deviation):
    model = Noisy(deviation)
    late = int((BUDGET_S - 0.01) / model.each_s) - model.boundary
    assert not better_shared(pool(model, 4 * late, 2 * late))
    assert not better_shared(pool(model, 3 * late, 3 * late, 3 * late))


def test_once_one_instance_has_it_more_of_it_changes_nothing():
    """From some excess on it is never shared again: no request is sent to and fro."""
    model = Noisy(0.2)
    shared = [better_shared(pool(model, excess, 0)) for excess in range(5, 1000, 5)]
    assert shared[0]
    assert not shared[-1]
    assert sum(a != b for a, b in itertools.pairwise(shared)) == 1


def test_the_router_sends_what_may_wait_no_longer_to_the_least_then():
    def chosen(deviation, *beyond):
        model = Noisy(deviation)
        candidates = [
            decode(name, model.boundary + more, predictor=model, budget_s=BUDGET_S)
            for name, more in zip("abc", beyond, strict=False)
        ]
        candidates = [dataclasses.replace(one, levels_mhz=(1410.0,)) for one in candidates]
        return ask(*candidates, slack_s=0.0)

    assert chosen(0.3, 3, 1, 2) == "b"
    assert chosen(1e-4, 3, 1, 2) == "a"


def sent_to(model, **batches):
    """Where what may wait no longer goes; batches run and have in flight so many more than fit."""
    candidates = [
        dataclasses.replace(
            decode(name, model.boundary + running, model.boundary + in_flight, predictor=model),
            budget_s=BUDGET_S,
            levels_mhz=(1410.0,),
        )
        for name, (running, in_flight) in batches.items()
    ]
    return ask(*candidates, slack_s=0.0)


def test_a_line_before_prefill_is_no_excess_of_a_batch_that_loses_as_many_meanwhile():
    """One batch a little beyond its boundary, and the lines of all counted as what one had to take.

    Of nearly flat iterations, as where all experts are read for a batch of any size.
    """
    flat = Noisy(0.05, each_s=0.00008)
    assert sent_to(flat, a=(5, 100), b=(-10, 80)) == "b"
    assert sent_to(flat, a=(15, 100), b=(10, 80), c=(5, 90)) == "b"
    # Beyond what is expected in time one has all of it, and others keep a line's chance from it.
    steep = Noisy(0.01, each_s=0.002)
    assert sent_to(steep, a=(20, 20), b=(-1, 8)) == "a"
    assert sent_to(steep, a=(20, 20), b=(-7, 2)) == "b"


def test_what_is_shared_goes_by_what_is_expected_and_not_by_what_each_has_seen_yet():
    """Of two that are alike one had learned less, and got all but what it was sure to serve."""
    sure, unsure = Noisy(0.02, each_s=0.0001), Noisy(0.06, each_s=0.0001)
    assert unsure.boundary < sure.boundary

    def at(name, model, running):
        return dataclasses.replace(
            decode(name, running, predictor=model), budget_s=BUDGET_S, levels_mhz=(1410.0,)
        )

    most = sure.boundary
    assert ask(at("a", sure, most + 3), at("b", unsure, most - 3), slack_s=0.0) == "b"
    assert ask(at("a", sure, most + 3), at("b", unsure, most + 5), slack_s=0.0) == "a"


def test_a_batch_that_is_expected_in_time_has_room_unless_it_would_grow_on():
    model = Noisy(0.1)
    least = model.boundary
    most = int((BUDGET_S - 0.01) / model.each_s)

    def has(requests, model=model):
        return expected_in_time(Boundary(model, 1410.0, BUDGET_S, 100.0, least, requests))

    assert has(least)
    assert has(most - 1)
    assert not has(most + 1)
    assert not has(least, Noisy(0.1, tile=least))


@pytest.mark.parametrize(("mean_s", "upper_s"), [(0.04, math.inf), (0.0, 0.0), (math.nan, 0.1)])
def test_what_a_model_does_not_know_is_late(mean_s, upper_s):
    class Unknown(Noisy):
        def forecast(self, load, clocks_mhz):
            if load.decode_requests <= self.boundary:
                return super().forecast(load, clocks_mhz)
            as_many = np.ones_like(clocks_mhz)
            return Forecast(
                clocks_mhz=clocks_mhz, mean_s=mean_s * as_many, upper_s=upper_s * as_many
            )

    assert not better_shared(pool(Unknown(0.3), 5, 0))
