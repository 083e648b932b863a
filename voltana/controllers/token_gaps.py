"""TokenGaps: the gaps between tokens of late, and what each would have taken at every clock.

Where one engine computes prompts and produces tokens, what a request feels is no iteration: it is
the time from one of its tokens to the next, the batches of prompts that came between included. How
many come between is chance, so a clock is judged by the gaps that were really there. The work of
each of them is known, and what it takes at every clock is what was measured, scaled by the latency
model; so the same work can be gone over again at each level (`LateGaps`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voltana.values import FloatArray, Load, Outcome, Table

EVENTS = 10
"""So many late gaps are remembered where a share alpha is late: a standard error of a third."""

MOST_GAPS = 4096
"""No more are remembered, however small alpha is."""


class Seen(NamedTuple):
    """Gaps that are remembered, in no order; times in seconds, "at every level" of shape (n, l).

    Attributes:
        decode_s: What decode took, at every level.
        between_s: Prompts that came between, at every level.
        slow_s: What was run slowly as the gap was lost, at whatever level.
        fastest_s: All that came between, at the fastest level.
        passed_s: What really passed from one token to the next.
        requests: That got a token.
        level: Index of the level that ran where no gap was in danger.
        rest: Of the prompts that came between, the share that those who joined by one of them still
            waited for behind it, on average.
    """

    decode_s: Table
    between_s: Table
    slow_s: FloatArray
    fastest_s: FloatArray
    passed_s: FloatArray
    requests: FloatArray
    level: NDArray[np.intp]
    rest: FloatArray


class TokenGaps:
    """Remembers gaps.

    Args:
        levels_mhz: Clocks, ascending, shape (l,).
        alpha: Share that may be late: the rarer that is, the more are remembered.
    """

    def __init__(self, levels_mhz: FloatArray, alpha: float) -> None:
        self._levels = levels_mhz
        self._alpha = alpha
        self.most = most = min(math.ceil(EVENTS / alpha), MOST_GAPS)
        levels = len(levels_mhz)
        # By gap, see `Seen`; and all prompts since the gap before, what passed since then, and KV
        # tokens.
        self._decode_s = np.zeros((most, levels))
        self._between_s = np.zeros((most, levels))
        self._prompts_s = np.zeros((most, levels))
        self._slow_s = np.zeros(most)
        self._fastest_s = np.zeros(most)
        self._passed_s = np.zeros((most, 2))
        self._batch = np.zeros((most, 2))  # requests, and their KV tokens
        self._level = np.zeros(most, dtype=np.intp)
        self._rest = np.zeros(most)
        self._count = self._since_prompts = 0  # gaps, that of the last prompts included
        self._running: tuple[FloatArray, FloatArray, Load, float] | None = None
        self._waits = self._lost = False
        self._asked = 0
        self._new()

    @property
    def gaps(self) -> int:
        """How many are remembered."""
        return min(self._count, self.most)

    @property
    def seen(self) -> Seen:
        """What is remembered."""
        count = self.gaps
        return Seen(
            decode_s=self._decode_s[:count],
            between_s=self._between_s[:count],
            slow_s=self._slow_s[:count],
            fastest_s=self._fastest_s[:count],
            passed_s=self._passed_s[:count, 0],
            requests=self._batch[:count, 0],
            level=self._level[:count],
            rest=self._rest[:count],
        )

    @property
    def prompts_at_fastest_s(self) -> FloatArray:
        """All prompts since the gap before at the fastest level, in the order of time, (n,)."""
        prompts_s: FloatArray = self.in_order(self._prompts_s[: self.gaps, -1:])[:, 0]
        return prompts_s

    @property
    def total(self) -> int:
        """How many there were, those that are forgotten among them."""
        return self._count

    def since(self, total: int) -> NDArray[np.intp]:
        """Where in `seen` those are that came after so many, as far as they are remembered."""
        return np.arange(max(total, self._count - self.gaps), self._count) % self.most

    @property
    def last(self) -> int:
        """Where in `seen` the last gap is."""
        return (self._count - 1) % self.most

    @property
    def waits(self) -> bool:
        """Whether somebody waits for a next token, as far as iterations tell."""
        return self._waits

    @property
    def elapsed_s(self) -> float:
        """What has passed since the last tokens, up to the last `begin`; 0 where nobody waits."""
        return self._gap_s if self._waits else 0.0

    @property
    def decode_row_s(self) -> FloatArray:
        """What decode took in the last gap, at every level; 0 before the first."""
        row: FloatArray = self._decode_s[self.last]
        return row

    def begin(
        self,
        load: Load,
        mean_s: FloatArray,
        decode_s: FloatArray | None,
        now_s: float,
        *,
        level: int = 0,
        lost: bool = False,
    ) -> None:
        """An iteration begins.

        Args:
            load: What it computes.
            mean_s: What it is expected to take at every level, shape (l,).
            decode_s: What its decode part alone would; None where it has none.
            now_s: When.
            level: Index of the level that is asked for whatever becomes of this gap.
            lost: Whether it runs as slowly as it does because no clock keeps the gap.
        """
        nothing = decode_s is None
        self._lost, self._asked = lost, level
        decode_s = np.zeros(len(self._levels)) if decode_s is None else decode_s
        prompts_s = mean_s - decode_s if load.prefill_tokens else np.zeros(len(self._levels))
        self._running = (decode_s, prompts_s, load, now_s)
        if load.prefill_tokens:
            self._since_prompts = 0
        if nothing and not load.prefill_tokens:
            self._waits = False

    def end(self, ended: Outcome | None, clock_mhz: float, now_s: float) -> bool:
        """The iteration that was begun has ended.

        Args:
            ended: What was measured of it; None where nobody tells.
            clock_mhz: The clock that was asked for, where nobody tells.
            now_s: The current time; what has passed beyond the iteration is the host's.

        Returns:
            Whether tokens came.
        """
        if self._running is None:
            return False
        decode_s, prompts_s, load, began_s = self._running
        self._running = None
        took_s = now_s - began_s
        self._since_s += took_s
        if not load.prefill_tokens and not load.decode_requests:
            return False
        device_s = took_s if ended is None else ended.latency_s
        mhz = clock_mhz if ended is None else ended.clock_mhz
        expected_s = float(np.interp(mhz, self._levels, decode_s + prompts_s))
        scale = device_s / expected_s if 0.0 < expected_s < math.inf else 0.0
        host_s = max(took_s - scale * expected_s, 0.0) if scale else took_s
        prompts_s = scale * prompts_s if scale else np.full(len(prompts_s), host_s)
        self._behind += self._joined_s * float(prompts_s[-1])
        self._joined_s += float(prompts_s[-1])
        if self._lost:  # so it would run whatever level is asked for otherwise
            self._all_s += took_s
        else:
            self._all_s += prompts_s
        if self._waits:
            self._gap_s += took_s
            self._fast_s += float(prompts_s[-1])
            if self._lost:
                self._slow += took_s
            else:
                self._between += prompts_s
        if not load.decode_requests:
            return False
        if self._waits:
            decode_s = scale * decode_s + host_s
            self._remember(decode_s, load)
        self._new()
        self._waits = True
        return True

    def _remember(self, decode_s: FloatArray, load: Load) -> None:
        at = self._count % self.most
        self._count += 1
        self._since_prompts += 1
        self._decode_s[at] = decode_s
        self._between_s[at] = self._between
        self._prompts_s[at] = self._all_s
        self._slow_s[at] = self._slow
        self._fastest_s[at] = self._fast_s
        self._passed_s[at] = self._gap_s, self._since_s
        self._batch[at] = load.decode_requests, load.decode_kv_tokens
        self._level[at] = self._asked
        self._rest[at] = self._behind / self._joined_s**2 if self._joined_s else 0.0

    def _new(self) -> None:
        levels = len(self._levels)
        self._between, self._all_s = np.zeros(levels), np.zeros(levels)
        self._gap_s = self._since_s = self._slow = self._fast_s = 0.0
        # All prompts at the fastest level; and of each, times what came behind it.
        self._joined_s = self._behind = 0.0

    @property
    def prompts_ceased(self) -> bool:
        """Whether no prompts came for longer than happens by chance with probability alpha.

        By how often, of those that are remembered, a gap without any was followed by one with some:
        then what they were says nothing of what is to come. A prompt of many chunks is in as many
        gaps in a row, and has come once (a chain of two states: T. W. Anderson, L. A. Goodman,
        Annals of Mathematical Statistics 28, 1957). The gaps since the last ones are one trial.
        """
        since = self._since_prompts - 1
        had = self.prompts_at_fastest_s > 0.0
        had = had[: max(len(had) - since, 0)]  # up to the last ones
        if not len(had):
            return False
        without = ~had[:-1]
        came = float((without & had[1:]).sum()) + float(had[0])
        share = came / (float(without.sum()) + float(had[0]) + 1.0)
        return bool((1.0 - share) ** max(since, 0) < self._alpha)

    def mean_batch(self) -> tuple[int, int]:
        """Requests of the mean batch, and their KV tokens."""
        requests, tokens = self._batch[: self.gaps].mean(axis=0)
        return max(round(requests), 1), round(tokens)

    def prompts_share(self) -> FloatArray:
        """Share of the time that prompts take at every level, as they come; may exceed 1."""
        count = self.gaps
        passed_s = float(self._passed_s[:count, 1].sum())
        if not passed_s:
            return np.zeros(len(self._levels))
        share: FloatArray = self._prompts_s[:count].sum(axis=0) / passed_s
        return share

    def in_order(self, of_gaps: Table) -> Table:
        """What is remembered of gaps, in the order of time."""
        count, most = self._count, self.most
        if count <= most:
            return of_gaps[:count]
        return np.roll(of_gaps, -(count % most), axis=0)
