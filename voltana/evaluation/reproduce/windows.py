"""One clock a window against one an iteration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.evaluation.reproduce.finding import Asked, Finding, Told
from voltana.evaluation.reproduce.ladder import RATE, told
from voltana.evaluation.reproduce.published import SYSTEM
from voltana.evaluation.sweep import Plan, make_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.evaluation.reproduce.published import PublishedPoint
    from voltana.evaluation.sweep.work import Row

RATES = {"sharegpt": (50.0, 60.0, 70.0, 80.0), "lmsys": (75.0, 85.0, 95.0, 105.0)}


def plan(asked: Asked) -> Plan:
    """The window governor, the published system and ours, over the rate."""
    rows = [
        {"workload": workload, "rate": rate_rps, "seed": seed}
        for workload, rates_rps in RATES.items()
        for rate_rps in (rates_rps[::2] if asked.quick else rates_rps)
        for seed in asked.seeds
    ]
    base = asked.base(["static-max", "window", SYSTEM, "voltana"], quick_s=30.0)
    return make_plan(base, None, rows)


def tell(rows: Sequence[Row], _published: Sequence[PublishedPoint]) -> Told:
    """A line a policy."""
    return told(
        rows,
        RATE,
        title="One clock for 5 s, or one an iteration: llama-3.1-8b, 2P2D on A100",
        caption="Published: a decision an iteration beats one every 5 s, most of all in prefill: "
        "compare the attained TTFT at the same saving.",
    )


FINDING = Finding(
    claim="A clock an iteration beats a window of 5 s, most of all in prefill.",
    plan=plan,
    tell=tell,
)
