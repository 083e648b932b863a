"""Tables of what a comparison's policies promised, and of what became of that."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from voltana.evaluation.wording import UNKNOWN, percent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.evaluation.compare import Comparison
    from voltana.evaluation.metrics import Result

PROMISE_HEADERS = (
    "policy",
    "certified",
    "saturated",
    "void",
    "over budget, all",
    "over budget, certified",
    "violations / proven most",
    "clock set by",
)
"""Headings of the table of promises; shares of decisions, then of iterations with a budget."""

SHOWN_BINDINGS = 3
"""Constraints named in the table, the most frequent ones; the JSON has all."""

PROMISE_CAPTION = (
    "Certified, saturated, void: shares of decisions. Over budget: share of the iterations with a "
    "budget that took longer than it, over all of them and over those whose decisions were "
    "certified. The proven most is that of docs/guarantee.md; '-' where a policy has no such "
    "bound, so that its certificates are estimates. Clock set by: the constraints that bound most "
    "decisions (docs/policies.md)."
)

ACCOUNT_HEADERS = (
    "policy",
    "certified",
    "blocked",
    "elsewhere",
    "missed",
    "proven most",
    "violated",
    "forgiven",
    "overdue",
    "lost",
)
"""Headings of the table of accounts; weights of labels, over all instances."""

ACCOUNT_CAPTION = (
    "The account of each guarantee (docs/guarantee.md): scored labels of certified decisions, "
    "hits where only the margin blocked, hits at another clock; certified labels above their "
    "bound, and the most that is proven; those above their budget; what clipping forgave; labels "
    "that came late; certified decisions without a label."
)

VIABILITY_HEADERS = ("policy", "envelope windows", "broken", "decode steps", "outside")
"""Headings of the table of viability; broken and outside are shares of the column before."""

VIABILITY_CAPTION = (
    "Broken: windows of 1 s in which a decode batch grew beyond its demand envelope; outside: "
    "decode steps with a batch beyond those that the fastest clock keeps (docs/viability.md)."
)

REQUEST_HEADERS = (
    "policy",
    "threshold",
    "arrived",
    "promised",
    "kept",
    "missed",
    "proven most",
    "C",
    "forgiven",
)
"""Headings of the table of promised requests."""

REQUEST_CAPTION = (
    "Promised: share of the requests that were promised, on arrival at an instance, to keep their "
    "threshold; kept and missed: promised ones that did and did not; proven most: of those that "
    "miss, alpha of all that were scored, the constant C, and those that are forgiven because "
    "nobody knows what became of them (docs/guarantee.md). ITL: the mean of each request of two "
    "tokens or more."
)


def promise_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """The cells under `PROMISE_HEADERS`, one row for each policy that looks at budgets."""
    return [
        _promise_row(run.result)
        for run in comparison.runs
        if math.isfinite(run.result.violation_rate)
    ]


def account_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """The cells under `ACCOUNT_HEADERS`, one row for each policy that keeps an account."""
    columns = (
        "certified",
        "blocked",
        "elsewhere",
        "missed",
        "bound",
        "violated",
        "forgiven",
        "overdue",
        "lost",
    )
    return [
        (
            run.result.policy,
            *(f"{account[key]:.0f}" for key in columns),
        )
        for run in comparison.runs
        if (account := run.result.guarantee) is not None
    ]


def viability_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """The cells under `VIABILITY_HEADERS`, one row for each policy that counts them."""
    return [
        (
            run.result.policy,
            f"{account['windows']:.0f}",
            _share(account["broken_share"]),
            f"{account['steps']:.0f}",
            _share(account["outside_share"]),
        )
        for run in comparison.runs
        if (account := run.result.viability) is not None
    ]


def _share(share: float | None) -> str:
    return UNKNOWN if share is None else percent(share, 2)


def request_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """The cells under `REQUEST_HEADERS`, a row for each threshold that a policy promises."""
    return [
        _request_row(run.result.policy, leg, account)
        for run in comparison.runs
        for leg, account in (run.result.requests or {}).items()
        if account["arrived"]
    ]


def _request_row(policy: str, leg: str, account: Mapping[str, float]) -> tuple[str, ...]:
    columns = ("kept", "missed", "bound", "constant", "forgiven")
    return (
        policy,
        leg.upper(),
        f"{account['arrived']:.0f}",
        percent(account["promised"] / account["arrived"], 2),
        *(f"{account[name]:.0f}" for name in columns),
    )


def _promise_row(result: Result) -> tuple[str, ...]:
    account = result.guarantee
    return (
        result.policy,
        percent(result.certified_share),
        percent(result.saturated_share),
        percent(result.void_share),
        percent(result.violation_rate, 2),
        percent(result.certified_violation_rate, 2),
        UNKNOWN if account is None else f"{account['violated']:.0f} / {account['bound']:.0f}",
        _bindings(result),
    )


def _bindings(result: Result) -> str:
    """The constraints that set the clock most often, with their shares."""
    shown = list(result.bindings.items())[:SHOWN_BINDINGS]
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in shown) or UNKNOWN
