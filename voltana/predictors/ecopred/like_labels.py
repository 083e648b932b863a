"""LikeLabels: labels of iterations that hardly differ, gathered to be learned as one.

A label of a load and a clock that are known well moves the model by little, and least squares make
no difference between n labels of one regressor and their mean with an n-th of the variance (the
sufficient statistic). The latency is linear in its features, so the same holds of the mean of
regressors that hardly differ: what is lost is what the differences would have told.
"""

from __future__ import annotations

LIKE = 0.04
"""Share by which features may differ: with it, what they add to the latency differs by less than
its noise."""

LIKE_CLOCK = 0.005
"""The same of the clock: what a device wobbles by at one level."""


class LikeLabels:
    """Gathers labels of decode batches; empty at first.

    Attributes:
        latencies_s: The labels gathered.
    """

    __slots__ = (
        "_clock_mhz", "_first", "_kv_tokens", "_most_off_s", "_read", "_rows", "latencies_s",
    )  # fmt: skip

    def __init__(self) -> None:
        self.latencies_s: list[float] = []
        self._first: list[float] = []
        self._rows = self._read = self._kv_tokens = 0.0
        self._clock_mhz = self._most_off_s = 0.0

    def begin(
        self, features: list[float], clock_mhz: float, latency_s: float, *, most_off: float
    ) -> None:
        """Gather anew, from this label on.

        Args:
            features: See `voltana.predictors.ecopred.features.decode_features`; kept.
            clock_mhz: The clock achieved.
            latency_s: The label.
            most_off: Share of it by which labels differ that do not stand out.
        """
        self._first = features
        _, self._rows, _, _, self._read, self._kv_tokens = features
        self._clock_mhz, self._most_off_s = clock_mhz, most_off * latency_s
        self.latencies_s = [latency_s]

    def add(self, features: list[float], clock_mhz: float, latency_s: float) -> bool:
        """Gather a label if it is like those gathered and does not stand out; say whether."""
        labels = self.latencies_s
        if not labels:
            return False
        # Without a loop: this is what most labels cost.
        _, rows, half_tiles, _, read, kv_tokens = features
        _, first_rows, first_half_tiles, _, first_read, first_kv_tokens = self._first
        if not (
            half_tiles == first_half_tiles  # the latency steps there
            and -self._most_off_s <= latency_s - labels[0] <= self._most_off_s
            and abs(clock_mhz - self._clock_mhz) <= LIKE_CLOCK * clock_mhz
            and abs(kv_tokens - first_kv_tokens) <= LIKE * first_kv_tokens
            and abs(rows - first_rows) <= LIKE * first_rows
            and abs(read - first_read) <= LIKE * first_read
        ):
            return False
        self._rows += rows
        self._read += read
        self._kv_tokens += kv_tokens
        labels.append(latency_s)
        return True

    def take(self) -> tuple[list[float], float, list[float]]:
        """Their mean features, their clock, and the labels; nothing is gathered afterwards."""
        labels, self.latencies_s = self.latencies_s, []
        n = len(labels)
        iteration, _, half_tiles, tiles, _, _ = self._first
        mean = [iteration, self._rows / n, half_tiles, tiles, self._read / n, self._kv_tokens / n]
        return mean, self._clock_mhz, labels
