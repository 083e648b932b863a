"""The figures by which routers of others may be steered, of an agent's instance as it is now."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import structlog

from voltana.cluster.steering import steering_of
from voltana.planning import GROWTH_TOKENS
from voltana.serving.agent.building import ROLES
from voltana.values import Candidate

if TYPE_CHECKING:
    from voltana.serving.agent.group import Group
    from voltana.serving.agent.publishing import Publishing

_log = structlog.get_logger("voltana.serving.steering")


class Steered:
    """Works them out where somebody asks; keeps what contexts were like for when none runs.

    Args:
        group: The loops.
        publishing: Has their models, frozen.
    """

    def __init__(self, group: Group, publishing: Publishing) -> None:
        self._group = group
        self._publishing = publishing
        self._context_tokens = GROWTH_TOKENS
        self._said = ""

    def figures(self) -> dict[str, Any]:
        """What is known; empty while there is no engine, or where a user's model fails."""
        if not self._group.attached:
            return {}
        try:
            return {k: v for k, v in asdict(self._steering()).items() if v is not None}
        except Exception as error:  # noqa: BLE001  (a user's model may raise anything)
            if self._said != repr(error):
                self._said = repr(error)
                _log.warning("no figures to steer by: a model fails", error=self._said)
            return {}

    def _steering(self) -> Any:
        state, facts = self._group.state(), self._publishing.facts()
        if state.running_requests:
            self._context_tokens = state.kv_tokens / state.running_requests
        candidate = Candidate(
            instance="",
            role=ROLES[self._group.role or "unified"],
            state=state,
            predictor=facts.predictor,
            levels_mhz=facts.levels_mhz,
            budget_s=facts.budget_s,
            power=facts.power,
            kv_capacity_tokens=facts.kv_capacity_tokens,
            kv_reserved_tokens=facts.kv_reserved_tokens,
            max_running_requests=facts.max_running_requests,
            max_batch_tokens=facts.max_batch_tokens,
        )
        return steering_of(candidate, self._context_tokens)
