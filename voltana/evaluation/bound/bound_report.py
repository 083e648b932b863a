"""The bound and the policies against it, as text that is Markdown too."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voltana.evaluation.bound.compare import BoundReport, PolicyGap
    from voltana.evaluation.compare import Comparison

HEADERS = (
    "policy",
    "energy kJ",
    "saved",
    "of the bound's",
    "lost in prefill",
    "lost in decode",
    "TTFT kept",
    "ITL kept",
    "bound holds",
)


def text(report: BoundReport, comparison: Comparison) -> str:
    """Bound, table and relaxations; or why there is no bound."""
    if report.bound is None:
        return report.reason
    bound, whole_j = report.bound, comparison.reference.result.energy_j
    kept = bound.attained
    above = (
        f"Least energy of any policy that attains {100 * kept.ttft:.2f} % TTFT, "
        f"{100 * kept.itl:.2f} % ITL by request and {100 * kept.itl_tokens:.2f} % by token, up to "
        f"{bound.end_s:.1f} s: {bound.energy_j / 1e3:.2f} kJ ({bound.idle_j / 1e3:.2f} idle, "
        f"{bound.prefill_j / 1e3:.2f} prefill, {bound.decode_j / 1e3:.2f} decode), which saves "
        f"{100 * report.saving:.2f} % of static-max's {whole_j / 1e3:.2f} kJ. Luck with the noise "
        f"may take a run {bound.slack_j / 1e3:.2f} kJ below it."
    )
    table = [HEADERS, tuple("---" if not i else "---:" for i in range(len(HEADERS)))]
    table += [_row(gap, whole_j) for gap in report.policies]
    rows = "\n".join(f"| {' | '.join(row)} |" for row in table)
    below = "What the bound allows that no policy can do:\n\n" + "\n".join(
        f"- {relaxation};" for relaxation in report.relaxations
    )
    hardware = comparison.scenario.cluster.hardware
    caveat = hardware.knowledge.caveat(hardware.name)
    return f"{above}\n\n{rows}\n\n{below.removesuffix(';')}.\n\n{caveat}"


def _row(gap: PolicyGap, whole_j: float) -> tuple[str, ...]:
    result = gap.result
    return (
        result.policy,
        f"{result.energy_j / 1e3:.2f}",
        _percent(result.energy_saved_vs_static_max),
        _percent(gap.share_of_saving),
        _percent(gap.prefill_gap_j / whole_j),
        _percent(gap.decode_gap_j / whole_j),
        _percent(result.ttft_attainment),
        _percent(result.itl_attainment),
        "yes" if gap.covered else "attains less",
    )


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.2f} %"
