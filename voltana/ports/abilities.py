"""How an ability beside a port is asked for, and those that any component may have."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Protocol, TypeGuard, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping

_T = TypeVar("_T")


def offers(thing: object, port: type[_T]) -> TypeGuard[_T]:
    """Whether something satisfies a port of methods alone; its class is asked once.

    ``isinstance`` with a Protocol takes longer than most of what would be asked of it then.
    """
    kind: type = thing.__class__
    return _offers(kind, port)  # type: ignore[arg-type]  # a type is hashable


@functools.cache
def _offers(kind: type, port: type) -> bool:
    return issubclass(kind, port)


@runtime_checkable
class Reopens(Protocol):
    """What a predictor is beside that if what it learned can be doubted, as on drift."""

    def reopen(self, factor: float = 100.0, relative_error: float = 0.3) -> None:
        """Widen the bound to at least `relative_error` and let the coefficients move again."""
        ...


@runtime_checkable
class Restorable(Protocol):
    """What a predictor is beside that if an agent can keep what it learned over a restart."""

    def to_dict(self) -> Mapping[str, object]:
        """What it learned, as plain JSON values."""
        ...

    def restore(self, values: Mapping[str, object]) -> None:
        """Learn what `to_dict` of an earlier one gave."""
        ...


@runtime_checkable
class Closable(Protocol):
    """What a sensor is beside that if it holds something of the device."""

    def close(self) -> None:
        """Let go of it; may be called twice."""
        ...
