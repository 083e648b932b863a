"""What a looser or a tighter SLO is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.config import DEFAULT_ITL_MS, DEFAULT_TTFT_MS
from voltana.evaluation.reproduce.finding import Asked, Finding, Told
from voltana.evaluation.reproduce.ladder import Axis, told
from voltana.evaluation.reproduce.published import SYSTEM
from voltana.evaluation.sweep import Plan, make_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.evaluation.reproduce.published import PublishedPoint
    from voltana.evaluation.sweep.work import Row

FACTORS, QUICK_FACTORS = (0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0), (0.7, 1.0, 1.5)
RATES = {"sharegpt": 60.0, "lmsys": 85.0}


def plan(asked: Asked) -> Plan:
    """Both thresholds times a factor, at one rate a workload."""
    rows = [
        {
            "workload": workload,
            "rate": rate_rps,
            "ttft_ms": round(DEFAULT_TTFT_MS * factor, 3),
            "itl_ms": round(DEFAULT_ITL_MS * factor, 3),
            "seed": seed,
        }
        for workload, rate_rps in RATES.items()
        for factor in (QUICK_FACTORS if asked.quick else FACTORS)
        for seed in asked.seeds
    ]
    base = asked.base(["static-max", "static-low", SYSTEM, "voltana"], quick_s=30.0)
    return make_plan(base, None, rows)


def tell(rows: Sequence[Row], _published: Sequence[PublishedPoint]) -> Told:
    """Saving and attainment over the threshold of the ITL; the TTFT's goes with it."""
    rates = ", ".join(f"{name} at {rate:g} requests/s" for name, rate in RATES.items())
    return told(
        rows,
        Axis("slo.itl_ms", "ITL threshold (ms)"),
        title=f"Looser and tighter SLOs: llama-3.1-8b, 2P2D on A100; {rates}",
        caption=f"Both thresholds are scaled alike: the TTFT's is {DEFAULT_TTFT_MS:g} ms where the "
        f"ITL's is {DEFAULT_ITL_MS:g} ms. Attainment is of the scaled thresholds.",
    )


FINDING = Finding(
    claim="A looser SLO saves more energy, a tighter one is kept at a higher clock.",
    plan=plan,
    tell=tell,
)
