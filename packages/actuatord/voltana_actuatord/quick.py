"""Frozen dataclasses that take half of the time to make.

Values are made dozens of times in an iteration. The standard library's `__init__` of a frozen class
stores each field by a call of `object.__setattr__`, which looks the field up by name; the one made
here stores it by a call of the field's own slot.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")
_T = TypeVar("_T")

_MAKERS: dict[object, object] = {}
"""The makers of the classes that were given a quicker `__init__`."""

_TWINS: dict[object, type] = {}
"""Their twins; see `maker`."""


def quickly_made(cls: type[_T]) -> type[_T]:
    """Give a dataclass that is frozen, keyword-only and slotted an `__init__` that is quicker.

    Nothing else changes: instances are frozen, and fields have their defaults.

    Raises:
        TypeError: If a field needs more than being stored.
    """
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    known: dict[str, object] = {}
    parameters, stores = [], []
    for field in fields:
        name, slot = field.name, cls.__dict__.get(field.name)
        plain = field.init and field.kw_only and field.default_factory is dataclasses.MISSING
        if not (plain and inspect.ismemberdescriptor(slot)) or hasattr(cls, "__post_init__"):
            raise TypeError(f"{cls.__name__}.{name} is no plain field of a slotted dataclass")
        known[f"store_{name}"] = slot.__set__
        known[f"default_{name}"] = field.default
        required = field.default is dataclasses.MISSING
        parameters.append(name if required else f"{name}=default_{name}")
        stores.append(f" store_{name}(self, {name})")
    # Source text made and run, as the standard library makes the `__init__` that this one replaces.
    exec("\n".join([f"def __init__(self, *, {', '.join(parameters)}):", *stores]), known)
    made = cast("Callable[..., None]", known["__init__"])
    setattr(cls, "__init__", functools.update_wrapper(made, cls.__init__))  # noqa: B010  (for mypy)
    _MAKERS[cls] = _maker(cls, parameters, known)
    return cls


def maker(cls: Callable[_P, _T]) -> Callable[_P, _T]:
    """A function that makes what a call of a `quickly_made` class makes, for a third of the time.

    A call of a class packs its arguments into a dictionary first, a call of a function does not.
    And a new instance is of a twin of the class, with the same slots, until it is complete: on that
    one, which is not frozen, a field is stored by one instruction.

    Raises:
        KeyError: If the class is no `quickly_made` one.
    """
    return cast("Callable[_P, _T]", _MAKERS[cls])


def tuple_maker(cls: Callable[_P, _T]) -> Callable[_P, _T]:
    """A function that makes what a call of a class of named tuples makes, for half of the time.

    A call of the class looks its `__new__` up, which is a function that does the same.

    Raises:
        AttributeError: If the class is none of named tuples.
    """
    names: tuple[str, ...] = cls._fields  # type: ignore[attr-defined]
    defaults: dict[str, object] = cls._field_defaults  # type: ignore[attr-defined]
    parameters = [f"{name}=defaults[{name!r}]" if name in defaults else name for name in names]
    known: dict[str, object] = {"new": tuple.__new__, "made_class": cls, "defaults": defaults}
    lines = [
        f"def make({', '.join(parameters)}):",
        f" return new(made_class, ({', '.join(names)},))",
    ]
    exec("\n".join(lines), known)
    return cast("Callable[_P, _T]", known["make"])


def changer(cls: type[_T], *names: str) -> Callable[..., _T]:
    """A function that makes what `dataclasses.replace` does, of a class that is `quickly_made`.

    It takes an instance and a new value of each named field, by keyword. Where most of many fields
    stay, that is quicker than `maker`: Python looks for a keyword among all that a function knows.

    Raises:
        KeyError: If the class is no `quickly_made` one, or has no such field.
    """
    twin = _TWINS[cls]
    stores = {name: f"one.{name}" for name in _names(cls)}
    for name in names:
        del stores[name]
    stores |= dict(zip(names, names, strict=True))
    return cast("Callable[..., _T]", _made(cls, twin, f"one, *, {', '.join(names)}", stores, {}))


def _maker(cls: type[_T], parameters: list[str], known: dict[str, object]) -> object:
    names = _names(cls)
    twin = _TWINS[cls] = type(f"Open{cls.__name__}", (), {"__slots__": names})
    stores = dict(zip(names, names, strict=True))
    return _made(cls, twin, f"*, {', '.join(parameters)}", stores, known)


def _names(cls: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls))


def _made(
    cls: type, twin: type, parameters: str, stores: dict[str, str], known: dict[str, object]
) -> object:
    """A function of these parameters that makes an instance, each field of an expression."""
    known |= {"twin": twin, "made_class": cls}
    lines = [
        f"def make({parameters}):",
        " self = twin()",  # quicker than object.__new__(twin)
        *[f" self.{name} = {value}" for name, value in stores.items()],
        " self.__class__ = made_class",
        " return self",
    ]
    exec("\n".join(lines), known)
    return known["make"]
