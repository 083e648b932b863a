"""Whether routers get what they need: one that falls back for want of it must not be silent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from voltana.values import Need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from voltana.values import Candidate

_MET: Mapping[Need, Callable[[Candidate], bool]] = {
    Need.LATENCY: lambda c: c.predictor is not None,
    Need.POWER: lambda c: c.power is not None,
    Need.LEVELS: lambda c: bool(c.levels_mhz),
    Need.BUDGET: lambda c: c.budget_s < math.inf,
    Need.KV_CAPACITY: lambda c: c.kv_capacity_tokens < math.inf,
}


def unmet(needs: Iterable[Need], candidates: Iterable[Candidate]) -> dict[str, tuple[Need, ...]]:
    """What is needed and missing, by instance; instances that lack nothing are left out."""
    tests = [(need, _MET[need]) for need in sorted(needs)]
    missing = (
        (c.instance, tuple(need for need, is_met in tests if not is_met(c))) for c in candidates
    )
    return {instance: lacking for instance, lacking in missing if lacking}
