"""Prompt and output lengths together: two distributions joined by a Gaussian copula."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from voltana.errors import invalid
from voltana.plant.workload.lengths.marginal import mean_tokens, round_tokens

if TYPE_CHECKING:
    import numpy as np

    from voltana.plant.workload.lengths.marginal import Marginal
    from voltana.plant.workload.trace import IntArray


MAX_MEAN_TOKENS = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthDistribution:
    """How many tokens a request brings and asks for.

    Attributes:
        prompt: Distribution of prompt tokens.
        output: Distribution of output tokens.
        rank_correlation: Spearman's correlation between the two.

    Raises:
        ConfigError: If `rank_correlation` is out of range.
    """

    prompt: Marginal
    output: Marginal
    rank_correlation: float = 0.0

    def __post_init__(self) -> None:
        if not -1 < self.rank_correlation < 1:
            raise invalid(
                "rank_correlation",
                self.rank_correlation,
                "between -1 and 1, both excluded",
                "0 draws prompts and outputs independently.",
            )

    def sample(self, count: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Draw `count` pairs of lengths.

        A Gaussian copula with Pearson correlation 2 sin(pi rho / 6) has the rank correlation rho
        (Pearson, 1907). Pairs are drawn one after the other: a larger count with the same seed
        begins with the same pairs.

        Returns:
            Prompt tokens and output tokens, each of shape (count,), at least 1.
        """
        normal = rng.standard_normal((count, 2))
        pearson = 2 * math.sin(math.pi * self.rank_correlation / 6)
        output_scores = pearson * normal[:, 0] + math.sqrt(1 - pearson**2) * normal[:, 1]
        prompts = round_tokens(self.prompt.tokens(normal[:, 0]))
        return prompts, round_tokens(self.output.tokens(output_scores))

    def with_means(
        self, *, prompt_mean_tokens: float | None = None, output_mean_tokens: float | None = None
    ) -> LengthDistribution:
        """The same shapes, stretched to other means; None leaves a mean as it is.

        Raises:
            ConfigError: If a mean is below 1 token or too long for any model.
        """
        return replace(
            self,
            prompt=_with_mean(self.prompt, prompt_mean_tokens, "prompt_mean_tokens"),
            output=_with_mean(self.output, output_mean_tokens, "output_mean_tokens"),
        )


def _with_mean(marginal: Marginal, mean: float | None, field: str) -> Marginal:
    if mean is None:
        return marginal
    if not 2 <= mean <= MAX_MEAN_TOKENS:
        raise invalid(
            field, mean, f"from 2 to {MAX_MEAN_TOKENS} tokens", "Give the wanted mean length."
        )
    factor = 1.0
    # Lengths below one token are lifted to one, so that the mean is not quite linear in the factor.
    for _ in range(4):
        factor *= mean / mean_tokens(marginal.scaled(factor))
    return marginal.scaled(factor)
