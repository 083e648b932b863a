"""Comparing what routers are shown by a simulator and beside an engine, field by field."""

from __future__ import annotations

import dataclasses


def plain(value):
    """A value in a form that `==` compares: models by what they are made of."""
    return value.to_dict() if hasattr(value, "to_dict") else value


def with_pace(beside, simulated):
    """Candidates with what the simulator's hosts take over a prompt.

    Both measure it by the same code, but a simulator sees when each prompt is taken up, and a
    router beside an engine what reports tell of that.
    """
    return [
        dataclasses.replace(one, host_s=other.host_s)
        for one, other in zip(beside, simulated, strict=True)
    ]


def same(one, other, *, leave_out=()):
    """Compare every field of two dataclasses, those to come included."""
    assert type(one) is type(other)
    for field in dataclasses.fields(one):
        if field.name in leave_out:
            continue
        mine, theirs = plain(getattr(one, field.name)), plain(getattr(other, field.name))
        both_nan = mine != mine and theirs != theirs  # noqa: PLR0124
        assert mine == theirs or both_nan, f"{field.name}: {mine!r} != {theirs!r}"
