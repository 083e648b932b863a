"""TokenGaps: what the gaps between tokens of late would have been at every clock.

Where one engine computes prompts and produces tokens, what a request feels is no iteration: it is
the time from one of its tokens to the next, the batches of prompts that came between included. How
many come between is chance, so a clock is judged by the gaps that were really there. The work of
each of them is known, and what it takes at every clock is what was measured, scaled by the latency
model; so the same work is gone over again at each level (a counterfactual, or what-if, estimate).

At another clock not the same work would have come between: a cycle, from token to token, that is
longer lets more prompts arrive and more requests run. In the mean that is known. With D the time of
decode in a cycle, rho the share of the time that prompts take, and b requests of which a cycle of C
has C / C' times as many (J. D. C. Little, Operations Research 9, 1961),

    C = D(b C / C') / (1 - rho),

which is a line in C, as an iteration is one in its batch. Prompts are as long as they are, and few
come between two tokens: in a longer cycle so many times as often, each of them taking what it does.
Over many gaps what comes between is so many times as much.

What is late at the fastest clock too is nobody's to keep. What is asked of a level is that of the
tokens no more than a share alpha is late there beyond those that are at the fastest one, and the
same of requests by the mean of their gaps: of runs of so many gaps as requests get. What was
seen is a sample, and the future another one: what is allowed follows from what then is late, as
in an account: what the gaps that are remembered left of their share, beyond what is chance, the
next ones may spend. Where prompts have ceased, nothing that they did to gaps is to come.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from voltana.controllers.runs_of_gaps import requests_late

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.values import FloatArray, Load, Outcome, Table

EVENTS = 10
"""So many late gaps are remembered where a share alpha is late: a standard error of a third."""

MOST_GAPS = 4096
"""No more are remembered, however small alpha is."""


class TokenGaps:
    """Remembers gaps.

    Args:
        levels_mhz: Clocks, ascending, shape (l,).
        threshold_s: What a gap may take.
        alpha: Share that may be late where it would not be at the fastest clock: of the tokens, and
            of the requests by their mean.
        owed_tokens: Tells what a request produces, on average, by now.
    """

    def __init__(
        self,
        levels_mhz: FloatArray,
        threshold_s: float,
        alpha: float,
        *,
        owed_tokens: Callable[[], float],
    ) -> None:
        self._levels = levels_mhz
        self._threshold_s = threshold_s
        self._alpha = alpha
        self._owed_tokens = owed_tokens
        most = min(math.ceil(EVENTS / alpha), MOST_GAPS)
        levels = len(levels_mhz)
        # By gap: decode, prompts that came between, all prompts since the gap before; what was run
        # slowly as it was lost, at whatever level; and at the fastest level all that came
        # between; and what really passed, in the gap and since the gap before.
        self._decode_s = np.zeros((most, levels))
        self._between_s = np.zeros((most, levels))
        self._prompts_s = np.zeros((most, levels))
        self._slow_s = np.zeros(most)
        self._fastest_s = np.zeros(most)
        self._passed_s = np.zeros((most, 2))
        self._batch = np.zeros((most, 2))  # requests, and their KV tokens
        self._level = np.zeros(most, dtype=np.intp)  # that ran where no gap was in danger
        self._planned = alpha * _planned_part(alpha * most)
        self._count = self._since_prompts = 0  # gaps, that of the last prompts included
        self._running: tuple[FloatArray, FloatArray, Load, float] | None = None
        self._waits = self._lost = False
        self._asked = 0
        self._new()

    @property
    def gaps(self) -> int:
        """How many are remembered."""
        return min(self._count, len(self._decode_s))

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
        row: FloatArray = self._decode_s[(self._count - 1) % len(self._decode_s)]
        return row

    def last(self, fastest: tuple[float, float]) -> tuple[float, bool]:
        """The last gap in seconds, and whether no clock would have kept it.

        Args:
            fastest: Growth at the fastest level, and what the batch adds there; see `growth`.
        """
        at = (self._count - 1) % len(self._decode_s)
        lost = bool(self._alone_at_fastest_s(*fastest)[at] > self._threshold_s)
        return float(self._passed_s[at, 0]), lost

    def _alone_at_fastest_s(self, growth: float, batch_s: float) -> FloatArray:
        """Every gap at the fastest level, with what came between as it was."""
        count = self.gaps
        gaps_s: FloatArray = self._fastest_s[:count] + self._decode_s[:count, -1]
        return gaps_s + (growth - 1.0) * batch_s

    def _weights(self) -> FloatArray:
        """Share of the tokens that each gap had: late are tokens, and a batch grows."""
        requests = self._batch[: self.gaps, 0]
        weights: FloatArray = requests / requests.sum()
        return weights

    def late_at_fastest(self, growth: float, batch_s: float) -> float:
        """Share of the gaps that are late at the fastest level: nobody's to keep.

        Args:
            growth: At the fastest level; see `growth`.
            batch_s: Likewise.
        """
        late = self._alone_at_fastest_s(growth, batch_s) > self._threshold_s
        return min(growth * float(self._weights() @ late), 1.0)

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
        at = self._count % len(self._decode_s)
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

    def _new(self) -> None:
        levels = len(self._levels)
        self._between, self._all_s = np.zeros(levels), np.zeros(levels)
        self._gap_s = self._since_s = self._slow = self._fast_s = 0.0

    @property
    def prompts_ceased(self) -> bool:
        """Whether no prompts came for longer than happens by chance with probability alpha.

        By those that are remembered, of which so many came with prompts: then what they were says
        nothing of what is to come (a test for runs of a change: A. Wald, J. Wolfowitz, Annals of
        Mathematical Statistics 11, 1940).
        """
        came = float((self._prompts_s[: self.gaps, -1] > 0.0).mean()) if self.gaps else 0.0
        return bool((1.0 - came) ** max(self._since_prompts - 1, 0) < self._alpha)

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

    def growth(self, share: FloatArray, batch_s: FloatArray) -> FloatArray:
        """How many times as long as now a cycle is at every level; inf where it never settles.

        Args:
            share: See `prompts_share`.
            batch_s: What as many requests again as run would add to a decode iteration.
        """
        count = self.gaps
        decode_s = self._decode_s[:count].mean(axis=0)
        now_s = float(self._passed_s[:count, 0].mean())
        if not now_s > 0.0:  # gaps without any length tell nothing of longer ones
            return np.ones(len(share))
        left = 1.0 - share - batch_s / now_s
        settles = left > 0.0
        cycle_s = np.full(len(share), math.inf)
        np.divide(np.maximum(decode_s - batch_s, 0.0), left, out=cycle_s, where=settles)
        growth: FloatArray = cycle_s / now_s
        return growth

    def left(self, lost: float) -> float:
        """Share that may be late in as many gaps more as can be remembered: what is left.

        Of those that are remembered and of those to come, alpha may be late together; what was late
        by the clock alone is spent. So what is spent is alpha in the long run, whatever the
        estimates are wrong by: of a constant error half stays. Within the standard error of their
        number late gaps are chance, though, which the estimates have counted already: to answer it
        twice moves the clock to and fro, which costs power, for that is convex in the clock.

        Args:
            lost: See `late_at_fastest`.
        """
        count, weights = self.gaps, self._weights()
        late = float(weights @ (self._passed_s[:count, 0] > self._threshold_s))
        saved = self._planned - max(late - lost, 0.0)
        # Of independent events (Poisson's), so many of which weigh as much as these.
        error = math.sqrt(self._planned * float(weights @ weights))
        saved = math.copysign(max(abs(saved) - error, 0.0), saved)
        part = count / len(self._decode_s)
        if part < 1.0:  # what a load that still grows has not missed says nothing of what follows
            saved = min(saved, 0.0)
        return max(self._planned + part * saved, 0.0)

    def lowest(self, growth: FloatArray, batch_s: FloatArray, allowed: float, lost: float) -> int:
        """Index of the slowest level at which, and above which, few enough are late.

        Args:
            growth: See `growth`.
            batch_s: See there.
            allowed: Share that may be late.
            lost: See `late_at_fastest`.
        """
        settles = np.isfinite(growth)
        if not settles[-1]:
            return len(growth) - 1
        first = 0 if settles.all() else len(growth) - int(settles[::-1].argmin())
        gaps_s = self._gaps_s(growth[first:], batch_s[first:], first)
        fastest_s = self._in_order(self._scaled_at_fastest_s(growth[-1], batch_s[-1])[:, None])
        seen = self._late(growth[first:], batch_s[first:], first) - lost
        count = len(gaps_s)
        seen *= self._not_rescued(growth[-1], batch_s[-1])
        tokens = count * seen / (count + self._not_seen()) + self._unseen(gaps_s, fastest_s)
        owed = self._owed_tokens()
        requests = requests_late(gaps_s, fastest_s, tokens, self._threshold_s, owed)
        keeps = (tokens <= allowed) & (requests <= allowed)
        keeps[-1] = True
        slow = np.flatnonzero(~keeps)
        return first + (int(slow[-1]) + 1 if len(slow) else 0)

    def _not_rescued(self, growth: float, batch_s: float) -> float:
        """Of the gaps that their level alone would have made late, the share that were.

        For the others the clock was raised in time, which to go over gaps at one level does not
        tell.
        """
        count, weights = self.gaps, self._weights()
        at = np.arange(count), self._level[:count]
        alone_s = self._between_s[at] + self._slow_s[:count] + self._decode_s[at]
        kept = self._alone_at_fastest_s(growth, batch_s) <= self._threshold_s
        expected = (alone_s > self._threshold_s) & kept
        were = expected & (self._passed_s[:count, 0] > self._threshold_s)
        one = float(weights @ weights)  # an event more, so that none says nothing
        return float((one + weights @ were) / (one + weights @ expected))

    def _not_seen(self) -> float:
        """Gaps in time that late ones are reckoned against beside those that were seen.

        As many as one late one is allowed for: else the first that was late would have a level
        refused until twice as many were seen. What was late is spent; so it costs what is allowed
        for at most, and once.
        """
        return (1.0 - self.gaps / len(self._decode_s)) / self._alpha

    def _unseen(self, gaps_s: Table, fastest_s: Table) -> FloatArray:
        """Probability that the next gap is late at each level, but not at the fastest, as none was.

        Of n + 1 gaps in any order the last is the longest with probability 1 / (n + 1), however
        they are distributed (N. Glick, "Breaking records and breaking boards", American
        Mathematical Monthly 85, 1978). At the fastest level that is as likely of any order of
        length between their mean and the threshold (log-uniform, as of a scale that nobody knows:
        E. T. Jaynes, IEEE Trans. Systems Science and Cybernetics 4, 1968). Late are those that are
        shorter than the threshold by no more than a level makes them longer.
        """
        levels, mean_s = gaps_s.shape[1], float(fastest_s.mean())
        if not mean_s > 0.0:
            return np.zeros(levels)
        longest = 1.0 / (len(gaps_s) + 1)
        orders = math.log(max(self._threshold_s / mean_s, 1.0))
        if not orders:
            return np.full(levels, longest)
        longer = np.log(np.maximum(gaps_s.mean(axis=0) / mean_s, 1.0))
        late: FloatArray = longest * np.minimum(longer / orders, 1.0)
        return late

    def _late(self, growth: FloatArray, batch_s: FloatArray, first: int) -> FloatArray:
        """Share of the gaps that are late at the levels from the first on."""
        count = self.gaps
        alone_s = self._between_s[:count, first:] + self._slow_s[:count, None]
        gaps_s = alone_s + self._decode_s[:count, first:] + (growth - 1.0) * batch_s
        late: FloatArray = self._weights() @ (gaps_s > self._threshold_s)
        return np.minimum(growth * late, 1.0)

    def _scaled_at_fastest_s(self, growth: float, batch_s: float) -> FloatArray:
        """Every gap at the fastest level, with the mean of what then comes between."""
        more: FloatArray = (growth - 1.0) * self._fastest_s[: self.gaps]
        return self._alone_at_fastest_s(growth, batch_s) + more

    def _gaps_s(self, growth: FloatArray, batch_s: FloatArray, first: int) -> Table:
        """Every gap at the levels from the first on, in the order of time."""
        count = self.gaps
        between_s = self._between_s[:count, first:] * growth + self._slow_s[:count, None]
        gaps_s = between_s + self._decode_s[:count, first:] + (growth - 1.0) * batch_s
        return self._in_order(gaps_s)

    def _in_order(self, of_gaps: Table) -> Table:
        """What is remembered of gaps, in the order of time."""
        count, most = self._count, len(self._decode_s)
        if count <= most:
            return of_gaps[:count]
        return np.roll(of_gaps, -(count % most), axis=0)


def _planned_part(events: float) -> float:
    """Part of what may be late that is planned for, where so many late gaps are remembered.

    What then comes is within a standard error of it (Poisson's) as a rule, and that at most what
    may be: x + sqrt(x / events) = 1.
    """
    half = 0.5 / math.sqrt(events)
    return (math.sqrt(1.0 + half * half) - half) ** 2
