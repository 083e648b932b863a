"""More levels than two: for the published system, and for a controller that plans by energy."""

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

SETS = {
    "1005,1410": "2 levels",
    "1005,1095,1200,1305,1410": "5 levels",
    "above:1005": "28 levels",
    "all": "all 81",
}
RATES_RPS, QUICK_RATES_RPS = (40.0, 50.0, 60.0, 70.0, 80.0), (50.0, 70.0)


def plan(asked: Asked) -> Plan:
    """Four sets of levels at each rate."""
    base = asked.base(["static-max", SYSTEM, "voltana"])
    rates_rps = QUICK_RATES_RPS if asked.quick else RATES_RPS
    return make_plan(
        base, {"levels": list(SETS), "rate": list(rates_rps), "seed": list(asked.seeds)}
    )


def tell(rows: Sequence[Row], _published: Sequence[PublishedPoint]) -> Told:
    """A line a policy and set of levels."""
    return told(
        [row for row in rows if row["policy"] != "static-max"],
        RATE,
        by=("policy", "levels"),
        line=lambda row: f"{row['policy']}, {SETS[row['levels']]}",
        title="Levels: llama-3.1-8b, 2P2D on A100",
        caption="Published: two levels (1005 and 1410 MHz) do as well as more. That holds for the "
        "published system's levels, none of which lies below 1005 MHz.",
    )


FINDING = Finding(claim="Two levels (1005 and 1410 MHz) are as good as more.", plan=plan, tell=tell)
