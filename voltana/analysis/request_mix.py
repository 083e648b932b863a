"""What requests ask of a decode instance: how many iterations they stay, and with what context.

Counted in iterations, not in seconds, a request's stay does not depend on the clock. So the mean
batch is a linear function of the arrivals during past iterations, whatever the clock does: with
``S(j)`` the share of requests that run for more than ``j`` iterations and ``a(k)`` the arrivals
during iteration ``k``, the batch of iteration ``k`` is the sum over ``j`` of ``S(j) a(k - 1 - j)``.
Its sum at constant arrivals is Little's law.

`Ages` approximates this sum with few states: a chain of compartments (a phase-type distribution,
"linear chain trick"), each of which holds the requests of a range of ages.

J. D. C. Little, "A proof for the queuing formula L = lambda W", Operations Research 9 (1961).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import ConfigError

if TYPE_CHECKING:
    from voltana.plant.workload.trace import IntArray, Trace
    from voltana.values import FloatArray

COMPARTMENTS = 32
"""Enough for a step of the batch within 2 % of the whole sum, for constant lengths the worst."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ages:
    """Compartments of the requests' ages, shape (m,) each.

    Attributes:
        width: Iterations that a request spends in a compartment that it does not leave early.
        survival: Share of all requests that reach it, averaged over its ages.
        context_tokens: Mean KV tokens of a request in it.
    """

    width: FloatArray
    survival: FloatArray
    context_tokens: FloatArray

    @property
    def transition(self) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """Where the requests of each compartment are an iteration later, shape (m, m)."""
        leave = 1.0 / self.width
        ahead = leave[:-1] * self.survival[1:] / self.survival[:-1]
        matrix: np.ndarray[tuple[int, int], np.dtype[np.float64]] = np.diag(1.0 - leave)
        return matrix + np.diag(ahead, k=-1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RequestMix:
    """Lengths of the requests that come, one row a request, shape (n,).

    Attributes:
        prompt_tokens: Length of the prompt.
        iterations: Decode iterations: one less than the tokens of the answer, whose first one
            comes from prefill.

    Raises:
        ConfigError: If no request needs decoding.
    """

    prompt_tokens: IntArray
    iterations: IntArray

    def __post_init__(self) -> None:
        if not np.any(self.iterations > 0):
            raise ConfigError(
                "output_tokens = 1 for all requests is not allowed: must be 2 or more for some, or "
                "nothing is decoded. Analyse a trace whose answers are longer."
            )

    @classmethod
    def of(cls, trace: Trace) -> RequestMix:
        """The mix of a trace."""
        return cls(prompt_tokens=trace.prompt_tokens, iterations=trace.output_tokens - 1)

    @property
    def stay(self) -> float:
        """Mean iterations of a request."""
        return float(self.iterations.mean())

    @property
    def token_iterations(self) -> float:
        """Mean KV tokens of a request, summed over its iterations."""
        stay = self.iterations.astype(float)
        # At its j-th iteration, from 0 on, a request holds its prompt and 1 + j tokens of answer.
        return float((stay * (self.prompt_tokens + 1) + stay * (stay - 1) / 2).mean())

    @property
    def context_tokens(self) -> float:
        """Mean KV tokens of a running request."""
        return self.token_iterations / self.stay

    def survival(self) -> FloatArray:
        """Share of requests that run for more than j iterations, shape (longest,)."""
        counts = np.bincount(self.iterations)
        return 1.0 - np.cumsum(counts)[:-1] / len(self.iterations)

    def ages(self, compartments: int = COMPARTMENTS) -> Ages:
        """Compartments that hold alike shares of a settled batch.

        Args:
            compartments: Their number, at most the mean stay.
        """
        survival = self.survival()
        mass = np.concatenate(([0.0], np.cumsum(survival)))
        count = max(1, min(compartments, int(mass[-1])))
        edges = np.unique(np.searchsorted(mass, mass[-1] * np.arange(count + 1) / count - 1e-9))
        edges[0], edges[-1] = 0, len(survival)
        width = np.diff(edges).astype(float)
        held = np.add.reduceat(survival, edges[:-1])
        tokens = np.add.reduceat(self._tokens_by_age(), edges[:-1])
        return Ages(width=width, survival=held / width, context_tokens=tokens / held)

    def _tokens_by_age(self) -> FloatArray:
        """KV tokens of the requests that reach each age, as a mean over all requests."""
        longest = int(self.iterations.max())
        prompts = np.bincount(self.iterations, weights=self.prompt_tokens, minlength=longest + 1)
        reaching = (prompts.sum() - np.cumsum(prompts)[:-1]) / len(self.iterations)
        tokens: FloatArray = reaching + self.survival() * (1.0 + np.arange(longest))
        return tokens
