"""What an agent shows of the loops of its instance: one of each, or their sums."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana.ports import viability_of
from voltana.serving.agent.building import unknown_limits
from voltana.serving.agent.guarantee import sum_of
from voltana.serving.agent.open_decisions import drifts_of
from voltana.viability_account import total

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.serving.agent.serving import Served
    from voltana.serving.config_tables import EngineTable
    from voltana.slo import Slo


def figures_of(
    loops: Sequence[Served], *, engine: EngineTable, slo: Slo, budget_s: float
) -> dict[str, Any]:
    """Latency, attainment and prediction of the first loop, and the sums that all have together.

    Args:
        loops: One for each scheduler process; may be empty.
        engine: What the configuration says of the engine where it does not say so itself.
        slo: The thresholds in force.
        budget_s: What an iteration may take.
    """
    figures: dict[str, Any] = {
        "slo_ms": budget_s * 1e3,
        "ttft_ms": slo.ttft_s * 1e3,
        "itl_ms": slo.itl_s * 1e3,
        "engines": len(loops),
        "attached": bool(loops),
    }
    if not loops:
        return figures
    first, account = loops[0], loops[0].ring_loop.account
    return (
        figures
        | {
            "kv_capacity_tokens": first.engine.kv_capacity_tokens,
            "kv_reserved_tokens": first.engine.kv_reserved_tokens,
            "unknown": list(unknown_limits(engine, first.reader.info)),
            "latency_p50_ms": account.latency_s(50) * 1e3,
            "latency_p99_ms": account.latency_s(99) * 1e3,
            "attainment": account.attainment(),
            "records_lost": sum(loop.reader.lost for loop in loops),
            "records_torn": sum(loop.reader.torn for loop in loops),
            "engine_version": first.reader.info.get("version"),
            "model": first.reader.info.get("model"),
        }
        | account.figures()
        | {"slo_events": _slo_events(loops, slo), "drifts": _drifts(loops)}
        | {"guarantee": _guarantee(loops), "viability": _viability(loops)}
    )


def _slo_events(loops: Sequence[Served], slo: Slo) -> dict[str, dict[str, float]]:
    """What is held against each threshold by all loops, and what of it was late."""
    targets = {"ttft": slo.ttft_target, "itl": slo.itl_target}
    accounts = [loop.ring_loop.account.events for loop in loops]
    return {
        leg: {
            "target": target,
            "events": sum(events[leg][0] for events in accounts),
            "late": sum(events[leg][1] for events in accounts),
        }
        for leg, target in targets.items()
    }


def _drifts(loops: Sequence[Served]) -> int | None:
    """Alarms of drift of the models that watch for it; None where none does."""
    watching = [drifts_of(loop.control.predictor) for loop in loops]
    known = [drifts for drifts in watching if drifts is not None]
    return sum(known) if known else None


def _viability(loops: Sequence[Served]) -> dict[str, float | None] | None:
    """What the controllers in force have counted of it; None where none does."""
    account = total(viability_of(loop.control.controller) for loop in loops)
    return None if account is None else account.figures()


def _guarantee(loops: Sequence[Served]) -> dict[str, Any]:
    """The accounts of all loops together; what is no sum is that of the first."""
    figures = [loop.guarantee.figures(loop.ring_loop.open) for loop in loops]
    numbers = [
        {k: v for k, v in one.items() if k not in {"unlabelled", "state", "requests"}}
        for one in figures
    ]
    states = {one["state"] for one in figures} - {"new", "restored"}
    return sum_of(*numbers) | {
        **{name: max(one[name] for one in figures) for name in ("at_most", "longest_delay")},
        "unlabelled": sum_of(*(one["unlabelled"] for one in figures)),
        "state": next(iter(states), figures[0]["state"]),
        "requests": _requests_of([one["requests"] for one in figures]),
    }


def _requests_of(accounts: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The accounts of promised requests together, by threshold, with the share promised."""
    legs = sorted({leg for account in accounts for leg in account})
    sums = {leg: sum_of(*(account.get(leg, {}) for account in accounts)) for leg in legs}
    return {
        leg: found | {"share_promised": found["promised"] / found["arrived"]}
        for leg, found in sums.items()
    }
