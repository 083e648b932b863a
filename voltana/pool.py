"""Pool: candidates, and what routers have worked out of each, kept until the instance changes.

Between two decisions few of many instances have changed. A column holds what a router makes of each
candidate whatever the request is; only the rows of those that differ from before are made again. So
a decision costs comparisons of plain numbers, and the models are asked about changes alone.

What changes with every look, the ages, is in no column: `Candidate.state_age_s` and
`Candidate.reserved_for_s` are read when they count.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from operator import attrgetter, is_not
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

from voltana.values import Candidate, Need

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from voltana.values import Table

_T = TypeVar("_T")

NAME: Callable[[Candidate], str] = attrgetter("instance")
IN_FLIGHT: Callable[[Candidate], int] = attrgetter("in_flight")

_SEEN_BY_ALL = ("instance", "role", "state", "reserved", "in_flight", "held")
_VALUES = {
    Need.LEVELS: ("levels_mhz",),
    Need.BUDGET: ("budget_s",),
    Need.KV_CAPACITY: ("kv_capacity_tokens", "kv_reserved_tokens"),
}
_MODELS = {Need.LATENCY: "predictor", Need.POWER: "power"}


def _compared(needs: Collection[Need]) -> Callable[[Candidate, Candidate], bool]:
    """Whether candidates differ in nothing that is needed but their ages, as a function.

    Models are compared by identity.
    """
    values = attrgetter(
        *_SEEN_BY_ALL, *(name for n in _VALUES if n in needs for name in _VALUES[n])
    )
    models = [attrgetter(name) for need, name in _MODELS.items() if need in needs]

    def same(one: Candidate, other: Candidate) -> bool:
        for model in models:
            if model(one) is not model(other):
                return False
        return bool(values(one) == values(other))

    return same


def _as_table(rows: Iterable[object]) -> Table:
    """Rows of numbers as an array."""
    return np.array(list(rows), dtype=np.float64)


class _Column:
    """Values of all candidates, and the places of those that are out of date."""

    __slots__ = ("stale", "values")

    def __init__(self, values: list[object] | Table) -> None:
        self.values: Any = values
        self.stale: set[int] = set()


class KeptPool:
    """What a router keeps of the candidates that it was shown last; copies of it start empty.

    Args:
        needs: What the router, and those that it hands a pool on to, read beyond the state.
    """

    def __init__(self, needs: Collection[Need]) -> None:
        self._needs = needs
        self._same = _compared(needs)
        self._shown: list[Candidate] = []
        self._columns: dict[Callable[[Candidate], object], _Column] = {}
        self._ranks: list[int] | None = None
        self._fresh: dict[float, bool] = {}

    def of(self, candidates: Sequence[Candidate]) -> Pool:
        """The candidates of a decision as a pool; one that an outer router has made is taken."""
        if isinstance(candidates, Pool):
            return candidates
        shown = list(candidates)
        if len(shown) == len(self._shown):
            self._note_changes(shown)
        else:
            self._columns.clear()
            self._ranks = None
        self._shown = shown
        self._fresh.clear()
        return Pool(self, None)

    def _note_changes(self, shown: list[Candidate]) -> None:
        changed, last = [], self._shown
        for place in compress(range(len(shown)), map(is_not, shown, last)):
            if not self._same(shown[place], last[place]):
                changed.append(place)
                if shown[place].instance != last[place].instance:
                    self._ranks = None
        if changed:
            for column in self._columns.values():
                column.stale.update(changed)

    @property
    def shown(self) -> list[Candidate]:
        """The candidates, as they were shown."""
        return self._shown

    @property
    def ranks(self) -> list[int]:
        """The rank of each by its name, from 0."""
        if self._ranks is None:
            names = list(map(NAME, self._shown))
            self._ranks = [0] * len(names)
            for rank, place in enumerate(sorted(range(len(names)), key=names.__getitem__)):
                self._ranks[place] = rank
        return self._ranks

    def fresh(self, max_age_s: float) -> bool:
        """Whether no report is older than that; looked up once a decision."""
        known = self._fresh.get(max_age_s)
        if known is None:
            known = False not in [candidate.state_age_s <= max_age_s for candidate in self._shown]
            self._fresh[max_age_s] = known
        return known

    def column(self, make: Callable[..., _T], on: Callable[..., object] | None = None) -> list[_T]:
        """See `Pool.column`."""
        values: list[_T] = self._values(make, on, list)
        return values

    def table(
        self, make: Callable[..., Sequence[float]], on: Callable[..., object] | None = None
    ) -> Table:
        """See `Pool.table`."""
        values: Table = self._values(make, on, _as_table)
        return values

    def _values(
        self,
        make: Callable[..., object],
        on: Callable[..., object] | None,
        gather: Callable[[Iterable[object]], list[object] | Table],
    ) -> Any:
        column = self._columns.get(make)
        if column is None:
            below = () if on is None else (self.column(on),)
            column = self._columns[make] = _Column(gather(map(make, self._shown, *below)))
        elif column.stale:
            values, shown = column.values, self._shown
            if on is None:
                for place in column.stale:
                    values[place] = make(shown[place])
            else:
                below_values = self.column(on)
                for place in column.stale:
                    values[place] = make(shown[place], below_values[place])
            column.stale.clear()
        return column.values

    def __reduce__(self) -> tuple[type[KeptPool], tuple[Collection[Need]]]:
        return KeptPool, (self._needs,)


class Pool(Sequence[Candidate]):
    """All candidates of a decision, or some of them; holds for that decision.

    Args:
        kept: All of them.
        places: Which of them, in their order; None for all.
    """

    __slots__ = ("_kept", "_places")

    def __init__(self, kept: KeptPool, places: Sequence[int] | None) -> None:
        self._kept = kept
        self._places = places

    def __len__(self) -> int:
        return len(self._kept.shown if self._places is None else self._places)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._of(self._kept.shown))

    @overload
    def __getitem__(self, index: int) -> Candidate: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Candidate]: ...
    def __getitem__(self, index: int | slice) -> Candidate | Sequence[Candidate]:
        """The candidate at `index`."""
        own = self._places
        if own is not None and isinstance(index, int):
            return self._kept.shown[own[index]]
        return self._of(self._kept.shown)[index]

    def column(self, make: Callable[..., _T], on: Callable[..., object] | None = None) -> list[_T]:
        """What `make` yields for each candidate; to be read alone.

        Args:
            make: A pure function, or a method of a router, of anything but the ages.
            on: What makes another column, without one below it, whose value `make` is given as
                well: so that what several need of a candidate is worked out once.
        """
        return self._of(self._kept.column(make, on))

    def table(
        self, make: Callable[..., Sequence[float]], on: Callable[..., object] | None = None
    ) -> Table:
        """A column of so many numbers for each candidate, shape (n, k); to be read alone.

        Args:
            make: As in `column`; always as many numbers.
            on: As there.
        """
        whole = self._kept.table(make, on)
        return whole if self._places is None else whole[self._places]

    def take(self, places: Iterable[int]) -> Pool:
        """Some of its candidates, by their places in it."""
        own = self._places
        return Pool(self._kept, list(places) if own is None else [own[place] for place in places])

    def busiest(self) -> Candidate:
        """The one with most in flight, the first by name of equals."""
        in_flight = self.column(IN_FLIGHT)
        return self[self._first_of(max(in_flight), in_flight)]

    def take_busiest(self, count: int) -> Pool:
        """So many of those with most in flight, the first by name of equals; in the same order."""
        ranks, in_flight = self._of(self._kept.ranks), self.column(IN_FLIGHT)
        base = len(self._kept.shown)
        keys = [rank - base * most for rank, most in zip(ranks, in_flight, strict=True)]
        last = sorted(keys)[count - 1]
        return self.take([place for place, key in enumerate(keys) if key <= last])

    def fresh(self, max_age_s: float) -> bool:
        """Whether no report is older than that."""
        return self._kept.fresh(max_age_s) or (
            self._places is not None
            and all(candidate.state_age_s <= max_age_s for candidate in self)
        )

    def first_of_least(self, values: Sequence[float]) -> str:
        """Name of the candidate with the least value, the first name of equals."""
        return self[self._first_of(min(values), values)].instance

    def _first_of(self, value: float, values: Sequence[float]) -> int:
        """The place of a value, of the first by name where several have it."""
        if values.count(value) == 1:  # mostly
            return values.index(value)
        names = self.column(NAME)
        equals = [place for place, other in enumerate(values) if other == value]
        return min(equals, key=names.__getitem__)

    def _of(self, whole: list[_T]) -> list[_T]:
        places = self._places
        return whole if places is None else [whole[place] for place in places]
