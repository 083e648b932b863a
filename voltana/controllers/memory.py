"""What a decode instance can hold."""

from __future__ import annotations

import math
from dataclasses import dataclass

from voltana.errors import invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The KV cache of a decode instance and what else limits its batch.

    Attributes:
        capacity_tokens: Tokens that it holds; inf where unknown.
        reserved_tokens: Tokens that the engine keeps free in it for each request.
        max_requests: Requests that the engine runs at once; inf where unknown.

    Raises:
        ConfigError: If a field is outside its range.
    """

    capacity_tokens: float = math.inf
    reserved_tokens: float = 0.0
    max_requests: float = math.inf

    def __post_init__(self) -> None:
        """Refuse what no cache has."""
        if not self.capacity_tokens > 0:
            raise invalid("capacity_tokens", self.capacity_tokens, "above 0", "inf if unknown.")
        if not 0 <= self.reserved_tokens < math.inf:
            raise invalid("reserved_tokens", self.reserved_tokens, "0 or more, finite", "Try 512.")
        if not self.max_requests > 0:
            raise invalid("max_requests", self.max_requests, "above 0", "inf if unknown.")
