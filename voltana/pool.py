"""Pool: candidates, and what routers have worked out of each, kept until the instance changes.

Between two decisions few of many instances have changed. A column holds what a router makes of each
candidate whatever the request is; only the rows of those that differ from before are made again. So
a decision costs comparisons of plain numbers, and the models are asked about changes alone.

What changes with every look, the ages, is in no column: `Candidate.state_age_s` and
`Candidate.reserved_for_s` are noted as they are shown. For how long a batch of prompts has run is
of its state: what is yet to compute of it is another with every look.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import compress
from operator import attrgetter, is_not, itemgetter
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

from voltana.values import Candidate, Need

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from voltana.values import Table

_T = TypeVar("_T")

NAME: Callable[[Candidate], str] = attrgetter("instance")

MOST_KNOWN = 65_536
"""Instances of which a router remembers anything beside a pool; with fewer than a cluster has, it
would be forgotten before it is asked for again."""

_SEEN_BY_ALL = (
    "instance",
    "role",
    "state",
    "reserved",
    "in_flight",
    "ends_per_s",
    "ended_meanwhile",
    "held",
    "host_s",
)
_VALUES = {
    Need.LEVELS: ("levels_mhz",),
    Need.BUDGET: ("budget_s", "ttft_s"),
    Need.KV_CAPACITY: (
        "kv_capacity_tokens",
        "kv_reserved_tokens",
        "max_running_requests",
        "max_batch_tokens",
        "prompts_first",
    ),
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
        # Mostly one of these differs: plain numbers, before whole values are compared.
        now, then = one.state, other.state
        if (
            one.in_flight != other.in_flight
            or now.kv_tokens != then.kv_tokens
            or now.queued_tokens != then.queued_tokens
            or now.computing_for_s != then.computing_for_s
        ):
            return False
        for model in models:
            if model(one) is not model(other):
                return False
        return bool(values(one) == values(other))

    return same


def _as_table(rows: Iterable[object]) -> Table:
    """Rows of numbers as an array."""
    return np.array(list(rows), dtype=np.float64)


class _Column:
    """Values of all candidates, and how many of the changes they have taken in."""

    __slots__ = ("seen", "values")

    def __init__(self, values: list[object] | Table, seen: int) -> None:
        self.values: Any = values
        self.seen = seen


_MOST_CHANGES = 64
"""Changes that are remembered for each candidate; what has not been read since is made anew."""


class KeptPool:
    """What a router keeps of the candidates that it was shown last; copies of it start empty.

    Args:
        needs: What the router, and those that it hands a pool on to, read beyond the state.

    Attributes:
        shown: The candidates, as they were shown; to be read alone.
        oldest_s: Age of the oldest of their reports; inf where one is no number.
        reserved_for_s: `Candidate.reserved_for_s` of each; to be read alone.
        in_flight: `Candidate.in_flight` of each, likewise.
    """

    def __init__(self, needs: Collection[Need]) -> None:
        self._needs = needs
        self._same = _compared(needs)
        self.shown: list[Candidate] = []
        self._columns: dict[Callable[[Candidate], object], _Column] = {}
        self._changes: list[int] = []  # places, in the order in which they changed
        self._ranks: list[int] | None = None
        self._ages_s: list[float] = []
        self._whole = Pool(self, None)
        self.oldest_s = -math.inf
        self.reserved_for_s: list[float] = []
        self.in_flight: list[int] = []

    def of(self, candidates: Sequence[Candidate]) -> Pool:
        """The candidates of a decision as a pool; one that an outer router has made is taken."""
        if type(candidates) is Pool:  # which nothing is derived from
            return candidates
        shown = list(candidates)
        if len(shown) == len(self.shown):
            self._note_changes(shown)
        else:
            self._columns.clear()
            self._changes.clear()
            self._ranks = None
            self._ages_s = [candidate.state_age_s for candidate in shown]
            self.reserved_for_s = [candidate.reserved_for_s for candidate in shown]
            self.in_flight = [candidate.in_flight for candidate in shown]
        self.shown = shown
        # What is no number has no place in an order, but leaves none to a sum.
        unknown = math.isnan(sum(self._ages_s))
        self.oldest_s = math.inf if unknown else max(self._ages_s, default=-math.inf)
        return self._whole

    def _note_changes(self, shown: list[Candidate]) -> None:
        last, same, changes = self.shown, self._same, self._changes
        ages_s, reserved_for_s, in_flight = self._ages_s, self.reserved_for_s, self.in_flight
        for place in compress(range(len(shown)), map(is_not, shown, last)):
            one, before = shown[place], last[place]
            ages_s[place], reserved_for_s[place] = one.state_age_s, one.reserved_for_s
            if not same(one, before):
                changes.append(place)
                in_flight[place] = one.in_flight
                if one.instance != before.instance:
                    self._ranks = None
        if len(changes) > _MOST_CHANGES * len(shown):
            self._forget_changes()

    def _forget_changes(self) -> None:
        """Keep the newest of them; columns that have not been read for longer go with the rest.

        A decision adds one for each candidate at most, so none that is read in each goes.
        """
        late = len(self._changes) - len(self.shown)
        self._columns = {
            make: _Column(column.values, column.seen - late)
            for make, column in self._columns.items()
            if column.seen >= late
        }
        self._changes = self._changes[late:]

    @property
    def ranks(self) -> list[int]:
        """The rank of each by its name, from 0."""
        if self._ranks is None:
            names = list(map(NAME, self.shown))
            self._ranks = [0] * len(names)
            for rank, place in enumerate(sorted(range(len(names)), key=names.__getitem__)):
                self._ranks[place] = rank
        return self._ranks

    def values(
        self,
        make: Callable[..., object],
        on: Callable[..., object] | None,
        gather: Callable[[Iterable[object]], list[object] | Table],
    ) -> Any:
        """The column of all candidates that `Pool.column` and `Pool.table` have.

        Args:
            make: See there.
            on: Likewise.
            gather: Makes one of the values of all.
        """
        column, changed = self._columns.get(make), len(self._changes)
        if column is None:
            below = () if on is None else (self.values(on, None, list),)
            made = gather(map(make, self.shown, *below))
            column = self._columns[make] = _Column(made, changed)
        elif column.seen != changed:
            values, shown = column.values, self.shown
            if on is None:
                for place in self._changes[column.seen :]:
                    values[place] = make(shown[place])
            else:
                below_values = self.values(on, None, list)
                for place in self._changes[column.seen :]:
                    values[place] = make(shown[place], below_values[place])
            column.seen = changed
        return column.values

    def __reduce__(self) -> tuple[type[KeptPool], tuple[Collection[Need]]]:
        return KeptPool, (self._needs,)


class Pool(Sequence[Candidate]):
    """All candidates of a decision, or some of them; holds for that decision.

    Args:
        kept: All of them.
        places: Which of them, in their order; None for all.
    """

    __slots__ = ("_kept", "_places", "_some")

    def __init__(self, kept: KeptPool, places: Sequence[int] | None) -> None:
        self._kept = kept
        self._places = places
        self._some = itemgetter(*places) if places is not None and len(places) > 1 else None

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
        shown, own = self._kept.shown, self._places
        if own is None:
            return shown[index]
        return shown[own[index]] if isinstance(index, int) else self._of(shown)[index]

    def column(self, make: Callable[..., _T], on: Callable[..., object] | None = None) -> list[_T]:
        """What `make` yields for each candidate; to be read alone.

        Args:
            make: A pure function, or a method of a router, of anything but the ages.
            on: What makes another column, without one below it, whose value `make` is given as
                well: so that what several need of a candidate is worked out once.
        """
        whole: list[_T] = self._kept.values(make, on, list)
        return whole if self._places is None else self._of(whole)

    def table(
        self, make: Callable[..., Sequence[float]], on: Callable[..., object] | None = None
    ) -> Table:
        """A column of so many numbers for each candidate, shape (n, k); to be read alone.

        Args:
            make: As in `column`; always as many numbers.
            on: As there.
        """
        whole: Table = self._kept.values(make, on, _as_table)
        return whole if self._places is None else whole[self._places]

    def take(self, places: Iterable[int]) -> Pool:
        """Some of its candidates, by their places in it."""
        own, some = self._places, list(places)
        return Pool(self._kept, some if own is None else [own[place] for place in some])

    def reserved_for_s(self) -> list[float]:
        """How long the oldest that is reserved for each has waited, as they are shown now."""
        return self._of(self._kept.reserved_for_s)

    def in_flight(self) -> list[int]:
        """What is in flight to each; to be read alone."""
        return self._of(self._kept.in_flight)

    def busiest(self) -> Candidate:
        """The one with most in flight, the first by name of equals."""
        in_flight = self.in_flight()
        return self[self._first_of(max(in_flight), in_flight)]

    def take_busiest(self, count: int) -> Pool:
        """So many of those with most in flight, the first by name of equals; in the same order."""
        in_flight = self.in_flight()
        least = sorted(in_flight, reverse=True)[count - 1]
        chosen = list(compress(range(len(in_flight)), map(least.__le__, in_flight)))
        if len(chosen) > count:
            ranks = self._of(self._kept.ranks)
            equals = [place for place in chosen if in_flight[place] == least]
            equals.sort(key=ranks.__getitem__)
            left_out = set(equals[count - len(chosen) :])
            chosen = [place for place in chosen if place not in left_out]
        return self.take(chosen)

    def fresh(self, max_age_s: float) -> bool:
        """Whether no report is older than that."""
        return self._kept.oldest_s <= max_age_s or (
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
        if self._some is not None:
            return list(self._some(whole))
        places = self._places
        return whole if places is None else [whole[place] for place in places]
