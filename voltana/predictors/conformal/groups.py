"""Groups of labels that each keep the bound: known when a decision is issued, never after."""

from __future__ import annotations

import bisect
import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid
from voltana.values import Load, Phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.values import FloatArray

Rows = slice | np.ndarray[tuple[int], np.dtype[np.bool_]]
"""All rows of a table, or a mask of some."""


def one_group(load: Load) -> str:  # noqa: ARG001  (as groups are called)
    """All labels in one group."""
    return "all"


def by_phase(load: Load) -> str:
    """One group for each of prefill, decode and mixed batches."""
    return load.phase._value_  # as `value`, which is looked up by a descriptor


_BY_PHASE_ALONE = frozenset({one_group, by_phase})


@dataclass(frozen=True, slots=True)
class BySize:
    """Groups by phase, and within prefill by the new tokens of the batch.

    Args:
        edges: Ascending token counts that part the sizes; two edges make three groups.

    Raises:
        ConfigError: If they are not ascending.
    """

    edges: tuple[int, ...] = (1024, 4096)

    def __post_init__(self) -> None:
        """Refuse edges that part nothing."""
        if list(self.edges) != sorted(set(self.edges)):
            raise invalid("edges", self.edges, "ascending token counts", "Sort them.")

    def __call__(self, load: Load) -> str:
        """Name of the group of `load`."""
        phase = load.phase
        if phase is not Phase.PREFILL:
            return phase.value
        return f"{phase.value} {bisect.bisect_right(self.edges, load.prefill_tokens)}"


@functools.lru_cache(maxsize=64)
def decode_group(group: Callable[[Load], str]) -> str | None:
    """The one group that all decode batches are in; None where a user's own may part them."""
    whole = group in _BY_PHASE_ALONE or isinstance(group, BySize)
    return group(Load.decode(1, 1)) if whole else None


def decode_groups(
    group: Callable[[Load], str],
    only: str | None,
    requests: FloatArray,
    kv_tokens: FloatArray,
) -> list[tuple[str, Rows]]:
    """The groups of many decode batches, and which of them are in each.

    The groups of this module put all decode batches into one, so they are asked once; those of
    users may look at the load, and are asked for each.

    Args:
        group: Names the group of a load.
        only: What `decode_group` says of it.
        requests: Of each batch, shape (b,).
        kv_tokens: In their KV caches, shape (b,).
    """
    if only is not None and np.minimum.reduce(requests, initial=1.0) >= 1.0:
        return [(only, slice(None))]
    loads = map(Load.decode, requests.astype(int).tolist(), kv_tokens.astype(int).tolist())
    names = list(map(group, loads))
    return [(name, np.array([other == name for other in names])) for name in set(names)]


def one_weight(load: Load) -> float:  # noqa: ARG001  (as weights are called)
    """Every iteration weighs alike."""
    return 1.0


@dataclass(frozen=True, slots=True)
class ByTokens:
    """Weighs an iteration by its tokens, prompt and produced ones.

    Args:
        reference: Tokens that weigh 1; the statement's `max_weight` is the most over this.

    Raises:
        ConfigError: If it is not above 0.
    """

    reference: float = 64.0

    def __post_init__(self) -> None:
        """Refuse a reference that weighs nothing."""
        if not 0 < self.reference < math.inf:
            raise invalid("reference", self.reference, "above 0 tokens", "64 is the default.")

    def __call__(self, load: Load) -> float:
        """Weight of `load`."""
        return (load.prefill_tokens + load.decode_requests) / self.reference
