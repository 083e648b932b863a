"""Counts what bound each decision, in the closed vocabulary of `Decision.reason`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

from voltana.controllers.wrapper import ControllerWrapper

if TYPE_CHECKING:
    from voltana.policy import InstanceContext, InstancePolicy, Policy
    from voltana.ports import Controller
    from voltana.values import Decision, Observation, Role

Reasons = dict["Role", Counter[str]]
"""Decisions on iterations and while idle, by role and by reason."""


class Counting(ControllerWrapper):
    """A controller whose decisions are counted by their reason; it decides as before."""

    def __init__(self, controller: Controller, counts: Counter[str]) -> None:
        super().__init__(controller)
        self._counts = counts

    def decide(self, observation: Observation) -> Decision:
        """See `voltana.ports.Controller.decide`."""
        decision = self.controller.decide(observation)
        self._counts[decision.reason] += 1
        return decision


def counted(policy: Policy, reasons: Reasons) -> Policy:
    """The same policy, whose decisions are counted in `reasons` while it runs."""

    def control(context: InstanceContext) -> InstancePolicy:
        made = policy.control(context)
        counts = reasons.setdefault(context.role, Counter())
        return dataclasses.replace(made, controller=Counting(made.controller, counts))

    return dataclasses.replace(policy, control=control)
