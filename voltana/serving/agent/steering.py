"""The figures by which routers of others may be steered, of an agent's instance as it is now."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import structlog

from voltana.cluster.candidates import candidate
from voltana.cluster.ledger import Ledger
from voltana.cluster.steering import steering_of
from voltana.planning import GROWTH_TOKENS
from voltana.serving.agent.building import ROLES

if TYPE_CHECKING:
    from voltana.serving.agent.group import Group
    from voltana.serving.agent.publishing import Publishing

_log = structlog.get_logger("voltana.serving.steering")

_NOTHING_SENT = Ledger()
"""Its routers are others, of whose requests only the instance's state tells."""


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
        role = ROLES[self._group.role or "unified"]
        shown = candidate(
            _NOTHING_SENT, instance="", role=role, state=state, facts=facts, now_s=0.0
        )
        return steering_of(shown, self._context_tokens)
