"""Values that are made quickly are the frozen dataclasses that they would be anyway."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
from typing import NamedTuple

import pytest

from voltana_actuatord.quick import changer, maker, quickly_made, tuple_maker


@quickly_made
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One field that must be given, and one with a default."""

    x: float
    y: float = 2.0


def test_fields_and_defaults_are_stored():
    assert Point(x=1.0) == Point(y=2.0, x=1.0)
    assert dataclasses.asdict(Point(x=1.0, y=3.0)) == {"x": 1.0, "y": 3.0}
    assert dataclasses.replace(Point(x=1.0), x=5.0) == Point(x=5.0)


def test_instances_are_frozen_hashable_and_picklable():
    point = Point(x=1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = 2.0
    assert hash(point) == hash(Point(x=1.0))
    assert pickle.loads(pickle.dumps(point)) == point


@pytest.mark.parametrize("wrong", [Point, lambda: Point(1.0), lambda: Point(z=1.0)])
def test_wrong_arguments_are_refused_by_name(wrong):
    with pytest.raises(TypeError, match="__init__"):
        wrong()


def test_the_signature_is_kept():
    assert str(inspect.signature(Point)) == "(*, x: 'float', y: 'float' = 2.0) -> None"


def test_a_field_that_needs_more_than_storing_is_refused():
    @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
    class Listed:
        items: list = dataclasses.field(default_factory=list)

    with pytest.raises(TypeError, match=r"Listed\.items"):
        quickly_made(Listed)


def test_a_maker_makes_what_the_class_makes():
    make = maker(Point)
    point = make(x=1.0)
    assert type(point) is Point
    assert point == Point(x=1.0)
    assert make(y=3.0, x=1.0) == Point(x=1.0, y=3.0)
    assert pickle.loads(pickle.dumps(point)) == dataclasses.replace(point) == point
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = 2.0
    for wrong in ({}, {"x": 1.0, "z": 1.0}):
        with pytest.raises(TypeError, match="make"):
            make(**wrong)


def test_a_class_that_is_not_quickly_made_has_no_maker():
    with pytest.raises(KeyError):
        maker(dict)


def test_a_changer_makes_what_replace_makes():
    moved = changer(Point, "y")
    point = Point(x=1.0, y=3.0)
    assert moved(point, y=4.0) == dataclasses.replace(point, y=4.0)
    assert type(moved(point, y=4.0)) is Point
    assert point == Point(x=1.0, y=3.0)
    with pytest.raises(TypeError, match="y"):
        moved(point)
    with pytest.raises(TypeError, match="x"):
        moved(point, x=1.0, y=4.0)


def test_nothing_is_changed_of_other_classes_nor_of_fields_that_are_none():
    with pytest.raises(KeyError):
        changer(dataclasses.make_dataclass("Plain", ["x"]), "x")
    with pytest.raises(KeyError, match="z"):
        changer(Point, "z")


class Pair(NamedTuple):
    """One field that must be given, and one with a default."""

    x: float
    y: float = 2.0


def test_a_maker_of_named_tuples_makes_what_a_call_of_the_class_does():
    make = tuple_maker(Pair)
    for made, called in ((make(1.0), Pair(1.0)), (make(y=3.0, x=1.0), Pair(1.0, 3.0))):
        assert type(made) is Pair
        assert made == called
    with pytest.raises(TypeError, match="x"):
        make()
    with pytest.raises(AttributeError):
        tuple_maker(Point)
