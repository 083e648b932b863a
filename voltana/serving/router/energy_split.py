"""Splits the energy of instances among the tenants whose requests were there.

An agent tells what its boards have used; a step of that figure is split in proportion to what the
tenants had computed there since the step before:

- a **prefill** instance by prompt tokens, counted when a prompt's KV cache is there, or its request
  has ended: prefill is compute, and its energy follows the tokens;
- a **decode** or unified instance by the time that requests were there: each yields one token an
  iteration, and weights are read once for all of them, so that time in the batch is its measure.

Nothing is lost and nothing counted twice: the parts of a step are the step. What is used while
nobody was there is told apart. The split is an account by shares, no measurement: it takes an
estimated prompt length, knows nothing of the context's length in decode nor of what a prefix cache
saved, and charges requests of other routers to the tenants of this one. A request that is given up
is charged its whole prompt: who aborts what he sent must not have others pay.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


MOST_W = 1e6
"""No instance draws more, were it a rack of boards: what is told beyond is no energy of its own."""

LATE_S = 10.0
"""By so much may what was used be told later than the time that has passed since the first word."""


class _Share:
    """What tenants have had of one instance since its energy was told last."""

    __slots__ = ("_told_j", "_told_since_s", "active", "energy_j", "since_s", "weights")

    def __init__(self, now_s: float) -> None:
        self._told_since_s = now_s - LATE_S
        self._told_j = 0.0
        self.weights: defaultdict[str, float] = defaultdict(float)
        self.active: defaultdict[str, int] = defaultdict(int)
        self.since_s = now_s
        self.energy_j = math.nan

    def advance(self, now_s: float) -> None:
        """Count the time of those that are there."""
        elapsed_s, self.since_s = max(0.0, now_s - self.since_s), now_s
        for tenant, requests in self.active.items():
            self.weights[tenant] += requests * elapsed_s

    def draws(self, step_j: float) -> bool:
        """Whether boards can have drawn so much more by now; counts it."""
        told_j = self._told_j + step_j
        if told_j > MOST_W * (self.since_s - self._told_since_s):
            return False
        self._told_j = told_j
        return True


class EnergySplit:
    """The account of a router.

    Args:
        now_s: Time source.

    Attributes:
        by_tenant_j: Energy by tenant and role.
        unattributed_j: Energy by role while nobody was there.
        requests: Requests by tenant.
        prompt_tokens: Their estimated prompt tokens.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._shares: dict[str, _Share] = {}
        self.by_tenant_j: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.unattributed_j: defaultdict[str, float] = defaultdict(float)
        self.requests: defaultdict[str, int] = defaultdict(int)
        self.prompt_tokens: defaultdict[str, int] = defaultdict(int)

    def began(self, tenant: str, prompt_tokens: int) -> None:
        """A request has been understood."""
        self.requests[tenant] += 1
        self.prompt_tokens[tenant] += prompt_tokens

    def prefilled(self, instance: str, tenant: str, tokens: int) -> None:
        """An instance has computed a prompt."""
        self._share(instance).weights[tenant] += tokens

    def enters(self, instance: str, tenant: str, requests: int) -> None:
        """Requests join the batch of an instance."""
        share = self._share(instance)
        share.advance(self._now_s())
        share.active[tenant] += requests

    def leaves(self, instance: str, tenant: str, requests: int) -> None:
        """They leave it."""
        share = self._share(instance)
        share.advance(self._now_s())
        share.active[tenant] -= requests
        if share.active[tenant] <= 0:
            del share.active[tenant]

    def told(self, instance: str, role: str, energy_j: float) -> None:
        """An agent has told the energy of its instance since its own start.

        Args:
            instance: Its name.
            role: What it serves.
            energy_j: The figure; a smaller one than before is that of an agent that began anew,
                and a step that no boards can have drawn is left out.
        """
        share = self._share(instance)
        before_j = share.energy_j
        if energy_j == before_j or not (math.isfinite(energy_j) and energy_j >= 0):
            return
        share.energy_j = energy_j
        share.advance(self._now_s())
        weights = dict(share.weights)
        share.weights.clear()
        if not math.isfinite(before_j):  # the first that is heard: it was used before
            return
        step_j = energy_j - before_j if energy_j > before_j else energy_j
        if not share.draws(step_j):
            return
        total = math.fsum(weights.values())
        if not total > 0.0:
            self.unattributed_j[role] += step_j
            return
        for tenant, weight in weights.items():
            self.by_tenant_j[tenant, role] += step_j * (weight / total)

    def _share(self, instance: str) -> _Share:
        found = self._shares.get(instance)
        if found is None:
            found = self._shares[instance] = _Share(self._now_s())
        return found


class Tally:
    """What one try has computed where, for its tenant.

    Args:
        split: The account.
        tenant: Who it is counted for.
        requests: Prompts of it.
        prompt_tokens: Their length, estimated.
    """

    __slots__ = ("_at", "_prefill", "_requests", "_split", "_tenant", "_tokens")

    def __init__(
        self, split: EnergySplit, tenant: str, *, requests: int, prompt_tokens: int
    ) -> None:
        self._split = split
        self._tenant = tenant
        self._requests = requests
        self._tokens = prompt_tokens
        self._prefill: str | None = None
        self._at: str | None = None

    def sent(self, prefill: str | None) -> None:
        """Its prefill leg is on its way; None where one server does both."""
        self._prefill = prefill

    def prefilled(self) -> None:
        """Its prompt has been computed."""
        prefill, self._prefill = self._prefill, None
        if prefill is not None:
            self._split.prefilled(prefill, self._tenant, self._tokens)

    def decodes(self, instance: str) -> None:
        """It is in the batch of an instance from now on."""
        self._leave()
        self._at = instance
        self._split.enters(instance, self._tenant, self._requests)

    def finished(self) -> None:
        """It is over, however; may be called twice."""
        self.prefilled()  # whoever gives it up has had its prompt computed, or may have
        self._leave()

    def _leave(self) -> None:
        at, self._at = self._at, None
        if at is not None:
            self._split.leaves(at, self._tenant, self._requests)
