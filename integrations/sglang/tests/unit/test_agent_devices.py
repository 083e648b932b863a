"""Which GPUs an agent controls, and by what; on a second vendor's cards, which are in memory."""

from __future__ import annotations

import pytest
from fake_scheduler import FakeEngine

from tests.actuation import second_vendor
from tests.actuation.second_vendor import Rack
from voltana.errors import ActuatorError, ConfigError
from voltana.serving.agent.footing import LAST_TRY_S, Footing
from voltana.serving.agent.metrics import render
from voltana.serving.agent.service import Agent, AgentOptions
from voltana.serving.config import parse_config
from voltana.timebase import ManualTime
from voltana.values import Limit, Load
from voltana_actuatord.drivers.opening import DRIVER_VARIABLE

PARTITION = "MIG-1111-2222"


class Feed:
    """Nobody listens."""

    address = "tcp://nowhere"

    def publish(self, *_arguments, **_fields):
        pass


@pytest.fixture
def rack(monkeypatch):
    made = Rack(4)
    monkeypatch.setattr(second_vendor, "here", made.open, raising=False)
    monkeypatch.setenv(DRIVER_VARIABLE, "tests.actuation.second_vendor:here")
    return made


def config_of(folder, **actuator):
    return parse_config(
        {
            "agent": {"rings": str(folder / "rings"), "state": str(folder / "state")},
            "policy": {"controller": "static-max"},
            "actuator": {"kind": "in-process"} | actuator,
        }
    )


def options_of(*gpus, dry_run=False):
    return AgentOptions(
        instance="decode-0", role=None, gpus=gpus, control_port=0, feed_port=0, dry_run=dry_run
    )


@pytest.fixture
def stand(rack, tmp_path):
    """Makes a footing on the rack; and a fake engine that reports GPUs."""
    made, time = [], ManualTime(1000.0)

    def make(*gpus, dry_run=False, **actuator):
        config = config_of(tmp_path, **actuator)
        made.append(Footing(config, options_of(*gpus, dry_run=dry_run), Feed(), time))
        made[-1].time = time
        return made[-1]

    yield make
    for footing in made:
        footing.close()


@pytest.fixture
def engine_on(tmp_path):
    engines = []

    def start(*uuids, **more):
        facts = {"gpu_uuids": list(uuids)} if uuids else {}
        rings = tmp_path / "rings"
        engines.append(FakeEngine(rings, "decode-0", lambda: 1000.0, **facts, **more))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


def uuids(rack, *places):
    return tuple(rack.cards[place].uuid for place in places)


def settle(footing):
    footing.follow_engine()
    footing.group.scan()
    footing.group.tick(0.0)


def test_the_engines_word_goes_before_the_configurations(rack, stand, engine_on):
    footing = stand(0)
    assert footing.devices.domain.devices == uuids(rack, 0)
    engine_on(*uuids(rack, 2, 3))
    settle(footing)
    assert footing.devices.domain.devices == uuids(rack, 2, 3)
    assert footing.group.error == ""
    deadline(lambda: all(rack.cards[place].locks for place in (2, 3)))
    assert not rack.cards[0].locks
    footing.close()
    assert [card.lock_mhz for card in rack.cards] == [None] * 4


def test_where_the_engine_says_nothing_the_configuration_holds(rack, stand, engine_on):
    footing = stand(1, uuids(rack, 0)[0])
    engine_on()
    settle(footing)
    assert footing.devices.domain.devices == uuids(rack, 1, 0)
    assert footing.group.attached


def test_what_some_of_several_engines_say_does_not_stand_for_all(rack, stand, engine_on):
    footing = stand(0, 1)
    engine_on(*uuids(rack, 0))
    second = engine_on(rank="@dp1.pp0.tp0")
    settle(footing)
    assert footing.devices.domain.devices == uuids(rack, 0, 1)
    second.close()
    engine_on(*uuids(rack, 3), rank="@dp1.pp0.tp0")
    settle(footing)
    assert footing.devices.domain.devices == uuids(rack, 0, 3)


def test_an_engine_whose_gpus_nobody_names_is_refused_with_the_remedy(stand, engine_on):
    footing = stand()
    engine_on()
    settle(footing)
    assert not footing.group.attached
    assert "needs the GPUs of the instance" in footing.group.error
    assert "--gpus" in footing.devices.clock.status().error


def test_a_slice_is_refused_until_the_engine_has_a_whole_gpu(rack, stand, engine_on):
    footing = stand(0)
    engine = engine_on(PARTITION)
    settle(footing)
    assert "disable MIG" in footing.group.error
    assert footing.devices.domain.devices == ()
    engine.close()
    engine_on(*uuids(rack, 1))
    footing.time.advance(LAST_TRY_S)
    settle(footing)
    assert footing.devices.domain.devices == uuids(rack, 1)
    assert footing.group.error == ""


def test_gpus_that_cannot_be_opened_are_tried_again(rack, stand, engine_on):
    footing = stand(0)
    rack.cards[1].partitions = 2
    engine_on(*uuids(rack, 1))
    settle(footing)
    assert "split into partitions" in footing.group.error
    rack.cards[1].partitions = 1
    settle(footing)  # not at once
    assert not footing.group.attached
    footing.time.advance(LAST_TRY_S)
    settle(footing)
    assert footing.group.attached


def test_what_was_set_survives_a_move(rack, stand, engine_on):
    footing = stand(0)
    footing.group.set_levels("above:1000")
    footing.group.set_limit(
        Limit(source="me", min_mhz=0.0, max_mhz=1200.0, expires_at_s=float("inf"))
    )
    footing.devices.clock.set_dry_run(dry_run=True)
    engine_on(*uuids(rack, 2))
    settle(footing)
    assert footing.group.settings.levels == "above:1000"
    assert footing.devices.clock.dry_run
    assert footing.group.target_mhz() == 1200.0
    assert not any(card.locks for card in rack.cards)


def test_a_dry_run_goes_on_without_a_driver(tmp_path, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    tables = {"agent": {"rings": str(tmp_path / "r"), "state": str(tmp_path / "s")}}
    engine = {"engine": {"table_mhz": [600, 900]}}
    footing = Footing(parse_config(tables | engine), options_of(0), Feed(), ManualTime())
    assert footing.devices.domain.devices == ()
    assert footing.devices.clock.table() == (600.0, 900.0)
    footing.close()
    daemon = {"actuator": {"kind": "daemon"}}
    with pytest.raises(ActuatorError, match="Or give UUIDs"):
        Footing(parse_config(tables | daemon), options_of(0), Feed(), ManualTime())


def test_power_caps_by_configuration(rack, stand, engine_on):
    footing = stand(kind="power-cap", caps_w={"700": 350, "2100": 600})
    engine_on(*uuids(rack, 3))
    settle(footing)
    assert footing.devices.clock.table() == (700.0, 2100.0)
    deadline(lambda: rack.cards[3].cap_w == 600)
    footing.close()
    assert rack.cards[3].cap_w == 750


def test_a_rate_limit_by_configuration(rack, stand, engine_on):
    footing = stand(0, dwell_s=1.5, max_step_mhz=400)
    engine_on(*uuids(rack, 0))
    settle(footing)
    (served,) = footing.group._served.values()
    assert repr(served.control.controller).startswith("RateLimited(")
    assert "dwell_s=1.5, max_step_mhz=400" in repr(served.control.controller)


@pytest.mark.parametrize(
    ("actuator", "says"),
    [
        ({"kind": "nvml"}, "in-process"),
        ({"kind": "power-cap", "caps_w": {"700": -1}}, "actuator.caps_w"),
        ({"dwell_s": -1}, "actuator.dwell_s"),
    ],
)
def test_what_the_table_refuses(tmp_path, actuator, says):
    with pytest.raises(ConfigError, match=says):
        config_of(tmp_path, **actuator)


def test_status_and_metrics_name_uuids(rack, tmp_path, engine_on):
    agent = Agent(config_of(tmp_path), options_of())
    engine = engine_on(*uuids(rack, 1, 2))
    agent._scan()
    engine.finish(Load.decode(1, 10), 0.0, 0.01)
    status = agent.status()
    assert status["gpus"] == list(uuids(rack, 1, 2))
    text = render(status)[0].decode()
    for uuid in uuids(rack, 1, 2):
        assert f'voltana_agent_gpu_info{{backend="decode-0",uuid="{uuid}"}} 1.0' in text
    agent.close()


def deadline(holds, seconds=5.0):
    """Channels work in threads of their own."""
    import time

    ends_s = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends_s
        time.sleep(0.005)
