"""What a policy's router needs and does not get: said in log, status and metrics.

A router falls back to something simpler where a model is missing, so that requests are served on.
Without a word nobody would know that the policy that was asked for does not run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from voltana.cluster.needs import unmet
from voltana.ports import needs_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voltana.ports import Router
    from voltana.values import Candidate, Need


class Wants:
    """Looks at what a router is shown; logs what is missing once, and again when that changes.

    Args:
        router: The router.

    Attributes:
        needs: What it needs of every candidate.
        missing: What it lacked when it was asked last, by instance.
        lacking_choices: Choices that it had to make without something that it needs.
    """

    def __init__(self, router: Router) -> None:
        self.needs: frozenset[Need] = needs_of(router)
        self.missing: Mapping[str, tuple[Need, ...]] = {}
        self.lacking_choices = 0
        self._router = repr(router)
        self._log = structlog.get_logger("voltana.router")

    def look(self, candidates: Sequence[Candidate]) -> None:
        """Note what the router is about to be shown."""
        if not self.needs:
            return
        lacking = unmet(self.needs, candidates)
        self.lacking_choices += bool(lacking)
        if not lacking and not self.missing:
            return
        # Of those that are not shown this time, what was known before stands.
        shown = {candidate.instance for candidate in candidates}
        missing = {n: needs for n, needs in self.missing.items() if n not in shown} | lacking
        if missing == self.missing:
            return
        self.missing = missing
        if missing:
            self._log.warning(
                "the router lacks what it needs, and routes by something simpler",
                router=self._router,
                missing=self.listed(),
                remedy="Does each server have an agent whose feed this router follows, and a "
                "policy that learns what is missing? See docs/architecture.md.",
            )
        else:
            self._log.info("the router has what it needs", router=self._router)

    def listed(self) -> dict[str, list[str]]:
        """What is missing, as JSON values."""
        return {name: [need.value for need in needs] for name, needs in self.missing.items()}

    def figures(self) -> dict[str, object]:
        """Everything, as JSON values."""
        return {
            "router": self._router,
            "needs": sorted(need.value for need in self.needs),
            "missing": self.listed(),
            "choices_without": self.lacking_choices,
        }
