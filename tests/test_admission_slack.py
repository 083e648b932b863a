"""What may be waited away before a prefill: nothing that those ahead or behind need."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.cluster.admission import WAITED_SHARE, Line, prefill_slack_s
from voltana.testing import samples
from voltana.values import Forecast, InstanceState, Reservation, Role

TTFT_S = 0.6
TOKENS_PER_S = 20_000.0


class Proportional:
    """Prefill at a rate in proportion to the clock."""

    def forecast(self, load, clocks_mhz):
        mean_s = load.prefill_tokens / TOKENS_PER_S * 1410.0 / clocks_mhz
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=mean_s)

    def to_dict(self):
        return {}


def prefill(name, queued=0, **changes):
    state = InstanceState(clock_mhz=1410.0, queued_requests=bool(queued), queued_tokens=queued)
    fields = {
        "instance": name,
        "state": state,
        "levels_mhz": (705.0, 1410.0),
        "predictor": Proportional(),
        "budget_s": TTFT_S,
    }
    return samples.candidate(0, Role.PREFILL, **(fields | changes))


def slack(*pool, prompt=1000, ahead=0, tokens_per_s=0.0):
    request = dataclasses.replace(
        samples.request(1), arrived_at_s=5.0, prompt_tokens=prompt, waited_s=0.0
    )
    line = Line(
        ahead=Reservation(requests=ahead // 1000, prompt_tokens=ahead),
        requests_per_s=tokens_per_s / 1000.0,
        prompt_tokens_per_s=tokens_per_s,
    )
    return prefill_slack_s(request, pool, 5.0, line)


def test_the_prompt_and_what_is_pending_come_off_the_deadline():
    left_s = TTFT_S - 3000 / TOKENS_PER_S
    assert slack(prefill("p", queued=2000)) == pytest.approx(WAITED_SHARE * left_s)


def test_those_ahead_share_the_instances_and_come_off_as_well():
    alone = slack(prefill("p"), ahead=4000)
    assert alone == pytest.approx(WAITED_SHARE * (TTFT_S - 5000 / TOKENS_PER_S))
    both = slack(prefill("p"), prefill("q"), ahead=4000)
    assert both == pytest.approx(WAITED_SHARE * (TTFT_S - 3000 / TOKENS_PER_S))


@pytest.mark.parametrize("busy", [0.25, 0.5, 0.9])
def test_a_line_that_prefill_has_to_catch_up_with_is_held_for_less(busy):
    idle = slack(prefill("p"))
    assert slack(prefill("p"), tokens_per_s=busy * TOKENS_PER_S) == pytest.approx(
        (1.0 - busy) * idle, rel=1e-3
    )


def test_nothing_waits_where_prefill_is_saturated_or_unknown():
    assert slack(prefill("p"), tokens_per_s=1.2 * TOKENS_PER_S) == 0.0
    assert slack(prefill("p", predictor=None), tokens_per_s=100.0) <= 0.0
    assert slack(prefill("p", predictor=None)) <= 0.0
    assert slack(prefill("p", budget_s=math.inf)) <= 0.0
    assert slack(prefill("p", budget_s=math.inf), tokens_per_s=1.2 * TOKENS_PER_S) <= 0.0
    assert slack() <= 0.0


@given(
    ahead=st.integers(0, 50).map(lambda n: 1000 * n),
    more=st.integers(0, 50).map(lambda n: 1000 * n),
    rate=st.floats(0.0, 3e4),
    faster=st.floats(0.0, 3e4),
)
def test_more_ahead_or_a_higher_rate_never_lets_anything_wait_longer(ahead, more, rate, faster):
    base = max(slack(prefill("p"), ahead=ahead, tokens_per_s=rate), 0.0)
    assert max(slack(prefill("p"), ahead=ahead + more, tokens_per_s=rate), 0.0) <= base + 1e-12
    busier = slack(prefill("p"), ahead=ahead, tokens_per_s=rate + faster)
    assert max(busier, 0.0) <= base + 1e-12
