"""The reserve of requests: what share of a TTFT threshold a prefill plan may use.

docs/guarantee.md, "Requests", states and proves what it guarantees.
"""

from __future__ import annotations

from voltana.errors import invalid


class SloReserve:
    """Tracks rho, the share of the threshold to plan for: down after a miss, slowly up after a hit.

    What is scored is up to the user: requests, or batches as `OptimalAvailable` does.

    Args:
        alpha: Share of the requests that may miss.
        eta: Step.
        first: rho to start from.
        least: Least rho; misses whose step it cuts are forgiven, and counted.
        most: Greatest rho.

    Attributes:
        rho: Share of the threshold to plan for.
        requests: Requests scored.
        missed: Those that missed.
        forgiven: Those whose step was cut at `least`.

    Raises:
        ConfigError: If an argument is outside its range.
    """

    __slots__ = (
        "_alpha", "_eta", "_first", "_least", "_most", "forgiven", "missed", "requests", "rho",
    )  # fmt: skip

    def __init__(
        self,
        alpha: float = 0.05,
        *,
        eta: float = 0.005,
        first: float = 0.7,
        least: float = 0.05,
        most: float = 1.0,
    ) -> None:
        if not 0 < alpha < 1:
            raise invalid("alpha", alpha, "in (0, 1)", "0.05 lets one request in twenty miss.")
        if not 0 < eta < 1:
            raise invalid("eta", eta, "in (0, 1)", "0.005 is the default.")
        if not 0 < most <= 1:
            raise invalid("most", most, "above 0, at most 1", "1 is the whole threshold.")
        if not 0 < least <= most:
            raise invalid("least", least, f"above 0, at most {most:g}", "0.05 is the default.")
        if not least <= first <= most:
            raise invalid("first", first, f"from {least:g} to {most:g}", "0.7 is the default.")
        self._alpha, self._eta = alpha, eta
        self._first, self._least, self._most = first, least, most
        self.rho = first
        self.requests = self.missed = self.forgiven = 0

    def update(self, *, missed: bool) -> None:
        """Score one request: at its first token, or at its deadline if that comes before."""
        self.requests += 1
        moved = self.rho - self._eta * ((1.0 if missed else 0.0) - self._alpha)
        if missed:
            self.missed += 1
            self.forgiven += moved < self._least
        least, most = self._least, self._most
        self.rho = least if moved < least else most if moved > most else moved

    def bound(self) -> float:
        """Most misses that are not forgiven by now."""
        return self._alpha * self.requests + (self._first - self._least) / self._eta
