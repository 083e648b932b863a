"""Every test in this folder is an attack: `make attack` runs them, `make test` leaves them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.actuation.conftest import daemon, library, machine, make_machine, reachable

__all__ = ["daemon", "library", "machine", "make_machine", "reachable"]

HERE = Path(__file__).parent
CROWDS = (
    "test_admin_floods",
    "test_clocks_beside",
    "test_comparison",
    "test_clocks_clients",
    "test_doors_beside",
    "test_feed_way_back",
    "test_late_floods",
    "test_launch_beside",
    "test_liars_beside",
    "test_ring_beside",
    "test_router_answers",
    "test_router_beside",
    "test_router_bodies",
    "test_router_clients",
    "test_router_early",
    "test_router_http",
    "test_router_ids",
    "test_router_leavers",
    "test_router_pieces",
    "test_router_poison",
)
"""Files that hold times of honest use against quiet ones: they need the cores for themselves."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of this folder as attacks."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.attack)
            if item.path.stem in CROWDS:
                item.add_marker(pytest.mark.crowd)
