"""Many prefill batches worked out at once cost what each costs by itself, to the last bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.operating import UNKNOWN_LINE, PrefillLine, lines_s
from voltana.plant.dispatch import LazyCandidates
from voltana.pool import NAME, KeptPool
from voltana.routers import fill_up
from voltana.routers.fill_up import FillUp
from voltana.testing import samples
from voltana.values import InstanceState, Request, Role

rates = st.floats(0.0, 1e-3)
lines = st.tuples(*[rates] * 6, st.floats(0.5, 1.0)).map(
    lambda numbers: PrefillLine(*numbers, half_tile=64, tile=128)
)
batches = st.tuples(lines, st.integers(0, 20_000), st.floats(0.0, 1e9))


@given(st.lists(batches, min_size=1, max_size=40))
def test_many_lines_say_what_each_of_them_says(asked):
    table = np.array([line for line, _, _ in asked])
    tokens = np.array([count for _, count, _ in asked], dtype=float)
    pairs = np.array([attended for _, _, attended in asked])
    each_s = [line(count, attended) for line, count, attended in asked]
    assert lines_s(table, tokens, pairs).tolist() == each_s


def test_what_is_no_line_is_unknown():
    table = np.array([UNKNOWN_LINE, PrefillLine(1.0, *[0.0] * 5, 1.0, 64, 128)])
    first, second = lines_s(table, np.array([0.0, 5.0]), np.zeros(2)).tolist()
    assert math.isnan(first)
    assert second == 1.0


class Lines:
    """Tells prefill batches as lines, `slow` times as slow as another."""

    def __init__(self, slow):
        self.slow = slow

    def prefill_mean(self, clock_mhz):
        return PrefillLine(0.01, 1e-5 * self.slow * 1410.0 / clock_mhz, *[0.0] * 4, 1.0, 64, 128)


class Asked(Lines):
    """The same as a function, which has to be called for every batch."""

    def prefill_mean(self, clock_mhz):
        line = super().prefill_mean(clock_mhz)
        return line.__call__  # which is no line


def prefill(name, tokens, predictor, *, ran_s=0.0, **changes):
    state = InstanceState(
        queued_requests=1,
        queued_tokens=tokens,
        computing_tokens=tokens // 2,
        computing_for_s=ran_s,
        clock_mhz=1410.0,
    )
    return samples.candidate(
        0,
        Role.PREFILL,
        instance=name,
        state=state,
        predictor=predictor,
        levels_mhz=(705.0, 1410.0),
        budget_s=0.6,
        **changes,
    )


queues = st.lists(
    st.tuples(st.integers(0, 60_000), st.floats(0.1, 5.0), st.booleans()), min_size=1, max_size=50
)


@given(queues, st.integers(1, 30_000), st.sampled_from([0.0, 0.3]))
def test_models_that_have_to_be_asked_are_routed_among_as_lines_are(queues, prompt, waited_s):
    def pool(*, asked):
        return [
            prefill(f"p{at}", tokens, (Asked if mixed and asked else Lines)(slow), ran_s=0.2)
            for at, (tokens, slow, mixed) in enumerate(queues)
        ]

    request = Request(request_id=0, arrived_at_s=0.0, prompt_tokens=prompt, waited_s=waited_s)
    assert FillUp().route(request, pool(asked=True)) == FillUp().route(request, pool(asked=False))


@given(
    queues,
    st.integers(1, 30_000),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([512, 8192, 1e9]),
    st.floats(0.0, 1.0),
)
def test_many_are_routed_among_as_few_are(queues, prompt, waited_s, most, ran_s):
    pool = [
        prefill(
            f"p{at}",
            tokens,
            Lines(slow),
            ran_s=ran_s,
            max_batch_tokens=most if limited else math.inf,
        )
        for at, (tokens, slow, limited) in enumerate(queues)
    ]
    request = Request(request_id=0, arrived_at_s=0.0, prompt_tokens=prompt, waited_s=waited_s)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fill_up, "_MANY", math.inf)
        one_by_one = FillUp().route(request, pool)
        patch.setattr(fill_up, "_MANY", 1)
        assert FillUp().route(request, pool) == one_by_one


def test_a_table_is_made_anew_in_the_rows_that_changed():
    kept = KeptPool(())
    seen = []

    def row(candidate):
        seen.append(candidate.instance)
        return candidate.state.queued_tokens, candidate.in_flight

    first = [prefill(name, 10, None) for name in "abc"]
    assert kept.of(first).table(row).tolist() == [[10, first[0].in_flight]] * 3
    again = kept.of([first[0], prefill("b", 20, None), first[2]])
    assert again.table(row)[:, 0].tolist() == [10, 20, 10]
    assert again.take([1, 2]).table(row)[:, 0].tolist() == [20, 10]
    assert seen == [*"abc", "b"]


@pytest.mark.parametrize("look", [lambda shown: shown[0], lambda shown: shown[-2:]])
def test_a_candidate_is_put_together_once_a_decision(look):
    made = []

    def make(index):
        made.append(index)
        return samples.candidate(index, Role.DECODE)

    shown = LazyCandidates(2, make)
    look(shown)
    assert list(shown) == [shown[0], shown[1]]
    assert sorted(made) == [0, 1]
    assert shown[0] is next(iter(shown))
    assert KeptPool(()).of(shown).column(NAME) == [shown[0].instance, shown[1].instance]
