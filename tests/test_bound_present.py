"""Which batches a bin can hold: checked against every set of requests that may be there."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.evaluation.bound.decode import decode_bound
from voltana.evaluation.bound.decode_demand import decode_demand
from voltana.evaluation.bound.operating_points import OperatingPoints
from voltana.evaluation.bound.present import present
from voltana.slo import Slo

SLO = Slo(ttft_s=0.6, itl_s=0.065)
EDGES_S = np.array([0.0, 4.0, 8.0])

REQUESTS = st.lists(
    st.tuples(st.integers(0, 8), st.integers(1, 6), st.integers(1, 30), st.integers(1, 30)),
    min_size=1,
    max_size=6,
)


@given(REQUESTS, st.integers(0, 2), st.floats(0.0, 7.99))
def test_no_batch_of_those_that_are_there_is_left_out(requests, may_miss: int, at_s: float) -> None:
    opened, stay, prompts, tokens = (
        np.array(part, dtype=float) for part in zip(*requests, strict=True)
    )
    closed = opened + stay
    made = present(
        opened,
        closed,
        prompt_tokens=prompts,
        tokens=tokens,
        edges_s=EDGES_S,
        may_miss=may_miss,
    )[int(at_s >= EDGES_S[1])]
    there = [i for i in range(len(opened)) if opened[i] <= at_s < closed[i]]
    gone = [i for i in range(len(opened)) if closed[i] <= at_s]
    for missed in (m for n in range(min(may_miss, len(gone)) + 1) for m in combinations(gone, n)):
        batch = np.array([*there, *missed], dtype=int)
        size = np.array([float(len(batch))])
        assert size[0] <= made.most
        assert made.least_kv_tokens(size)[0] <= (prompts[batch] + 1).sum()
        assert made.most_kv_tokens(size)[0] >= (prompts[batch] + tokens[batch]).sum()


def test_a_lone_request_is_not_decoded_in_a_batch_of_many() -> None:
    """One of ten at 0 s has 100 tokens, the others one: its last ones run alone, at 1 J each."""
    tokens = np.array([100.0, *[1.0] * 9])
    needs = decode_demand(
        ready_s=np.zeros(10),
        latest_s=np.full(10, 0.6),
        tokens=tokens,
        prompt_tokens=np.full(10, 5.0),
        fastest_s=0.03,
        slo=SLO,
        may_miss=0,
        edges_s=np.linspace(0.0, 8.0, 9),
    )
    points = OperatingPoints(
        requests=np.array([1.0, 10.0]),
        kv_tokens=np.array([1e9, 1e9]),
        seconds=np.array([0.03, 0.04]),
        joules=np.array([1.0, 2.0]),
        late_tokens=np.zeros(2),
    )
    made = decode_bound(points, needs, machines=1, may_be_late=0.0)
    possible_in_first_second = 33.4 + 9.0
    alone = tokens.sum() - possible_in_first_second
    assert made.energy_j >= alone * 1.0
    assert made.energy_j == pytest.approx(alone + possible_in_first_second * 0.2, rel=0.03)
