"""A frozen conformal bound, as routers see it, and how a margin becomes a bound."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from voltana.operating import prefill_mean
from voltana.ports import TellsExpected, TellsPrefill, offers
from voltana.predictors.conformal.groups import decode_group, decode_groups
from voltana.predictors.conformal.room import MeanLine, most_within
from voltana.promise import bound_on
from voltana.values import Forecast, Load
from voltana.viability import forecast_batches
from voltana_actuatord.quick import maker, tuple_maker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from voltana.ports import Forecasts, PredictorSnapshot
    from voltana.predictors.conformal.groups import Rows
    from voltana.values import FloatArray, Table


make_forecast = maker(Forecast)

Known = bool | np.ndarray[Any, np.dtype[np.bool_]]
"""Whether a bound may stand on a mean: everywhere or nowhere, or clock by clock."""

_MOST_ROOMS = 1024
"""Answers that a snapshot remembers: batches and levels that are asked for are few."""

_Shape = TypeVar("_Shape", bound=tuple[int, ...])


@runtime_checkable
class TellsMean(Protocol):
    """A predictor, or a snapshot, that tells its mean for less than a whole forecast."""

    def forecast_mean(self, load: Load, clocks_mhz: FloatArray) -> tuple[FloatArray, Known]:
        """The mean that `forecast` has, and where its bound is finite; mutates nothing.

        Args:
            load: What the iteration computes.
            clocks_mhz: Shape (n,), ascending.
        """
        ...


@runtime_checkable
class TellsBatchMeans(Protocol):
    """What tells the means of many decode batches for less than their bounds."""

    def batch_means(
        self, requests: FloatArray, kv_tokens: FloatArray, clocks_mhz: FloatArray
    ) -> tuple[Table, Known]:
        """The means that `forecast_batches` has, and of which batches the bound is finite.

        Arguments are those of `voltana.ports.TellsBatches`; the latter has shape (b, 1).
        """
        ...


class MeanCurve(Protocol):
    """Expected latency of one load against the clock, with which it never rises."""

    @property
    def known(self) -> bool:
        """Whether a bound may stand on it."""
        ...

    def mean_s(self, clock_mhz: float) -> float:
        """Expected latency at one clock."""
        ...


@runtime_checkable
class TellsMeanCurve(Protocol):
    """A snapshot whose mean costs less at a few clocks than a forecast of many."""

    def mean_curve(self, load: Load) -> MeanCurve | None:
        """The mean that `forecast` has, up to rounding; None where it may rise with the clock."""
        ...


@runtime_checkable
class TellsMeanLine(Protocol):
    """A snapshot whose mean is linear in what a decode batch holds in its KV caches."""

    def mean_line(self, requests: int, clock_mhz: float) -> MeanLine | None:
        """The mean of `mean_curve` at one clock; None where it is not known, or may fall."""
        ...

    def alike(self, requests: int) -> int:
        """A number that batches share of which `mean_line` says the same: as those padded alike."""
        ...


def mean_of(
    predictor: Forecasts, told: TellsMean | None, load: Load, clocks_mhz: FloatArray
) -> tuple[FloatArray, Known]:
    """The mean of a predictor and where a bound may stand on it, as cheaply as it tells them."""
    if told is not None:
        return told.forecast_mean(load, clocks_mhz)
    made = predictor.forecast(load, clocks_mhz)
    return made.mean_s, made.upper_s < math.inf


def teller(predictor: Forecasts) -> TellsMean | None:
    """`predictor`, if it tells its mean alone."""
    return predictor if offers(predictor, TellsMean) else None


def upper_bound(
    mean_s: np.ndarray[_Shape, np.dtype[np.float64]],
    known: Known,
    quantile: float | FloatArray,
    offset_s: float,
) -> np.ndarray[_Shape, np.dtype[np.float64]]:
    """The bound ``m + q * (m + m0)``; infinite where the mean is not `known`.

    Args:
        mean_s: m, shape (n,), or (b, n) of many loads.
        known: Where a bound may stand on it.
        quantile: q, for all clocks or each.
        offset_s: m0.
    """
    if known is False:
        return np.full_like(mean_s, math.inf)
    upper_s: np.ndarray[_Shape, np.dtype[np.float64]] = mean_s + offset_s  # type: ignore[assignment]
    upper_s *= quantile
    upper_s += mean_s
    if known is not True:
        # A slow or unknown end of the forecast is bounded by nothing that was learned.
        np.copyto(upper_s, math.inf, where=~known)
    if not isinstance(quantile, float) or quantile < 0.0:
        np.maximum(upper_s, mean_s, out=upper_s)
    return upper_s


def upper_bounds(
    mean_s: Table,
    known: Known,
    margins: Sequence[tuple[float | FloatArray, Rows]],
    offset_s: float,
) -> Table:
    """`upper_bound` of many loads, of which some have one margin and some another.

    Args:
        mean_s: m, shape (b, n).
        known: Where a bound may stand on it.
        margins: Each q, for all clocks or each, and the loads that have it.
        offset_s: m0.
    """
    if len(margins) == 1:  # as without a group of the user's own
        return upper_bound(mean_s, known, margins[0][0], offset_s)
    upper_s = np.empty_like(mean_s)
    for margin, rows in margins:
        there = known if isinstance(known, bool) else known[rows]
        upper_s[rows] = upper_bound(mean_s[rows], there, margin, offset_s)
    return upper_s


class BoundCurve(NamedTuple):
    """A mean and the bound on it, a `voltana.ports.LatencyCurve`.

    Attributes:
        mean: The mean.
        quantile: q, the same at all clocks.
        offset_s: m0.
    """

    mean: MeanCurve
    quantile: float
    offset_s: float

    def mean_s(self, clock_mhz: float) -> float:
        """See `voltana.ports.LatencyCurve.mean_s`."""
        return self.mean.mean_s(clock_mhz)

    def upper_s(self, clock_mhz: float) -> float:
        """See `voltana.ports.LatencyCurve.upper_s`."""
        mean, quantile, offset_s = self
        if not mean.known:
            return math.inf
        mean_s = mean.mean_s(clock_mhz)
        upper_s = bound_on(mean_s, quantile, offset_s)
        return upper_s if upper_s > mean_s else mean_s


make_curve = tuple_maker(BoundCurve)


def group_names(group: str, edges_mhz: Sequence[float]) -> Sequence[str]:
    """Names of the groups that `edges_mhz` part a group into, by ascending clocks."""
    if not edges_mhz:
        return (group,)
    return [f"{group} from {start:g} MHz" for start in (0.0, *edges_mhz)]


def at_clocks(
    quantiles: Sequence[float], edges_mhz: Sequence[float], clocks_mhz: FloatArray
) -> float | FloatArray:
    """The margin at every clock, where `edges_mhz` part them; one for all without edges."""
    if not edges_mhz:
        return quantiles[0]
    each: FloatArray = np.array(quantiles)[np.searchsorted(edges_mhz, clocks_mhz, side="right")]
    return each


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConformalSnapshot:
    """Satisfies `voltana.ports.PredictorSnapshot`; it forecasts, and issues no promise.

    Attributes:
        predictor: Snapshot of the wrapped predictor.
        quantiles: Margin of each group, and of new ones under an empty name; empty while cold.
        q_cert: Greatest margin that certifies.
        widened: The least margin that bounds are issued with.
        offset_s: m0.
        group: Names the group of a load.
        edges_mhz: Clocks that part each group further.
    """

    predictor: PredictorSnapshot
    quantiles: Mapping[str, float]
    q_cert: float
    widened: float
    offset_s: float
    group: Callable[[Load], str]
    edges_mhz: tuple[float, ...]
    _told: TellsMean | None = field(init=False, repr=False)
    _curves: TellsMeanCurve | None = field(init=False, repr=False)
    _lines: TellsMeanLine | None = field(init=False, repr=False)
    _expects: TellsExpected | None = field(init=False, repr=False)
    _prefill_mean: Callable[[float], Callable[[int, float], float]] = field(init=False, repr=False)
    _decode_group: str | None = field(init=False, repr=False)
    _decode: float = field(init=False, repr=False)
    _room: dict[tuple[int, float, float], int | None] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        """Ask once what the predictor tells for less than a forecast."""
        predictor = self.predictor
        object.__setattr__(self, "_told", teller(predictor))
        tells = not self.edges_mhz and offers(predictor, TellsMeanCurve)
        object.__setattr__(self, "_curves", predictor if tells else None)
        tells = not self.edges_mhz and offers(predictor, TellsExpected)
        object.__setattr__(self, "_expects", predictor if tells else None)
        means = partial(prefill_mean, predictor)
        told = predictor.prefill_mean if offers(predictor, TellsPrefill) else means
        object.__setattr__(self, "_prefill_mean", told)
        group = decode_group(self.group)
        lines = predictor if group is not None and offers(predictor, TellsMeanLine) else None
        object.__setattr__(self, "_lines", None if self.edges_mhz else lines)
        object.__setattr__(self, "_decode_group", group)
        object.__setattr__(self, "_decode", math.inf if group is None else self._open(group))

    def forecast(self, load: Load, clocks_mhz: FloatArray) -> Forecast:
        """See `voltana.ports.Forecasts.forecast`."""
        mean_s, known = mean_of(self.predictor, self._told, load, clocks_mhz)
        quantile = self._margin(self.group(load), clocks_mhz)
        upper_s = upper_bound(mean_s, known, quantile, self.offset_s)
        return make_forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=upper_s)

    def forecast_batches(
        self, requests: FloatArray, kv_tokens: FloatArray, clocks_mhz: FloatArray
    ) -> tuple[Table, Table]:
        """See `voltana.ports.TellsBatches`."""
        mean_s, known = self._batch_means(requests, kv_tokens, clocks_mhz)
        groups = decode_groups(self.group, self._decode_group, requests, kv_tokens)
        margins = [(self._margin(name, clocks_mhz), rows) for name, rows in groups]
        return mean_s, upper_bounds(mean_s, known, margins, self.offset_s)

    def _margin(self, group: str, clocks_mhz: FloatArray) -> float | FloatArray:
        """The margin of a group as it bounds, for all clocks or each."""
        opened = list(map(self._open, group_names(group, self.edges_mhz)))
        return at_clocks(opened, self.edges_mhz, clocks_mhz)

    def _batch_means(
        self, requests: FloatArray, kv_tokens: FloatArray, clocks_mhz: FloatArray
    ) -> tuple[Table, Known]:
        """Means of decode batches, and where a bound may stand on them."""
        if offers(self.predictor, TellsBatchMeans):
            return self.predictor.batch_means(requests, kv_tokens, clocks_mhz)
        mean_s, upper_s = forecast_batches(self.predictor, requests, kv_tokens, clocks_mhz)
        return mean_s, upper_s < math.inf

    def curve(self, load: Load) -> BoundCurve | None:
        """See `voltana.ports.TellsCurve.curve`; None where margins differ between clocks."""
        mean = None if self._curves is None else self._curves.mean_curve(load)
        if mean is None:
            return None
        whole = self._decode_group is not None and not load.prefill_tokens
        return make_curve(
            mean, self._decode if whole else self._open(self.group(load)), self.offset_s
        )

    def expected_s(self, load: Load, clock_mhz: float) -> float:
        """See `voltana.ports.TellsExpected`."""
        if self._expects is not None:
            return self._expects.expected_s(load, clock_mhz)
        return float(self.forecast(load, np.array([clock_mhz])).mean_s[0])

    def most_kv_tokens(self, requests: int, clock_mhz: float, budget_s: float) -> int | None:
        """See `voltana.ports.TellsRoom`."""
        lines, known = self._lines, self._room
        if lines is None or not budget_s < math.inf:
            return None
        question = lines.alike(requests), clock_mhz, budget_s
        if question in known:
            return known[question]
        if len(known) >= _MOST_ROOMS:
            known.clear()
        line = lines.mean_line(requests, clock_mhz)
        known[question] = most = (
            None if line is None else most_within(line, self._decode, self.offset_s, budget_s)
        )
        return most

    def prefill_mean(self, clock_mhz: float) -> Callable[[int, float], float]:
        """See `voltana.ports.TellsPrefill`."""
        return self._prefill_mean(clock_mhz)

    def to_dict(self) -> Mapping[str, object]:
        """Plain JSON values: the predictor's, and the margins by group."""
        return {
            "predictor": dict(self.predictor.to_dict()),
            "quantiles": dict(self.quantiles),
            "q_cert": self.q_cert,
            "widened": self.widened,
            "offset_s": self.offset_s,
            "edges_mhz": list(self.edges_mhz),
        }

    @classmethod
    def from_dict(
        cls,
        values: Mapping[str, object],
        predictor: PredictorSnapshot,
        group: Callable[[Load], str],
    ) -> ConformalSnapshot:
        """Read what `to_dict` wrote.

        Args:
            values: What it wrote.
            predictor: The wrapped snapshot, read from ``values["predictor"]`` by its own class.
            group: Names the group of a load, as it did there.

        Raises:
            KeyError: If a key is missing.
            TypeError: If a value is of another kind.
        """
        quantiles, edges = values["quantiles"], values["edges_mhz"]
        if not (isinstance(quantiles, dict) and isinstance(edges, list)):
            raise TypeError("quantiles must be a table and edges_mhz a list")
        return cls(
            predictor=predictor,
            quantiles=quantiles,
            q_cert=float(str(values["q_cert"])),
            widened=float(str(values["widened"])),
            offset_s=float(str(values["offset_s"])),
            group=group,
            edges_mhz=tuple(edges),
        )

    def _open(self, group: str) -> float:
        """The margin of a group as it bounds; inf if it may not certify."""
        quantile = self.quantiles.get(group, self.quantiles.get("", math.inf))
        return max(quantile, self.widened) if quantile <= self.q_cert else math.inf
