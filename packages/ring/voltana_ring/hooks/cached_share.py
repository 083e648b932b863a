"""Which share of recent prompts was found in the prefix cache, and needed no computing."""

from __future__ import annotations

KEEP = 0.98
"""Weight that each further prefill batch leaves to the past: about fifty batches count."""


class CachedShare:
    """A share that forgets."""

    __slots__ = ("_found", "_seen")

    def __init__(self) -> None:
        self._found = self._seen = 0.0

    @property
    def share(self) -> float:
        """Of recent prompts' tokens those that were in the cache."""
        return self._found / self._seen if self._seen else 0.0

    def learn(self, found: float, seen: float) -> None:
        """Note a prefill batch.

        Args:
            found: Tokens of its prompts that were in the cache.
            seen: All their tokens.
        """
        self._found = KEEP * self._found + found
        self._seen = KEEP * self._seen + seen
