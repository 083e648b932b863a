"""Level sets, limits, and the rule that demand rounds up, caps round down, and the cap wins."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from voltana.errors import ConfigError
from voltana.levels import (
    A100_CLOCKS_MHZ,
    Above,
    Below,
    EvenlySpaced,
    Explicit,
    LevelSet,
    Published,
    Reported,
    Supported,
    combine_limits,
    idle_decision,
    parse_levels,
    require_levels,
    resolve,
)
from voltana.testing import check_level_set
from voltana.testing import strategies as vst
from voltana.values import UNBOUNDED, Bounds, Limit

H100_MHZ = tuple(float(mhz) for mhz in range(210, 1981, 15))
DEMANDS = st.one_of(st.floats(0, 5000), st.sampled_from([0.0, math.inf, math.nan]))


SHIPPED = (
    Above(900.0),
    Below(900.0),
    EvenlySpaced(5),
    EvenlySpaced(1),
    Explicit((1005.0, 1410.0)),
    Published(),
    Reported(lambda: A100_CLOCKS_MHZ[::3]),
    Supported(),
)


@pytest.mark.parametrize("level_set", SHIPPED, ids=lambda made: type(made).__name__)
def test_every_level_set_keeps_the_contract(level_set):
    check_level_set(lambda: level_set).raise_if_failed()


def test_an_a100_has_81_clocks_in_steps_of_15_mhz():
    assert len(A100_CLOCKS_MHZ) == 81
    assert (A100_CLOCKS_MHZ[0], A100_CLOCKS_MHZ[-1]) == (210.0, 1410.0)
    assert {b - a for a, b in itertools.pairwise(A100_CLOCKS_MHZ)} == {15.0}


@given(vst.tables(), DEMANDS, vst.bounds())
def test_resolve_yields_a_level_within_the_cap_or_the_lowest(table, demand_mhz, bounds):
    level = resolve(demand_mhz, table, bounds)
    assert level in table
    assert level <= bounds.max_mhz or level == table[0]


@given(vst.tables(), DEMANDS, vst.bounds())
def test_resolve_is_never_slower_than_asked_unless_the_cap_says_so(table, demand_mhz, bounds):
    level = resolve(demand_mhz, table, bounds)
    wanted_mhz = math.inf if math.isnan(demand_mhz) else max(demand_mhz, bounds.min_mhz)
    above = [mhz for mhz in table if mhz > level]
    capped = not above or above[0] > bounds.max_mhz
    assert level >= min(wanted_mhz, table[-1]) or capped


@given(vst.tables(), DEMANDS, vst.bounds())
def test_resolve_is_no_faster_than_it_must_be(table, demand_mhz, bounds):
    level = resolve(demand_mhz, table, bounds)
    below = [mhz for mhz in table if mhz < level]
    assume(below and not math.isnan(demand_mhz))
    assert below[-1] < max(demand_mhz, bounds.min_mhz)


@given(vst.tables(), DEMANDS, vst.bounds())
def test_resolve_twice_is_resolve_once(table, demand_mhz, bounds):
    level = resolve(demand_mhz, table, bounds)
    assert resolve(level, table, bounds) == level


@pytest.mark.parametrize(
    ("demand_mhz", "bounds", "expected"),
    [
        (1000.0, UNBOUNDED, 1005.0),
        (1005.0, UNBOUNDED, 1005.0),
        (1005.1, UNBOUNDED, 1410.0),
        (9999.0, UNBOUNDED, 1410.0),
        (math.nan, UNBOUNDED, 1410.0),
        (math.inf, Bounds(max_mhz=1409.9), 1005.0),
        (0.0, Bounds(min_mhz=1006.0), 1410.0),
        (0.0, Bounds(min_mhz=1006.0, max_mhz=1300.0), 1005.0),
        (1410.0, Bounds(max_mhz=100.0), 1005.0),
    ],
)
def test_resolution_by_example(demand_mhz, bounds, expected):
    assert resolve(demand_mhz, (1005.0, 1410.0), bounds) == expected


@given(st.lists(vst.limits(), max_size=6), st.floats(0, 100))
def test_combined_limits_are_the_tightest_in_force(limits, now_s):
    bounds = combine_limits(limits, now_s)
    in_force = [limit for limit in limits if limit.expires_at_s > now_s]
    assert bounds.max_mhz == min([limit.max_mhz for limit in in_force], default=math.inf)
    assert bounds.min_mhz <= bounds.max_mhz
    floor_mhz = max([limit.min_mhz for limit in in_force], default=0.0)
    assert bounds.min_mhz == min(floor_mhz, bounds.max_mhz)
    sources = {limit.source for limit in in_force} | {"device"}
    assert {bounds.min_source, bounds.max_source} <= sources


@given(st.lists(vst.limits(), max_size=6), st.floats(0, 100), st.randoms())
def test_the_order_of_limits_does_not_change_the_range(limits, now_s, random):
    shuffled = random.sample(limits, len(limits))
    one, other = combine_limits(limits, now_s), combine_limits(shuffled, now_s)
    assert (one.min_mhz, one.max_mhz) == (other.min_mhz, other.max_mhz)


def test_a_limit_ends_at_its_expiry():
    cap = Limit(source="power-budget", max_mhz=900.0, expires_at_s=5.0)
    assert combine_limits([cap], 4.999).max_mhz == 900.0
    assert combine_limits([cap], 4.999).max_source == "power-budget"
    assert combine_limits([cap], 5.0) == UNBOUNDED


def test_published_levels_on_the_published_device_and_scaled_to_another():
    assert Published().levels(A100_CLOCKS_MHZ) == (1005.0, 1410.0)
    low, high = Published().levels(H100_MHZ)
    assert high == 1980.0
    assert abs(low / high - 1005 / 1410) < 15 / 1980


@given(vst.tables(), st.integers(1, 200))
def test_evenly_spaced_levels_are_as_many_as_asked_for_and_hold_both_ends(table, count):
    chosen = EvenlySpaced(count).levels(table)
    assert len(chosen) == min(count, len(table))
    assert chosen[-1] == table[-1]
    assert count == 1 or chosen[0] == table[0]
    gaps = [b - a for a, b in itertools.pairwise(chosen)]
    step = table[1] - table[0] if len(table) > 1 else 0.0
    assert not gaps or max(gaps) - min(gaps) <= 2 * step


@given(st.data())
def test_above_and_below_part_the_table(data):
    table = data.draw(vst.tables())
    split = data.draw(st.sampled_from(table))
    above, below = Above(split).levels(table), Below(split).levels(table)
    assert set(above) | set(below) == set(table)
    assert set(above) & set(below) == {split}


@given(st.data())
def test_every_level_set_ignores_order_and_repetition_of_the_table(data):
    table = data.draw(vst.tables())
    level_set = data.draw(vst.level_sets(table))
    assert isinstance(level_set, LevelSet)
    chosen = level_set.levels(table)
    assert list(chosen) == sorted(set(chosen))
    assert level_set.levels([*table[::-1], table[0]]) == chosen


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", Supported()),
        (" published ", Published()),
        ("even:28", EvenlySpaced(28)),
        ("above:1005", Above(1005.0)),
        ("below:1200", Below(1200.0)),
        ("1005,1410", Explicit((1005.0, 1410.0))),
        ("1410", Explicit((1410.0,))),
    ],
)
def test_level_sets_are_read_as_users_write_them(text, expected):
    assert parse_levels(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "al",
        "even",
        "even:",
        "even:x",
        "even:3.5",
        "above:",
        "all:3",
        "published:2",
        "1005;1410",
    ],
)
def test_other_texts_are_refused_with_the_forms_that_exist(text):
    with pytest.raises(ConfigError) as caught:
        parse_levels(text)
    for word in (f"levels = {text!r}", "'even:N'", "'above:MHZ'", "'1005,1410'", "MHz."):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("level_set", "words"),
    [
        (Explicit((1000.0,)), ["1000.0", "210-1410 MHz", "nearest one is 1005 MHz"]),
        (Explicit((math.nan,)), ["nan", "210-1410 MHz"]),
        (Explicit(()), ["levels_mhz", "at least one clock"]),
        (EvenlySpaced(0), ["count = 0", "at least 1"]),
        (Above(5000.0), ["5000", "210-1410 MHz", "Move the threshold"]),
        (Below(5.0), ["5.0", "210-1410 MHz", "Move the threshold"]),
        (Reported(lambda: [1.0]), ["[1.0]", "210-1410 MHz"]),
    ],
)
def test_sets_that_do_not_fit_the_device_are_refused(level_set, words):
    with pytest.raises(ConfigError) as caught:
        level_set.levels(A100_CLOCKS_MHZ)
    for word in words:
        assert word in str(caught.value)


def test_an_empty_table_is_refused():
    with pytest.raises(ConfigError, match="table_mhz"):
        Supported().levels(())


def test_reported_levels_ask_the_device_only_when_they_are_resolved():
    asked = []

    def read(device):
        asked.append(device)
        return [1410.0, 1005.0, 7.0]

    level_set = parse_levels("nvml:3", read_device_mhz=read)
    assert asked == []
    assert level_set.levels(A100_CLOCKS_MHZ) == (1005.0, 1410.0)
    assert asked == [3]
    assert parse_levels("nvml", read_device_mhz=read).levels(A100_CLOCKS_MHZ)
    assert asked == [3, 0]


@pytest.mark.parametrize("text", ["nvml", "nvml:0"])
def test_reported_levels_need_a_device_that_can_be_asked(text):
    with pytest.raises(ConfigError, match=r"needs a device that can be asked.*Use 'all'"):
        parse_levels(text)


@pytest.mark.parametrize("text", ["nvml:x", "nvml:-1", "nvml:"])
def test_a_device_index_is_a_whole_number(text):
    with pytest.raises(ConfigError, match="nvml"):
        parse_levels(text, read_device_mhz=lambda device: [1410.0])


@pytest.mark.parametrize(
    "levels", [(), (1410.0, 1005.0), (1005.0, 1005.0), (math.nan,), (-5.0, 5.0), (1005.0, math.inf)]
)
def test_levels_that_nothing_can_be_chosen_from_are_refused(levels):
    with pytest.raises(ConfigError, match=r"^levels_mhz = .*ascending.*voltana\.levels"):
        require_levels(levels)


def test_an_idle_clock_is_the_lowest_level_unless_another_is_named():
    assert idle_decision((1005.0, 1410.0), None).clock_mhz == 1005.0
    assert idle_decision((1005.0, 1410.0), 210.0).clock_mhz == 210.0
    with pytest.raises(ConfigError, match="idle_mhz = nan is not allowed"):
        idle_decision((1005.0, 1410.0), math.nan)
