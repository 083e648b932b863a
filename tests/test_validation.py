"""The base of every table that a user writes, and the words for what is wrong with one."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import Field, ValidationError, field_validator

from voltana.config import ScenarioFile
from voltana.errors import ConfigError
from voltana.serving.agent.control import LimitBody
from voltana.serving.config import Config
from voltana.serving.launch.config import LaunchTable
from voltana.serving.router.settings import RouterTable
from voltana.validation import Count, Positive, StrictTable, explain
from voltana_actuatord.daemon.settings import DaemonSettings
from voltana_sglang.steer.settings import SteerTable


class Inner(StrictTable):
    share: Positive = Field(default=1.0, description="the share of it")


class Outer(StrictTable):
    PAGE = "docs/outer.md"

    count: Count = 1
    switch: bool | None = None
    either: bool | int = 1
    name: str = "a"
    code: Annotated[str, Field(pattern="^[0-7]+$")] = "7"
    clocks: tuple[Positive, ...] = ()
    inner: Inner = Inner()

    @field_validator("name")
    @classmethod
    def _is_short(cls, name: str) -> str:
        if len(name) > 3:
            raise ValueError("must be short")
        return name


def complaint(**tables):
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(tables)
    made = explain(caught.value, Outer)
    assert isinstance(made, ConfigError)
    return str(made)


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"count": True}, "count = True is not allowed: must be a number. See docs/outer.md."),
        ({"clocks": [900.0, False]}, "must be a number"),
        ({"inner": {"share": True}}, "inner.share = True is not allowed: must be a number."),
        ({"inner": {"share": 0}}, "must be above 0. It is the share of it."),
        ({"inner": {"sharp": 1}}, "unknown key in [inner] 'sharp'. Did you mean 'share'?"),
        ({"cuont": 1}, "unknown key 'cuont'. Did you mean 'count'?"),
        ({"name": "long"}, "name = 'long' is not allowed: must be short. See docs/outer.md."),
        ({"code": "8"}, "must be text of the form ^[0-7]+$"),
        ({"count": 0}, "must be at least 1"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_the_remedy(tables, says):
    text = complaint(**tables)
    assert says in text
    assert len(text.splitlines()) == 1


def test_true_and_false_are_taken_where_they_are_meant():
    made = Outer(switch=True, either=False)
    assert (made.switch, made.either) == (True, False)


def test_a_table_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Outer().count = 2


@pytest.mark.parametrize(
    "table", [ScenarioFile, Config, LaunchTable, RouterTable, SteerTable, LimitBody, DaemonSettings]
)
def test_every_file_and_body_of_ours_stands_on_it(table):
    assert issubclass(table, StrictTable)
